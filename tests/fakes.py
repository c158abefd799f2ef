"""A broker in memory, with the source and the publisher that pass the same suite as the real ones (tests/contract)."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from consumer.batch import Batch, ClosedBy, Headers, Message, Output, Partition, Record


@dataclass(frozen=True, slots=True)
class FakeMessage:
    """A record as confluent-kafka presents it."""

    topic_: str = "crm.lead-changes"
    partition_: int = 0
    offset_: int = 0
    key_: bytes | None = None
    value_: bytes | None = None
    headers_: Headers | None = None
    timestamp_: int | None = 1_700_000_000_000

    def topic(self) -> str:
        return self.topic_

    def partition(self) -> int:
        return self.partition_

    def offset(self) -> int:
        return self.offset_

    def key(self) -> bytes | None:
        return self.key_

    def value(self) -> bytes | None:
        return self.value_

    def headers(self) -> Headers | None:
        return self.headers_

    def timestamp(self) -> tuple[int, int]:
        return (0, -1) if self.timestamp_ is None else (1, self.timestamp_)


@dataclass(slots=True)
class MemoryBroker:
    """Topics of one partition each, and the committed offsets of each group."""

    records: dict[str, list[FakeMessage]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[tuple[str, str], int] = field(default_factory=dict)

    def append(self, output: Output) -> None:
        log = self.records[output.topic]
        timestamp = 1_700_000_000_000 if output.timestamp is None else output.timestamp
        log.append(FakeMessage(output.topic, 0, len(log), output.key, output.value, output.headers, timestamp))


class MemorySource:
    """The only member of its group, so it owns every partition."""

    def __init__(self, broker: MemoryBroker, group: str, topics: list[str], max_records: int = 2000) -> None:
        self._broker = broker
        self.group = group
        self._max_records = max_records
        self._positions = {topic: broker.committed.get((group, topic), 0) for topic in topics}

    def poll(self, timeout: float) -> Batch | None:
        messages: list[Message] = []
        for topic, position in self._positions.items():
            fresh = self._broker.records[topic][position : position + self._max_records - len(messages)]
            messages += fresh
            self._positions[topic] += len(fresh)
        return Batch.of(messages, ClosedBy.DRAIN) if messages else None

    def rewind(self, batch: Batch) -> None:
        for (topic, _), offset in batch.first.items():
            self._positions[topic] = offset

    def idle(self, timeout: float) -> None:
        """Nothing to keep alive."""

    def assigned(self) -> frozenset[Partition]:
        return frozenset((topic, 0) for topic in self._positions)

    def lag(self) -> dict[Partition, int]:
        return {(topic, 0): len(self._broker.records[topic]) - position for topic, position in self._positions.items()}

    def close(self) -> None:
        self._positions = {}


class MemoryPublisher:
    """Appends and commits in one step, as a transaction does."""

    def __init__(self, broker: MemoryBroker, source: MemorySource) -> None:
        self._broker = broker
        self._source = source

    def open(self) -> None:
        """Always ready."""

    def lacks(self, topic: str) -> str | None:
        """Every topic is there."""
        return None

    def commit(self, outputs: Iterable[Record], batch: Batch) -> None:
        for record in outputs:
            self._broker.append(Output._make(record))
        for (topic, _), offset in batch.next.items():
            self._broker.committed[self._source.group, topic] = offset

    def close(self) -> None:
        """Nothing is left over."""
