"""Trained trees as flat arrays, and the walk from a row to its leaves.

The walk follows scikit-learn exactly: inputs cast to float32, `<=` against float64 thresholds, leaf
values added tree by tree in float64. The leaf values of a random forest are probabilities, divided
once. Those of boosting are log-odds, on top of an offset. So scores equal `predict_proba` to the
bit, for any batch size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models.serve.estimators import RandomForest

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Ints = NDArray[np.intp]

# Rows of one walk: the intermediate arrays (trees x rows) then stay in the processor's cache.
_CHUNK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """The nodes of all trees one after another.

    A leaf is its own child, so every row may take `depth` steps. `feature`, `threshold` and `value`
    have one entry per node. `children` has two: the right child at 2i, the left one at 2i + 1.
    `roots` has one entry per tree.

    Without an `offset`, a `value` is the share of class 1 among the training rows of the node, and
    trees are averaged. With an `offset`, it is their mean change of the log-odds, and trees are
    added to it.
    """

    feature: Ints
    threshold: Floats
    value: Floats
    children: Ints
    roots: Ints
    depth: int
    offset: float | None = None

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Return which nodes are leaves (nodes,)."""
        leaf: NDArray[np.bool_] = self.children[1::2] == np.arange(len(self.value))
        return leaf

    @property
    def divisor(self) -> int:
        """Return what a sum of leaf values is divided by."""
        return len(self.roots) if self.offset is None else 1

    def leaves(self, rows: Rows) -> Ints:
        """Return the leaf (a node number) of each row of (n, k) in each tree: (trees, n)."""
        n, k = rows.shape
        reached = np.empty((len(self.roots), n), dtype=np.intp)
        flat = np.ascontiguousarray(rows).ravel()
        for start in range(0, n, _CHUNK):
            stop = min(start + _CHUNK, n)
            first = np.arange(start, stop) * k
            node = np.broadcast_to(self.roots[:, None], (len(self.roots), stop - start))
            for _ in range(self.depth):
                goes_left = flat.take(self.feature.take(node) + first) <= self.threshold.take(node)
                node = self.children.take(2 * node + goes_left)
            reached[:, start:stop] = node
        return reached

    def probability(self, leaves: Ints) -> Floats:
        """Return the score of class 1 (n,) for leaves (trees, n)."""
        return self.score_of(self.sums(leaves))

    def sums(self, leaves: Ints) -> Floats:
        """Return the sums of leaf values and offset (n,) for leaves (trees, n)."""
        total = np.full(leaves.shape[1], self.offset or 0.0)
        for tree in leaves:
            total += self.value.take(tree)
        return total

    def score_of(self, sums: Floats) -> Floats:
        """Return the score of class 1 (n,) from sums of leaf values and offset (n,)."""
        score: Floats = sums / len(self.roots) if self.offset is None else expit(sums)
        return score

    def check(self, k: int) -> None:
        """Raise ValueError unless every walk over k features ends in a leaf with a finite score."""
        n, trees = len(self.value), len(self.roots)
        shapes = [
            (self.feature, n),
            (self.threshold, n),
            (self.value, n),
            (self.children, 2 * n),
            (self.roots, trees),
        ]
        if not n or not trees or any(array.shape != (length,) for array, length in shapes):
            raise ValueError("a forest's arrays are not of one length")
        own = np.arange(n)
        # Children come after their parent, or a node is a leaf and its own child twice.
        pairs = self.children.reshape(n, 2)
        leaf = (pairs == own[:, None]).all(axis=1)
        if (
            not (leaf | ((pairs > own[:, None]) & (pairs < n)).all(axis=1)).all()
            or not 0 <= self.depth < n + 1
        ):
            raise ValueError("a forest's nodes do not make trees")
        if (
            not ((self.feature >= 0) & (self.feature < k)).all()
            or not ((self.roots >= 0) & (self.roots < n)).all()
        ):
            raise ValueError("a forest's nodes do not make trees")
        if not np.isfinite(self.value).all() or not np.isfinite(self.offset or 0.0):
            raise ValueError("a forest's values are not numbers")


def pack(model: "RandomForestClassifier | RandomForest | Forest") -> Forest:
    """Return the flat form of a fitted forest of two classes; raise ValueError for any other."""
    if isinstance(model, Forest):
        return model
    if list(model.classes_) != [0, 1] or model.n_outputs_ != 1:
        raise ValueError(f"the forest must tell 0 from 1, not {list(model.classes_)}")
    trees = [estimator.tree_ for estimator in model.estimators_]
    roots = np.cumsum([0] + [tree.node_count for tree in trees])
    feature, threshold, value, children = [], [], [], []
    for tree, root in zip(trees, roots[:-1], strict=True):
        leaf = tree.children_left < 0
        own = np.arange(tree.node_count)
        pair = [
            np.where(leaf, own, tree.children_right) + root,
            np.where(leaf, own, tree.children_left) + root,
        ]
        children.append(np.stack(pair, axis=1).ravel())
        feature.append(np.where(leaf, 0, tree.feature))
        threshold.append(tree.threshold)
        value.append(tree.value[:, 0, 1])
    return Forest(
        feature=np.concatenate(feature).astype(np.intp),
        threshold=np.concatenate(threshold).astype(np.float64),
        value=np.concatenate(value).astype(np.float64),
        children=np.concatenate(children).astype(np.intp),
        roots=roots[:-1].astype(np.intp),
        depth=max(tree.max_depth for tree in trees),
    )


def pack_boosting(model: "HistGradientBoostingClassifier") -> Forest:
    """Return the flat form of fitted boosting of two classes.

    scikit-learn does not keep the value of an inner node. It is the mean of its leaves, weighted by
    training rows. Raises ValueError for other boosting, or boosting with categories.
    """
    if list(model.classes_) != [0, 1] or model.is_categorical_ is not None:
        raise ValueError("the boosting must tell 0 from 1 by numbers")
    trees = [stage[0].nodes for stage in model._predictors]
    roots = np.cumsum([0] + [len(nodes) for nodes in trees])
    feature, threshold, value, children = [], [], [], []
    for nodes, root in zip(trees, roots[:-1], strict=True):
        leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        left, right = (
            np.where(leaf, own, nodes[side].astype(np.intp)) for side in ("left", "right")
        )
        mean, count = nodes["value"].copy(), nodes["count"].astype(np.float64)
        for i in np.flatnonzero(~leaf)[::-1]:  # children come after their parent
            mean[i] = (mean[left[i]] * count[left[i]] + mean[right[i]] * count[right[i]]) / count[i]
        children.append(np.stack([right + root, left + root], axis=1).ravel())
        feature.append(np.where(leaf, 0, nodes["feature_idx"]))
        threshold.append(np.where(leaf, 0.0, nodes["num_threshold"]))
        value.append(mean)
    return Forest(
        feature=np.concatenate(feature).astype(np.intp),
        threshold=np.concatenate(threshold).astype(np.float64),
        value=np.concatenate(value),
        children=np.concatenate(children).astype(np.intp),
        roots=roots[:-1].astype(np.intp),
        depth=max(int(nodes["depth"].max()) for nodes in trees),
        offset=float(model._baseline_prediction.ravel()[0]),
    )
