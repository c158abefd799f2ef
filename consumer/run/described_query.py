"""The query for the states of leads in a described CRM.

Postgres returns each row as JSON, and the description makes its state, as it does of rows of the
outbox. So both roads give the same state.
"""

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from psycopg import sql

from consumer.run.lead_query import INTEGER_BITS, LeadQuery
from consumer.scoring.leads import Lead
from leadstream.errors import Transient
from schemas.crm_description import CrmDescription, DescribedDatabase, Lookup, TableName
from schemas.crm_tables import FoundTable, id_text, json_row, name, table_name, usable_lookups

# Types whose equal values have one text.
_EXACT = {*INTEGER_BITS, "uuid", "text", "character varying"}


def described_query(
    description: CrmDescription,
    database: DescribedDatabase,
    tables: Mapping[TableName, FoundTable],
) -> LeadQuery:
    """Return the query for a described CRM, given its tables as they are.

    Raises Transient if the table of leads, or a column that no lead can do without, is missing.
    """
    leads = tables.get(database.table)
    if leads is None:
        raise Transient("postgres", f"there is no table {database.table} ({description.path})")
    needed = [database.id, *filter(None, [database.version]), *description.presence_columns()]
    needed += [
        each.column for each in description.fields if each.name == "created_at" and each.column
    ]
    if absent := [column for column in needed if column not in leads.columns]:
        raise Transient(
            "postgres",
            f"the table {leads.name} has no column {', '.join(absent)} ({description.path})",
        )
    lookups = usable_lookups(description, tables)
    columns = [*needed[1:], *description.state_columns()]
    row = {column: _column(column) for column in columns if column in leads.columns}
    names = {
        field: _name(column, lookup, leads, tables[lookup.table])
        for field, (column, lookup) in lookups.items()
        if column in leads.columns
    }
    id_type = leads.columns[database.id]
    statement = sql.SQL(
        "SELECT {text}, {row}, {names} FROM {table} p WHERE p.{id}::{type} = ANY(%s::{type}[])"
    ).format(
        text=id_text("p", database.id, id_type),
        id=name(database.id),
        row=json_row(row),
        names=json_row(names),
        table=table_name(leads.name),
        # As the catalog writes it, with its quotes. character would be one character.
        type=sql.SQL("bpchar" if id_type == "character" else id_type),
    )

    def read(values: Sequence[Any]) -> Lead | None:
        found, found_names = values
        if not description.is_lead(found):
            return None
        state = description.lead_state(found, found_names)
        return Lead(state, description.lead_version(found))

    lacking = tuple(
        each.name
        for each in description.fields
        if each.column
        and (each.column not in row or (each.lookup is not None and each.name not in names))
    )
    return LeadQuery(statement, id_type, read, lacking, exact=id_type not in _EXACT)


def _column(column: str) -> sql.Composable:
    return sql.SQL("p.{}").format(name(column))


def _name(column: str, lookup: Lookup, leads: FoundTable, names: FoundTable) -> sql.Composable:
    """Return the name for a key. Of several, the smallest: the outbox takes the same."""
    cast_: LiteralString = "" if leads.columns[column] == names.columns[lookup.key] else "::text"
    return sql.SQL(
        "(SELECT min(n.{value}::text) FROM {table} n WHERE n.{key}{cast} = p.{column}{cast})"
    ).format(
        value=name(lookup.value),
        table=table_name(names.name),
        key=name(lookup.key),
        column=name(column),
        cast=sql.SQL(cast_),
    )
