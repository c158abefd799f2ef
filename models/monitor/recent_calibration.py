"""Following the outcomes: a calibration of the newest leads whose outcome is known, moved along with time.

A calibration that is fixed at training fails when the base rate jumps. This one is fitted again and again on a rolling
window of scores whose outcomes have arrived since. Pure functions: who feeds them, and how late, is the caller's.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models.train.calibrate import log_odds
from models.train.evaluate import calibration_line

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Map = Callable[[Floats], Floats]

WINDOW = 2_000
LEAST = 100  # outcomes; with fewer, or with only one kind, the probability stays as it is
METHODS = ("intercept", "sigmoid", "isotonic")


def shift(probability: Floats, labels: Labels) -> float:
    """The log-odds to add to probabilities (n,) so that their mean is the rate of the outcomes (n,).

    By Newton's method; the same as the intercept of a logistic regression whose slope is held at 1. Both outcomes must
    occur.
    """
    score, added = log_odds(probability), 0.0
    for _ in range(100):
        stated = expit(score + added)
        step = float((labels - stated).sum() / (stated * (1 - stated)).sum())
        added += float(np.clip(step, -2.0, 2.0))
        if abs(step) < 1e-10:
            break
    return added


def follow(probability: Floats, labels: Labels, method: str = "intercept") -> Map:
    """What turns a probability into one that recent ones (n,) and their outcomes (n,) bear out.

    "intercept" moves the base rate alone, "sigmoid" the spread as well (not where it would invert the ranking),
    "isotonic" any rising line.
    """
    if len(labels) < LEAST or labels.all() or not labels.any():
        return lambda stated: stated
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415  # `run` imports this module, and does without

        steps = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
            probability, labels
        )
        return lambda stated: np.asarray(steps.predict(stated), dtype=np.float64)
    if method == "sigmoid":
        intercept, slope = calibration_line(probability, labels)
        if intercept is not None and slope is not None and slope > 0:
            return lambda stated: np.asarray(expit(slope * log_odds(stated) + intercept))
    added = shift(probability, labels)
    return lambda stated: np.asarray(expit(log_odds(stated) + added))


def replay(
    probability: Floats,
    labels: Labels,
    start: int,
    late: int,
    *,
    method: str = "intercept",
    every: int = 100,
) -> Floats:
    """The probabilities that following would have stated for rows `start` and up of n rows in the order of time.

    The outcome of a row is known `late` rows after it; the map is fitted anew after each `every` rows, on the newest
    WINDOW rows whose outcome is known by then.
    """
    stated = probability[start:].copy()
    for first in range(start, len(labels), every):
        known = max(first - late, 0)
        window = slice(max(known - WINDOW, 0), known)
        moved = follow(probability[window], labels[window], method)
        stated[first - start : first - start + every] = moved(probability[first : first + every])
    return stated
