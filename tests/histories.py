"""Histories in tests: a writer without Kafka, and an independent look at what is in the tables."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from consumer.history.topic_records import HistoryReader, TopicRecords
from consumer.history.writer import HistoryTables, HistoryWriter
from consumer.scoring.leads import LeadLookup
from leadstream.errors import Poison
from leadstream.kafka.batch import Batch, Message, Partition
from leadstream.kafka.topics import Topics
from tests.fakes import ManualClock, MemoryBroker, MemorySource

TOPICS = Topics()
CHANGES, PREDICTIONS = TOPICS.lead_changes, TOPICS.lead_predictions
SHADOW, OUTCOMES = TOPICS.shadow_predictions, TOPICS.lead_outcomes
WRITTEN = (CHANGES, PREDICTIONS, SHADOW, OUTCOMES)


class MemoryHistorySource(MemorySource):
    """A member of the group of the history; `owned` is what it believes to own."""

    def __init__(self, broker: MemoryBroker, max_records: int = 2000) -> None:
        super().__init__(broker, "history", list(WRITTEN), max_records)
        self.owned = super().assigned()

    def assigned(self) -> frozenset[Partition]:
        return self.owned

    def commit(self, batch: Batch) -> None:
        for (topic, _), offset in batch.next.items():
            self._broker.committed[self.group, topic] = offset

    def end(self, place: Partition) -> int:
        return len(self._broker.records[place[0]])


@dataclass
class HistoryRecorder:
    """An observer that keeps everything."""

    states: Counter[str] = field(default_factory=Counter)
    poisons: list[tuple[str, int, str]] = field(default_factory=list)
    erasures: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    commits: Counter[str] = field(default_factory=Counter)
    conflicts: Counter[str] = field(default_factory=Counter)

    def received(self, records: TopicRecords) -> None:
        self.states.update(records.states)

    def skipped(self, message: Message, poison: Poison) -> None:
        self.poisons.append((message.topic(), message.offset(), poison.reason.value))

    def erased(self, topics: Counter[str]) -> None:
        self.erasures += topics

    def committed(self, table: str, **counts: Any) -> None:
        self.commits[table] += 1
        self.rows += counts["written"]
        self.late += counts["late"]

    def conflict(self, table: str, detail: str) -> None:
        self.conflicts[table] += 1


class MemoryHistory:
    """A writer on a broker in memory and a folder of its own."""

    def __init__(
        self,
        broker: MemoryBroker,
        root: Path | str,
        leads: LeadLookup | None = None,
        max_records: int = 2000,
    ) -> None:
        self.source = MemoryHistorySource(broker, max_records)
        self.observer = HistoryRecorder()
        self.tables = HistoryTables(str(root))
        self.clock = ManualClock()
        self.reader = HistoryReader(TOPICS, None, leads)
        self.writer = HistoryWriter(
            self.tables,
            self.reader,
            self.source,
            self.observer,
            commit_seconds=10,
            clock=self.clock,
        )

    def read(self) -> None:
        """Buffer all that is in the topics."""
        while (batch := self.source.poll(0)) is not None:
            self.writer.process(batch)

    def write(self) -> None:
        """Read all that is in the topics, and commit it."""
        self.read()
        self.writer.flush()


def stored(root: Path | str, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table as delta-rs and pyarrow read it, ordered by place."""
    rows: list[dict[str, Any]] = (
        DeltaTable(f"{root}/{table}").to_pyarrow_table().to_pylist(maps_as_pydicts="strict")
    )
    return sorted(rows, key=lambda row: (row["topic"], row["partition"], row["offset"]))


def offsets(root: Path | str, table: str, topic: str = CHANGES, partition: int = 0) -> list[int]:
    """Return the offsets of a partition that a table holds, in order, repeats too."""
    return [
        row["offset"]
        for row in stored(root, table)
        if (row["topic"], row["partition"]) == (topic, partition)
    ]


def files_with(root: Path, text: str) -> list[str]:
    """Return the files below a folder that hold a text, in their names or their bytes."""
    sought = text.encode()
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and (sought in path.read_bytes() or text in str(path))
    )


def append_all(broker: MemoryBroker, outputs: Iterable[Any]) -> None:
    for output in outputs:
        broker.append(output)
