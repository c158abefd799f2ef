"""scikit-learn's fitted parts as serving reads them: records that hold the very same arrays, without scikit-learn.

It takes a second and 200 MB to import. Attributes are named as there, so who reads a part need not know which it has.
An attribute that the file does not have is None.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One tree over `n_features` features: `nodes` (n,), structured as in scikit-learn, and `value` (n, 1, 2)."""

    n_features: int
    max_depth: int
    nodes: NDArray[Any]
    value: NDArray[np.float64]

    @property
    def node_count(self) -> int:
        return len(self.nodes)

    @property
    def children_left(self) -> NDArray[np.intp]:
        """The left child of each node (n,), -1 for a leaf."""
        return self._column("left_child")

    @property
    def children_right(self) -> NDArray[np.intp]:
        """The right child of each node (n,), -1 for a leaf."""
        return self._column("right_child")

    @property
    def feature(self) -> NDArray[np.intp]:
        """The feature that each node splits on (n,), without meaning for a leaf."""
        return self._column("feature")

    @property
    def threshold(self) -> NDArray[np.float64]:
        """What goes left at each node has at most this (n,), without meaning for a leaf."""
        return self._column("threshold")

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self.nodes[name]
        return column


@dataclass(frozen=True, slots=True, eq=False)
class DecisionTree:
    """A DecisionTreeClassifier."""

    tree_: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class RandomForest:
    """A RandomForestClassifier."""

    classes_: Any = None
    n_outputs_: Any = None
    estimators_: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Scaler:
    """A StandardScaler: (x - mean_) / scale_."""

    mean_: Any = None
    scale_: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Selector:
    """A SelectKBest: the `k` features with the highest `scores_` (features,), or "all"."""

    scores_: Any = None
    k: Any = None

    def get_support(self) -> NDArray[np.bool_]:
        """Which features are taken (features,): of equal scores the later, one without a score (NaN) last."""
        taken = np.full(self.scores_.shape, self.k == "all")
        if self.k not in ("all", 0):
            scores = np.where(
                np.isnan(self.scores_), np.finfo(self.scores_.dtype).min, self.scores_
            )
            taken[np.argsort(scores, kind="stable")[-self.k :]] = True
        return taken
