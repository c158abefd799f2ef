"""Evidence for the gate: what the trees know about later leads that a constant does not.

One period has too few leads to tell a weak signal from chance, so the evidence takes the third to
the fifth period together. Each is scored by trees that saw only the periods before it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluate import log_losses, mean_of_groups, roc_auc
from models.train.candidates import FoldResult, concat, stated
from models.train.table import TrainingPart

Floats = NDArray[np.float64]

EVIDENCE_OF = (
    "the third to the fifth period, each by trees and a calibration of the periods before it, "
    "against the best of the base rates that were known before it"
)
# The rates that a constant may state; the best of them is the one to beat.
CONSTANTS = ("the newest training period", "the calibration leads", "all training periods")


def evidence(
    results: Sequence[FoldResult],
    newest: Floats,
    parts: Sequence[TrainingPart],
    *,
    follows: bool,
) -> dict[str, Any]:
    """Return the comparison with the best constant, for the manifest.

    `results` are the scored second to last of the `parts`; `newest` (n,) holds the probabilities
    that the evaluation model states for the last. The calibration `follows` the base rate or not.
    Standard errors take the rows of a lead together.
    ROC-AUC compares leads of one period only, because a base rate that moves ranks periods.
    """
    judged = range(1, len(results))
    probabilities = [*(stated(results, i, follows=follows) for i in judged[:-1]), newest]
    labels = [results[i].scored.labels for i in judged]
    leads = [parts[i + 1].leads[results[i].scored.rows] for i in judged]
    constants = np.concatenate([_losses_of_constants(results, parts, i) for i in judged], axis=1)
    best = int(constants.mean(axis=1).argmin())
    losses = [log_losses(p, y) for p, y in zip(probabilities, labels, strict=True)]
    loss, constant = np.concatenate(losses), constants[best]
    gain, error = mean_of_groups(constant - loss, np.concatenate(leads))
    last = len(losses[-1])
    newest_gain, newest_error = mean_of_groups(constant[-last:] - losses[-1], leads[-1])
    auc, auc_error = _auc([results[i].scored.raw for i in judged], labels, leads)
    return {
        "of": EVIDENCE_OF,
        "rows": len(loss),
        "leads": len(np.unique(np.concatenate(leads))),
        "conversions": int(sum(y.sum() for y in labels)),
        "log_loss": {
            "constant": float(constant.mean()),
            "rate_of": CONSTANTS[best],
            "model": float(loss.mean()),
            "gain": gain,
            "standard_error": error,
        },
        "newest_period": {"gain": newest_gain, "standard_error": newest_error},
        "roc_auc": {"value": auc, "standard_error": auc_error},
    }


def _losses_of_constants(
    results: Sequence[FoldResult], parts: Sequence[TrainingPart], i: int
) -> Floats:
    """Return the log loss of each constant (constants, n) on the rows of a period."""
    labels = results[i].scored.labels
    known = (parts[i].labels, concat(results[:i]).labels, _labels(parts[: i + 1]))
    return np.stack([log_losses(np.full(len(labels), each.mean()), labels) for each in known])


def _labels(parts: Sequence[TrainingPart]) -> NDArray[np.bool_]:
    return np.concatenate([part.labels for part in parts])


def _auc(
    raw: Sequence[Floats],
    labels: Sequence[NDArray[np.bool_]],
    leads: Sequence[NDArray[np.intp]],
) -> tuple[float, float]:
    """Return ROC-AUC within periods and its standard error, weighted by pairs of outcomes."""
    found = np.array([roc_auc(*period) for period in zip(raw, labels, leads, strict=True)])
    pairs = np.array([int(y.sum()) * int((~y).sum()) for y in labels], dtype=np.float64)
    weights = pairs / pairs.sum()
    return float(found[:, 0] @ weights), float(np.sqrt((found[:, 1] ** 2) @ (weights**2)))
