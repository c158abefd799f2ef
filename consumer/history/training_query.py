"""The queries for training rows, in DuckDB, over the tables of a history as of one version each.

Times are milliseconds UTC. Rows of the tables that could not have been seen are left out first:
those of erased leads that wait for their deletion, and those from a clock that was ahead.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from consumer.history.coverage import DAY_MS, DailyCounts
from consumer.history.table_schemas import CHANGES, OUTCOMES
from consumer.history.writer import HistoryTables
from leadstream.addresses import masked_url, without_secrets
from leadstream.errors import UserError, error_text
from leadstream.lead_fields import STATE_FIELDS

# Leads are sampled by the bucket that the hash of their id falls into.
BUCKETS = 10_000
# A sender's clock may be ahead by so much.
AHEAD_MS = DAY_MS
# A state that was read from the database so long after its change is not the state of then.
LATE_STATE_MS = 3_600_000

_BUCKET = f"cast('0x' || sha256(lead_id)[:8] as ubigint) * {BUCKETS} // 4294967296"
_SAME_PLACE = "each.topic = gone.topic and each.partition = gone.partition"
# The rule of upkeep, which deletes these rows.
_ERASED = f"""
exists (
    select 1 from erased_leads gone
    where gone.lead_id = each.lead_id and case
        when {_SAME_PLACE} then each."offset" < gone."offset"
        else each.moment <= gone.until or each.written < gone.written end
)"""
_ERASED_LEADS = """
create table erased_leads as
select leads.lead_id, topic, partition, "offset", epoch_ms(until) as until,
    epoch_ms(written_at) as written
from erasures join (
    select lead_id, sha256(lead_id) as lead_hash
    from (select lead_id from changes union select lead_id from outcomes)
) leads using (lead_hash)"""
_OUTCOMES = f"""
create table seen_outcomes as
with each as (
    select lead_id, converted, topic, partition, "offset",
        epoch_ms(decided_at) as moment, epoch_ms(written_at) as written
    from outcomes
)
select lead_id, converted, topic, partition, moment from each
where moment <= written + {AHEAD_MS} and not {_ERASED}"""
_CONVERSIONS = """
create table conversions as
select lead_id, min(moment) as converted_at from seen_outcomes where converted group by lead_id"""
# Why a change is no row, whatever became of the lead; null if it may be one.
_CHANGES = f"""
create table seen_changes as
with each as (
    select lead_id, topic, partition, "offset", change_type, origin, lead_version, state_source,
        created_at, epoch_ms(occurred_at) as moment, epoch_ms(written_at) as written
    from changes where epoch_ms(occurred_at) >= $since
)
select lead_id, topic, partition, "offset", lead_version, state_source, moment, case
    when origin = 'leadstream' then 'score_written_back'
    when moment > written + {AHEAD_MS} then 'ahead_of_clock'
    when {_ERASED} then 'erased'
    when state_source is null or created_at is null then 'without_state'
    when state_source = 'database' and change_type = 'RESCORE' then 'rescoring'
    when state_source = 'database' and written > moment + {LATE_STATE_MS} then 'state_read_late'
end as why
from each"""
# A lead has one state moment a moment: the one that an event carried, and of several the newest.
_LABELED = """
create table labeled as
with ranked as (
    select *, row_number() over (
        partition by lead_id, moment
        order by case state_source when 'event' then 0 when 'import' then 1 else 2 end,
            lead_version desc nulls last, topic, partition, "offset" desc
    ) as number
    from seen_changes where why is null
)
select lead_id, topic, partition, "offset", moment, state_source,
    coalesce(converted_at <= moment + $horizon, false) as converted,
    case
        when number > 1 then 'repeat'
        when converted_at <= moment then 'after_conversion'
        when moment < $first then 'before_outcomes'
        when moment > $known_until then 'young'
    end as why
from ranked left join conversions using (lead_id)"""
_BUCKET_LIMIT = f"""
with buckets as (
    select {_BUCKET} as bucket, count(*) as rows
    from labeled where why is null and converted = $converted group by bucket
)
select coalesce(max(bucket) + 1, 1) from (
    select bucket, sum(rows) over (order by bucket) as total from buckets
) where total <= $rows"""
_CHOSEN = """
create or replace table chosen as
select lead_id, topic, partition, "offset", moment, state_source, converted
from labeled where why is null and
    {bucket} < case when converted then $conversions else $others end"""
_ROWS = """
select chosen.lead_id, chosen.moment as as_of, {fields}, chosen.converted
from changes join chosen on changes.topic = chosen.topic
    and changes.partition = chosen.partition and changes."offset" = chosen."offset"
    and changes.lead_id = chosen.lead_id
order by as_of, chosen.lead_id"""
_DAILY = """
select topic, partition, moment // {day} as day, count(*) as records
from {table} where {where} group by all order by all"""


@contextmanager
def answering(root: str) -> Iterator[None]:
    """Raise what DuckDB could not read or put on disk in the block as UserError."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        detail = without_secrets(" ".join(error_text(error).split()), root)[:300]
        raise UserError(
            f"the history at {masked_url(root)} cannot be read: {detail} (begin again if its files "
            "were replaced meanwhile; TMPDIR names a folder with more room)"
        ) from error


