"""The writer: batches into a buffer, and the buffer into the tables, exactly once.

A commit appends rows and sets the next offset of each of their partitions, in one transaction of
the table. So the table itself tells where to go on, and two processes that both believe to own a
partition cannot both commit: the second one finds another offset than the one it began with.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from consumer.history.arrow_rows import months
from consumer.history.delta_store import DEPENDENCY, CommitConflict, StoredTable
from consumer.history.erased_leads import ErasedLeads, LeadErasure
from consumer.history.table_schemas import MOMENT, TABLES, HistoryTable, table_schema
from consumer.history.topic_records import HistoryReader, TopicRecords
from leadstream.errors import Fenced, Poison, Transient, UserError
from leadstream.kafka.batch import Batch, ClosedBy, Message, Partition
from leadstream.kafka.source import Source

# A commit comes earlier if so much is buffered.
MAX_ROWS = 50_000
MAX_BYTES = 16 * 2**20
# Commits that find another commit in their way; then the loop waits.
MAX_CONFLICTS = 5


class HistorySource(Source, Protocol):
    """A source that commits without a transaction, and knows the ends of its partitions."""

    def commit(self, batch: Batch) -> None:
        """Commit the offsets of a batch. Raises Transient while the group is not stable."""

    def end(self, place: Partition) -> int:
        """Return the end offset of a partition. Raises Transient if the brokers do not answer."""


class HistoryObserver(Protocol):
    """An observer of what the writer does."""

    def received(self, records: TopicRecords) -> None:
        """Note records that were decoded and wait for their commit."""

    def skipped(self, message: Message, poison: Poison) -> None:
        """Note a record that cannot be read."""

    def erased(self, topics: Counter[str]) -> None:
        """Note erasures that were recorded, by topic."""

    def committed(
        self,
        table: str,
        *,
        written: Counter[str],
        late: Counter[str],
        version: int,
        seconds: float,
    ) -> None:
        """Note a commit, with its rows by topic; `late` rows of erased leads were left out."""

    def conflict(self, table: str, detail: str) -> None:
        """Note a commit that another one forced to start again."""


class HistoryTables:
    """The tables of one history, opened once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.erased = ErasedLeads(root)
        self.stored = {
            table: StoredTable(
                root, table.name, table_schema(table), (table.time, "offset", "written_at")
            )
            for table in TABLES
        }
        self._open = False

    def open(self) -> None:
        """Open every table, and make what is absent. Raises Transient, UserError."""
        if not self._open:
            self.erased.open()
            for stored in self.stored.values():
                stored.open()
            self._open = True


@dataclass(slots=True)
class PendingRows:
    """The rows that wait for the next commit of a table, and the next offset of each partition."""

    parts: list[pa.Table] = field(default_factory=list)
    next: dict[Partition, int] = field(default_factory=dict)

    def keep(self, place: Partition, offset: int) -> None:
        """Keep the rows of a partition from an offset on, and its next offset if it is later."""
        self.parts = [_from_offset(part, place, offset) for part in self.parts]
        if self.next[place] <= offset:
            del self.next[place]


