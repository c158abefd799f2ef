"""The log of changes in a CRM's Postgres: the table that a description names, or `lead_history`.

Each query is read in portions, by a cursor of the server.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from psycopg import sql

from leadstream.errors import UserError
from producer.change_states import Found
from producer.crm import Connection
from producer.field_log import (
    Entry,
    Unplaced,
    as_text,
    described_columns,
    log_name,
    moment_of,
    read_row,
)
from producer.log_import import past_change
from producer.past_states import StateField, TodaysLead, Value
from schemas.crm_description import CrmDescription, DescribedField, DescribedLog, Lookup
from schemas.crm_rows import to_milliseconds
from schemas.crm_tables import (
    FoundTable,
    described_row,
    find_tables,
    id_text,
    json_row,
    name,
    state_tables,
    table_name,
)

_PORTION = 5_000
_REMEMBERED = 16_384
_MAX_NAMES = 1_000_000


def log_of(description: CrmDescription) -> DescribedLog:
    """Return the log in a database that is described. Raises UserError without one."""
    if description.log is None or description.log.table is None:
        raise UserError(
            f"{description.path}: history.table is missing: name the table that logs changes"
        )
    return description.log


def described_leads(
    conn: Connection, description: CrmDescription
) -> Iterator[TodaysLead | Unplaced]:
    """Yield the leads of today. Raises UserError if the tables do not fit."""
    database = description.database
    if database is None:
        raise UserError(f"{description.path}: database is missing: name the table of leads")
    tables = find_tables(conn, state_tables(description))
    leads = _table(tables, database.table, [database.id], description)
    row, names, _ = described_row(description, leads, tables, description.presence_columns())
    query = sql.SQL("select {}, {}, {} from {} p").format(
        id_text("p", database.id, leads.columns[database.id]), row, names, table_name(leads.name)
    )
    for lead_id, found, found_names in _rows(conn, query):
        if lead_id is not None and description.is_lead(found):
            yield _lead(lead_id, found, found_names, description)


def _lead(
    lead_id: str, row: Mapping[str, Any], names: Mapping[str, Any], description: CrmDescription
) -> TodaysLead | Unplaced:
    created_at = description.lead_state(row, names)["created_at"]
    if created_at is None:
        return Unplaced.REFUSED_LEAD
    texts = {log_name(column): as_text(value) for column, value in row.items()}
    return TodaysLead(lead_id, created_at, texts)


def first_outcomes(conn: Connection, description: CrmDescription) -> dict[str, int]:
    """Return the time of the first outcome of each lead, ms UTC; none without `outcome.decided_at`.

    Raises UserError if the table does not fit.
    """
    outcome = description.outcome
    if outcome is None or outcome.decided_at is None:
        return {}
    tables = find_tables(conn, [outcome.table])
    table = _table(tables, outcome.table, outcome.columns(), description)
    query = sql.SQL("select {}, {} from {} o").format(
        id_text("o", outcome.lead, table.columns[outcome.lead]),
        json_row({column: name(column) for column in outcome.columns()}),
        table_name(table.name),
    )
    found: dict[str, int] = {}
    for lead_id, row in _rows(conn, query):
        at: Any = outcome.decided_at.read(row, {})
        counts = outcome.where is None or outcome.where.holds(row)
        if lead_id is not None and at is not None and counts:
            found[lead_id] = min(at, found.get(lead_id, at))
    return found


def described_changes(conn: Connection, description: CrmDescription) -> Iterator[Entry]:
    """Yield the changes of the log's table. Raises UserError if it does not fit."""
    log = log_of(description)
    columns, times = described_columns(log), log.at.times
    for row in _log_rows(conn, description, log):
        yield from read_row(row, columns, times)


def described_states(conn: Connection, description: CrmDescription) -> Iterator[Found]:
    """Yield the state in each row of the log's table, of leads that exist today."""
    log = log_of(description)
    today = {
        lead.lead_id for lead in described_leads(conn, description) if isinstance(lead, TodaysLead)
    }
    names = {
        field: (column, _names(conn, lookup))
        for field, (column, lookup) in description.lookups().items()
    }
    for row in _log_rows(conn, description, log):
        found = row[log_name(log.row or "")]
        lead_id = as_text(row[log_name(log.lead)])
        at = moment_of(row[log_name(log.at.column or "")], log.at.times)
        yield _state(lead_id, at, found, names, description, today=today)


