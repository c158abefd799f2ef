"""The check of a description against its database: what does not fit, and what a sample shows."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from leadstream.lead_fields import FieldKind
from leadstream.postgres import Connection
from producer.crm_fit import (
    WITH_TRIGGERS,
    Tables,
    described_tables,
    named_columns,
    outcome_is_no_table,
    unfit,
)
from producer.crm_leaks import sample_outcomes
from producer.crm_zone import ahead_of_now, is_utc, local_columns
from schemas.crm_description import CrmDescription, TableName
from schemas.crm_tables import described_row, find_tables, id_text, table_name

SAMPLE_ROWS = 1_000
# The share of values up to which a person typed something wrong.
_FEW = 0.05
# What Postgres writes for numbers that are none.
NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
# What may be wrong with a value that is there and does not fit its field.
_HINTS = {
    "numbers": "a boolean is a category, and a text must be digits",
    "created_at": "say its `format`, or name a column of a time",
}


@dataclass(frozen=True, slots=True)
class FitReport:
    """The result of a check: what does not fit (`problems`), and what is odd (`notes`).

    `missing` has the share of rows without a value by name of the field, of `rows` leads.
    """

    problems: list[str]
    notes: list[str]
    rows: int
    missing: Mapping[str, float]


def check_fit(connection: Connection, description: CrmDescription) -> FitReport:
    """Compare a description with its database, and read a sample of its leads."""
    tables = find_tables(connection, described_tables(description))
    problems = unfit(description, tables)
    if description.database is None or description.database.table not in tables or problems:
        return FitReport(problems, [], 0, {})
    if problems := list(_forbidden(connection, description, tables)):
        return FitReport(problems, [], 0, {})
    leads = tables[description.database.table]
    notes = list(_notes(connection, description, tables))
    columns = [*filter(None, [description.version]), *description.presence_columns()]
    row, names, _ = described_row(description, leads, tables, columns)
    query = sql.SQL("SELECT {}, {}, {} FROM {} p LIMIT %s").format(
        id_text("p", description.id, leads.columns[description.id]),
        row,
        names,
        table_name(leads.name),
    )
    rows = connection.execute(query, (SAMPLE_ROWS,)).fetchall()
    found = [(lead_id, row, names) for lead_id, row, names in rows if description.is_lead(row)]
    if not rows:
        notes.append(f"{leads.name} has no rows")
    elif not found:
        problems.append(f"none of {len(rows):,} rows of {leads.name} is a lead that is not deleted")
    problems += _wrong_ids([lead_id for lead_id, _, _ in found])
    for wrong, sentence in _unread(description, found):
        (problems if wrong else notes).append(sentence)
    missing = {
        field.name: sum(field.read(row, names) is None for _, row, names in found) / len(found)
        for field in description.fields
        if found
    }
    return FitReport(problems, notes, len(found), missing)


def _forbidden(
    connection: Connection, description: CrmDescription, tables: Tables
) -> Iterator[str]:
    """Yield a sentence for each column that this role may not read."""
    for key, table, column in named_columns(description):
        found = tables[table].name
        row = connection.execute(_MAY_READ, (found.quoted(), column)).fetchone()
        if row and not row[0]:
            yield f"{key}: this role may not read {column!r} of {found}: grant it SELECT on that"


def _wrong_ids(lead_ids: Sequence[str | None]) -> Iterator[str]:
    """Yield what is wrong with the ids of a sample."""
    ids = Counter(lead_ids)
    if absent := ids.pop(None, 0):
        yield f"database.id: {absent:,} of {len(lead_ids):,} leads have none"
    if repeated := sum(1 for count in ids.values() if count > 1):
        yield f"database.id: {repeated:,} ids are in several rows: name a column that is unique"


def _unread(
    description: CrmDescription, found: list[tuple[str | None, dict[str, Any], dict[str, Any]]]
) -> Iterator[tuple[bool, str]]:
    """Yield whether many values of a field cannot be read, and a sentence about them."""
    for field in description.fields:
        if field.column is None:
            continue
        values = [
            (names.get(field.name) if field.lookup else row.get(field.column), row, names)
            for _, row, names in found
        ]
        no_values = {*field.missing, *(() if field.kind is FieldKind.STRING else NO_NUMBERS)}
        given = [(row, names) for value, row, names in values if _is_given(value, no_values)]
        unread = sum(field.read(row, names) is None for row, names in given)
        if unread:
            hint = _HINTS.get(field.name.partition(".")[0], "the value does not fit the field")
            yield (
                unread > _FEW * len(given),
                f"lead.{field.name}: {unread:,} of {len(given):,} values of {field.column!r} "
                f"cannot be read: {hint}",
            )


def _is_given(value: Any, missing: Collection[str]) -> bool:
    return value is not None and str(value).strip() not in {"", *missing}


def _notes(connection: Connection, description: CrmDescription, tables: Tables) -> Iterator[str]:
    """Yield what works, but is odd or slow."""
    database, outcome = description.database, description.outcome
    if database is None:
        return
    leads = tables[database.table]
    if leads.kind not in WITH_TRIGGERS:
        yield (
            f"{database.table} is no table: triggers cannot see its changes, so run `leadstream db "
            "migrate --without-triggers`, and `leadstream rescore --all` on a schedule"
        )
    else:
        yield from _of_indexes(connection, leads.name, database.id)
    if outcome and tables[outcome.table].kind not in WITH_TRIGGERS and outcome.table != leads.name:
        yield outcome_is_no_table(outcome)
    if outcome is None:
        yield "there is no [outcome]: `follow` and `train` learn nothing of who converted"
    columns = local_columns(description, tables)
    if ahead := ahead_of_now(connection, columns):
        yield (
            f"database.time_zone: the newest {ahead[0]!r} would be {ahead[1]} ahead of now: say "
            "the zone that it is of"
        )
    elif utc := [each.column for each in columns if is_utc(each.zone)]:
        names = ", ".join(dict.fromkeys(utc))
        yield f"database.time_zone: times of {names} have no zone, and are read as UTC"
    sample = sample_outcomes(connection, description, tables)
    if sample.leads and not sample.converted:
        yield (
            f"outcome: none of the {sample.leads:,} leads that were read has one: does "
            "outcome.lead hold the ids of the leads, and do the values of outcome.where occur?"
        )
    for field, why in sample.late.items():
        yield f"lead.{field} seems to come with the outcome, so remove it: {why}"


def _of_indexes(connection: Connection, table: TableName, column: str) -> Iterator[str]:
    found = connection.execute(_INDEXES, (table.quoted(), column)).fetchall()
    if not found:
        yield f"database.id: no index begins with {column!r}, so each query reads all rows"
    if not any(unique for (unique,) in found):
        yield (
            f"database.id: no unique index is on {column!r} alone: rows with one id would be one "
            "lead"
        )


_MAY_READ = "select has_column_privilege(%s, %s, 'SELECT')"
_INDEXES = """
select i.indisunique and i.indnkeyatts = 1
from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
where i.indrelid = to_regclass(%s) and a.attname = %s
"""
