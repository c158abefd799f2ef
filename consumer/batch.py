"""The values that travel through the loop: a message, a batch of them, and what came of the batch."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from leadstream.errors import Poison

if TYPE_CHECKING:
    from models.scorer import Scores

Headers = list[tuple[str, bytes | None]]
Partition = tuple[str, int]


class Message(Protocol):
    """A consumed record, as confluent-kafka presents it."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> Headers | None: ...
    def timestamp(self) -> tuple[int, int]: ...


class ClosedBy(StrEnum):
    """Why a batch was closed: it was full, it had waited long enough, or the topic had no more."""

    SIZE = "size"
    BYTES = "bytes"
    LINGER = "linger"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of this process's partitions in the order of their offsets, with the offsets that they span.

    `first` is where to seek back to, `next` what to commit: the last offset of each partition plus one.
    """

    messages: list[Message]
    first: dict[Partition, int]
    next: dict[Partition, int]
    closed_by: ClosedBy

    @classmethod
    def of(cls, messages: list[Message], closed_by: ClosedBy) -> "Batch":
        """The batch of these messages, its offsets read from them."""
        first: dict[Partition, int] = {}
        after: dict[Partition, int] = {}
        for message in messages:
            partition = (message.topic(), message.partition())
            first.setdefault(partition, message.offset())
            after[partition] = message.offset() + 1
        return cls(messages, first, after, closed_by)


@dataclass(frozen=True, slots=True)
class Output:
    """A record to publish. `timestamp` is milliseconds UTC; None lets the client set it."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None
    timestamp: int | None = None


class Fate(StrEnum):
    """What became of a consumed change; every change has exactly one."""

    SCORED = "scored"
    COALESCED = "coalesced"
    DEAD_LETTERED = "dead_lettered"
    ERASED = "erased"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The changes that were scored together: their leads, the rows that they have in the scores, and the scores."""

    lead_ids: list[str]
    rows: list[int]
    scores: "Scores"


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that came of a batch: what to publish, and the accounting.

    `letters` tells for each message of the batch, in order, why it became a dead letter, or None where it did not.
    `leads_asked` and `leads_found` count the leads whose state Postgres was asked for. `challenged` counts by mode and
    result the leads that the challenger got; `challenger_error` says why it cannot stay in service; `shadowed` is
    whether anything goes to the shadow topic. `scored` are the changes that a lead itself made; which leads somebody
    asked for says nothing of drift.
    """

    outputs: list[Output]
    consumed: int
    fates: Counter[Fate]
    requests_answered: int
    requests_dead_lettered: int
    request_leads: Counter[str]
    letters: list[Poison | None]
    leads_asked: int
    leads_found: int
    model_version: str
    challenger_version: str | None = None
    challenged: Counter[tuple[str, str]] = field(default_factory=Counter)
    challenger_error: str | None = None
    shadowed: bool = False
    imputed: Counter[str] = field(default_factory=Counter)
    coverage: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    scored: list[Scored] = field(default_factory=list)

    def balances(self) -> bool:
        """consumed = scored + coalesced + dead_lettered + erased + ignored."""
        return self.consumed == sum(self.fates.values())
