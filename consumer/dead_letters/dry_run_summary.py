"""The result of a dry run."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from consumer.dead_letters.audit import Action
from consumer.dead_letters.groups import LetterGroup


@dataclass(slots=True)
class DryRunGroup:
    """The dry run of one group of letters, as numbers of letters.

    `passes` counts scored letters, `fails` the others by reason. `decided` counts letters that a
    replay would decide without a record, `skipped` those that stay open, by cause. `retimed` counts
    letters that would get the present time.
    """

    group: LetterGroup
    passes: int = 0
    fails: Counter[str] = field(default_factory=Counter)
    decided: Counter[Action] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    retimed: int = 0


def as_json(group: DryRunGroup) -> dict[str, Any]:
    """Return a group as JSON data."""
    return {
        "fingerprint": group.group.fingerprint,
        "reason": group.group.reason,
        "count": group.group.count,
        "example": str(group.group.example),
        "message": group.group.message,
        "passes": group.passes,
        "fails": dict(group.fails),
        "decided": {action.value: count for action, count in group.decided.items()},
        "left": dict(group.skipped),
        "retimed": group.retimed,
    }
