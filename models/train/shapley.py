"""Reasons fitted to exact Shapley values: a table with one row a leaf and one column a field.

Training explains some thousand of its rows exactly and fits the numbers of the leaves to them, so
that serving only adds up numbers. The values are those of the trees as they were grown
(path-dependent): S. Lundberg and others, "From local explanations to global understanding with
explainable AI for trees", Nature Machine Intelligence 2 (2020).

On the way to one leaf a feature f has a factor: z, the share of the training rows that its splits
let pass, or o, whether they let this row pass. The leaf's part of the game is a product of such
factors. Its Shapley values are integrals of its multilinear extension (G. Owen, "Multilinear
extensions of games", 1972): in each factor, z (1 - t) + o t stands for z, over t from 0 to 1.
Four Gauss points are exact for eight features on a path, and miss less than 1e-6 for more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadstream.compiled import compiled
from models.serve.forest import Floats, Forest, Rows

# More steps fit the noise of the rows: from 15 to 30 the values of other rows are equally close.
_STEPS = 20
_CONVERGED = 1e-14
_PRIOR_ROWS = 1.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_T, _W = (_NODES + 1) / 2, _WEIGHTS / 2
# The state of a feature on the way to a node: it lets the row pass, it has just refused it, or it
# had refused it before.
_STATES = ((1, 1), (1, 0), (0, 0))

Numbers = NDArray[np.int64] | NDArray[np.uint64]
U = np.uint64  # of an index: a signed one costs a check whether it counts from the end


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """What the kernel needs of each node: the split above it, and its factors by state.

    `same` is the nearest node above that the same feature leads to, or the root. `factor` (nodes,
    3, 4) multiplies the product of the node above; `weight` (nodes, 3, 4) makes a value of it.
    """

    parent: Numbers
    same: Numbers
    is_left: NDArray[np.bool_]
    factor: Floats
    weight: Floats


def fit_table(forest: Forest, rows: Rows, groups: Floats, path: Rows) -> Rows:
    """Return the table (leaves, k) whose sums come closest to exact values of rows (n, features).

    `groups` (features, k) says which part of a feature goes to which field. `path` (leaves, k) is
    where the fit begins. Conjugate gradients for least squares (A. Bjorck, "Numerical methods for
    least squares problems", 1996, section 7.4). A leaf that few rows reach is moved less. All
    fields share each step, so that the numbers of a leaf keep their sum.
    """
    exact = shapley_values(forest, rows) @ groups
    reached = (np.cumsum(forest.is_leaf) - 1)[forest.leaves(rows)]
    hits = np.bincount(reached.ravel(), minlength=len(path))
    scale = 1 / np.sqrt((hits + _PRIOR_ROWS) * len(forest.roots))[:, None]
    table, lacking = path.astype(np.float64), exact.copy()
    _subtract_leaves(reached, table, lacking)
    direction, steepness = np.zeros_like(table), 1.0
    for _ in range(_STEPS):
        gradient = np.zeros_like(table)
        _add_rows(reached, lacking, gradient)
        gradient *= scale
        before, steepness = steepness, float((gradient**2).sum())
        if steepness <= _CONVERGED * float((exact**2).sum()):
            break
        direction = gradient + steepness / before * direction
        change = np.zeros_like(exact)
        _subtract_leaves(reached, direction * scale, change)
        length = steepness / float((change**2).sum())
        table += length * direction * scale
        lacking += length * change
    return table.astype(np.float32)


@compiled
def _subtract_leaves(reached: Numbers, table: Floats, rows: Floats) -> None:
    for tree in range(reached.shape[0]):
        for row in range(reached.shape[1]):
            leaf = reached[tree, row]
            for field in range(table.shape[1]):
                rows[row, field] -= table[leaf, field]


@compiled
def _add_rows(reached: Numbers, rows: Floats, table: Floats) -> None:
    for tree in range(reached.shape[0]):
        for row in range(reached.shape[1]):
            leaf = reached[tree, row]
            for field in range(table.shape[1]):
                table[leaf, field] += rows[row, field]


def shapley_values(forest: Forest, rows: Rows) -> Floats:
    """Return the exact contribution of each feature to each row (n, features).

    They are in the unit of the trees and add up to the score, minus that of the roots.
    """
    layout = _layout(forest)
    values = np.zeros(rows.shape)
    _explain(
        np.ascontiguousarray(rows),
        forest.feature.astype(U),
        forest.threshold,
        np.where(forest.is_leaf, forest.value, 0.0) / forest.divisor,
        forest.roots.astype(U),
        np.append(forest.roots[1:], len(forest.value)).astype(U),
        layout.parent.astype(U),
        layout.same.astype(U),
        layout.is_left,
        layout.factor,
        layout.weight,
        values,
    )
    return values


def _layout(forest: Forest) -> _Layout:
    nodes = len(forest.value)
    right, left = forest.children[0::2], forest.children[1::2]
    inner = np.flatnonzero(~forest.is_leaf)
    parent, ratio = np.full(nodes, -1), np.ones(nodes)
    goes_left = _left_shares(forest)
    for child, share in ((left, goes_left), (right, 1 - goes_left)):
        parent[child[inner]], ratio[child[inner]] = inner, share[inner]
    is_left = np.zeros(nodes, np.bool_)
    is_left[left[inner]] = True
    same, passed = _same_feature_above(forest, parent, ratio)
    above = np.where(parent >= 0, passed[same], 1.0)
    factor, weight = np.ones((nodes, 3, 4)), np.zeros((nodes, 3, 4))
    for state, (before, after) in enumerate(_STATES):
        old = above[:, None] * (1 - _T) + before * _T
        new = passed[:, None] * (1 - _T) + after * _T
        factor[:, state] = new / old
        weight[:, state] = _W * ((after - passed)[:, None] / new - (before - above)[:, None] / old)
    return _Layout(parent, same, is_left, factor, weight)


def _left_shares(forest: Forest) -> Floats:
    """Return the share of the training rows of each node that go left.

    A node's value is the mean of its children's. Where these are equal, the share changes nothing.
    """
    right, left = forest.children[0::2], forest.children[1::2]
    gap = forest.value[left] - forest.value[right]
    equal = np.abs(gap) < 1e-12
    share = (forest.value - forest.value[right]) / np.where(equal, 1.0, gap)
    shares: Floats = np.clip(np.where(equal, 0.5, share), 1e-6, 1 - 1e-6)
    return shares


def _same_feature_above(forest: Forest, parent: Numbers, ratio: Floats) -> tuple[Numbers, Floats]:
    """Return for each node the last node above with its feature, and the share that passes both."""
    same, passed = np.zeros(len(parent), np.int64), ratio.copy()
    ways: dict[int, dict[int, int]] = {int(root): {} for root in forest.roots}
    root = 0
    for node, above in enumerate(parent.tolist()):
        if above < 0:
            root = same[node] = node
            continue
        feature, way = int(forest.feature[above]), ways[above]
        same[node] = way.get(feature, root)
        passed[node] = ratio[node] * passed[same[node]]
        ways[node] = {**way, feature: node}
    return same, passed


@compiled
def _explain(
    rows: Rows,
    feature: Numbers,
    threshold: Floats,
    value: Floats,
    roots: Numbers,
    ends: Numbers,
    parent: Numbers,
    same: Numbers,
    is_left: NDArray[np.bool_],
    factor: Floats,
    weight: Floats,
    values: Floats,
) -> None:
    largest = U(0)
    for tree in range(U(roots.shape[0])):
        largest = max(largest, ends[tree] - roots[tree])
    product, below = np.empty((largest, 4)), np.empty((largest, 4))
    moved = np.empty((rows.shape[1], 4))
    state = np.zeros(largest, np.uint64)
    for tree in range(U(roots.shape[0])):
        first, size = roots[tree], ends[tree] - roots[tree]
        product[0] = 1.0
        for row in range(U(rows.shape[0])):
            for at in range(U(1), size):
                node = first + at
                above = parent[node]
                refused = U(state[same[node] - first] != 0)
                fails = U((rows[row, feature[above]] <= threshold[above]) != is_left[node])
                now = refused + (fails | refused)
                state[at] = now
                for q in range(U(4)):
                    product[at, q] = product[above - first, q] * factor[node, now, q]
                    below[at, q] = product[at, q] * value[node]
            moved[:] = 0.0
            for back in range(U(1), size):
                at = size - back
                node = first + at
                above, now = parent[node], state[at]
                for q in range(U(4)):
                    moved[feature[above], q] += below[at, q] * weight[node, now, q]
                    below[above - first, q] += below[at, q]
            for j in range(U(rows.shape[1])):
                values[row, j] += moved[j, 0] + moved[j, 1] + moved[j, 2] + moved[j, 3]
