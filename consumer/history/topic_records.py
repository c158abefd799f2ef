"""Messages of the topics as rows of the history, erasures, and records that cannot be read."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from consumer.history.arrow_rows import (
    UnsupportedValues,
    dictionary_array,
    from_columns,
    from_records,
    splittable,
)
from consumer.history.erased_leads import LeadErasure
from consumer.history.table_schemas import CHANGES, HistoryTable, record_schema, tables_by_topic
from consumer.scoring.events import EventKind, EventReader
from consumer.scoring.leads import Lead, LeadLookup
from leadstream.dictionary import DictionaryColumn
from leadstream.errors import Poison, Reason
from leadstream.kafka.batch import Batch, ClosedBy, Message
from leadstream.kafka.topics import DAY_MS, Topics
from leadstream.lead_fields import END_TIME_MS, MAX_ID_CHARACTERS, MIN_TIME_MS
from schemas.codec import Reader
from schemas.columns import COMPILED, ColumnReader, MapColumn, use_columns
from schemas.registry import Registry

Ints = NDArray[np.intp]

# Leads in one query for states.
MAX_LEADS = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class TopicRecords:
    """The content of the messages of one topic, for one table.

    `rows` has the columns of the record and its place. `skipped` has the reason by the index of the
    message. `states` counts the changes by where their state is from: event, database or missing.
    """

    table: HistoryTable
    rows: pa.Table
    erasures: list[LeadErasure]
    skipped: dict[int, Poison]
    states: Mapping[str, int] = field(default_factory=dict)


class HistoryReader:
    """A decoder of all topics of the history."""

    def __init__(
        self,
        topics: Topics,
        registry: Registry | None,
        leads: LeadLookup | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raise MissingColumnError if a field of a lead change has no column."""
        self._tables = tables_by_topic(topics)
        self._codecs = {
            table.record: Reader(table.record, registry) for table in self._tables.values()
        }
        self._changes = ChangeRows(self._codecs[CHANGES.record], leads)
        self._clock = clock

    def table(self, topic: str) -> HistoryTable:
        """Return the table that a topic is written to."""
        return self._tables[topic]

    def main_topic(self, table: HistoryTable) -> str:
        """Return the first topic that is written to a table."""
        return next(topic for topic, each in self._tables.items() if each is table)

    def read(self, topic: str, messages: Sequence[Message]) -> TopicRecords:
        """Decode messages of one topic. Raises Transient if the registry or Postgres is away."""
        table = self._tables[topic]
        now_ms = round(self._clock() * 1000)
        if table is CHANGES:
            return self._changes.read(messages, now_ms)
        return _read_records(table, self._codecs[table.record], messages, now_ms)


class ChangeRows:
    """A decoder of lead changes, in columns where possible."""

    def __init__(self, codec: Reader, leads: LeadLookup | None) -> None:
        self._codec = codec
        self._leads = leads
        self._events = EventReader(codec, requests_topic="")
        self._schema = record_schema(CHANGES)

    @cached_property
    def _kernel(self) -> ColumnReader:
        return ColumnReader(self._codec)

    def read(self, messages: Sequence[Message], now_ms: int) -> TopicRecords:
        """Return the rows, erasures and unreadable records of these messages."""
        batch = Batch.from_messages(list(messages), ClosedBy.DRAIN)
        events = self._events.read(batch, ())
        changes, skipped = events.changes, dict(events.poisons)
        rows = np.flatnonzero(
            (events.kind == EventKind.CHANGE) | (events.kind == EventKind.IGNORED)
        )
        times = changes.occurred_at[rows]
        # The rules of `run` pass over the times of changes that Leadstream itself caused.
        timed = (times >= MIN_TIME_MS) & (times < END_TIME_MS)
        for row in rows[~timed].tolist():
            skipped[row] = _poison(f"occurred_at is {changes.occurred_at[row]} ms")
        rows = rows[timed]
        with_state = changes.has_state[rows]
        lacking = rows[~with_state]
        found = self._states([events.keys[row].decode() for row in lacking.tolist()])
        # A change that gets its state from Postgres is built as a record; others stay columns.
        known = [row for row in lacking.tolist() if events.keys[row].decode() in found]
        in_columns = np.setdiff1d(rows, known, assume_unique=True) if known else rows
        parts, left = self._columns(batch, in_columns)
        records = [self._record(messages[row], found) for row in sorted([*left, *known])]
        from_database = sum(each["state_source"] == "database" for each in records)
        states = {
            "event": int(with_state.sum()),
            "database": from_database,
            "missing": len(lacking) - from_database,
        }
        erased = np.flatnonzero(events.kind == EventKind.ERASURE).tolist()
        erasures = [
            _erasure(messages[row], int(changes.occurred_at[row]), now_ms) for row in erased
        ]
        table = pa.concat_tables([*parts, from_records(self._schema, records)])
        return TopicRecords(CHANGES, table, erasures, skipped, states)

    def _columns(self, batch: Batch, rows: Ints) -> tuple[list[pa.Table], list[int]]:
        """Return rows as columns, and the rows that only the codec can read."""
        if not COMPILED or not use_columns(len(rows)):
            return [], rows.tolist()
        decoded = self._kernel.decode([message.value() for message in batch.messages])
        good = decoded.decoded[rows]
        for column in decoded.columns.values():
            if isinstance(column, MapColumn):
                good &= splittable(column.take(rows))
        taken = rows[good]
        present = decoded.columns["lead"][taken]
        sources = DictionaryColumn(np.where(present, 0, 1), ["event", None])
        table = from_columns(
            self._schema,
            decoded,
            taken,
            flat="lead",
            symbols=self._kernel.symbols,
            place=_place(batch, taken) | {"state_source": dictionary_array(sources)},
        )
        return [table], rows[~good].tolist()

    def _record(self, message: Message, found: Mapping[str, Lead]) -> dict[str, Any]:
        record = self._codec.decode(message.value() or b"")
        state, source = record["lead"], "event" if record["lead"] else None
        lead = None if state else found.get(record["lead_id"])
        # A lead that was created after the change is not the lead of the change.
        if lead is not None and (lead.state["created_at"] or 0) <= record["occurred_at"]:
            state, source = lead.state, "database"
        del record["lead"]
        return {**record, **(state or {}), "state_source": source, **_origin(message)}

    def _states(self, lead_ids: Sequence[str]) -> dict[str, Lead]:
        """Return what Postgres knows of these leads now."""
        ids = list(dict.fromkeys(lead_ids))
        found: dict[str, Lead] = {}
        if self._leads is not None:
            for start in range(0, len(ids), MAX_LEADS):
                asked = self._leads.fetch(ids[start : start + MAX_LEADS])
                found |= {key: lead for key, lead in asked.items() if isinstance(lead, Lead)}
        return found


