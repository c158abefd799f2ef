"""A summary of each table: its size, its months, and how far each topic is written."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from consumer.history.delta_store import StoredTable
from consumer.history.table_schemas import MONTH, HistoryTable, tables_by_topic
from consumer.history.writer import HistoryTables
from leadstream.kafka.topics import Topics

# Partitions without a record have no offset; after so many the topic is taken to end.
_MAX_GAP = 64


@dataclass(frozen=True, slots=True)
class TableSummary:
    """One table as of now. `offsets` has the next offset by topic and partition."""

    table: str
    version: int
    rows: int
    files: int
    bytes: int
    first_month: str | None
    last_month: str | None
    written_at: str | None
    offsets: dict[str, dict[int, int]]


def summarize(tables: HistoryTables, topics: Topics) -> list[TableSummary]:
    """Return a summary of each table that is there. Raises Transient, SettingsError."""
    return [
        _summary(table, stored, topics)
        for table, stored in tables.stored.items()
        if stored.exists()
    ]


def _summary(table: HistoryTable, stored: StoredTable, topics: Topics) -> TableSummary:
    with stored.answering():
        files = pa.table(stored.delta.get_add_actions(flatten=True))
    months = sorted(each for each in _column(files, f"partition.{MONTH}") if each)
    written = [each for each in _column(files, "max.written_at") if each]
    return TableSummary(
        table=table.name,
        version=stored.delta.version(),
        rows=sum(each or 0 for each in _column(files, "num_records")),
        files=len(files),
        bytes=sum(_column(files, "size_bytes")),
        first_month=months[0] if months else None,
        last_month=months[-1] if months else None,
        written_at=_moment(max(written)) if written else None,
        offsets=offsets_of(table, stored, topics),
    )


def offsets_of(
    table: HistoryTable, stored: StoredTable, topics: Topics
) -> dict[str, dict[int, int]]:
    """Return the next offsets of an open table, by topic and partition."""
    return {
        topic: dict(_offsets(stored, topic))
        for topic, own in tables_by_topic(topics).items()
        if own is table
    }


def _offsets(stored: StoredTable, topic: str) -> Iterator[tuple[int, int]]:
    partition, missing = 0, 0
    while missing < _MAX_GAP:
        offset = stored.offset((topic, partition))
        if offset is None:
            missing += 1
        else:
            missing = 0
            yield partition, offset
        partition += 1


def _column(files: pa.Table, name: str) -> list[Any]:
    values: list[Any] = files[name].to_pylist() if name in files.schema.names else []
    return values


def _moment(found: datetime) -> str:
    return found.isoformat(timespec="seconds")
