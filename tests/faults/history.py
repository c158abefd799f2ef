"""What one run left behind, as plain facts: what was sent, what came out, and the transaction that
each belongs to.
"""

import gzip
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

_BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
Headers = tuple[tuple[str, bytes | None], ...]
DISPOSITIONS = ("scored", "coalesced", "dead_lettered", "erased", "ignored")


class RecordKind(StrEnum):
    """What the sender meant a record to be."""

    CHANGE = "change"
    ERASURE = "erasure"
    IGNORED = "ignored"
    POISON = "poison"
    REQUEST = "request"


class Ending(StrEnum):
    """How a process ended: killed by the harness, stopped by it, by itself, or since another
    process joined with its name.
    """

    KILLED = "killed"
    STOPPED = "stopped"
    DIED = "died"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class TopicSlice:
    """One partition of a topic."""

    topic: str
    partition: int

    def format(self) -> str:
        return f"{self.topic} {self.partition}"


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """A record as it stands in its topic."""

    __pydantic_config__: ClassVar = _BYTES

    place: TopicSlice
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int

    def at(self) -> str:
        return f"{self.place.format()}-{self.offset}"


@dataclass(frozen=True, slots=True)
class Intent:
    """The intent behind a record, which travels in its header `truth`.

    `version` is a change's own; a `without_state` one is scored with the database's, if that is
    higher. `reason` is that of poison; `late` poison shows only when it is scored, so a newer
    change of its lead in the same batch may cover it. `leads` are the known leads that a request
    asks for.
    """

    kind: RecordKind
    lead: str = ""
    version: int = 0
    without_state: bool = False
    reason: str = ""
    late: bool = False
    leads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SentRecord:
    """A record of the changes or the requests."""

    record: HistoryRecord
    truth: Intent


@dataclass(frozen=True, slots=True)
class VisibleRecord:
    """A record that a subscriber sees; `transaction` is the number of its transaction, None where
    it has none.

    `lead` is empty for letters, and the request's id for results. `source` is the record that led
    to it: erasures and results do not carry it. `model` is the version that the record names, if it
    names one.
    """

    record: HistoryRecord
    transaction: int | None
    lead: str = ""
    version: int = 0
    coalesced: int = 0
    source: tuple[TopicSlice, int] | None = None
    model: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """Consumed offsets of one partition: from `first` up to, but not with, `after`."""

    place: TopicSlice
    first: int
    after: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """A committed transaction: its number in the order of commits, its producer's id, and what it
    consumed.
    """

    number: int
    producer: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Append:
    """A record batch in the log of an output topic: its offsets, and what became of its
    transaction.
    """

    place: TopicSlice
    first: int
    last: int
    committed: bool


@dataclass(frozen=True, slots=True)
class BatchLine:
    """The log line of one batch: what a process says that it committed."""

    records: int
    consumed: int
    scored: int
    coalesced: int
    dead_lettered: int
    erased: int
    ignored: int
    requests: int
    model: str | None

    def counts(self) -> tuple[int, ...]:
        """Its numbers: records, consumed, the fates, requests."""
        return (
            self.records,
            self.consumed,
            *(getattr(self, disposition) for disposition in DISPOSITIONS),
            self.requests,
        )


@dataclass(frozen=True, slots=True)
class ProcessRun:
    """One incarnation of the consumer.

    Before it has `started` it does not hear signals yet; `rejoins` counts how often it gave its
    clients up; `sentences` are lines for people; `metrics` are its last counters of changes by
    fate, where it was still there to be asked. `dropped` log lines could not be written.
    """

    name: str
    ending: Ending
    exit_code: int
    lines: tuple[BatchLine, ...]
    started: bool = True
    rejoins: int = 0
    sentences: tuple[str, ...] = ()
    metrics: dict[str, int] | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class RunHistory:
    """Everything that the checker looks at.

    `unfinished` transactions were neither committed nor aborted at the end. `holes` are offsets of
    the inputs that no subscriber sees: markers, and what a foreign producer aborted.
    """

    __pydantic_config__: ClassVar = _BYTES

    coalesce: bool
    requests_topic: str
    sent: tuple[SentRecord, ...]
    predictions: tuple[VisibleRecord, ...]
    letters: tuple[VisibleRecord, ...]
    results: tuple[VisibleRecord, ...]
    transactions: tuple[Transaction, ...]
    appended: tuple[Append, ...]
    committed: tuple[Span, ...]
    processes: tuple[ProcessRun, ...]
    unfinished: int = 0
    holes: tuple[Span, ...] = ()


_JSON = TypeAdapter(RunHistory)


def save(history: RunHistory, path: Path) -> None:
    """Write a history as gzipped JSON."""
    path.write_bytes(gzip.compress(_JSON.dump_json(history), 3))


def load(path: Path) -> RunHistory:
    """Read what `save` wrote."""
    return _JSON.validate_json(gzip.decompress(path.read_bytes()))
