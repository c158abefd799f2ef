"""Inductive Venn-Abers: a score becomes a calibrated probability with an interval around it.

For a score s, p0 is the isotonic regression of the calibration points plus (s, 0), read at s. p1 is
the same with (s, 1). One of the two was fitted with the true label, so one of them is perfectly
calibrated. Their distance shows how much one more lead could move the probability.

As functions of s both are steps: p1 is constant on (u[j-1], u[j]] and p0 on [u[j], u[j+1]), where u
are the distinct calibration scores. So both are computed once, in O(m log m), and a look-up is a
binary search.

Source: V. Vovk, I. Petej, V. Fedorova, "Large-scale probabilistic predictors with and without
guarantees of validity", NIPS 2015 (arXiv 1511.00213), algorithms 1 to 6.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Corner = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class VennAbers:
    """The fitted steps.

    `scores` are the k distinct calibration scores, ascending; `p0` and `p1` have k + 1 entries.
    `p0[j]` is for scores at or above `scores[j - 1]` and below `scores[j]`. `p1[j]` is for scores
    above `scores[j - 1]` and at or below `scores[j]`.
    """

    scores: Floats
    p0: Floats
    p1: Floats

    @classmethod
    def fit(cls, scores: Floats, labels: NDArray[np.bool_]) -> "VennAbers":
        """Fit the steps to calibration scores (m,) and outcomes (m,); both must occur."""
        if not labels.any() or labels.all():
            raise ValueError("calibration needs leads that converted and leads that did not")
        distinct, group = np.unique(scores, return_inverse=True)
        count = np.bincount(group).tolist()
        converted = np.bincount(group, weights=labels).astype(np.int64).tolist()
        lost = [n - c for n, c in zip(count, converted, strict=True)]
        # Label 0 from the top is label 1 from the bottom, with wins and losses exchanged.
        p0 = [
            0.0,
            *reversed([(run - rise) / run for run, rise in _slopes(count[::-1], lost[::-1])]),
        ]
        p1 = [*(rise / run for run, rise in _slopes(count, converted)), 1.0]
        return cls(distinct.astype(np.float64), np.array(p0), np.array(p1))

    def interval(self, scores: Floats) -> tuple[Floats, Floats, Floats]:
        """Return (probability, low, high), each (n,), for scores (n,).

        low = p0, high = p1, probability = p1 / (1 - p0 + p1). That probability has the lowest log
        loss for the worse of p0 and p1 (section 4 of the source).
        """
        above = np.searchsorted(self.scores, scores, side="right")
        low = self.p0[above]
        # The distinct scores below a score are one fewer if it is one of them.
        known = self.scores if len(self.scores) else np.array([np.nan])
        high = self.p1[above - (known[above - 1] == scores) * (above > 0)]
        # Rounding may carry the quotient one unit in the last place past a bound.
        return np.clip(high / (1.0 - low + high), low, high), low, high


def _slopes(count: list[int], rises: list[int]) -> list[Corner]:
    """Return (run, rise) of the isotonic fit at each group j with one more label 1 at j.

    Algorithms 1 and 2 of the source. Isotonic regression is the slope of the greatest convex
    minorant of the cumulative sums. A point added at j lifts every corner from j on by (1, 1),
    which is the same as lowering those before j. The fit at j is the edge of the hull that crosses
    from the lowered corners to the others. From j to j + 1 one corner moves to the lowered side,
    and the edge only turns upward, so a corner that leaves the stack is never needed again. All
    numbers are integers: no rounding decides which corners are on the hull.
    """
    corners = [(0, 0)]
    for n, rise in zip(count, rises, strict=True):
        corners.append((corners[-1][0] + n, corners[-1][1] + rise))
    hull: list[Corner] = []
    for corner in [*reversed(corners), (-1, -1)]:
        _push(hull, corner)
    slopes = []
    for corner in corners[1:]:
        (x0, y0), (x1, y1) = hull[-1], hull[-2]
        slopes.append((x1 - x0, y1 - y0))
        lowered = (corner[0] - 1, corner[1] - 1)
        if _cross(hull[-1], hull[-2], lowered) < 0:
            hull.pop()
            _push(hull, lowered)
    return slopes


def _push(hull: list[Corner], corner: Corner) -> None:
    """Put a corner on the left end of a lower convex hull; drop those no longer on it."""
    while len(hull) > 1 and _cross(corner, hull[-1], hull[-2]) <= 0:
        hull.pop()
    hull.append(corner)


def _cross(a: Corner, b: Corner, c: Corner) -> int:
    """Return a number above zero if a -> b -> c turns left, zero on a line, else below zero."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
