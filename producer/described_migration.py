"""The triggers of a described CRM in its database: those needed, those present, their change."""

from typing import Any

import psycopg
from psycopg import sql

from leadstream.errors import UserError
from producer.crm_fit import (
    WITH_TRIGGERS,
    Tables,
    described_tables,
    outcome_is_no_table,
    unfit,
)
from producer.described_triggers import (
    LEAD_TRIGGER,
    OUTCOME_TRIGGER,
    OutboxTrigger,
    lead_trigger,
    outcome_trigger,
)
from schemas.crm_description import CrmDescription
from schemas.crm_tables import find_tables

Connection = psycopg.Connection[Any]


def needed_triggers(
    connection: Connection, description: CrmDescription, *, triggers: bool
) -> tuple[list[OutboxTrigger], list[str]]:
    """Return the triggers of a described CRM, and notes about what will not work.

    Raises UserError if the database does not fit the description.
    """
    tables = find_tables(connection, described_tables(description))
    if problems := unfit(description, tables):
        raise UserError(f"{description.path} does not fit this database: {'; '.join(problems)}")
    if not triggers:
        return [], ["no triggers were made: ask for new scores with `leadstream rescore --all`"]
    found = possible_triggers(description, tables)
    names = [each.name for each in found]
    if LEAD_TRIGGER not in names and description.database:
        raise UserError(
            f"{description.database.table} is no table, and a trigger cannot see its changes: "
            "describe the table below it, or run `leadstream db migrate --without-triggers`, and "
            "then `leadstream rescore --all` on a schedule"
        )
    if OUTCOME_TRIGGER in names:
        return found, []
    outcome = description.outcome
    if outcome:
        return found, [outcome_is_no_table(outcome)]
    return found, [f"{description.path} has no [outcome]: no outcomes will be sent"]


def possible_triggers(description: CrmDescription, tables: Tables) -> list[OutboxTrigger]:
    """Return the triggers on those tables of leads and outcomes that are there and no views."""
    found: list[OutboxTrigger] = []
    database, outcome = description.database, description.outcome
    usable = {name: table for name, table in tables.items() if table.kind in WITH_TRIGGERS}
    if database and (leads := usable.get(database.table)):
        found.append(lead_trigger(description, database, leads))
    if outcome and (table := usable.get(outcome.table)):
        found.append(outcome_trigger(outcome, table))
    return found


def triggers_are_present(connection: Connection, wanted: list[OutboxTrigger]) -> bool:
    """Return whether these triggers are there, and no other ones that fill the outbox."""
    present = [(table, name) for table, name in connection.execute(_TRIGGERS, (FUNCTIONS,))]
    expected = [(each.table.name.quoted(), each.name) for each in wanted]
    return sorted(present) == sorted(expected)


def replace_triggers(connection: Connection, wanted: list[OutboxTrigger]) -> str:
    """Drop the triggers that fill the outbox, make the wanted ones, and return their name."""
    for table, name in connection.execute(_TRIGGERS, (FUNCTIONS,)).fetchall():
        statement = f"drop trigger {sql.Identifier(name).as_string()} on {table}"
        connection.execute(statement.encode())
    for each in wanted:
        for statement in each.statements:
            connection.execute(statement.encode())
    return "triggers of " + " and ".join(str(each.table.name) for each in wanted)


def outbox_schema(connection: Connection) -> str:
    """Return the schema of the outbox, or the one that new tables go to."""
    row = connection.execute(_OUTBOX_SCHEMA).fetchone()
    if row is None or row[0] is None:
        raise UserError(
            "DATABASE_URL: its search path has no schema for the outbox: add "
            "?options=-csearch_path%3DSCHEMA"
        )
    return str(row[0])


FUNCTIONS = [
    LEAD_TRIGGER,
    OUTCOME_TRIGGER,
    "leadstream_person_changed",
    "leadstream_application_submitted",
]
_OUTBOX_SCHEMA = """
select coalesce(
    (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.oid = to_regclass('leadstream_outbox')),
    current_schema()
)::text
"""
# Partitions have copies of their table's triggers.
_TRIGGERS = """
select '"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"',
       t.tgname::text
from pg_trigger t
join pg_class c on c.oid = t.tgrelid
join pg_namespace n on n.oid = c.relnamespace
join pg_proc f on f.oid = t.tgfoid
where f.pronamespace = current_schema()::regnamespace and f.proname = any(%s)
  and t.tgparentid = 0
"""
