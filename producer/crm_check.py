"""The check of a description against its database: what does not fit, and what a sample shows."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from leadstream.postgres import Connection
from producer.crm_fit import (
    WITH_TRIGGERS,
    Tables,
    described_tables,
    outcome_is_no_table,
    unfit,
)
from producer.crm_leaks import late_fields
from producer.crm_zone import ahead_of_now, is_utc, local_columns
from schemas.crm_description import CrmDescription, TableName
from schemas.crm_tables import described_row, find_tables, id_text, table_name

SAMPLE_ROWS = 1_000
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
    problems += _of_sample(description, found)
    missing = {
        field.name: sum(field.read(row, names) is None for _, row, names in found) / len(found)
        for field in description.fields
        if found
    }
    return FitReport(problems, notes, len(found), missing)


def _of_sample(
    description: CrmDescription, found: list[tuple[str | None, dict[str, Any], dict[str, Any]]]
) -> Iterator[str]:
    """Yield what is wrong with the rows of a sample."""
    ids = Counter(lead_id for lead_id, _, _ in found)
    if absent := ids.pop(None, 0):
        yield f"database.id: {absent:,} of {len(found):,} leads have none"
    if repeated := sum(1 for count in ids.values() if count > 1):
        yield f"database.id: {repeated:,} ids are in several rows: name a column that is unique"
    for field in description.fields:
        if field.column is None:
            continue
        values = [
            (names.get(field.name) if field.lookup else row.get(field.column), row, names)
            for _, row, names in found
        ]
        given = [(row, names) for value, row, names in values if _is_given(value, field.missing)]
        unread = sum(field.read(row, names) is None for row, names in given)
        if unread:
            hint = _HINTS.get(field.name.partition(".")[0], "the value does not fit the field")
            yield (
                f"lead.{field.name}: {unread:,} of {len(given):,} values of {field.column!r} "
                f"cannot be read: {hint}"
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
    elif not _has_index(connection, leads.name, database.id):
        yield f"database.id: no index begins with {database.id!r}, so each query reads all rows"
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
    for field, why in late_fields(connection, description, tables).items():
        yield f"lead.{field} seems to come with the outcome, so remove it: {why}"


def _has_index(connection: Connection, table: TableName, column: str) -> bool:
    found = connection.execute(_INDEX, (table.quoted(), column)).fetchone()
    return bool(found and found[0])


_INDEX = """
select exists (
    select from pg_index i join pg_attribute a on a.attrelid = i.indrelid
    where i.indrelid = to_regclass(%s) and a.attname = %s and a.attnum = i.indkey[0]
)
"""
