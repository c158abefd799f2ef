"""The upkeep of a table: erased leads leave it, small files are joined, unused ones are deleted."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from consumer.history.delta_store import DEPENDENCY, WRITER, CommitConflict, StoredTable
from consumer.history.erased_leads import ErasedLeads
from consumer.history.table_schemas import TABLES, HistoryTable
from consumer.history.writer import HistoryTables
from leadstream.background import Background, Run
from leadstream.errors import LeadstreamError, Transient

# Files below a size are joined up to the next one, as soon as there are so many of them.
SMALL_BYTES, FULL_BYTES = 8 * 2**20, 128 * 2**20
SMALL_FILES = 32
# A file that no commit names may belong to a commit that is being made; none takes an hour.
ORPHAN_HOURS = 1
# A file that was replaced stays so long for readers of an older version.
KEPT_HOURS = 24
LOOK_SECONDS = 60.0
_MAX_CONFLICTS = 10
# Clocks of processes may differ by so much.
_SKEW = 24 * 3_600 * 1_000_000
_ERASING, _ERASED = "leadstream.erasing", "leadstream.erased"
_SAME_PLACE = "target.topic = source.topic AND target.partition = source.partition"
_MATCH = (
    "encode(sha256(target.lead_id), 'hex') = source.lead_hash AND ("
    f"({_SAME_PLACE} AND target.offset < source.offset) OR (NOT ({_SAME_PLACE}) AND "
    "(target.{time} <= source.until OR target.written_at < source.written_at)))"
)


@dataclass(frozen=True, slots=True)
class UpkeepResult:
    """The work that was done on one table."""

    table: str
    erased_rows: int
    joined_files: int
    deleted_files: int
    seconds: float


class UpkeepObserver(Protocol):
    """An observer of the upkeep."""

    def kept(self, result: UpkeepResult) -> None:
        """Note what was done on a table."""

    def upkeep_failed(self, table: str, detail: str) -> None:
        """Note that the upkeep of a table failed; it is tried again later."""


class TableUpkeep:
    """The upkeep of one table, with a view of its own: the writer's is not touched."""

    def __init__(self, root: str, table: HistoryTable) -> None:
        tables = HistoryTables(root)
        self._table = table
        self._stored: StoredTable = tables.stored[table]
        self._erased: ErasedLeads = tables.erased

    def look(self) -> bool:
        """Open the newest state of the table; return whether it is there."""
        return self._stored.exists() and self._erased.table.exists()

    def waiting_since(self) -> float | None:
        """Return when the oldest erasure that was not applied was recorded, in seconds since 1970.

        None if all were applied.
        """
        version, since = self._applied()
        if self._erased.table.delta.version() <= version:
            return None
        written = self._recorded()["written_at"].cast(pa.int64())
        oldest = pc.min(written.filter(pc.greater(written, since))).as_py()
        # Recorded by a process with a slow clock: overdue.
        return 0.0 if oldest is None else float(oldest) / 1e6

    def needs_joining(self) -> bool:
        """Return whether enough files of one size can be joined."""
        return any(self._joinable(*sizes) for sizes in _SIZES)

    def run(self, *, erase: bool, join: bool, every_file: bool = False) -> UpkeepResult:
        """Erase, join, and delete what is unused; return what was done.

        With `every_file`, small files are joined however few there are.
        """
        began = time.perf_counter()
        erased = self._erase() if erase and self.waiting_since() is not None else 0
        joined = 0
        for low, target in _SIZES if join else ():
            if every_file or self._joinable(low, target):
                joined += self._join(target)
        deleted = self._vacuum(0 if erase else KEPT_HOURS)
        seconds = time.perf_counter() - began
        return UpkeepResult(self._table.name, erased, joined, deleted, seconds)

    def _applied(self) -> tuple[int, int]:
        """Return the version of the erasures that were applied, and the time of the newest one."""
        found = self._stored.delta.metadata().configuration.get(_ERASED) or "0:0"
        version, _, written = found.partition(":")
        return int(version), int(written)

    def _erase(self) -> int:
        """Delete the rows of erased leads, and return how many there were.

        First comes a commit that no append in flight survives: an append that began before, and
        did not know the erasures, starts again and then knows them.
        """
        version, since = self._erased.table.delta.version(), self._applied()[1]
        erasures = self._recorded()
        written = erasures["written_at"].cast(pa.int64())
        newest = pc.max(written).as_py() or 0
        due = erasures.filter(pc.greater_equal(written, since - _SKEW))
        self._again(lambda: self._mark(_ERASING, str(version)))
        deleted = self._again(lambda: self._delete(due)) if len(due) else 0
        self._again(lambda: self._mark(_ERASED, f"{version}:{newest}"))
        return deleted

    def _recorded(self) -> pa.Table:
        with self._erased.table.answering():
            return self._erased.table.delta.to_pyarrow_table()

    def _delete(self, erasures: pa.Table) -> int:
        with self._stored.answering():
            done: dict[str, Any] = (
                self._stored.delta.merge(
                    erasures,
                    _MATCH.format(time=self._table.time),
                    source_alias="source",
                    target_alias="target",
                    writer_properties=WRITER,
                )
                .when_matched_delete()
                .execute()
            )
        return int(done["num_target_rows_deleted"])

    def _mark(self, name: str, value: str) -> int:
        # This call keeps Python's lock while the store answers; `_again` reloaded just before.
        with self._stored.answering():
            self._stored.delta.alter.set_table_properties({name: value}, raise_if_not_exists=False)
        return 0

    def _again(self, commit: Callable[[], int]) -> int:
        """Commit, and start again from the newest state after a conflict."""
        for _ in range(_MAX_CONFLICTS):
            self._stored.reload()
            try:
                return commit()
            except CommitConflict:
                continue
        raise Transient(DEPENDENCY, f"{self._table.name}: other commits were faster")

    def _joinable(self, low: int, target: int) -> bool:
        """Return whether there are many files of a size, two of them in one month."""
        with self._stored.answering():
            files = pa.table(self._stored.delta.get_add_actions(flatten=True))
        sizes = files["size_bytes"].to_pylist() if len(files) else []
        months = files["partition.month"].to_pylist() if len(files) else []
        found = [m for size, m in zip(sizes, months, strict=True) if low <= size < target]
        return len(found) >= SMALL_FILES and len(set(found)) < len(found)

    def _join(self, target: int) -> int:
        def commit() -> int:
            with self._stored.answering():
                done = self._stored.delta.optimize.compact(
                    target_size=target, max_concurrent_tasks=1, writer_properties=WRITER
                )
            return int(done["numFilesRemoved"])

        return self._again(commit)

    def _vacuum(self, hours: int) -> int:
        """Delete files that were replaced `hours` ago, and those that no commit names."""
        self._stored.reload()
        orphan_hours = max(ORPHAN_HOURS, hours)
        return self._delete_files(hours, full=False) + self._delete_files(orphan_hours, full=True)

    def _delete_files(self, hours: int, *, full: bool) -> int:
        def vacuum(*, dry_run: bool) -> int:
            found = self._stored.delta.vacuum(
                retention_hours=hours, dry_run=dry_run, enforce_retention_duration=False, full=full
            )
            return len(found)

        with self._stored.answering():
            # Even one that finds nothing would add two commits.
            return vacuum(dry_run=False) if vacuum(dry_run=True) else 0


