"""Triggers of retraining, each with its reason in a sentence.

CALIBRATION needs a test and an effect. The tests are Spiegelhalter's z and the z of the mean: the
first cannot see a shift if probabilities lie on both sides of one half. Outcomes are tested again
and again, so each look has a level of 1 in 10,000. The effect matters because a significant
difference too small to act on is no reason to train.

Source: D. J. Spiegelhalter, "Probabilistic prediction in patient management and clinical trials",
Statistics in Medicine 5 (1986).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.special import ndtri

from leadstream.errors import error_text
from models.evaluate import EDGE, expected_calibration_error
from models.monitor.ledger import DAY_MS, LabeledPrediction
from models.monitor.live import arrays, tree_version
from models.registry.versions import ModelRegistry
from models.serve.refused import Refused

LEVEL = 1e-4  # of one look, shared by the two tests
MIN_LEADS = 500  # with fewer, chance alone gives an ECE of 0.05
MEAN_EFFECT = 0.02  # two percentage points between stated and realized rate
ECE_EFFECT = 0.05  # the limit for a model at training on data that drifts
ECE_WORSE = 0.02  # above the ECE in the manifest
MAX_AGE_DAYS = 90.0  # a term, after which programs, prices and campaigns change
OUTCOMES = 5_000  # enough new outcomes to change what training can learn


class Trigger(StrEnum):
    """The reasons to retrain a model; the symbols of `RetrainRequested`."""

    DRIFT = "DRIFT"
    CALIBRATION = "CALIBRATION"
    AGE = "AGE"
    OUTCOMES = "OUTCOMES"


@dataclass(frozen=True, slots=True)
class Triggers:
    """The configured limits: age in days and number of new outcomes; 0 turns a trigger off."""

    max_age_days: float = MAX_AGE_DAYS
    outcomes: int = OUTCOMES


@dataclass(frozen=True, slots=True)
class InService:
    """The model in service by its manifest; `created_at` (ms UTC) dates its trees."""

    version: str
    sha256: str
    created_at: int | None
    ece: float | None


def in_service(models: ModelRegistry, version: str) -> tuple[InService, dict[str, Any]]:
    """Return what triggers need of a version, and its manifest.

    A patch keeps the age of its trees. Raises UserError, Refused and Transient as the registry
    does.
    """
    manifest = models.show(version)
    trees_manifest = (
        models.show(f"{tree_version(version)}.0") if "recalibrated" in manifest else manifest
    )
    return parse_in_service(manifest, trees_manifest), manifest


def parse_in_service(manifest: Mapping[str, Any], trees_manifest: Mapping[str, Any]) -> InService:
    """Return what triggers need of a manifest, dated by the manifest that its trees came with.

    What is missing is None. Raises Refused if a manifest cannot be read.
    """
    try:
        created = trees_manifest.get("created_at")
        metrics = manifest.get("metrics", {}).get("calibrated") or {}
        return InService(
            str(manifest["version"]),
            str(manifest["artifact"]["sha256"]),
            round(datetime.fromisoformat(created).timestamp() * 1000) if created else None,
            metrics.get("ece"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(
            f"model version {manifest.get('version')}: its manifest cannot be understood "
            f"({error_text(error)})"
        ) from error


def due(
    service: InService,
    window: Sequence[LabeledPrediction],
    *,
    new_outcomes: int,
    now_ms: int,
    triggers: Triggers = Triggers(),
) -> dict[Trigger, str]:
    """Return the triggers that hold for the model in service, each with a sentence.

    `window` holds its newest judged predictions. `new_outcomes` counts the leads whose outcome
    became known since the model was made.
    """
    found: dict[Trigger, str] = {}
    if sentence := miscalibrated(window, service.ece):
        found[Trigger.CALIBRATION] = sentence
    age = None if service.created_at is None else (now_ms - service.created_at) / DAY_MS
    if triggers.max_age_days and age is not None and age > triggers.max_age_days:
        found[Trigger.AGE] = f"made {age:.0f} days ago, more than {triggers.max_age_days:g}"
    if triggers.outcomes and new_outcomes >= triggers.outcomes:
        found[Trigger.OUTCOMES] = f"{new_outcomes:,} outcomes became known since it was made"
    return found


def miscalibrated(window: Sequence[LabeledPrediction], manifest_ece: float | None) -> str | None:
    """Return how far the probabilities are from the outcomes, in a sentence.

    None if the distance is small or may be chance. A lead counts once, by its first prediction in
    the window: later ones share its outcome and are no new evidence.
    """
    first: dict[str, LabeledPrediction] = {}
    for one in window:
        first.setdefault(one.prediction.lead_id, one)
    if len(first) < MIN_LEADS:
        return None
    probability, labels = arrays(list(first.values()))
    limit = -ndtri(LEVEL / 4)  # two tests, two sides
    # A probability of exactly 0 or 1 would have no variance.
    inside = np.clip(probability, EDGE, 1 - EDGE)
    z = max(abs(spiegelhalter(inside, labels)), abs(mean_z(inside, labels)))
    stated, realised = probability.mean(), labels.mean()
    ece = expected_calibration_error(probability, labels)
    large = abs(stated - realised) > MEAN_EFFECT or ece > max(
        ECE_EFFECT, (manifest_ece or 0.0) + ECE_WORSE
    )
    if z <= limit or not large:
        return None
    return (
        f"of {len(labels):,} leads {realised:.1%} converted where {stated:.1%} was stated (ECE "
        f"{ece:.3f}, z {z:.1f})"
    )


def spiegelhalter(probability: Any, labels: Any) -> float:
    """Return the z of the Brier score against its expectation under correct probabilities (n,).

    No probability may be 0 or 1, and not all may be 0.5.
    """
    weight = 1 - 2 * probability
    return float(
        (weight * (labels - probability)).sum()
        / np.sqrt((weight**2 * probability * (1 - probability)).sum())
    )


def mean_z(probability: Any, labels: Any) -> float:
    """Return the z of the number of conversions against the sum of the probabilities (n,).

    No probability may be 0 or 1.
    """
    return float((labels - probability).sum() / np.sqrt((probability * (1 - probability)).sum()))
