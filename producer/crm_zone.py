"""Times of a CRM without a zone: their columns, and whether the newest ones fit a zone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql

from leadstream.errors import SettingsError
from leadstream.postgres import Connection
from producer.crm_candidates import TIMES
from producer.crm_fit import Tables
from schemas.crm_description import CrmDescription, TableName, TimeFormat
from schemas.crm_rows import MAX_CLOCK_DIFFERENCE_MS
from schemas.crm_tables import name, table_name
from schemas.options import WrongKey, zone_of

LOCAL = "timestamp without time zone"
_WITHOUT_ZONE = {LOCAL, "date"}
_MAX_WAIT = "5s"


@dataclass(frozen=True, slots=True)
class LocalColumn:
    """A column whose times have no zone, and the zone that they are read in."""

    table: TableName
    column: str
    kind: str
    zone: tzinfo


def local_columns(description: CrmDescription, tables: Tables) -> list[LocalColumn]:
    """Return the columns with times without a zone that the description reads, each once."""
    found = {
        (table, column): LocalColumn(tables[table].name, column, kind, times.zone)
        for table, column, times in _times(description)
        if table in tables
        and (kind := tables[table].columns.get(column, ""))
        and (kind in _WITHOUT_ZONE or _is_local_text(kind, times))
    }
    return list(found.values())


def _is_local_text(kind: str, times: TimeFormat) -> bool:
    return kind not in TIMES and any("%" in form and "%z" not in form for form in times.forms)


def _times(description: CrmDescription) -> Iterator[tuple[TableName, str, TimeFormat]]:
    """Yield table, column and format of all times."""
    database, outcome = description.database, description.outcome
    if database is None:
        return
    read = [(database.table, each) for each in description.fields if each.name == "created_at"]
    if outcome and outcome.decided_at:
        read.append((outcome.table, outcome.decided_at))
    for table, field in read:
        if field.column:
            yield table, field.column, field.times
    for column in (database.version, database.deleted and database.deleted.column):
        if column:
            yield database.table, column, database.times


def is_utc(zone: tzinfo) -> bool:
    """Return whether a zone has the time of UTC all the year."""
    days = (datetime(2026, month, 1, tzinfo=zone) for month in (1, 7))
    return not any(day.utcoffset() for day in days)


def ahead_of_now(connection: Connection, columns: list[LocalColumn]) -> tuple[str, str] | None:
    """Return the column whose newest time lies the furthest ahead of now, and how far.

    None if all are in the past, but for the difference of two clocks, as times of the right zone
    are. A query that takes too long tells nothing.
    """
    found: list[tuple[float, str]] = []
    for each in columns:
        if each.kind == LOCAL and (seconds := _newest(connection, each)) is not None:
            offset = datetime.now(UTC).astimezone(each.zone).utcoffset()
            found.append((seconds - (offset.total_seconds() if offset else 0), each.column))
    ahead, column = max(found, default=(0.0, ""))
    if ahead * 1000 <= MAX_CLOCK_DIFFERENCE_MS:
        return None
    hours, minutes = divmod(round(ahead / 60), 60)
    return column, f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _newest(connection: Connection, each: LocalColumn) -> float | None:
    """Return how many seconds the newest time is ahead of now in UTC, None if there is none."""
    query = sql.SQL(_NEWEST).format(column=name(each.column), table=table_name(each.table))
    try:
        with connection.transaction():
            connection.execute(sql.SQL("set local statement_timeout = {}").format(_MAX_WAIT))
            row = connection.execute(query, ()).fetchone()
    except psycopg.errors.QueryCanceled:
        return None
    return None if row is None or row[0] is None else float(row[0])


def zone_of_sessions(connection: Connection) -> ZoneInfo | None:
    """Return the zone that the database gives to its sessions, None if that is UTC or no name."""
    row = connection.execute("select current_setting('TimeZone')").fetchone()
    try:
        zone = zone_of(str(row[0]), "TimeZone") if row and "/" in row[0] else None
    except WrongKey:
        return None
    return None if zone is None or is_utc(zone) else zone


def named_zone(text: str) -> ZoneInfo:
    """Return the zone of this name. Raises SettingsError if there is none."""
    try:
        return zone_of(text, "--time-zone")
    except WrongKey as wrong:
        raise SettingsError(f"{wrong.key}: {wrong.what}") from None


# Later times, such as those of appointments, tell nothing of the zone.
_NEWEST = """
select extract(epoch from max({column}) - now() at time zone 'UTC') from {table}
where {column} between '1970-01-01' and now() at time zone 'UTC' + interval '15 hours'
"""
