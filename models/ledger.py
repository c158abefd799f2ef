"""What was predicted, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.refused import Refused

DAY_MS = 86_400_000
# How much later than it was decided an outcome may arrive, when its absence is to mean a loss.
GRACE_MS = DAY_MS


@dataclass(frozen=True, slots=True)
class Made:
    """A prediction that was published; `occurred_at` is the moment it speaks of, ms UTC."""

    lead_id: str
    event_id: str
    occurred_at: int
    model_version: str
    variant: str
    shadow: bool
    probability: float
    raw_score: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A prediction with its label; `decided_at` (ms UTC) is the outcome's, or the horizon's end where none came."""

    made: Made
    converted: bool
    decided_at: int


def horizon_of(manifest: Mapping[str, Any]) -> float | None:
    """How many days a lead has to convert by a model's manifest, None where it does not say. Raises Refused."""
    try:
        days = manifest.get("label", {}).get("horizon_days")
        return None if days is None else float(days)
    except (TypeError, ValueError, AttributeError) as error:
        raise Refused(f"model version {manifest.get('version')}: its horizon cannot be understood ({error})") from error


def known_at(judged: Judged, horizon_days: float | None) -> int:
    """When the label was certain, ms UTC: the order in which to look at judged predictions."""
    return judged.decided_at if horizon_days is None else judged.made.occurred_at + round(horizon_days * DAY_MS)
