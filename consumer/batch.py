"""The values that travel through the loop: a message, a batch of them, and what came of the batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from leadstream.coded import Coded
from leadstream.errors import Poison
from leadstream.kafka import Headers, Record

if TYPE_CHECKING:
    from models.scorer import Scores

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


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Messages of this process's partitions in the order of their offsets, with the offsets that they span.

    `places`, whose values are partitions, and `offsets` (n,) say where each message comes from; `first` is where to
    seek back to, `next` what to commit: the last offset of each partition plus one.
    """

    messages: list[Message]
    places: Coded
    offsets: NDArray[np.int64]
    first: dict[Partition, int]
    next: dict[Partition, int]
    closed_by: ClosedBy

    @classmethod
    def of(cls, messages: list[Message], closed_by: ClosedBy) -> "Batch":
        """The batch of these messages, which say where they come from."""
        numbers: dict[Partition, int] = {}
        places = [numbers.setdefault((message.topic(), message.partition()), len(numbers)) for message in messages]
        codes = np.array(places, np.intp)
        offsets = np.array([message.offset() for message in messages], np.int64)
        first, last = np.empty((2, len(numbers)), np.int64)
        last[codes] = offsets  # of equal indices numpy leaves the value of the last
        first[codes[::-1]] = offsets[::-1]
        return cls(
            messages,
            Coded(codes, list(numbers)),
            offsets,
            dict(zip(numbers, first.tolist(), strict=True)),
            dict(zip(numbers, (last + 1).tolist(), strict=True)),
            closed_by,
        )


class Output(NamedTuple):
    """A record to publish, by name what `Record` is by place: a plain tuple costs a tenth of one with names.

    `timestamp` is milliseconds UTC; None lets the client set it.
    """

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
    """The changes that were scored together: their leads' keys, the rows that they have in the scores, and these."""

    keys: list[bytes]
    rows: NDArray[np.intp]
    scores: "Scores"


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """What the table of scores has of n leads now: `index` (n,) are the messages, `keys` the leads, `versions` (n,)."""

    index: NDArray[np.intp]
    keys: Sequence[bytes]
    versions: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that came of a batch: the `records` to publish, and the accounting.

    `letters` tells which messages of the batch, by their places in it, became dead letters, and why.
    Postgres was asked for states in `queries`; `leads_asked` and `leads_found` count the leads. `challenged` counts by
    mode and result the leads that the challenger got; `challenger_error` says why it cannot stay in service;
    `shadowed` is whether anything goes to the shadow topic. `scored` are the changes that a lead itself made; which
    leads somebody asked for says nothing of drift. `late` of the coalesced changes were older than what was published
    before; `published` is what to remember once this is committed. `sources` are the places of the messages that led
    to the records.
    """

    records: list[Record]
    consumed: int
    fates: Counter[Fate]
    requests_answered: int
    requests_dead_lettered: int
    request_leads: Counter[str]
    letters: dict[int, Poison]
    queries: int
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
    sources: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    late: int = 0
    published: list[Published] = field(default_factory=list)

    @property
    def outputs(self) -> list[Output]:
        """What to publish."""
        return list(map(Output._make, self.records))

    def balances(self) -> bool:
        """consumed = scored + coalesced + dead_lettered + erased + ignored."""
        return self.consumed == sum(self.fates.values())
