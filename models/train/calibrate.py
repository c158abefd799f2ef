"""The choice of a calibrator: the one that loses least on later leads, if it gains at all."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leadstream.errors import UserError
from models.evaluate import auc_loss, log_losses, mean_of_groups
from models.monitor.recent_calibration import shift
from models.serve.calibrators import CALIBRATORS, Calibrator, fit, log_odds

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

AUTOMATIC = tuple(name for name, method in CALIBRATORS.items() if method.automatic)
MAX_AUC_LOSS = 0.01
NONE = "none"
# A base rate that moved by less, in log-odds, may as well come back: a third of the odds.
MIN_LEVEL = 0.3
ERRORS = 2.0  # standard errors by which a calibrator must gain on the score itself


def choose(
    earlier: tuple[Floats, Labels],
    later: tuple[Floats, Labels],
    prior: float,
    leads: NDArray[np.intp] | None = None,
    *,
    names: Sequence[str] = AUTOMATIC,
) -> tuple[str, dict[str, str]]:
    """Return (best name, a sentence for each name) for (raw scores, outcomes) of two periods.

    Each calibrator is fitted on the earlier leads; the best has the lowest log loss on the later
    ones. It must gain on `none` by more than ERRORS standard errors, or `none` is the best; `leads`
    (n,) numbers the leads of the later rows. A calibrator that costs ranking or cannot be fitted is
    left out. Raises UserError if none is left.
    """
    sentences: dict[str, str] = {}
    losses: dict[str, Floats] = {}
    raw, labels = later
    for name in names:
        try:
            probability = fit(name, *earlier, prior).interval(raw)[0]
            check_ranking(raw, probability, labels)
        except UserError as error:
            sentences[name] = f"refused: {error}"
            continue
        losses[name] = log_losses(probability, labels)
        sentences[name] = f"log loss {losses[name].mean():.4f}"
    if not losses:
        reasons = "; ".join(
            f"{name}: {why.removeprefix('refused: ')}" for name, why in sentences.items()
        )
        raise UserError(reasons)
    best = min(losses, key=lambda name: float(losses[name].mean()))
    if NONE in losses and best != NONE:
        groups = np.arange(len(labels)) if leads is None else leads
        gain, spread = mean_of_groups(losses[NONE] - losses[best], groups)
        if gain <= ERRORS * spread:
            sentences[NONE] += f"; no calibrator gains {ERRORS:g} standard errors on that"
            return NONE, sentences
    return best, sentences


def level_of(calibrator: Calibrator, raw: Floats, labels: Labels) -> float:
    """Return what moves log-odds so that the mean probability of leads (n,) is their rate."""
    return shift(calibrator.interval(raw)[0], labels)


def level_to_follow(
    calibrator: Calibrator, raw: Floats, labels: Labels, leads: NDArray[np.intp]
) -> float:
    """Return what moves log-odds to the rate of the newest leads (n,).

    It is 0 for a move of less than MIN_LEVEL, or of less than ERRORS standard errors of that rate.
    """
    added, rate = level_of(calibrator, raw, labels), float(labels.mean())
    error = (len(np.unique(leads)) * rate * (1 - rate)) ** -0.5
    return added if abs(added) >= max(MIN_LEVEL, ERRORS * error) else 0.0


def follows_level(
    name: str,
    folds: Sequence[tuple[Floats, Labels]],
    later: tuple[Floats, Labels],
    prior: float,
    leads: NDArray[np.intp],
    *,
    seasonal: bool,
) -> bool:
    """Return whether a calibration follows the base rate of the newest fold.

    It is fitted on (raw scores, outcomes) of all `folds`, oldest first. Moved to the rate of the
    newest of them, it must not lose on the `later` leads by more than ERRORS standard errors. With
    `seasonal` inputs the trees state the level of a season, so it must gain by so many.
    """
    together = [np.concatenate(part) for part in zip(*folds, strict=True)]
    calibrator = fit(name, together[0], together[1], prior)
    added = level_of(calibrator, *folds[-1])
    if abs(added) < MIN_LEVEL:
        return not seasonal
    raw, labels = later
    fixed, moved = (
        log_losses(replace(calibrator, shift=each).interval(raw)[0], labels)
        for each in (0.0, added)
    )
    gain, error = mean_of_groups(fixed - moved, leads)
    return gain > (ERRORS if seasonal else -ERRORS) * error


def check_ranking(raw: Floats, probability: Floats, labels: Labels) -> None:
    """Raise UserError if calibration costs more than MAX_AUC_LOSS of ROC-AUC; all (n,).

    The loss must exceed that by more than two standard errors. The steps of a calibrator tie leads
    that the raw score told apart, and on few leads that loss is uncertain.
    """
    lost, error = auc_loss(raw, probability, labels)
    if lost - 2 * error > MAX_AUC_LOSS:
        raise UserError(
            f"it lowers ROC-AUC on later leads by {lost:.3f} (allowed are {MAX_AUC_LOSS})"
        )


def population_shift(base_rate: float | None, labels: NDArray[np.bool_]) -> float:
    """Return what moves log-odds from the rate of a sample (n,) to that of the population."""
    if base_rate is None:
        return 0.0
    known, sample = log_odds(np.array([base_rate, labels.mean()]))
    return float(known - sample)
