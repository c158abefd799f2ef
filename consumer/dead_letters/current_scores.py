"""The current scores of some leads, from the predictions topic. A replay must not set them back."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from leadstream.errors import Poison
from leadstream.kafka.batch import Message
from schemas.codec import Reader


@dataclass(frozen=True, slots=True)
class CurrentScore:
    """The last prediction of a lead.

    `erased_at` is set if the lead was erased. Times are milliseconds UTC.
    """

    lead_version: int = 0
    occurred_at: int = 0
    erased_at: int | None = None


class CurrentScores:
    """The current scores of the `wanted` leads, with only the fields that order changes."""

    def __init__(self, wanted: Collection[bytes], reader: Reader) -> None:
        self._wanted = frozenset(wanted)
        self._reader = reader
        self._scores: dict[bytes, CurrentScore] = {}

    def add(self, message: Message) -> None:
        """Add the next record of the predictions topic. Raises Transient if the registry fails."""
        key, value = message.key(), message.value()
        if key is None or key not in self._wanted:
            return
        if value is None:
            self._scores[key] = CurrentScore(erased_at=message.timestamp()[1])
            return
        try:
            record = self._reader.decode(value)
        except Poison:
            return  # not a score
        self._scores[key] = CurrentScore(record["lead_version"], record["occurred_at"])

    def why_superseded(
        self, key: bytes | None, failed_at: int, change: dict[str, Any] | None
    ) -> str | None:
        """Return why a letter of this lead is superseded, or None.

        `change` is the LeadChanged of the letter, if it can be read. Versions decide if both sides
        have one. Otherwise the time at which the change occurred decides.
        """
        score = None if key is None else self._scores.get(key)
        if score is None:
            return None
        if score.erased_at is not None:
            return "the lead was erased since" if score.erased_at >= failed_at else None
        if change is None:
            return None
        if change["lead_version"] > 0 and score.lead_version > 0:
            newer = score.lead_version > change["lead_version"]
            return f"the lead was scored at version {score.lead_version} since" if newer else None
        return (
            "the lead was scored at a later change since"
            if score.occurred_at > change["occurred_at"]
            else None
        )
