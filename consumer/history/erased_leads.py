"""Leads that were erased, by the hash of their id, so that what arrives late is not written.

A row goes if it is about a time up to the erasure. In the topic of the erasure the offset decides.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from consumer.history.arrow_rows import from_records
from consumer.history.delta_store import StoredTable
from consumer.history.table_schemas import ERASURES, ERASURES_SCHEMA
from leadstream.kafka.batch import Partition

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LeadErasure:
    """An erasure: the id of the lead, the time up to which it counts (ms UTC), and its place."""

    lead_id: str
    until_ms: int
    place: Partition
    offset: int


def hash_id(lead_id: str) -> str:
    """Return the SHA-256 of a lead id, in hexadecimal."""
    return hashlib.sha256(lead_id.encode()).hexdigest()


class ErasedLeads:
    """The table `erasures`, and what it means for rows that are to be written."""

    def __init__(self, root: str) -> None:
        self.table = StoredTable(root, ERASURES, ERASURES_SCHEMA)
        self._version = -1
        self._known: dict[str, list[tuple[int, Partition, int]]] = {}

    def open(self) -> None:
        """Open the table, or make it."""
        self.table.open()
        self._read()

    def look(self) -> None:
        """See what is recorded, if anything is, without making the table."""
        if self.table.exists():
            self._read()

    def add(self, erasures: Iterable[LeadErasure], written_ms: int) -> None:
        """Record erasures. Doing it twice changes nothing."""
        records = [
            {
                "lead_hash": hash_id(each.lead_id),
                "until": each.until_ms,
                "topic": each.place[0],
                "partition": each.place[1],
                "offset": each.offset,
                "written_at": written_ms,
            }
            for each in erasures
        ]
        if records:
            self.table.append(from_records(ERASURES_SCHEMA, records), {})

    def refresh(self) -> None:
        """See what other processes recorded."""
        self.table.reload()
        self._read()

    def late(self, rows: pa.Table, time: str) -> Flags:
        """Return which rows (n,) are of an erased lead and must not be written.

        `time` is the column with the time that a row is about.
        """
        dropped = np.zeros(len(rows), np.bool_)
        if not self._known:
            return dropped
        encoded = rows["lead_id"].combine_chunks().dictionary_encode()
        found = [self._known.get(hash_id(each)) for each in encoded.dictionary.to_pylist()]
        erased = np.array([each is not None for each in found], np.bool_)
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(erased[codes]).tolist():
            place = (rows["topic"][row].as_py(), rows["partition"][row].as_py())
            offset, about = rows["offset"][row].as_py(), rows[time][row].value // 1000
            dropped[row] = any(
                offset < at if place == where else about <= until
                for until, where, at in found[codes[row]] or ()
            )
        return dropped

    def _read(self) -> None:
        version = self.table.delta.version()
        if version == self._version:
            return
        with self.table.answering():
            found = self.table.delta.to_pyarrow_table()
        self._known = {}
        columns = (found[name].to_pylist() for name in ("lead_hash", "topic", "partition"))
        until = found["until"].cast(pa.int64()).to_pylist()
        for lead, topic, partition, micros, offset in zip(
            *columns, until, found["offset"].to_pylist(), strict=True
        ):
            entry = (micros // 1000, (topic, partition), offset)
            self._known.setdefault(lead, []).append(entry)
        self._version = version
