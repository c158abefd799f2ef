"""A writer of states and outcomes that come from a log instead of a topic.

Imported rows have the topic `import:changes` or `import:outcomes`, a name that no topic can have,
partition 0, and consecutive offsets. The next offset is the table's own, as for a partition of a
topic. So two imports cannot both commit from the same state: the second one looks again at what is
there. What is there is known by the event_id, of outcomes by all they say.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from consumer.history.arrow_rows import from_records, months
from consumer.history.delta_store import DEPENDENCY, CommitConflict, StoredTable
from consumer.history.table_schemas import (
    CHANGES,
    MOMENT,
    OUTCOMES,
    HistoryTable,
    record_schema,
    table_schema,
)
from consumer.history.writer import HistoryTables
from leadstream.errors import Transient
from leadstream.kafka.batch import Partition

# Imported rows are of all months, and each month of a commit is a file: so commits are large.
COMMIT_ROWS = 100_000
COMMIT_BYTES = 64 * 2**20
MAX_CONFLICTS = 10
# Records that become columns together.
_PORTION = 5_000
# The value of `state_source`.
IMPORTED = "import"

Hashes = NDArray[np.uint64]


def import_place(table: HistoryTable) -> Partition:
    """Return the topic and partition of the imported rows of a table."""
    return f"import:{table.name}", 0


@dataclass(slots=True)
class ImportResult:
    """The rows of an import by table: written, there already, and of erased leads."""

    written: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    erased: Counter[str] = field(default_factory=Counter)


class _KnownRows:
    """The identities of the rows in a table, as hashes of 64 bits, up to a commit of an import."""

    def __init__(self, stored: StoredTable, table: HistoryTable, *, every: bool) -> None:
        self._stored = stored
        self._table = table
        self._every = every
        self._hashes: Hashes = np.empty(0, np.uint64)
        self._offset = -1

    def refresh(self, offset: int) -> None:
        """Read the table again if its next offset of imports is another one."""
        if offset == self._offset:
            return
        found = [np.empty(0, np.uint64)]
        if offset == 0 and not self._every:
            self._offset = 0
            return
        with self._stored.answering():
            data = self._stored.delta.to_pyarrow_dataset()
            columns = [*_identity(self._table), "topic"]
            batches = data.to_batches(columns=columns, batch_size=65_536)
            found.extend(self._read(batch) for batch in batches)
        self._hashes, self._offset = np.unique(np.concatenate(found)), offset

    def add(self, hashes: Hashes, offset: int) -> None:
        """Take over what this import committed."""
        self._hashes, self._offset = np.union1d(self._hashes, hashes), offset

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Return which hashes (n,) are known, or repeated among these."""
        first = np.zeros(len(hashes), np.bool_)
        first[np.unique(hashes, return_index=True)[1]] = True
        at = np.searchsorted(self._hashes, hashes)
        at[at == len(self._hashes)] = 0
        known = self._hashes[at] == hashes if len(self._hashes) else np.zeros(len(hashes), np.bool_)
        return np.asarray(known | ~first)

    def _read(self, batch: pa.RecordBatch) -> Hashes:
        rows = pa.Table.from_batches([batch])
        if not self._every:
            rows = rows.filter(pc.equal(rows["topic"], import_place(self._table)[0]))
        return _hashes(rows, self._table)


def _identity(table: HistoryTable) -> tuple[str, ...]:
    """Return the columns that tell rows of a table apart."""
    return ("event_id",) if table is CHANGES else ("lead_id", "converted", "decided_at")


