"""A trained forest as flat arrays, and the walk from a row to its leaves.

The walk follows scikit-learn exactly: inputs cast to float32, `<=` against float64 thresholds, leaf probabilities added
tree by tree in float64 and divided once. So scores are equal to `predict_proba` to the bit, for any batch size.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Ints = NDArray[np.intp]

# Rows that are walked at once: the intermediate arrays (trees x rows) then stay in the processor's cache.
_CHUNK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Nodes of all trees one after another; a leaf is its own child, so every row may take `depth` steps.

    `feature`, `threshold` and `value` (probability of class 1 among the node's training rows) have one entry per node,
    `children` two: the right child at 2i, the left one at 2i + 1. `roots` has one entry per tree.
    """

    feature: Ints
    threshold: Floats
    value: Floats
    children: Ints
    roots: Ints
    depth: int

    def leaves(self, rows: Rows) -> Ints:
        """The leaf (as a node number) that each of n rows (n, k) reaches in each tree: (trees, n)."""
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
        """Share of trees' votes for class 1 (n,) from the leaves (trees, n)."""
        total = np.zeros(leaves.shape[1])
        for tree in leaves:
            total += self.value.take(tree)
        return total / len(self.roots)


def pack(model: RandomForestClassifier) -> Forest:
    """The flat form of a fitted forest of two classes; raises ValueError for any other."""
    if list(model.classes_) != [0, 1] or model.n_outputs_ != 1:
        raise ValueError(f"the forest must tell 0 from 1, not {list(model.classes_)}")
    trees = [estimator.tree_ for estimator in model.estimators_]
    roots = np.cumsum([0] + [tree.node_count for tree in trees])
    feature, threshold, value, children = [], [], [], []
    for tree, root in zip(trees, roots[:-1], strict=True):
        leaf = tree.children_left < 0
        own = np.arange(tree.node_count)
        pair = [np.where(leaf, own, tree.children_right) + root, np.where(leaf, own, tree.children_left) + root]
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
