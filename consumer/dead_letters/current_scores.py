"""The present scores of some leads, from the predictions topic: what a letter must not set back."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from leadstream.errors import Poison
from leadstream.kafka.batch import Message
from schemas.codec import Reader


@dataclass(frozen=True, slots=True)
class Score:
    """What the table holds of a lead. `erased_at` is set where that is nothing; times are milliseconds UTC."""

    lead_version: int = 0
    occurred_at: int = 0
    erased_at: int | None = None


class Scores:
    """The table of current scores, but only the leads that are `wanted`, and of them only what tells old from new."""

    def __init__(self, wanted: Collection[bytes], reader: Reader) -> None:
        self._wanted = frozenset(wanted)
        self._reader = reader
        self._scores: dict[bytes, Score] = {}

    def add(self, message: Message) -> None:
        """Take in the next record of the predictions topic. Raises Transient where the registry does not answer."""
        key, value = message.key(), message.value()
        if key is None or key not in self._wanted:
            return
        if value is None:
            self._scores[key] = Score(erased_at=message.timestamp()[1])
            return
        try:
            record = self._reader.decode(value)
        except Poison:
            return  # whatever it is, it is no score
        self._scores[key] = Score(record["lead_version"], record["occurred_at"])

    def supersedes(
        self, key: bytes | None, failed_at: int, change: dict[str, Any] | None
    ) -> str | None:
        """Why a letter of this lead is void, None where it is not. `change` is its LeadChanged, if it can be read.

        Versions decide where both have one; where one has none, the time at which the change occurred.
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
