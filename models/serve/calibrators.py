"""Calibrators: how a raw score becomes a probability with an interval.

A formula that needs log-odds reads a raw score as a probability, clipped to 1e-6 from 0 and 1.
No calibrator states 0 or 1: n leads do not show that an outcome never happens. The limits are the
rates of Jeffreys' prior, (k + 1/2) / (n + 1), for k of n leads that converted.
Every calibrator takes its interval from inductive Venn-Abers, widened to hold the probability.
The interval of a lead that lacks inputs also holds the intervals of the calibration leads that
lack at least as many. Those leads are fewer, so the interval is wider. This is a taxonomy of
nested categories: V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World",
2005, section 4.5.

To add a calibrator, write its two functions and its `CalibrationMethod` here, and add it to
CALIBRATORS. The choices of `leadstream train --calibrator` follow by hand; a test compares them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from leadstream.errors import UserError
from models.evaluate import EDGE, calibration_line, legacy_sigmoid
from models.serve.venn_abers import VennAbers

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Ints = NDArray[np.intp]

# A level of incompleteness needs this many leads, and this many of each outcome.
MIN_LEADS, MIN_OUTCOMES = 100, 10
MAX_LEVELS = 8
# Beyond it a shifted probability would round to 1.
MAX_LOG_ODDS = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Calibrator:
    """A fitted calibrator.

    - `name`: a key of CALIBRATORS.
    - `intervals`: the Venn-Abers steps of the interval, whatever the name.
    - `slope`, `intercept`: act on log-odds.
    - `scores`, `rates`: corners of an isotonic line, both (corners,). Without `scores`, `rates`
      holds the lowest and the highest probability; an older artifact has neither.
    - `levels`, `incomplete`: `incomplete[i]` holds the steps of the leads that lack at least
      `levels[i]` inputs.
    - `shift`: added to the log-odds of probability and interval. It follows a moved base rate.

    Fields that a calibrator does not use are 1, 0 or empty.
    """

    name: str
    intervals: VennAbers
    slope: float = 1.0
    intercept: float = 0.0
    scores: Floats = field(default_factory=lambda: np.empty(0))
    rates: Floats = field(default_factory=lambda: np.empty(0))
    levels: tuple[int, ...] = ()
    incomplete: tuple[VennAbers, ...] = ()
    shift: float = 0.0

    def interval(self, raw: Floats, missing: Ints | None = None) -> tuple[Floats, Floats, Floats]:
        """Return (probability, low, high), each (n,), for raw scores (n,).

        `missing` (n,) counts the inputs that each lead lacks; without it all leads are complete.
        Always low <= probability <= high.
        """
        venn_abers, low, high = self.intervals.interval(raw)
        if missing is not None:
            for level, steps in zip(self.levels, self.incomplete, strict=True):
                lacking = missing >= level
                _, below, above = steps.interval(raw)
                low = np.where(lacking, np.minimum(low, below), low)
                high = np.where(lacking, np.maximum(high, above), high)
        probability = CALIBRATORS[self.name].apply(self, raw, venn_abers)
        probability, low, high = map(self._shifted, (probability, low, high))
        return probability, np.minimum(low, probability), np.maximum(high, probability)

    def probability(self, raw: Floats) -> Floats:
        """Return the probabilities (n,) for raw scores (n,), which may lie outside of 0..1."""
        venn_abers = self.intervals.interval(raw)[0] if self.name == "venn_abers" else raw
        return self._shifted(CALIBRATORS[self.name].apply(self, raw, venn_abers))

    def _shifted(self, stated: Floats) -> Floats:
        if not self.shift:
            return stated
        moved: Floats = expit(np.clip(log_odds(stated) + self.shift, -MAX_LOG_ODDS, MAX_LOG_ODDS))
        return moved


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationMethod:
    """One way to make probabilities of raw scores.

    - `name`: the name in options and manifests.
    - `sentence`: what it does, as the manifest says it.
    - `fit`: (raw scores (n,), outcomes (n,), prior) -> the fields of Calibrator that it uses.
    - `apply`: (calibrator, raw scores (n,), Venn-Abers probabilities (n,)) -> probabilities (n,).
    - `automatic`: whether `--calibrator best` tries it.

    >>> CALIBRATORS["prior_shift"].fit(np.array([0.4, 0.6]), np.array([False, True]), 0.5)
    {'intercept': 0.0, 'rates': array([0.16666667, 0.83333333])}
    """

    name: str
    sentence: str
    fit: Callable[[Floats, Labels, float], dict[str, Any]]
    apply: Callable[[Calibrator, Floats, Floats], Floats]
    automatic: bool = True


def log_odds(probability: Floats) -> Floats:
    """Return ln(p / (1 - p)) of probabilities of any shape, clipped to EDGE from 0 and 1."""
    odds: Floats = logit(np.clip(probability, EDGE, 1 - EDGE))
    return odds


def move(probability: float, added: float) -> float:
    """Return a cut moved as a shift moves probabilities, so that the same leads stay above it."""
    return float(expit(log_odds(np.array([probability])) + added)[0])


def fit(
    name: str, raw: Floats, labels: Labels, prior: float, missing: Ints | None = None
) -> Calibrator:
    """Fit a calibrator by name to raw scores (n,) and outcomes (n,); both outcomes must occur.

    `missing` (n,) counts the inputs that each lead lacks. `prior` is the base rate that the raw
    score assumes. Raises UserError for an unknown name, if the score ranks the leads the wrong
    way round, or if the outcomes are so well separated that a sigmoid has no slope.
    """
    method = method_of(name)
    intervals = VennAbers.fit(raw, labels)
    levels, incomplete = _incomplete(raw, labels, missing) if missing is not None else ((), ())
    _, slope = calibration_line(raw, labels)
    if slope is not None and slope < 0:
        raise UserError(
            f"its slope is negative ({slope:.2f}): later leads are ranked the wrong way round"
        )
    fitted = method.fit(raw, labels, prior)
    return Calibrator(name, intervals, levels=levels, incomplete=incomplete, **fitted)


def method_of(name: str) -> CalibrationMethod:
    """Return the calibration method of this name; raise UserError if there is none."""
    if name not in CALIBRATORS:
        raise UserError(f"{name!r} is no calibrator: use one of {', '.join(CALIBRATORS)}")
    return CALIBRATORS[name]


def _incomplete(
    raw: Floats, labels: Labels, missing: Ints
) -> tuple[tuple[int, ...], tuple[VennAbers, ...]]:
    """Return the levels of incompleteness above the lowest, and the steps of each level.

    The levels end where too few leads lack as many inputs.
    """
    levels, incomplete = [], []
    for level in np.unique(missing)[1 : 1 + MAX_LEVELS].tolist():
        lacking = missing >= level
        won = int(labels[lacking].sum())
        if lacking.sum() < MIN_LEADS or min(won, int(lacking.sum()) - won) < MIN_OUTCOMES:
            break
        levels.append(int(level))
        incomplete.append(VennAbers.fit(raw[lacking], labels[lacking]))
    return tuple(levels), tuple(incomplete)


def _nothing(_raw: Floats, _labels: Labels, _prior: float) -> dict[str, Any]:
    return {}


def _venn_abers(_calibrator: Calibrator, _raw: Floats, venn_abers: Floats) -> Floats:
    return venn_abers


def _fit_isotonic(raw: Floats, labels: Labels, _prior: float) -> dict[str, Any]:
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415  # not needed to serve

    corners = IsotonicRegression(y_min=0.0, y_max=1.0).fit(raw, labels)
    scores, rates = corners.X_thresholds_, corners.y_thresholds_.copy()
    bottom, top = rates == rates[0], rates == rates[-1]
    if not bottom.all():
        # A step of few leads may not pass its neighbor, or a higher score would say less.
        lowest = _jeffreys(labels[raw <= scores[bottom][-1]])
        highest = _jeffreys(labels[raw >= scores[top][0]])
        rates[bottom], rates[top] = (
            min(lowest, float(rates[~bottom][0])),
            max(highest, float(rates[~top][-1])),
        )
    return {"scores": scores, "rates": rates}


def _jeffreys(labels: Labels) -> float:
    return float((labels.sum() + 0.5) / (len(labels) + 1))


def _limits(labels: Labels) -> Floats:
    """Return the lowest and the highest probability that so many outcomes (n,) can support."""
    lowest = 0.5 / (len(labels) + 1)
    return np.array([lowest, 1 - lowest])


def _within_limits(calibrator: Calibrator, probability: Floats) -> Floats:
    if not len(calibrator.rates):
        return probability
    return np.clip(probability, calibrator.rates[0], calibrator.rates[-1])


def _fit_none(_raw: Floats, labels: Labels, _prior: float) -> dict[str, Any]:
    return {"rates": _limits(labels)}


def _none(calibrator: Calibrator, raw: Floats, _venn_abers: Floats) -> Floats:
    return _within_limits(calibrator, raw)


def _isotonic(calibrator: Calibrator, raw: Floats, _venn_abers: Floats) -> Floats:
    """Interpolate between the corners, constant outside.

    The last bit of `np.interp` may depend on the batch, so this does not use it.
    """
    scores, rates = calibrator.scores, calibrator.rates
    right = np.clip(np.searchsorted(scores, raw, side="right"), 1, max(len(scores) - 1, 1))
    right = np.minimum(right, len(scores) - 1)
    left = np.maximum(right - 1, 0)
    gap = scores[right] - scores[left]
    share = np.clip((raw - scores[left]) / np.where(gap > 0, gap, 1.0), 0.0, 1.0)
    line: Floats = rates[left] + share * (rates[right] - rates[left])
    return line


def _fit_sigmoid(raw: Floats, labels: Labels, _prior: float) -> dict[str, Any]:
    intercept, slope = calibration_line(raw, labels)
    if slope is None or intercept is None:
        raise UserError("the scores of the two outcomes do not overlap")
    return {"slope": slope, "intercept": intercept, "rates": _limits(labels)}


def _fit_prior_shift(_raw: Floats, labels: Labels, prior: float) -> dict[str, Any]:
    shift = log_odds(np.array([labels.mean(), prior]))
    return {"intercept": float(shift[0] - shift[1]), "rates": _limits(labels)}


def _line(calibrator: Calibrator, raw: Floats, _venn_abers: Floats) -> Floats:
    line: Floats = expit(calibrator.slope * log_odds(raw) + calibrator.intercept)
    return _within_limits(calibrator, line)


def _legacy_sigmoid(_calibrator: Calibrator, raw: Floats, _venn_abers: Floats) -> Floats:
    return legacy_sigmoid(raw)


# `best` takes the first of several that lose the same.
CALIBRATORS = {
    method.name: method
    for method in (
        CalibrationMethod("venn_abers", "inductive Venn-Abers", _nothing, _venn_abers),
        CalibrationMethod(
            "isotonic",
            "isotonic regression, on a line between its corners",
            _fit_isotonic,
            _isotonic,
        ),
        CalibrationMethod(
            "sigmoid", "logistic regression on the log-odds (Platt)", _fit_sigmoid, _line
        ),
        CalibrationMethod(
            "prior_shift",
            "the odds times the ratio of the base rates (Saerens, Latinne, Decaestecker)",
            _fit_prior_shift,
            _line,
        ),
        CalibrationMethod(
            "none", "none: the score of the trees is the probability", _fit_none, _none
        ),
        CalibrationMethod(
            "legacy_sigmoid",
            "the audited formula, for comparison while migrating",
            _nothing,
            _legacy_sigmoid,
            automatic=False,
        ),
    )
}
