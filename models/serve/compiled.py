"""The walk through the trees as machine code: scores and contributions in one pass.

Needs numba (the extra `fast`). Gives the same bits as the numpy code in `models.serve.forest` and
`models.serve.explain`, which tests compare it with.

All rows go through one tree after another, in blocks, one level at a time. So tree and block stay
in the nearest cache, the rows of a block do not wait for each other, and the contributions of a
leaf are fetched once. The sums of each row are added tree by tree, in order. Of many rows one half
goes through a second thread, if there is a second processor. Every index is unsigned (`U`): for a
signed one the compiler must check whether it counts from the end.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from features.calendar import DAY
from leadstream.compiled import compiled
from models.serve.ageing import Ageing, Held, Moments
from models.serve.compiled_ageing import NOWHERE, search
from models.serve.explain import Contributions, Factors, Singles, Strongest
from models.serve.forest import Forest

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Numbers = NDArray[np.uint32]

_BLOCK = 256
_MANY = 512  # waking the thread takes as long as some fifty rows
_SECOND_THREAD = ThreadPoolExecutor(1, "trees") if (os.cpu_count() or 1) > 1 else None
U = np.uint64
_LANES = 8  # numbers in float32 that one instruction adds; the table has columns of zeros to fit


class CompiledWalk:
    """A forest over k features with the contributions of its fields, laid out for the kernel.

    Nodes are renumbered so that a right child follows its left sibling. A leaf is its own left
    child, with a threshold that no number exceeds. Thresholds are the largest float32 at or below
    the float64: for a float32 x, x <= t is the same for both.
    """

    def __init__(
        self, forest: Forest, contributions: Contributions, ageing: Ageing | None = None
    ) -> None:
        order, left = _siblings_together(forest)
        self._feature = forest.feature[order].astype(np.uint32)
        self._left = left
        self._threshold = _not_above(forest.threshold[order])
        self._threshold[left == np.arange(len(left))] = np.inf
        self._value = forest.value[order]
        self._row_of = contributions.row_of[order].astype(np.uint32)
        self._fields = contributions.table.shape[1]
        self._table = np.pad(contributions.table, ((0, 0), (0, -self._fields % _LANES)))
        new = np.empty(len(order), dtype=np.int64)
        new[order] = np.arange(len(order))
        self._roots = new[forest.roots].astype(np.uint32)
        self._depths = _depths(forest).astype(np.uint32)
        self._offset, self._divisor = forest.offset or 0.0, float(forest.divisor)
        if ageing is not None:
            self._lay_out_ages(forest, ageing, order, new)

    def _lay_out_ages(
        self, forest: Forest, ageing: Ageing, order: NDArray[np.int64], new: NDArray[np.int64]
    ) -> None:
        """Lay out what `search` takes: age and faded score are inputs k and k + 1."""
        feature, leaf = self._feature.copy(), forest.is_leaf[order]
        k = np.uint32(max(int(forest.feature.max()), int(ageing.columns.max())) + 1)
        self._inputs = int(k)
        asks = [(self._feature == column) & ~leaf for column in ageing.columns.tolist()]
        feature[asks[0] | asks[1]], feature[asks[2]] = k, k + np.uint32(1)
        threshold = self._threshold.astype(np.float64)
        # Ages are whole.
        threshold[asks[0] | asks[1]] = ageing.cuts[order][asks[0] | asks[1]] - 0.5
        threshold[asks[2]] = ageing.fades[order][asks[2]]
        faded = ageing.faded[order]
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.where(faded > 0, DAY / faded, np.inf)
        nodes = np.stack([ageing.until_node, ageing.faded_node], axis=1)[order]
        self._ages = (
            feature,
            threshold,
            self._left,
            self._value,
            np.stack([ageing.until[order], inverse, faded], axis=1),
            np.where(nodes < 0, NOWHERE, new[nodes]).astype(np.uint32),
        )

    def first_change(self, held: Held, sums: Floats, reached: Numbers) -> Moments:
        """Return the same as `ageing.first_change`, for what `sums` has returned."""
        found = np.empty(len(sums), np.int64)
        rows = np.ascontiguousarray(held.rows)
        numbers = np.stack([held.limits, held.score, held.low, held.high], axis=1)

        def find(part: slice) -> None:
            search(
                rows[part],
                reached[part],
                sums[part],
                numbers[part],
                *self._ages,
                self._offset,
                self._divisor,
                found[part],
            )

        _in_halves(find, len(sums))
        return found

    def sums(
        self, rows: Rows, explain: bool, keep_leaves: bool = False
    ) -> tuple[Floats, Floats, Numbers]:
        """Return (sums of leaf values (n,), sums of contributions (n, fields), leaves (n, trees)).

        The sums of leaf values start at the offset. Without `explain` there are no contributions,
        and without `keep_leaves` no leaves.
        """
        n = len(rows)
        total = np.full(n, self._offset)
        contributed = np.zeros((n if explain else 0, self._table.shape[1]), np.float32)
        reached = np.empty((n if keep_leaves else 0, len(self._roots)), np.uint32)
        inputs = np.ascontiguousarray(rows)

        def walk(part: slice) -> None:
            _walk(
                inputs[part],
                self._feature,
                self._threshold,
                self._left,
                self._value,
                self._roots,
                self._depths,
                self._row_of,
                self._table,
                total[part],
                contributed[part],
                reached[part],
            )

        _in_halves(walk, n)
        return total, contributed[:, : self._fields].astype(np.float64), reached

    def team_sums(self, contributed: Floats) -> tuple[Floats, Floats]:
        """Return the same as `explain.team_sums`."""
        up, down = np.empty(len(contributed)), np.empty(len(contributed))
        _add_teams(contributed, up, down)
        return up, down

    def strongest(self, contributed: Floats, factors: Factors, count: int) -> Strongest:
        """Return the same as `explain.strongest`; picking a few is faster than sorting all."""
        n, k = contributed.shape
        indices = np.empty((n, min(count, k)), dtype=np.intp)
        points = np.empty(indices.shape)
        _pick(contributed, factors.rise, factors.fall, indices, points)
        return Strongest(indices, points)


def _in_halves(work: Callable[[slice], None], n: int) -> None:
    """Do the work on n rows, one half of many in the second thread."""
    if _SECOND_THREAD is None or n < _MANY:
        work(slice(n))
        return
    half = _SECOND_THREAD.submit(work, slice(n // 2))
    work(slice(n // 2, n))
    half.result()


@compiled
def _walk(
    rows: Rows,
    feature: Numbers,
    threshold: Rows,
    left: Numbers,
    value: Floats,
    roots: Numbers,
    depths: Numbers,
    row_of: Numbers,
    table: Singles,
    total: Floats,
    contributed: Singles,
    reached: Numbers,
) -> None:
    n, k = U(rows.shape[0]), U(table.shape[1])
    explain, keep = contributed.shape[0] > 0, reached.shape[0] > 0
    node = np.empty(n, dtype=np.uint32)
    for tree in range(U(roots.shape[0])):
        node[:] = roots[tree]
        for start in range(U(0), n, U(_BLOCK)):
            stop = min(start + U(_BLOCK), n)
            for _ in range(depths[tree]):
                for i in range(start, stop):
                    at = node[i]
                    node[i] = left[at] + np.uint32(rows[i, feature[at]] > threshold[at])
            for i in range(start, stop):
                total[i] += value[node[i]]
            if keep:
                for i in range(start, stop):
                    reached[i, tree] = node[i]
            if explain:
                for i in range(start, stop):
                    leaf = row_of[node[i]]
                    for j in range(U(0), k, U(_LANES)):
                        for lane in range(U(_LANES)):
                            contributed[i, j + lane] += table[leaf, j + lane]


@compiled
def _add_teams(contributed: Floats, up: Floats, down: Floats) -> None:
    n, k = U(contributed.shape[0]), U(contributed.shape[1])
    for row in range(n):
        gains, losses = 0.0, 0.0
        for j in range(k):
            gains += max(contributed[row, j], 0.0)
            losses += min(contributed[row, j], 0.0)
        up[row], down[row] = gains, losses


@compiled
def _pick(
    contributed: Floats, rise: Floats, fall: Floats, indices: NDArray[np.intp], points: Floats
) -> None:
    n, k = U(contributed.shape[0]), U(contributed.shape[1])
    moved, strength = np.empty(k), np.empty(k)
    for row in range(n):
        for j in range(k):
            x = contributed[row, j]
            moved[j] = x * (rise[row] if x > 0 else fall[row])
            strength[j] = abs(moved[j])
        for rank in range(U(indices.shape[1])):
            best = U(0)
            for j in range(U(1), k):
                if strength[j] > strength[best]:
                    best = U(j)
            strength[best] = -1.0
            indices[row, rank] = best
            points[row, rank] = moved[best]


def _siblings_together(forest: Forest) -> tuple[NDArray[np.int64], Numbers]:
    """Return (the old index of each new node, the left child of each new node), level by level."""
    right, left = forest.children[0::2], forest.children[1::2]
    leaf = forest.is_leaf
    levels, level = [forest.roots], forest.roots
    while len(level := level[~leaf[level]]):
        level = np.stack([left[level], right[level]], axis=1).ravel()
        levels.append(level)
        if sum(map(len, levels)) > len(left):
            raise ValueError("a forest's nodes do not make trees")
    order = np.concatenate(levels).astype(np.int64)
    new = np.empty(len(left), dtype=np.int64)
    new[order] = np.arange(len(order))
    return order, new[left[order]].astype(np.uint32)


def _depths(forest: Forest) -> NDArray[np.int64]:
    """Return the length of the longest path through each tree: (trees,)."""
    right, left = forest.children[0::2], forest.children[1::2]
    leaf = forest.is_leaf
    depths = np.zeros(len(forest.roots), dtype=np.int64)
    level, tree = forest.roots, np.arange(len(forest.roots))
    while True:
        inner = ~leaf[level]
        level, tree = level[inner], tree[inner]
        if not len(level):
            return depths
        depths[np.unique(tree)] += 1
        level, tree = np.concatenate([left[level], right[level]]), np.concatenate([tree, tree])


def _not_above(threshold: Floats) -> Rows:
    """Return the largest float32 that is at or below each float64."""
    rounded = threshold.astype(np.float32)
    over = rounded.astype(np.float64) > threshold
    rounded[over] = np.nextafter(rounded[over], np.float32(-np.inf))
    return rounded