def _state(
    lead_id: str | None,
    at: int | None,
    row: Any,
    names: Mapping[str, tuple[str, Mapping[str, str]]],
    description: CrmDescription,
    *,
    today: set[str],
) -> Found:
    """Return the change in a row of the log, or why there is none."""
    if lead_id is None:
        return Unplaced.WITHOUT_LEAD
    if lead_id not in today:
        return Unplaced.UNKNOWN_LEAD
    if at is None:
        return Unplaced.WITHOUT_TIME
    if not isinstance(row, dict) or not description.is_lead(row):
        return Unplaced.WITHOUT_STATE
    looked_up = {
        field: known.get(as_text(row.get(column)) or "") for field, (column, known) in names.items()
    }
    state = description.lead_state(row, looked_up)
    if state["created_at"] is None:
        return Unplaced.WITHOUT_STATE
    return past_change(lead_id, at, state) | {"lead_version": description.lead_version(row)}


def described_fields(conn: Connection, description: CrmDescription) -> list[StateField]:
    """Return the fields of a lead's state; those with a lookup read the key or the name itself."""
    found = []
    for each in description.fields:
        if each.name == "created_at":
            continue
        if each.column is None:
            found.append(StateField(each.name, None, lambda _: None, each.read({}, {})))
            continue
        names = _names(conn, each.lookup) if each.lookup else None
        found.append(StateField(each.name, log_name(each.column), _reading(each, names)))
    return found


def _reading(
    field: DescribedField, names: Mapping[str, str] | None
) -> Callable[[str], Value | None]:
    labels = set(names.values()) if names is not None else set()

    @lru_cache(_REMEMBERED)
    def value(text: str) -> Value | None:
        if names is not None:
            text = text if text in labels else names.get(text, "")
        found = field.read({field.column or "": text}, {field.name: text})
        if found is None and text.strip() not in field.missing:
            raise ValueError("is no value of its field")
        return found

    return value


def _names(conn: Connection, lookup: Lookup) -> dict[str, str]:
    """Return the names of a lookup by key; of several, the smallest."""
    query = sql.SQL("select {}::text, min({}::text) from {} group by 1 limit {}").format(
        name(lookup.key), name(lookup.value), table_name(lookup.table), _MAX_NAMES
    )
    return {key: found for key, found in conn.execute(query, ()) if key and found}


def _log_rows(
    conn: Connection, description: CrmDescription, log: DescribedLog
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the log's table, by `log_name` of the columns."""
    if log.table is None:
        raise UserError(f"{description.path}: history.table is missing")
    tables = find_tables(conn, [log.table])
    table = _table(tables, log.table, log.columns(), description)
    columns = {
        each: sql.SQL("p.{}").format(name(each)) for each in log.columns() if each != log.lead
    }
    query = sql.SQL("select {}, {} from {} p").format(
        id_text("p", log.lead, table.columns[log.lead]), json_row(columns), table_name(table.name)
    )
    for lead_id, row in _rows(conn, query):
        yield {log_name(column): value for column, value in row.items()} | {
            log_name(log.lead): lead_id
        }


def _table(
    tables: Mapping[Any, FoundTable], wanted: Any, columns: Any, description: CrmDescription
) -> FoundTable:
    table = tables.get(wanted)
    if table is None:
        raise UserError(f"{description.path}: there is no table {wanted} in this database")
    if absent := [column for column in columns if column not in table.columns]:
        raise UserError(f"{description.path}: the table {wanted} has no column {', '.join(absent)}")
    return table


def _rows(conn: Connection, query: sql.Composed) -> Iterator[tuple[Any, ...]]:
    with conn.transaction(), conn.cursor("history_import") as cursor:
        cursor.itersize = _PORTION
        cursor.execute(query, ())
        yield from cursor


def lead_history(conn: Connection) -> Iterator[Found]:
    """Yield the changes and outcomes of the CRM that `leadstream simulate` keeps.

    Raises UserError if this database has another CRM.
    """
    if not conn.execute(_HAS_HISTORY).fetchone():
        raise UserError(
            "DATABASE_URL: there is no table lead_history with states: name the log of this CRM in "
            "[history] of LEADSTREAM_FIELDS"
        )
    for event_id, lead_id, kind, at, version, state in _rows(conn, sql.SQL(_HISTORY).format()):
        yield {
            "event_id": event_id,
            "lead_id": lead_id,
            "change_type": kind,
            "occurred_at": to_milliseconds(at),
            "lead_version": version,
            "origin": "crm",
            "lead": state,
        }
    for lead_id, at in _rows(conn, sql.SQL(_APPLICATIONS).format()):
        yield {"lead_id": lead_id, "converted": True, "decided_at": to_milliseconds(at)}


_HAS_HISTORY = """
select 1 from pg_attribute where attrelid = to_regclass('lead_history') and attname = 'state'
"""
_HISTORY = """
select event_id, lead_id, change_type, occurred_at, lead_version, state
from lead_history order by seq
"""
_APPLICATIONS = "select person_id, min(submitted_at) from applications group by 1 order by 2, 1"
