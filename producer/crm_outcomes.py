"""The table of a CRM that says who converted: found by its name, its columns, and its values."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from leadstream.postgres import Connection
from producer.crm_candidates import (
    CHANGED,
    OUTCOMES,
    TEXTS_OF_TIMES,
    TIMES,
    CandidateTable,
    id_column,
    stem_of,
    words_of,
)
from producer.crm_times import TimeColumn, first_times
from schemas.crm_description import TableName
from schemas.crm_tables import name, table_name

SAMPLE_ROWS = 1_000
# What comes late, such as an outcome, may be in none of the first rows.
VALUE_ROWS, MAX_VALUES = 100_000, 50
_EVENTS = re.compile(r"event|activit|histor|transition|milestone|log")
_DECIDED = ("submitted_at", "submitted_on", "decided_at", "closed_at", "closed_on", "completed_at")
_CONDITIONS = ("status", "state", "stage", "outcome", "result", "event_type", "type", "event")
_WHEN = re.compile(r"(^|_)(at|on|date|time|when)$|_(at|on|date|time)_|submi|decid|clos|enrol")
_CONVERTED = re.compile(
    r"submi|\bwon\b|enrol|admit|accept|conver|applied|\bpaid\b|signed|complet|customer|success"
)
_NOT_CONVERTED = re.compile(r"draft|\bnot\b|\bun|incomp|cancel|withdr|reject|lost|fail|pending|req")


@dataclass(frozen=True, slots=True)
class FoundOutcome:
    """A table of outcomes: the columns of the lead and of the time, and what else a row needs.

    `values` are those of `condition` that sound like a conversion, if others do not.
    """

    table: TableName
    lead: str
    decided_at: TimeColumn
    condition: str | None
    values: tuple[str, ...]


def find_outcome(
    connection: Connection, tables: Iterable[CandidateTable], leads: CandidateTable
) -> FoundOutcome | None:
    """Return the table that looks most like outcomes of these leads, None if none does."""
    others = [each for each in tables if each.name != leads.name]
    others.sort(key=lambda one: (not _is_named(one), str(one.name)))
    for each in others:
        try:
            found = _outcome_in(connection, each, leads)
        except psycopg.errors.InsufficientPrivilege:
            continue
        if found is not None:
            return found
    return None


def sounds_converted(value: str) -> bool:
    """Return whether a value sounds like a conversion, such as APPLICATION_SUBMITTED."""
    words = words_of(value).replace("_", " ")
    return bool(_CONVERTED.search(words)) and not _NOT_CONVERTED.search(words)


def distinct_texts(connection: Connection, table: CandidateTable, column: str) -> list[str]:
    """Return the different values of a column in a sample, sorted."""
    query = sql.SQL(
        "select distinct v from (select {}::text as v from {} limit %s) s "
        "where v is not null order by v limit %s"
    ).format(name(column), table_name(table.name))
    return [value for (value,) in connection.execute(query, (VALUE_ROWS, MAX_VALUES))]


def _is_named(table: CandidateTable) -> bool:
    return bool(OUTCOMES.search(table.name.table.lower()))


def _outcome_in(
    connection: Connection, table: CandidateTable, leads: CandidateTable
) -> FoundOutcome | None:
    named, events = _is_named(table), bool(_EVENTS.search(table.name.table.lower()))
    if not (named or events):
        return None
    decided = first_times(connection, table, _decided(table))
    if decided is None:
        return None
    lead = _lead_column(connection, table, leads)
    if lead is None:
        return None
    words = table.by_word()
    condition = next((words[each] for each in _CONDITIONS if each in words), None)
    values = distinct_texts(connection, table, condition) if condition else []
    converted = tuple(value for value in values if sounds_converted(value))
    if not named and not converted:
        return None  # Only some events are outcomes, and these do not say which.
    return FoundOutcome(
        table.name, lead, decided, condition, converted if len(converted) < len(values) else ()
    )


def _decided(table: CandidateTable) -> list[str]:
    """Return the columns that may hold the time: the best names, or those not of a change."""
    words, columns = table.by_word(), table.columns
    named = [words[each] for each in _DECIDED if each in words]
    times = [column for column, kind in columns.items() if kind in TIMES]
    texts = [
        c for c, kind in columns.items() if kind in TEXTS_OF_TIMES and _WHEN.search(words_of(c))
    ]
    usable = {*times, *texts}
    others = [column for column in (*times, *texts) if not CHANGED.search(column.lower())]
    return list(dict.fromkeys([*(c for c in named if c in usable), *others]))


def _lead_column(
    connection: Connection, table: CandidateTable, leads: CandidateTable
) -> str | None:
    """Return the column that holds the lead's id: by its key, by its name, or by its values."""
    stem, key = stem_of(leads), id_column(leads)
    names = {f"{stem}_id", "lead_id", "person_id"}
    return next(
        iter(
            [c for c, (target, _) in table.references.items() if target == leads.name]
            + [c for c in table.columns if words_of(c) in names and c != table.key]
            + [c for c in table.columns if c == key and c not in ("id", table.key)]
        ),
        None,
    ) or next(_columns_with_ids(connection, table, leads), None)


def _columns_with_ids(
    connection: Connection, table: CandidateTable, leads: CandidateTable
) -> Iterator[str]:
    """Yield the columns of which most values are ids of leads."""
    key = id_column(leads)
    if key is None:
        return
    for column, kind in table.columns.items():
        if kind != leads.columns[key] or column == table.key:
            continue
        query = sql.SQL(_SHARED).format(
            column=name(column),
            table=table_name(table.name),
            leads=table_name(leads.name),
            key=name(key),
        )
        row = connection.execute(query, (SAMPLE_ROWS,)).fetchone()
        if row and row[0] and 2 * row[1] >= row[0]:
            yield column


_SHARED = """
with found as (
    select distinct v from (
        select {column} as v from {table} where {column} is not null limit %s
    ) s
)
select count(*), count(*) filter (where exists (select from {leads} p where p.{key} = found.v))
from found
"""
