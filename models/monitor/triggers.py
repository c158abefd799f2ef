"""When a model should be trained anew: stated triggers, each with its reason in a sentence.

CALIBRATION needs a test and an effect. The tests: Spiegelhalter's z, and the z of the mean, because the first cannot
see a shift where probabilities lie on both sides of one half. Outcomes are looked at again and again, so each look has
a level of 1 in 10,000. The effect: a significant difference that nobody would act on is no reason to train.
Source: D. J. Spiegelhalter, "Probabilistic prediction in patient management and clinical trials", Statistics in
Medicine 5 (1986).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.special import ndtri

from models.monitor.ledger import DAY_MS, Judged
from models.monitor.live import arrays, trees_of
from models.registry.versions import ModelRegistry
from models.serve.refused import Refused
from models.train.evaluate import EDGE, expected_calibration_error

LEVEL = 1e-4  # of one look; shared by the two tests
LEAST_LEADS = 500  # below, an ECE of .05 is what chance alone gives
MEAN_EFFECT = 0.02  # two points between stated and realised rate
ECE_EFFECT = 0.05  # the bar that a model has to meet at training on data that drifts
ECE_WORSE = 0.02  # beyond what the manifest already admits
MAX_AGE_DAYS = 90.0  # a term: programmes, prices and campaigns are new after it
OUTCOMES = 5_000  # as many new outcomes as change what training can learn


class Trigger(StrEnum):
    """Why a model should be trained anew; the symbols of `RetrainRequested`."""

    DRIFT = "DRIFT"
    CALIBRATION = "CALIBRATION"
    AGE = "AGE"
    OUTCOMES = "OUTCOMES"


@dataclass(frozen=True, slots=True)
class Triggers:
    """What may be asked for: the age in days and the number of new outcomes; 0 = never."""

    max_age_days: float = MAX_AGE_DAYS
    outcomes: int = OUTCOMES


@dataclass(frozen=True, slots=True)
class InService:
    """The model in service as its manifest describes it; `created_at` (ms UTC) is when its trees were grown."""

    version: str
    sha256: str
    created_at: int | None
    ece: float | None


def in_service(models: ModelRegistry, version: str) -> tuple[InService, dict[str, Any]]:
    """What triggers look at in a version, and its manifest. Another calibration makes trees no younger.

    Raises UserError, Refused and Transient as the registry does.
    """
    manifest = models.show(version)
    grown = models.show(f"{trees_of(version)}.0") if "recalibrated" in manifest else manifest
    return service_of(manifest, grown), manifest


def service_of(manifest: Mapping[str, Any], grown: Mapping[str, Any]) -> InService:
    """The facts of a manifest, dated as the one its trees came with; what is not there is None. Raises Refused."""
    try:
        created = grown.get("created_at")
        judged = manifest.get("metrics", {}).get("calibrated") or {}
        return InService(
            str(manifest["version"]),
            str(manifest["artifact"]["sha256"]),
            round(datetime.fromisoformat(created).timestamp() * 1000) if created else None,
            judged.get("ece"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(
            f"model version {manifest.get('version')}: its manifest cannot be understood ({error})"
        ) from error


def due(
    service: InService,
    window: Sequence[Judged],
    *,
    new_outcomes: int,
    now_ms: int,
    triggers: Triggers = Triggers(),
) -> dict[Trigger, str]:
    """The triggers that hold for the model in service, each with a sentence.

    `window` are its newest judged predictions, `new_outcomes` how many leads' outcomes became known since it was made.
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


def miscalibrated(window: Sequence[Judged], judged_ece: float | None) -> str | None:
    """How far the probabilities are from the outcomes, in a sentence; None where that may be chance or is small.

    A lead counts once, by its first prediction in the window: later ones share its outcome, and are no new evidence.
    """
    first: dict[str, Judged] = {}
    for one in window:
        first.setdefault(one.made.lead_id, one)
    if len(first) < LEAST_LEADS:
        return None
    probability, labels = arrays(list(first.values()))
    limit = -ndtri(LEVEL / 4)  # two tests, two sides
    # A probability of exactly 0 or 1 would have no variance, however wrong it is.
    inside = np.clip(probability, EDGE, 1 - EDGE)
    z = max(abs(spiegelhalter(inside, labels)), abs(mean_z(inside, labels)))
    stated, realised = probability.mean(), labels.mean()
    ece = expected_calibration_error(probability, labels)
    large = abs(stated - realised) > MEAN_EFFECT or ece > max(
        ECE_EFFECT, (judged_ece or 0.0) + ECE_WORSE
    )
    if z <= limit or not large:
        return None
    return f"of {len(labels):,} leads {realised:.1%} converted where {stated:.1%} was stated (ECE {ece:.3f}, z {z:.1f})"


def spiegelhalter(probability: Any, labels: Any) -> float:
    """The z of the Brier score against what it is where probabilities (n,), none of them 0, 1 or all .5, are right."""
    weight = 1 - 2 * probability
    return float(
        (weight * (labels - probability)).sum()
        / np.sqrt((weight**2 * probability * (1 - probability)).sum())
    )


def mean_z(probability: Any, labels: Any) -> float:
    """The z of the number of conversions against the sum of the probabilities (n,), none of them 0 or 1."""
    return float((labels - probability).sum() / np.sqrt((probability * (1 - probability)).sum()))
