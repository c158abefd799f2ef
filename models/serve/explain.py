"""Reasons: how much each field of a lead moved its probability.

Each leaf of a tree has one number for each field. A lead's contribution is the sum over the leaves
that it reaches. The numbers of a leaf add up to its change of the score. So those of a lead add up
to its raw score, minus the base value (the mean of the roots). They are in the unit of the trees:
the raw score, or log-odds for boosting.

Training fits the numbers to exact Shapley values (`models.train.shapley`) and the artifact carries
them. An artifact without them gets path contributions: each split on the path to a leaf changes the
share of class 1, and that change goes to the fields of the split. Source: A. Saabas, "Interpreting
random forests" (2014).

`in_points` carries them through the calibration, to points of the probability.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models.serve.forest import Floats, Forest, Ints

Singles = NDArray[np.float32]

# Rows of one sum: they stay in the processor's cache.
_CHUNK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """Contributions of every leaf of a forest to k fields.

    - `base`: the raw score before any field is known.
    - `table` (leaves, k): the contribution of each leaf, in the unit of the trees.
    - `row_of` (nodes,): the row of the table for the node number of a leaf.
    - `log_base`: the log-odds of the base value; only for boosting.
    """

    base: float
    table: Singles
    row_of: Ints
    log_base: float | None = None

    def take(self, leaves: Ints) -> Floats:
        """Return the contributions (n, k) of rows that reach these leaves (trees, n)."""
        _, n = leaves.shape
        total = np.zeros((n, self.table.shape[1]), np.float32)
        for start in range(0, n, _CHUNK):
            part = total[start : start + _CHUNK]
            changes = np.empty_like(part)
            for tree in self.row_of.take(leaves[:, start : start + _CHUNK]):
                # Every index is in range; mode="clip" only keeps numpy from buffering `out`.
                part += self.table.take(tree, axis=0, out=changes, mode="clip")
        return total.astype(np.float64)

    def moved(self, change: Floats) -> Floats:
        """Return the raw score (n,) when contributions that add up to `change` (n,) are known."""
        if self.log_base is None:
            return self.base + change
        moved: Floats = expit(self.log_base + change)
        return moved


def contributions(forest: Forest, groups: Floats, table: Singles | None = None) -> Contributions:
    """Return the contributions of all leaves, from a fitted table or else from the paths.

    `groups` (features, k) is the part of each feature that goes to each field. `table` (leaves, k)
    is in the order of the nodes. Raises ValueError if it does not fit the forest.
    """
    is_leaf = forest.is_leaf
    leaves = np.flatnonzero(is_leaf)
    row_of = np.zeros(len(is_leaf), dtype=np.intp)
    row_of[leaves] = np.arange(len(leaves))
    if table is None:
        table = (_path_sums(forest, groups)[leaves] / forest.divisor).astype(np.float32)
    elif table.shape != (len(leaves), groups.shape[1]) or table.dtype != np.float32:
        raise ValueError(f"the reasons are not made for {len(leaves)} leaves")
    elif not np.isfinite(table).all():
        raise ValueError("the reasons are not numbers")
    start = forest.value[forest.roots]
    if forest.offset is None:
        return Contributions(float(start.mean()), table, row_of)
    log_base = forest.offset + float(start.sum())
    return Contributions(float(expit(log_base)), table, row_of, log_base)


def _path_sums(forest: Forest, groups: Floats) -> Floats:
    """Return the changes on the path to each node by field: (nodes, k)."""
    right, left = forest.children[0::2], forest.children[1::2]
    sums = np.zeros((len(forest.value), groups.shape[1]))
    level = forest.roots
    while len(level := level[~forest.is_leaf[level]]):
        shares = groups[forest.feature[level]]
        for child in (left[level], right[level]):
            change = forest.value[child] - forest.value[level]
            sums[child] = sums[level] + change[:, None] * shares
        level = np.concatenate([left[level], right[level]])
    return sums


class Factors(NamedTuple):
    """The factors for the contributions of n rows: those that raise and those that lower."""

    rise: Floats
    fall: Floats


def in_points(
    up: Floats,
    down: Floats,
    probability: Floats,
    base_probability: float,
    stated: Callable[[Floats], Floats],
) -> Factors:
    """Return the factors that turn contributions into points of the probability.

    `up` and `down` (n,) are the sums of those above and below zero, as of `team_sums`. `stated`
    gives the probability when contributions that add up to so much are known; it never falls.

    The contributions that raise a score are one team, those that lower it another. Each team gets
    its Shapley value of the probability: its mean gain when it comes first and when it comes last.
    Its members share that in proportion. So the points add up to `probability` (n,) minus
    `base_probability`, and no sign changes.
    """
    gained = probability - base_probability
    first, last = stated(np.concatenate([up, down])).reshape(2, -1)
    rise = ((first - base_probability) + (probability - last)) / 2
    # Contributions in float32 may end on the other side of a step than the score itself.
    rise = np.where(up > 0, np.where(down < 0, np.maximum(rise, np.maximum(gained, 0)), gained), 0)
    fall = gained - rise
    return Factors(rise / np.where(up > 0, up, 1.0), fall / np.where(down < 0, down, -1.0))


def team_sums(contributed: Floats) -> tuple[Floats, Floats]:
    """Return the sums of the contributions (n, k) above and below zero, (n,) each."""
    up, down = np.zeros(len(contributed)), np.zeros(len(contributed))
    for field in contributed.T:  # in order: the bits of a row must not depend on the batch
        up += np.maximum(field, 0.0)
        down += np.minimum(field, 0.0)
    return up, down


@dataclass(frozen=True, slots=True, eq=False)
class Strongest:
    """The fields that moved the probability of each of n rows most, up or down, strongest first.

    `indices` (n, count) are field indices and `points` (n, count) their contributions. Equal
    strengths keep the order of the fields. A field with 0 points is no reason and comes last.
    """

    indices: Ints
    points: Floats

    def named(self, names: tuple[str, ...]) -> list[tuple[tuple[str, float], ...]]:
        """Return the reasons of each row as (feature, contribution)."""
        return [
            tuple((names[i], value) for i, value in zip(row, values, strict=True) if value)
            for row, values in zip(self.indices.tolist(), self.points.tolist(), strict=True)
        ]


def strongest(contributed: Floats, factors: Factors, count: int) -> Strongest:
    """Return the `count` strongest points of each row of (n, k); all k if k is smaller."""
    rise, fall = factors.rise[:, None], factors.fall[:, None]
    points = contributed * np.where(contributed > 0, rise, fall)
    indices = np.argsort(-np.abs(points), axis=1, kind="stable")[:, :count]
    return Strongest(indices, np.take_along_axis(points, indices, axis=1))