def _read_records(
    table: HistoryTable, codec: Reader, messages: Sequence[Message], now_ms: int
) -> TopicRecords:
    """Decode records one by one: predictions and outcomes."""
    schema = record_schema(table)
    records: dict[int, dict[str, Any]] = {}
    skipped: dict[int, Poison] = {}
    erasures: list[LeadErasure] = []
    codec.prepare(message.value() for message in messages)
    for row, message in enumerate(messages):
        value = message.value()
        try:
            if value is None:
                _check_key(message)
                erasures.append(_erasure(message, END_TIME_MS, now_ms))
            else:
                records[row] = _checked(table, codec.decode(value)) | _origin(message)
        except Poison as poison:
            skipped[row] = poison
    try:
        rows = from_records(schema, list(records.values()))
    except UnsupportedValues:
        for row, record in list(records.items()):
            try:
                from_records(schema, [record])
            except UnsupportedValues:
                skipped[row] = Poison(Reason.DECODE_FAILED, "decode", "a number is too large")
                del records[row]
        rows = from_records(schema, list(records.values()))
    return TopicRecords(table, rows, erasures, skipped)


def _checked(table: HistoryTable, record: dict[str, Any]) -> dict[str, Any]:
    if not 0 < len(record["lead_id"]) <= MAX_ID_CHARACTERS:
        raise _poison(f"lead_id has {len(record['lead_id'])} characters")
    if not MIN_TIME_MS <= record[table.time] < END_TIME_MS:
        raise _poison(f"{table.time} is {record[table.time]} ms")
    return record


def _check_key(message: Message) -> None:
    """Raise Poison if the key of an erasure is no lead id."""
    try:
        key = (message.key() or b"").decode()
    except UnicodeDecodeError as error:
        raise _poison("the key is not UTF-8") from error
    if not 0 < len(key) <= MAX_ID_CHARACTERS:
        raise _poison(f"the key has {len(key)} characters; it must be the lead id")


def _erasure(message: Message, occurred_ms: int, now_ms: int) -> LeadErasure:
    """Return the erasure that a null or a DELETED asks for.

    A null has no time of its own. A DELETED with a wrong time must not reach far into the future.
    """
    kind, sent_ms = message.timestamp()
    sent = sent_ms if kind and sent_ms >= 0 else now_ms
    until = sent if message.value() is None else min(occurred_ms, sent + DAY_MS)
    place = (message.topic(), message.partition())
    return LeadErasure((message.key() or b"").decode(), until, place, message.offset())


def _poison(detail: str) -> Poison:
    return Poison(Reason.INVALID_EVENT, "validate", detail)


def _origin(message: Message) -> dict[str, Any]:
    return {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
    }


def _place(batch: Batch, rows: Ints) -> dict[str, pa.Array]:
    codes = batch.places.codes[rows]
    topics = [topic for topic, _ in batch.places.values]
    partitions = np.array([partition for _, partition in batch.places.values], np.int32)
    return {
        "topic": dictionary_array(DictionaryColumn(codes, topics)),
        "partition": pa.array(partitions[codes]),
        "offset": pa.array(batch.offsets[rows]),
    }
