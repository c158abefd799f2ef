"""From raw scores to probabilities: the calibrators, and the choice between them by later data.

A raw score is read as log-odds where a formula needs them, cut at 1e-6 from 0 and 1. Whatever the calibrator, the
interval is that of inductive Venn-Abers, widened where it must be to hold the probability: it never promises more.
For a lead that lacks inputs it also holds the intervals of the calibration leads that lack as many: there are fewer of
them, and so it is wider (a taxonomy of nested categories; V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a
Random World", 2005, section 4.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from leadstream.errors import UserError
from models.serve.venn_abers import VennAbers
from models.train.evaluate import EDGE, auc_loss, calibration_line, legacy_sigmoid, log_losses

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Ints = NDArray[np.intp]

CALIBRATORS = {
    "isotonic": "isotonic regression, on a line between its corners",
    "sigmoid": "logistic regression on the log-odds (Platt)",
    "venn_abers": "inductive Venn-Abers",
    "prior_shift": "the odds times the ratio of the base rates (Saerens, Latinne, Decaestecker)",
    "legacy_sigmoid": "the audited formula, for comparison while migrating",
}
CHOICES = (
    "venn_abers",
    "isotonic",
    "sigmoid",
    "prior_shift",
)  # of two that lose the same, the first
MOST_AUC_LOST = 0.01
# A level of incompleteness has an interval of its own from so many leads, and so many of each outcome, on.
LEAST_LEADS, LEAST_OUTCOMES = 100, 10
MOST_LEVELS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Calibrator:
    """`name` is one of CALIBRATORS; `slope` and `intercept` act on log-odds, `scores` and `rates` are isotonic corners.

    `intervals` has the interval for every name, `incomplete[i]` that of leads which lack at least `levels[i]` inputs.
    `shift` is added to the log-odds of all that is said: how the base rate has moved since. What a calibrator does not
    use is 1, 0 and empty.
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
        """(probability, low, high), each (n,), for raw scores (n,) of leads that lack `missing` (n,) inputs.

        low <= probability <= high; without `missing` the leads count as complete.
        """
        probability, low, high = self.intervals.interval(raw)
        if missing is not None:
            for level, steps in zip(self.levels, self.incomplete, strict=True):
                lacking = missing >= level
                _, below, above = steps.interval(raw)
                low = np.where(lacking, np.minimum(low, below), low)
                high = np.where(lacking, np.maximum(high, above), high)
        match self.name:
            case "isotonic":
                probability = _between(self.scores, self.rates, raw)
            case "legacy_sigmoid":
                probability = legacy_sigmoid(raw)
            case "sigmoid" | "prior_shift":
                probability = expit(self.slope * log_odds(raw) + self.intercept)
        if self.shift:
            probability, low, high = (
                expit(log_odds(stated) + self.shift) for stated in (probability, low, high)
            )
        return probability, np.minimum(low, probability), np.maximum(high, probability)


def log_odds(probability: Floats) -> Floats:
    """ln(p / (1 - p)) of probabilities of any shape, cut at EDGE from 0 and 1."""
    odds: Floats = logit(np.clip(probability, EDGE, 1 - EDGE))
    return odds


def fit(
    name: str, raw: Floats, labels: Labels, prior: float, missing: Ints | None = None
) -> Calibrator:
    """The calibrator of this name from raw scores (n,) and outcomes (n,), both present.

    `missing` (n,) is how many inputs each lead lacks, `prior` the base rate that the raw score answers for. UserError
    where the score ranks the wrong way round, or tells the outcomes apart so well that a sigmoid has no slope.
    """
    intervals = VennAbers.fit(raw, labels)
    levels, incomplete = _incomplete(raw, labels, missing) if missing is not None else ((), ())
    more: dict[str, Any] = {"levels": levels, "incomplete": incomplete}
    intercept, slope = calibration_line(raw, labels)
    if slope is not None and slope < 0:
        raise UserError(
            f"its slope is negative ({slope:.2f}): later leads are ranked the wrong way round"
        )
    match name:
        case "isotonic":
            from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415  # serving does without scikit-learn

            corners = IsotonicRegression(y_min=0.0, y_max=1.0).fit(raw, labels)
            return Calibrator(
                name, intervals, scores=corners.X_thresholds_, rates=corners.y_thresholds_, **more
            )
        case "sigmoid":
            if slope is None or intercept is None:
                raise UserError("the scores of the two outcomes do not overlap")
            return Calibrator(name, intervals, slope, intercept, **more)
        case "prior_shift":
            shift = log_odds(np.array([labels.mean(), prior]))
            return Calibrator(name, intervals, intercept=float(shift[0] - shift[1]), **more)
        case _:
            return Calibrator(name, intervals, **more)


def _incomplete(
    raw: Floats, labels: Labels, missing: Ints
) -> tuple[tuple[int, ...], tuple[VennAbers, ...]]:
    """The levels of incompleteness above the least, as far as enough leads lack as much, and the interval of each."""
    levels, incomplete = [], []
    for level in np.unique(missing)[1 : 1 + MOST_LEVELS].tolist():
        lacking = missing >= level
        won = int(labels[lacking].sum())
        if lacking.sum() < LEAST_LEADS or min(won, int(lacking.sum()) - won) < LEAST_OUTCOMES:
            break
        levels.append(int(level))
        incomplete.append(VennAbers.fit(raw[lacking], labels[lacking]))
    return tuple(levels), tuple(incomplete)


def choose(
    earlier: tuple[Floats, Labels],
    later: tuple[Floats, Labels],
    prior: float,
    names: Sequence[str] = CHOICES,
) -> tuple[str, dict[str, str]]:
    """The name that, fitted on the earlier (scores, outcomes), loses least in log loss on the later; what each did.

    A calibrator that costs ranking or cannot be fitted is out; UserError if all are.
    """
    said, losses = {}, {}
    raw, labels = later
    for name in names:
        try:
            probability = fit(name, *earlier, prior).interval(raw)[0]
            keeps_ranking(raw, probability, labels)
        except UserError as error:
            said[name] = f"refused: {error}"
            continue
        losses[name] = float(log_losses(probability, labels).mean())
        said[name] = f"log loss {losses[name]:.4f}"
    if not losses:
        reasons = "; ".join(
            f"{name}: {why.removeprefix('refused: ')}" for name, why in said.items()
        )
        raise UserError(reasons)
    return min(losses, key=lambda name: losses[name]), said


def keeps_ranking(raw: Floats, probability: Floats, labels: Labels) -> None:
    """UserError if calibrating costs more than 0.01 of ROC-AUC by more than twice the loss's standard error.

    The steps of a calibration tie leads that the raw score told apart; on few leads that loss is uncertain.
    """
    lost, error = auc_loss(raw, probability, labels)
    if lost - 2 * error > MOST_AUC_LOST:
        raise UserError(
            f"it lowers ROC-AUC on later leads by {lost:.3f} (allowed are {MOST_AUC_LOST})"
        )


def _between(scores: Floats, rates: Floats, raw: Floats) -> Floats:
    """On the line between corners, level outside; not `np.interp`, whose last bit may depend on the batch."""
    right = np.clip(np.searchsorted(scores, raw, side="right"), 1, max(len(scores) - 1, 1))
    right = np.minimum(right, len(scores) - 1)
    left = np.maximum(right - 1, 0)
    gap = scores[right] - scores[left]
    share = np.clip((raw - scores[left]) / np.where(gap > 0, gap, 1.0), 0.0, 1.0)
    line: Floats = rates[left] + share * (rates[right] - rates[left])
    return line
