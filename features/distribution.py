"""The training distribution of a number: its median, its usual range, and a grid of ranks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.columns import Floats

GRID_POINTS = 1_001
USUAL = (0.001, 0.999)


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """The frozen distribution of the valid training values of one number.

    `grid` holds at most GRID_POINTS values that rise strictly. `ranks` holds the mid-rank of each:
    the share of training below it plus half the share equal to it. Without any training value the
    grid is empty and every value is unusual.
    """

    median: float
    usual_low: float
    usual_high: float
    grid: Floats
    ranks: Floats


def fit_distribution(values: Floats, fallback: float) -> Distribution:
    """Freeze the distribution of finite values (n,); `fallback` is the median if there are none."""
    if not len(values):
        return Distribution(fallback, np.inf, -np.inf, np.empty(0), np.empty(0))
    distinct, counts = np.unique(values, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / len(values)
    if len(distinct) > GRID_POINTS:
        kept = np.searchsorted(ranks, np.linspace(ranks[0], ranks[-1], GRID_POINTS))
        kept = np.unique(np.append(kept[:-1], len(distinct) - 1))
        distinct, ranks = distinct[kept], ranks[kept]
    low = np.quantile(values, USUAL[0], method="lower")
    high = np.quantile(values, USUAL[1], method="higher")
    return Distribution(float(np.median(values)), float(low), float(high), distinct, ranks)


def percentile(distribution: Distribution, values: Floats) -> Floats:
    """Return the share of training below each value, 0..1, interpolated between grid points.

    It is 0 below the grid and 1 above it. `np.interp` is not used: it has one method for long
    batches and another for short ones, and the last bit may differ.
    """
    grid, ranks = distribution.grid, distribution.ranks
    if not len(grid):
        return np.full(len(values), 0.5)
    left = np.searchsorted(grid, values, side="right") - 1
    right = np.minimum(left + 1, len(grid) - 1)
    start = grid[left]
    gap = grid[right] - start
    share = (values - start) / np.where(gap > 0, gap, 1.0)
    shares: Floats = ranks[left] + share * (ranks[right] - ranks[left])
    shares[values < grid[0]] = 0.0
    shares[values > grid[-1]] = 1.0
    return shares


def is_unusual(distribution: Distribution, values: Floats) -> NDArray[np.bool_]:
    """Return which values lie outside the middle 99.8 % of training."""
    return (values < distribution.usual_low) | (values > distribution.usual_high)