def _hashes(rows: pa.Table, table: HistoryTable) -> Hashes:
    columns = [rows[name] for name in _identity(table)]
    if table is not CHANGES:
        columns[-1] = columns[-1].cast(pa.int64())
    texts = zip(*(column.to_pylist() for column in columns), strict=True)
    digests = b"".join(
        hashlib.blake2b(repr(each).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for each in texts
    )
    return np.frombuffer(digests, np.uint64)


class ImportWriter:
    """A writer of the tables `changes` and `outcomes`.

    With `every`, rows of topics count as there already: of a source whose changes have the same
    event_id in the stream. A dry run counts all the same, and makes and changes nothing.
    """

    def __init__(
        self,
        tables: HistoryTables,
        *,
        every: bool = False,
        dry_run: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.result = ImportResult()
        self._tables = tables
        self._dry_run = dry_run
        self._clock = clock
        self._pending: dict[HistoryTable, list[pa.Table]] = {CHANGES: [], OUTCOMES: []}
        self._records: dict[HistoryTable, list[Mapping[str, Any]]] = {CHANGES: [], OUTCOMES: []}
        self._known = {
            table: _KnownRows(tables.stored[table], table, every=every) for table in self._pending
        }

    def add(self, table: HistoryTable, records: Iterable[Mapping[str, Any]]) -> None:
        """Buffer records of a table, and commit if they are many. Raises Transient, UserError."""
        waiting = self._records[table]
        waiting.extend(records)
        if len(waiting) >= _PORTION:
            self._convert(table)
            parts = self._pending[table]
            if (
                sum(map(len, parts)) >= COMMIT_ROWS
                or sum(part.nbytes for part in parts) >= COMMIT_BYTES
            ):
                self._commit(table)

    def close(self) -> None:
        """Commit what is left."""
        for table in self._pending:
            self._convert(table)
            self._commit(table)

    def _convert(self, table: HistoryTable) -> None:
        if not (records := self._records[table]):
            return
        topic, partition = import_place(table)
        place = {"topic": topic, "partition": partition, "offset": 0}
        rows = [_flat(record, table) | place for record in records]
        self._pending[table].append(from_records(record_schema(table), rows))
        records.clear()

    def _commit(self, table: HistoryTable) -> None:
        if not self._pending[table]:
            return
        rows = pa.concat_tables(self._pending[table])
        hashes = _hashes(rows, table)
        for _ in range(MAX_CONFLICTS):
            try:
                self._try(table, rows, hashes)
            except CommitConflict:
                continue
            self._pending[table] = []
            return
        raise Transient(DEPENDENCY, f"{table.name}: other commits were faster")

    def _try(self, table: HistoryTable, rows: pa.Table, hashes: Hashes) -> None:
        """Commit the rows that are new and of no erased lead, from the newest state."""
        offset = self._look(table)
        known = self._known[table].contains(hashes)
        fresh, new = rows.filter(pa.array(~known)), hashes[~known]
        late = self._tables.erased.late(fresh, table.time)
        kept = fresh.filter(pa.array(~late))
        if len(kept) and not self._dry_run:
            ended = {import_place(table): offset + len(kept)}
            self._tables.stored[table].append(self._complete(kept, table, offset), ended)
            offset += len(kept)
        self._known[table].add(new[~late], offset)
        self.result.written[table.name] += len(kept)
        self.result.known[table.name] += int(known.sum())
        self.result.erased[table.name] += int(late.sum())

    def _look(self, table: HistoryTable) -> int:
        """See the newest commits, first those of the table; return the next offset of imports."""
        stored = self._tables.stored[table]
        if self._dry_run:
            if not stored.exists():
                self._tables.erased.look()
                return 0
        else:
            self._tables.open()
            stored.reload()
        offset = stored.offset(import_place(table)) or 0
        # After the reload: an erasure that comes later than this conflicts with the append.
        self._tables.erased.look()
        self._known[table].refresh(offset)
        return offset

    def _complete(self, rows: pa.Table, table: HistoryTable, offset: int) -> pa.Table:
        """Return rows with their offsets, the time of writing, and their months."""
        numbers = pa.array(np.arange(offset, offset + len(rows), dtype=np.int64))
        rows = rows.set_column(rows.schema.get_field_index("offset"), "offset", numbers)
        micros = np.full(len(rows), round(self._clock() * 1000) * 1000, np.int64)
        month = months(rows[table.time].combine_chunks())
        columns = [*rows.columns, pa.array(micros).cast(MOMENT), month]
        return pa.table(columns, schema=table_schema(table))


def _flat(record: Mapping[str, Any], table: HistoryTable) -> dict[str, Any]:
    """Return a record with its state in columns, as the table has it."""
    if table.flat is None:
        return dict(record)
    state = record[table.flat]
    rest = {name: value for name, value in record.items() if name != table.flat}
    return {**rest, **(state or {}), "state_source": IMPORTED if state else None}
