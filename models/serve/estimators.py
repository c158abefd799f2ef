"""Records of scikit-learn's fitted parts, with the same arrays, as serving reads them.

Importing scikit-learn takes a second and 200 MB. The attributes have scikit-learn's names, so code
that reads a part need not know which of the two it has. An attribute that the file lacks is None.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One tree over `n_features` features.

    `nodes` (n,) is structured as in scikit-learn; `value` is (n, 1, 2).
    """

    n_features: int
    max_depth: int
    nodes: NDArray[Any]
    value: NDArray[np.float64]

    @property
    def node_count(self) -> int:
        """Return the number of nodes."""
        return len(self.nodes)

    @property
    def children_left(self) -> NDArray[np.intp]:
        """Return the left child of each node (n,), -1 for a leaf."""
        return self._column("left_child")

    @property
    def children_right(self) -> NDArray[np.intp]:
        """Return the right child of each node (n,), -1 for a leaf."""
        return self._column("right_child")

    @property
    def feature(self) -> NDArray[np.intp]:
        """Return the feature that each node splits on (n,); meaningless for a leaf."""
        return self._column("feature")

    @property
    def threshold(self) -> NDArray[np.float64]:
        """Return the largest value that goes left at each node (n,); meaningless for a leaf."""
        return self._column("threshold")

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self.nodes[name]
        return column


@dataclass(frozen=True, slots=True, eq=False)
class DecisionTree:
    """The record of a DecisionTreeClassifier."""

    tree_: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class RandomForest:
    """The record of a RandomForestClassifier."""

    classes_: Any = None
    n_outputs_: Any = None
    estimators_: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Scaler:
    """The record of a StandardScaler: (x - mean_) / scale_."""

    mean_: Any = None
    scale_: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Selector:
    """The record of a SelectKBest: the `k` features with the highest `scores_`, or "all"."""

    scores_: Any = None
    k: Any = None

    def get_support(self) -> NDArray[np.bool_]:
        """Return which features are selected (features,).

        Of equal scores the later feature wins; a feature without a score (NaN) comes last.
        """
        taken = np.full(self.scores_.shape, self.k == "all")
        if self.k not in ("all", 0):
            scores = np.where(
                np.isnan(self.scores_), np.finfo(self.scores_.dtype).min, self.scores_
            )
            taken[np.argsort(scores, kind="stable")[-self.k :]] = True
        return taken