class HistoryWriter:
    """A writer of one membership of the group."""

    def __init__(
        self,
        tables: HistoryTables,
        reader: HistoryReader,
        source: HistorySource,
        observer: HistoryObserver,
        *,
        commit_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._tables = tables
        self._reader = reader
        self._source = source
        self._observer = observer
        self._commit_seconds = commit_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._pending = {table: PendingRows() for table in TABLES}
        self._erasures: list[LeadErasure] = []
        # The next offset to buffer, and the offset in the table that the buffer goes on from.
        self._positions: dict[Partition, int] = {}
        self._based_on: dict[Partition, int | None] = {}
        self._first_at: float | None = None

    def process(self, batch: Batch) -> None:
        """Decode a batch and buffer it. Raises Transient, with nothing of it buffered."""
        self._forget_moved()
        starts = self._starts(batch)
        by_topic: dict[str, list[Message]] = {}
        ends: dict[Partition, int] = {}
        for message in batch.messages:
            place = (message.topic(), message.partition())
            if place in starts and message.offset() >= starts[place]:
                by_topic.setdefault(message.topic(), []).append(message)
                ends[place] = message.offset() + 1
        # Everything is decoded before anything is buffered.
        found = [(self._reader.read(*each), each[1]) for each in by_topic.items()]
        for records, messages in found:
            self._buffer(records, messages)
        for place, end in ends.items():
            self._positions[place] = end
            self._pending[self._reader.table(place[0])].next[place] = end
        if ends and self._first_at is None:
            self._first_at = self._clock()

    def flush_due(self) -> bool:
        """Commit if it is time to; return whether there was a commit."""
        parts = [part for pending in self._pending.values() for part in pending.parts]
        if self._first_at is None or not (
            self._clock() - self._first_at >= self._commit_seconds
            or sum(map(len, parts)) >= MAX_ROWS
            or sum(part.nbytes for part in parts) >= MAX_BYTES
        ):
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Commit what is buffered, table by table, and then the group's offsets.

        Raises Transient if the store does not answer: what is left stays buffered.
        """
        self._forget_moved()
        self._tables.open()
        written_ms = round(self._wall_clock() * 1000)
        # Before the rows of any table: what erases a lead must not be lost.
        self._record_erasures(written_ms)
        done: dict[Partition, int] = {}
        for table, pending in self._pending.items():
            ends = dict(pending.next)
            self._commit(table, pending, written_ms)
            pending.parts, pending.next = [], {}
            done |= ends
        self._first_at = None
        # For the lag that others see: the offsets that count are in the tables.
        with suppress(Transient):
            self._source.commit(replace(Batch.from_messages([], ClosedBy.DRAIN), next=done))

    def in_charge(self, table: HistoryTable) -> bool:
        """Return whether this process owns partition 0 of the topic that a table is named after."""
        owned = self._source.assigned()
        return any(
            partition == 0 and self._reader.main_topic(table) == topic for topic, partition in owned
        )

    def _starts(self, batch: Batch) -> dict[Partition, int]:
        """Return from which offset on each partition of a batch is new.

        A partition that this process just got starts at the offset of the table: its records are
        left out here, and read again from there.
        """
        starts: dict[Partition, int] = {}
        again: dict[Partition, int] = {}
        for place, first in batch.first.items():
            if place not in self._positions:
                self._learn(place)
                if first > self._positions[place]:
                    again[place] = self._positions[place]
                    continue
            starts[place] = self._positions[place]
        if again:
            self._source.rewind(replace(batch, first=again))
        return starts

    def _learn(self, place: Partition) -> None:
        """Find out where a partition starts. Raises UserError if its topic was made again."""
        self._tables.open()
        stored = self._tables.stored[self._reader.table(place[0])]
        stored.reload()
        offset = stored.offset(place)
        if offset is not None and offset > (end := self._source.end(place)):
            topic, partition = place
            raise UserError(
                f"topic {topic}, partition {partition} ends at offset {end}, but the history has "
                f"it up to {offset}: the topic was made again, or lost records; set "
                "LEADSTREAM_HISTORY to another folder, or rename the topic"
            )
        self._based_on[place] = offset
        self._positions[place] = offset or 0

    def _forget_moved(self) -> None:
        """Forget the partitions that this process no longer owns, and their rows."""
        owned = self._source.assigned()
        for place in [each for each in self._positions if each not in owned]:
            pending = self._pending[self._reader.table(place[0])]
            if place in pending.next:
                pending.keep(place, pending.next[place])
            self._erasures = [each for each in self._erasures if each.place != place]
            del self._positions[place], self._based_on[place]

    def _buffer(self, records: TopicRecords, messages: list[Message]) -> None:
        if len(records.rows):
            self._pending[records.table].parts.append(records.rows)
        self._erasures += records.erasures
        self._observer.received(records)
        for number, poison in records.skipped.items():
            self._observer.skipped(messages[number], poison)

    def _record_erasures(self, written_ms: int) -> None:
        if not self._erasures:
            return
        erased = self._tables.erased
        for _ in range(MAX_CONFLICTS):
            erased.refresh()
            try:
                erased.add(self._erasures, written_ms)
            except CommitConflict as conflict:
                self._observer.conflict(erased.table.name, str(conflict))
            else:
                self._observer.erased(Counter(each.place[0] for each in self._erasures))
                self._erasures = []
                return
        raise Transient(DEPENDENCY, f"{erased.table.name}: other commits were faster")

    def _commit(self, table: HistoryTable, pending: PendingRows, written_ms: int) -> None:
        """Append what is pending for one table, again after a conflict."""
        stored, began = self._tables.stored[table], self._clock()
        for _ in range(MAX_CONFLICTS):
            if not pending.next:
                return
            stored.reload()
            self._drop_committed(stored, pending)
            # After the reload: an erasure that comes later than this conflicts with the append.
            self._tables.erased.refresh()
            rows, late = self._rows(table, pending, written_ms)
            try:
                if pending.next:
                    stored.append(rows, pending.next)
            except CommitConflict as conflict:
                self._observer.conflict(table.name, str(conflict))
                continue
            self._based_on |= pending.next
            self._observer.committed(
                table.name,
                written=_by_topic(rows),
                late=late,
                version=stored.delta.version(),
                seconds=self._clock() - began,
            )
            return
        raise Transient(DEPENDENCY, f"{table.name}: other commits were faster")

    def _drop_committed(self, stored: StoredTable, pending: PendingRows) -> None:
        """Leave out rows that are in the table: another process wrote them, or a lost answer."""
        for place in list(pending.next):
            found, expected = stored.offset(place), self._based_on[place]
            if found == expected:
                continue
            if found is None or found < (expected or 0):
                raise Fenced(
                    f"the table {stored.name} went back from offset {expected} of {place[0]}, "
                    f"partition {place[1]}, to {found or 0}"
                )
            pending.keep(place, found)
            self._based_on[place] = found
            self._positions[place] = max(self._positions[place], found)

    def _rows(
        self, table: HistoryTable, pending: PendingRows, written_ms: int
    ) -> tuple[pa.Table, Counter[str]]:
        """Return the rows to write, with all columns, and those left out of erased leads."""
        schema = table_schema(table)
        if not pending.parts:
            return schema.empty_table(), Counter()
        rows, left_out = pa.concat_tables(pending.parts), Counter[str]()
        late = self._tables.erased.late(rows, table.time)
        if late.any():
            left_out = _by_topic(rows.filter(pa.array(late)))
            rows = rows.filter(pa.array(~late))
        written = pa.array(np.full(len(rows), written_ms * 1000, np.int64)).cast(MOMENT)
        times = rows[table.time]
        month = months(times.combine_chunks()) if len(rows) else pa.array([], pa.string())
        columns = [*rows.columns, written, month]
        return pa.table(columns, schema=schema), left_out


def _by_topic(rows: pa.Table) -> Counter[str]:
    found = rows["topic"].value_counts()
    return Counter({each["values"]: each["counts"] for each in found.to_pylist()})


def _from_offset(rows: pa.Table, place: Partition, offset: int) -> pa.Table:
    """Return the rows without those of a partition before an offset."""
    topic, partition = place
    mine = pc.and_(pc.equal(rows["topic"], topic), pc.equal(rows["partition"], partition))
    return rows.filter(pc.invert(pc.and_(mine, pc.less(rows["offset"], offset))))
