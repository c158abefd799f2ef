"""The choice of a calibrator: the one that loses least on later leads."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leadstream.errors import UserError
from models.evaluate import auc_loss, log_losses
from models.serve.calibrators import CALIBRATORS, fit

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

AUTOMATIC = tuple(name for name, method in CALIBRATORS.items() if method.automatic)
MAX_AUC_LOSS = 0.01


def choose(
    earlier: tuple[Floats, Labels],
    later: tuple[Floats, Labels],
    prior: float,
    names: Sequence[str] = AUTOMATIC,
) -> tuple[str, dict[str, str]]:
    """Return (best name, a sentence for each name) for (raw scores, outcomes) of two periods.

    Each calibrator is fitted on the earlier leads; the best has the lowest log loss on the later
    ones. A calibrator that costs ranking or cannot be fitted is left out. Raises UserError if
    none is left.
    """
    sentences, losses = {}, {}
    raw, labels = later
    for name in names:
        try:
            probability = fit(name, *earlier, prior).interval(raw)[0]
            check_ranking(raw, probability, labels)
        except UserError as error:
            sentences[name] = f"refused: {error}"
            continue
        losses[name] = float(log_losses(probability, labels).mean())
        sentences[name] = f"log loss {losses[name]:.4f}"
    if not losses:
        reasons = "; ".join(
            f"{name}: {why.removeprefix('refused: ')}" for name, why in sentences.items()
        )
        raise UserError(reasons)
    return min(losses, key=lambda name: losses[name]), sentences


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
