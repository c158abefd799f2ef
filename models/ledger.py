"""What was predicted, and what became of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Made:
    """A prediction as it was published; `occurred_at` is the moment it is about, in ms UTC."""

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
    """A prediction and its outcome; `decided_at` is when that was known, in ms UTC."""

    made: Made
    converted: bool
    decided_at: int
