"""How letters would end if they were replayed now."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from consumer.dead_letters.audit import Action
from consumer.dead_letters.groups import Group


@dataclass(slots=True)
class Forecast:
    """A group of letters, and how many would end how: `passes`, `fails` by reason, `decided` without being sent, and
    `left` open by why.
    """

    group: Group
    passes: int = 0
    fails: Counter[str] = field(default_factory=Counter)
    decided: Counter[Action] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


def facts(forecast: Forecast) -> dict[str, Any]:
    """The forecast as JSON data."""
    return {
        "fingerprint": forecast.group.fingerprint,
        "reason": forecast.group.reason,
        "count": forecast.group.count,
        "example": str(forecast.group.example),
        "message": forecast.group.message,
        "passes": forecast.passes,
        "fails": dict(forecast.fails),
        "decided": {action.value: count for action, count in forecast.decided.items()},
        "left": dict(forecast.left),
    }
