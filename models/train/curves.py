"""Curves for the report: reliability, ROC, precision-recall, and histograms of both outcomes.

Numbers only, few enough for a manifest, and the same for the same input.
"""

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluate import ECE_BINS

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

HISTOGRAM_BINS = 20
MAX_POINTS = 150
_DIGITS = 5


def curves(probability: Floats, labels: Labels) -> dict[str, Any]:
    """Return the curves of probabilities (n,) and outcomes (n,), both classes present.

    - `reliability`: the equal-width bins of the ECE: leads, mean probability and rate. Both are
      None in an empty bin.
    - `roc`: the line (false positive rate, true positive rate).
    - `pr`: the steps (recall, precision) whose area is the average precision.
    - `histogram`: the leads of each outcome in equal-width bins.

    `roc` and `pr` have at most MAX_POINTS points.
    """
    order = np.argsort(-probability, kind="stable")
    # No threshold separates ties, so the curves have one point for each run of them.
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(labels) - 1)
    hits, called = np.cumsum(labels[order])[ends], ends + 1
    recall, precision = hits / labels.sum(), hits / called
    roc = np.stack([(called - hits) / (~labels).sum(), recall], axis=1)
    steps = np.stack([np.repeat(np.append(0.0, recall), 2)[1:-1], np.repeat(precision, 2)], axis=1)
    return {
        "reliability": _reliability(probability, labels),
        "roc": _columns(np.vstack([[0.0, 0.0], roc]), "false_positive_rate", "true_positive_rate"),
        "pr": _columns(steps, "recall", "precision"),
        "histogram": {
            "converted": _histogram(probability[labels]),
            "not_converted": _histogram(probability[~labels]),
        },
    }


def _reliability(probability: Floats, labels: Labels) -> dict[str, Any]:
    inside = np.minimum((probability * ECE_BINS).astype(np.intp), ECE_BINS - 1)
    counts = np.bincount(inside, minlength=ECE_BINS)
    sums = (
        np.bincount(inside, weights=values, minlength=ECE_BINS) for values in (probability, labels)
    )
    stated, realised = (
        [
            round(total / count, _DIGITS) if count else None
            for total, count in zip(each.tolist(), counts, strict=True)
        ]
        for each in sums
    )
    return {"counts": counts.tolist(), "stated": stated, "realised": realised}


def _histogram(probability: Floats) -> list[int]:
    bins = np.minimum((probability * HISTOGRAM_BINS).astype(np.intp), HISTOGRAM_BINS - 1)
    counts: list[int] = np.bincount(bins, minlength=HISTOGRAM_BINS).tolist()
    return counts


def _columns(line: Floats, x: str, y: str) -> dict[str, list[float]]:
    kept = np.round(line[thinned(line, MAX_POINTS)], _DIGITS)
    return {x: kept[:, 0].tolist(), y: kept[:, 1].tolist()}


def thinned(line: Floats, max_points: int) -> NDArray[np.intp]:
    """Return the indices of at most `max_points` points of a line (n, 2) that keep its corners.

    The farthest corners come first; points on the line between others are left out. Source: D.
    Douglas, T. Peucker, "Algorithms for the reduction of the number of points required to represent
    a digitized line or its caricature", Cartographica 10 (1973).
    """
    kept = {0, len(line) - 1}
    waiting = [_farthest(line, 0, len(line) - 1)]
    while waiting and len(kept) < max_points:
        distance, first, corner, last = heapq.heappop(waiting)
        if -distance < 1e-9:
            break
        kept.add(corner)
        for part in ((first, corner), (corner, last)):
            heapq.heappush(waiting, _farthest(line, *part))
    return np.array(sorted(kept), dtype=np.intp)


def _farthest(line: Floats, first: int, last: int) -> tuple[float, int, int, int]:
    """Return (minus the distance from the chord, first, the farthest point, last) of a piece."""
    inner = line[first + 1 : last]
    if not len(inner):
        return 0.0, first, first, last
    chord = line[last] - line[first]
    off = inner - line[first]
    length = float(np.hypot(*chord))
    distance = (
        np.abs(chord[0] * off[:, 1] - chord[1] * off[:, 0]) / length if length else np.hypot(*off.T)
    )
    corner = int(np.argmax(distance))
    return -float(distance[corner]), first, first + 1 + corner, last
