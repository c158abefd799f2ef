"""A calibration that follows recent outcomes.

A calibration that is fixed at training fails when the base rate jumps. This one is fitted again on
a rolling window of scores whose outcomes have arrived. The functions are pure: the caller decides
on data and delay.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models.evaluate import calibration_line
from models.serve.calibrators import log_odds

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
ProbabilityMap = Callable[[Floats], Floats]

WINDOW = 2_000
MIN_OUTCOMES = 100  # with fewer, or with only one class, the probability stays
METHODS = ("intercept", "sigmoid", "isotonic")


def shift(probability: Floats, labels: Labels) -> float:
    """Return the log-odds to add to probabilities so that their mean is the rate of outcomes.

    Both arguments are (n,). Newton's method; the same as the intercept of a logistic regression
    with a slope of 1. Both outcomes must occur.
    """
    score, added = log_odds(probability), 0.0
    for _ in range(100):
        stated = expit(score + added)
        step = float((labels - stated).sum() / (stated * (1 - stated)).sum())
        added += float(np.clip(step, -2.0, 2.0))
        if abs(step) < 1e-10:
            break
    return added


def fit_recent(probability: Floats, labels: Labels, method: str = "intercept") -> ProbabilityMap:
    """Return a function that corrects probabilities by recent ones (n,) and their outcomes (n,).

    "intercept" moves the base rate alone, "sigmoid" the spread as well (unless it would invert the
    ranking), "isotonic" fits any rising line.
    """
    if len(labels) < MIN_OUTCOMES or labels.all() or not labels.any():
        return lambda stated: stated
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415  # not needed to serve

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


def simulate(
    probability: Floats,
    labels: Labels,
    start: int,
    delay: int,
    *,
    method: str = "intercept",
    every: int = 100,
) -> Floats:
    """Return the probabilities that the calibration would have stated for rows from `start` on.

    Rows are in time order. The outcome of a row is known `delay` rows after it. The map is fitted
    again every `every` rows, on the newest WINDOW rows with a known outcome.
    """
    stated = probability[start:].copy()
    for first in range(start, len(labels), every):
        known = max(first - delay, 0)
        window = slice(max(known - WINDOW, 0), known)
        moved = fit_recent(probability[window], labels[window], method)
        stated[first - start : first - start + every] = moved(probability[first : first + every])
    return stated
