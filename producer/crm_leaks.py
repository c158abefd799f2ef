"""A sample of a described CRM's leads with their outcomes: how many, and what comes with them."""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from leadstream.lead_fields import FieldKind
from leadstream.postgres import Connection
from producer.crm_fit import Tables
from producer.outcome_leaks import tells
from schemas.crm_description import CrmDescription, DescribedOutcome
from schemas.crm_tables import FoundTable, described_row, id_text, json_row, name, table_name

MAX_LEADS = 20_000


@dataclass(frozen=True, slots=True)
class OutcomeSample:
    """The leads of a sample, how many of them converted, and how fields tell which did.

    `late` has a sentence for each field that seems to be written with the outcome, by its name.
    """

    leads: int
    converted: int
    late: Mapping[str, str]


def sample_outcomes(
    connection: Connection, description: CrmDescription, tables: Tables
) -> OutcomeSample:
    """Return a sample of leads with their outcomes; it is empty without `[outcome]`.

    The tables must fit the description.
    """
    database, outcome = description.database, description.outcome
    if database is None or outcome is None:
        return OutcomeSample(0, 0, {})
    leads = tables[database.table]
    row, names, _ = described_row(description, leads, tables, description.presence_columns())
    query = sql.SQL("SELECT {}, {}, {} FROM {} p LIMIT %s").format(
        id_text("p", description.id, leads.columns[description.id]),
        row,
        names,
        table_name(leads.name),
    )
    found = [
        (lead_id, row, names)
        for lead_id, row, names in connection.execute(query, (MAX_LEADS,))
        if lead_id is not None and description.is_lead(row)
    ]
    converted = _converted(
        connection, outcome, tables[outcome.table], [lead_id for lead_id, _, _ in found]
    )
    labels = [lead_id in converted for lead_id, _, _ in found]
    late = {}
    for field in description.fields:
        if field.kind is not FieldKind.TIME:
            values = [field.read(row, names) for _, row, names in found]
            cells = ["" if value is None else str(value) for value in values]
            if why := tells(cells, labels):
                late[field.name] = why
    return OutcomeSample(len(labels), sum(labels), late)


def _converted(
    connection: Connection, outcome: DescribedOutcome, table: FoundTable, lead_ids: list[str]
) -> set[str]:
    """Return those of the leads that have an outcome."""
    lead = id_text("o", outcome.lead, table.columns[outcome.lead])
    query = sql.SQL("SELECT {lead}, {row} FROM {table} o WHERE {lead} = ANY(%s)").format(
        lead=lead,
        row=json_row(
            {column: sql.SQL("o.{}").format(name(column)) for column in outcome.columns()}
        ),
        table=table_name(table.name),
    )
    return {
        lead_id
        for lead_id, row in connection.execute(query, (lead_ids,))
        if (outcome.where is None or outcome.where.holds(row))
        and (outcome.decided_at is None or outcome.decided_at.read(row, {}) is not None)
    }