_SIZES = ((0, SMALL_BYTES), (SMALL_BYTES, FULL_BYTES))


@dataclass(slots=True)
class _Schedule:
    """The times, on a monotonic clock, of one table."""

    looked: float = float("-inf")
    vacuumed: float = float("-inf")
    job: Background[UpkeepResult | None] = field(default_factory=Background)


class HistoryUpkeep:
    """The upkeep of the tables that this process is in charge of, one job at a time.

    In charge of a table is the process that owns partition 0 of its topic.
    """

    def __init__(
        self,
        root: str,
        observer: UpkeepObserver,
        run: Run,
        *,
        erasure_hours: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._wall_clock = wall_clock
        self._observer = observer
        self._run = run
        # A quarter: the deletion may fail, be retried, and then takes its time.
        self._erase_after = erasure_hours * 3600 / 4
        self._clock = clock
        self._schedules = {table: _Schedule() for table in TABLES}

    def run_due(self, in_charge: Callable[[HistoryTable], bool]) -> None:
        """Start what is due, and report what has ended. Waits for nothing."""
        for table, schedule in self._schedules.items():
            self._poll(table, schedule)
            now = self._clock()
            wait = min(LOOK_SECONDS, self._erase_after)
            if schedule.job.idle and now - schedule.looked >= wait and in_charge(table):
                schedule.looked = now
                schedule.job.start(lambda each=table: self._keep(each), self._run)  # type: ignore[misc]

    def _poll(self, table: HistoryTable, schedule: _Schedule) -> None:
        try:
            result = schedule.job.poll()
        except (LeadstreamError, CommitConflict) as error:
            self._observer.upkeep_failed(table.name, str(error))
        else:
            if result is not None:
                self._observer.kept(result)

    def _keep(self, table: HistoryTable) -> UpkeepResult | None:
        """Do what is due for a table; runs in the background."""
        schedule, upkeep, now = (
            self._schedules[table],
            TableUpkeep(self._root, table),
            self._clock(),
        )
        if not upkeep.look():
            return None
        since = upkeep.waiting_since()
        erase = since is not None and self._wall_clock() - since >= self._erase_after
        join = upkeep.needs_joining()
        if not (erase or join or now - schedule.vacuumed >= ORPHAN_HOURS * 3600):
            return None
        result = upkeep.run(erase=erase, join=join)
        schedule.vacuumed = now
        return result