def open_database(folder: Path, memory: str) -> duckdb.DuckDBPyConnection:
    """Open a database in a folder, to which it spills what exceeds `memory`."""
    return duckdb.connect(
        str(folder / "rows.duckdb"),
        config={
            "memory_limit": memory,
            "temp_directory": str(folder / "spill"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )


class TrainingQuery:
    """The queries of one training, each a step on what the step before left in the database."""

    def __init__(self, tables: HistoryTables, folder: Path, memory: str) -> None:
        """Open a database in a folder, which may hold as much as the tables."""
        self._connection = open_database(folder, memory)
        stored = [tables.stored[CHANGES], tables.stored[OUTCOMES], tables.erased.table]
        self.versions: dict[str, int | None] = {}
        for each in stored:
            self._connection.register(each.name, each.read())
            self.versions[each.name] = each.delta.version() if each.is_open else None

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def find_conversions(self) -> None:
        """Find the outcomes that count, and the first conversion of each lead."""
        [erasures] = self._one("select count(*) from erasures")
        # Without erasures, no lead needs to be hashed.
        erased_leads = _ERASED_LEADS if erasures else f"{_ERASED_LEADS} limit 0"
        for statement in (erased_leads, _OUTCOMES, _CONVERSIONS):
            self._connection.execute(statement)

    def outcome_ends(self) -> tuple[int, int] | None:
        """Return the times of the oldest and the newest outcome; None without any."""
        first, last = self._one("select min(moment), max(moment) from seen_outcomes")
        return None if first is None else (first, last)

    def coverage(self) -> dict[str, Any]:
        """Return the outcomes by month, for the manifest."""
        months = self._connection.execute(
            "select strftime(make_timestamp(moment * 1000), '%Y-%m') as month, count(*),"
            " count(*) filter (where converted) from seen_outcomes group by month order by month"
        ).fetchall()
        return {
            "by_month": {
                month: {"outcomes": count, "converted": won} for month, count, won in months
            }
        }

    def find_changes(self, since: int) -> None:
        """Find the changes that may be rows, from a time on."""
        self._connection.execute(_CHANGES, {"since": since})

    def newest_change(self) -> int:
        """Return the time of the newest change that was not ahead of the clock; 0 without any."""
        [newest] = self._one(
            "select max(moment) from seen_changes where why is distinct from 'ahead_of_clock'"
        )
        return newest or 0

    def daily_outcomes(self) -> list[DailyCounts]:
        """Return the outcomes of each partition by day."""
        return self._daily("seen_outcomes", "true")

    def daily_states(self) -> list[DailyCounts]:
        """Return the changes with a state of each partition by day."""
        return self._daily("seen_changes", "why is null")

    def label(self, first: int, known_until: int, horizon: int) -> None:
        """Label the changes, and say why others are no rows."""
        limits = {"first": first, "known_until": known_until, "horizon": horizon}
        self._connection.execute(_LABELED, limits)

    def left_out(self) -> dict[str, int]:
        """Return how many changes are no rows, by reason."""
        return dict(
            self._connection.execute(
                "select why, count(*) from (select why from seen_changes"
                " union all by name select why from labeled)"
                " where why is not null group by why order by why"
            ).fetchall()
        )

    def totals(self) -> dict[bool, int]:
        """Return the number of labeled rows that convert, and of the others."""
        return self._by_outcome("labeled where why is null")

    def chosen(self) -> dict[bool, int]:
        """Return the number of chosen rows that convert, and of the others."""
        return self._by_outcome("chosen")

    def bucket_limit(self, *, converted: bool, rows: int) -> int:
        """Return below which bucket there are at most so many rows of an outcome; at least 1."""
        [limit] = self._one(_BUCKET_LIMIT, {"converted": converted, "rows": rows})
        return int(limit)

    def choose(self, conversions: int, others: int) -> None:
        """Choose the rows whose leads are in a bucket below the limit of their outcome."""
        every = min(conversions, others) >= BUCKETS
        statement = _CHOSEN.format(bucket="0" if every else _BUCKET)
        self._connection.execute(statement, {"conversions": conversions, "others": others})

    def state_sources(self) -> dict[str, float]:
        """Return the share of the chosen rows by where their state is from."""
        return dict(
            self._connection.execute(
                "select state_source, count(*) / (select count(*) from chosen)"
                " from chosen group by all order by all"
            ).fetchall()
        )

    def rows(self) -> pa.Table:
        """Return the chosen rows with their states, ordered by time and lead."""
        fields = ", ".join(
            "epoch_ms(created_at) as created_at" if name == "created_at" else name
            for name in STATE_FIELDS
        )
        return self._connection.sql(_ROWS.format(fields=fields)).to_arrow_table()

    def _daily(self, table: str, where: str) -> list[DailyCounts]:
        found: dict[tuple[str, int], dict[int, int]] = {}
        statement = _DAILY.format(table=table, where=where, day=DAY_MS)
        for topic, partition, day, records in self._connection.execute(statement).fetchall():
            found.setdefault((topic, partition), {})[day] = records
        return [DailyCounts(*place, counts) for place, counts in found.items()]

    def _by_outcome(self, source: str) -> dict[bool, int]:
        counts = f"select converted, count(*) from {source} group by converted"
        return {True: 0, False: 0} | dict(self._connection.execute(counts).fetchall())

    def _one(self, statement: str, values: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self._connection.execute(statement, values or {}).fetchone()
        return row or ()
