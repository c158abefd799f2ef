"""The query for the states of leads in a described CRM.

Postgres returns each row as JSON, and the description makes its state, as it does of rows of the
outbox. So both roads give the same state.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from consumer.run.lead_query import INTEGER_BITS, LeadQuery
from consumer.scoring.leads import Lead
from leadstream.errors import Transient
from schemas.crm_description import CrmDescription, DescribedDatabase, TableName
from schemas.crm_tables import FoundTable, described_row, id_text, name, table_name

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
    row, names, lacking = described_row(description, leads, tables, needed[1:])
    id_type = leads.columns[database.id]
    statement = sql.SQL(
        "SELECT {text}, {row}, {names} FROM {table} p WHERE p.{id}::{type} = ANY(%s::{type}[])"
    ).format(
        text=id_text("p", database.id, id_type),
        id=name(database.id),
        row=row,
        names=names,
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

    return LeadQuery(statement, id_type, read, lacking, exact=id_type not in _EXACT)
