"""Samples that keep rows by their outcome, and what restores the rate of all rows.

Such a sample has the odds of all rows, times a factor that is known. So one number moves its
log-odds back. Source: G. King, L. Zeng, "Logistic regression in rare events data", Political
Analysis 9 (2001).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class KeptShares:
    """The share of rows that a sample keeps, of those that convert and of the others."""

    conversions: float
    others: float

    @property
    def shift(self) -> float:
        """Return what moves log-odds from the sample to all rows."""
        return float(np.log(self.others / self.conversions))

    def rate(self, labels: Labels) -> float:
        """Return the rate of conversions among all rows, of which these labels (n,) were kept."""
        won = labels.sum() / self.conversions
        return float(won / (won + (~labels).sum() / self.others))


def representative(kept: KeptShares | None, labels: Labels, seed: int) -> Labels:
    """Return which rows (n,) of a sample have the rate of all rows; without a sample, each one."""
    if kept is None:
        return np.ones(len(labels), np.bool_)
    smaller = min(kept.conversions, kept.others)
    share = np.where(labels, smaller / kept.conversions, smaller / kept.others)
    chosen: Labels = np.random.default_rng(seed).random(len(labels)) < share
    return chosen
