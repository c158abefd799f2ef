"""Reasons: how much each feature moved the raw score of a lead, as path contributions.

On the path from the root to a leaf, each split changes the share of class 1 among the training rows
of the node. That change goes to the feature of the split. Over all trees, the changes and the base
value (the mean of the roots) add up to the raw score. They depend on the leaf alone, so they are
computed once for each leaf and only added up later.

Boosting adds log-odds, so its path gives shares in log-odds. One factor for each lead turns them
into probability points: the slope of the chord from the base value to its score. Each feature keeps
its share of the path, and the points add up to the score.

Source: A. Saabas, "Interpreting random forests" (2014). treeinterpreter computes the same numbers
path by path.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from models.serve.forest import Floats, Forest, Ints

# Rows of one sum: they stay in the processor's cache.
_CHUNK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """Contributions of every leaf of a forest.

    - `base`: the score before any feature is known.
    - `table` (leaves, k): the sum of changes on the path to each leaf.
    - `row_of` (nodes,): the row of the table for the node number of a leaf.
    - `log_base`: the log-odds of the base value; only for boosting.

    In the table, 0.01 is one percentage point of the raw score; for boosting, the unit is log-odds.
    """

    base: float
    table: Floats
    row_of: Ints
    log_base: float | None = None

    def take(self, leaves: Ints) -> Floats:
        """Return the contributions (n, k) of rows that reach these leaves (trees, n).

        `base` plus the sum of a row is its raw score.
        """
        trees, n = leaves.shape
        total = np.zeros((n, self.table.shape[1]))
        for start in range(0, n, _CHUNK):
            part = total[start : start + _CHUNK]
            changes = np.empty_like(part)
            for tree in self.row_of.take(leaves[:, start : start + _CHUNK]):
                # Every index is in range; mode="clip" only keeps numpy from buffering `out`.
                part += self.table.take(tree, axis=0, out=changes, mode="clip")
        return self.points(total, trees)

    def points(self, sums: Floats, trees: int) -> Floats:
        """Return contributions (n, k) in probability points from sums over the trees (n, k).

        Overwrites the sums.
        """
        if self.log_base is None:
            sums /= trees
        else:
            sums *= _chord(self.log_base, sums)[:, None]
        return sums


def contributions(forest: Forest, k: int) -> Contributions:
    """Return the contributions of all leaves of a forest over k features."""
    nodes = len(forest.value)
    right, left = forest.children[0::2], forest.children[1::2]
    is_leaf = left == np.arange(nodes)
    leaves = np.flatnonzero(is_leaf)
    row_of = np.zeros(nodes, dtype=np.intp)
    row_of[leaves] = np.arange(len(leaves))

    sums = np.zeros((nodes, k))
    level = forest.roots
    while len(level := level[~is_leaf[level]]):
        split = forest.feature[level]
        for child in (left[level], right[level]):
            sums[child] = sums[level]
            sums[child, split] += forest.value[child] - forest.value[level]
        level = np.concatenate([left[level], right[level]])
    start = forest.value[forest.roots]
    if forest.offset is None:
        return Contributions(float(start.mean()), sums[leaves], row_of)
    log_base = forest.offset + float(start.sum())
    return Contributions(float(expit(log_base)), sums[leaves], row_of, log_base)


def _chord(log_base: float, contributed: Floats) -> Floats:
    """Return the probability points of one unit of log-odds (n,), from contributions (n, k)."""
    way = np.zeros(len(contributed))
    for feature in contributed.T:  # in order: the bits of a row must not depend on the batch
        way += feature
    base = expit(log_base)
    level = np.abs(way) < 1e-6
    slope: Floats = np.where(
        level, base * (1 - base), (expit(log_base + way) - base) / np.where(level, 1.0, way)
    )
    return slope


@dataclass(frozen=True, slots=True, eq=False)
class Strongest:
    """The features that moved the score of each of n rows most, up or down, strongest first.

    `indices` (n, count) are feature indices and `points` (n, count) their contributions. Equal
    strengths keep the order of the features. A feature with 0 points is no reason and comes last.
    """

    indices: Ints
    points: Floats

    def named(self, names: tuple[str, ...]) -> list[tuple[tuple[str, float], ...]]:
        """Return the reasons of each row as (feature, contribution)."""
        return [
            tuple((names[i], value) for i, value in zip(row, values, strict=True) if value)
            for row, values in zip(self.indices.tolist(), self.points.tolist(), strict=True)
        ]


def strongest(contributed: Floats, count: int) -> Strongest:
    """Return the `count` strongest contributions (n, k) of each row; all k if k is smaller."""
    indices = np.argsort(-np.abs(contributed), axis=1, kind="stable")[:, :count]
    return Strongest(indices, np.take_along_axis(contributed, indices, axis=1))
