"""The triggers that fill the outbox of a described CRM: their functions, generated as SQL.

No value of the description becomes a part of a statement: columns are members of the row as JSON,
named by quoted texts. So a column that is dropped later fails no write of the CRM. Each function
writes with its owner's rights, and refuses every table but its own.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from schemas.crm_description import (
    DESCRIBED,
    SPACES,
    UNMARKED,
    Condition,
    CrmDescription,
    DescribedDatabase,
    DescribedOutcome,
)
from schemas.crm_tables import FoundTable

LEAD_TRIGGER = "leadstream_lead_changed"
OUTCOME_TRIGGER = "leadstream_outcome_reached"


@dataclass(frozen=True, slots=True)
class OutboxTrigger:
    """A trigger on a table, and the statements that make its function and itself."""

    name: str
    table: FoundTable
    statements: tuple[str, ...]


def triggers_hash(triggers: list[OutboxTrigger]) -> str:
    """Return the SHA-256 of the statements in hexadecimal."""
    text = "\n".join(statement for each in triggers for statement in each.statements)
    return hashlib.sha256(text.encode()).hexdigest()


def lead_trigger(
    description: CrmDescription, database: DescribedDatabase, table: FoundTable
) -> OutboxTrigger:
    """Return the trigger on the table of leads."""
    body = sql.SQL(_LEAD_BODY).format(
        guard=_guard(LEAD_TRIGGER, table),
        lead_id=_lead_id(database.id, table),
        present=sql.SQL(" and ").join(_presence(description, database)),
        columns=_texts(description.state_columns()),
        version=_version(database.version),
        origin=_condition(database.origin) if database.origin else sql.SQL("false"),
        described=sql.Literal(DESCRIBED),
    )
    return _trigger(LEAD_TRIGGER, table, "insert or update or delete", body)


def outcome_trigger(outcome: DescribedOutcome, table: FoundTable) -> OutboxTrigger:
    """Return the trigger on the table of outcomes."""
    decided_at = outcome.decided_at.column if outcome.decided_at else None
    conditions: list[sql.Composable] = []
    if decided_at is not None:
        conditions.append(sql.SQL("a_row ->> {} <> ''").format(sql.Literal(decided_at)))
    if outcome.where is not None:
        conditions.append(_condition(outcome.where))
    body = sql.SQL(_OUTCOME_BODY).format(
        guard=_guard(OUTCOME_TRIGGER, table),
        lead_id=_lead_id(outcome.lead, table),
        reached=sql.SQL(" and ").join(conditions),
        columns=_texts([decided_at] if decided_at else []),
        described=sql.Literal(DESCRIBED),
    )
    return _trigger(OUTCOME_TRIGGER, table, "insert or update", body)


def _trigger(
    name: str, table: FoundTable, events: LiteralString, body: sql.Composed
) -> OutboxTrigger:
    parts = {
        "name": sql.Identifier(name),
        "body": sql.Literal(body.as_string()),
        "table": sql.Identifier(table.name.schema or "", table.name.table),
        "events": sql.SQL(events),
    }
    return OutboxTrigger(
        name, table, tuple(sql.SQL(text).format(**parts).as_string() for text in _STATEMENTS)
    )


def _guard(function: str, table: FoundTable) -> sql.Composable:
    return sql.SQL(_GUARD).format(
        function=sql.Literal(function), table=sql.Literal(table.name.quoted())
    )


def _lead_id(column: str, table: FoundTable) -> sql.Composable:
    """Return the id of the variable a_row as text; JSON fills a `character` up with spaces."""
    text = sql.SQL("a_row ->> {}").format(sql.Literal(column))
    filled = table.columns.get(column) == "character"
    return sql.SQL("rtrim({}, ' ')").format(text) if filled else text


def _presence(description: CrmDescription, database: DescribedDatabase) -> Iterator[sql.Composable]:
    """Yield what makes the variable a_row a lead."""
    yield sql.SQL("true")
    yield from map(_condition, description.only)
    if database.deleted:
        yield sql.SQL("not {}").format(_condition(database.deleted))


def _condition(condition: Condition) -> sql.Composable:
    """Return what `Condition.holds` computes, of the variable a_row."""
    how: LiteralString = "coalesce(lower(btrim(a_row ->> {column}, {spaces})) !~ {pattern}, false)"
    if condition.values is not None:
        how = "coalesce(btrim(a_row ->> {column}, {spaces}) = any({values}), false)"
    return sql.SQL(how).format(
        column=sql.Literal(condition.column),
        spaces=sql.Literal(SPACES),
        pattern=sql.Literal(f"^({UNMARKED})$"),
        values=_texts(sorted(condition.values or ())),
    )


def _texts(values: list[str] | tuple[str, ...]) -> sql.Composable:
    return sql.SQL("array[{}]::text[]").format(sql.SQL(", ").join(map(sql.Literal, values)))


def _version(column: str | None) -> sql.Composable:
    if column is None:
        return sql.SQL("'{}'::jsonb")
    return sql.SQL("jsonb_build_object({0}::text, a_row -> {0})").format(sql.Literal(column))


# What a row depends on is in expressions of a_row, the variable that each block sets.
_GUARD: LiteralString = """if to_regclass({table})
        is distinct from coalesce(pg_partition_root(tg_relid), tg_relid)
    then
        raise insufficient_privilege using
            message = format('%s() serves the table %s only, not %s', {function}, {table},
                             tg_relid::regclass),
            hint = 'Drop this trigger. If the table was renamed, drop it there, too.';
    end if;"""
_LEAD_BODY: LiteralString = """
declare
    a_row jsonb;
    was_lead boolean := false;
    is_lead boolean := false;
    old_id text;
    new_id text;
    old_facts jsonb;
    new_facts jsonb;
    version jsonb;
    moved boolean;
    caused text := coalesce(nullif(current_setting('leadstream.origin', true), ''), 'crm');
begin
    {guard}
    if tg_op <> 'INSERT' then
        a_row := to_jsonb(old);
        old_id := {lead_id};
        was_lead := old_id is not null and {present};
        version := {version};
        select coalesce(jsonb_object_agg(key, value), '{{}}') into old_facts
        from jsonb_each(a_row) where key = any({columns});
    end if;
    if tg_op <> 'DELETE' then
        a_row := to_jsonb(new);
        new_id := {lead_id};
        is_lead := new_id is not null and {present};
        select coalesce(jsonb_object_agg(key, value), '{{}}') into new_facts
        from jsonb_each(a_row) where key = any({columns});
    end if;
    moved := old_id is distinct from new_id;
    -- An id that changes is one lead that goes and another that comes.
    if was_lead and (moved or not is_lead) then
        if not moved then
            version := {version};
        end if;
        insert into leadstream_outbox (record, lead_id, change_type, facts)
        values ('LeadChanged', old_id, 'DELETED',
                version || jsonb_build_object({described}, true));
    end if;
    if is_lead and (moved or not was_lead or old_facts is distinct from new_facts) then
        if caused = 'crm' and {origin} then
            caused := 'leadstream';
        end if;
        insert into leadstream_outbox (record, lead_id, change_type, origin, facts)
        values ('LeadChanged', new_id,
                case when moved or not was_lead then 'CREATED' else 'UPDATED' end, caused,
                new_facts || {version} || jsonb_build_object({described}, true));
    end if;
    return null;
end;
"""
_OUTCOME_BODY: LiteralString = """
declare
    a_row jsonb;
    reached boolean := false;
begin
    {guard}
    if tg_op = 'UPDATE' then
        a_row := to_jsonb(old);
        reached := {lead_id} is not null and coalesce({reached}, false);
    end if;
    a_row := to_jsonb(new);
    -- A row becomes an outcome once.
    if not reached and {lead_id} is not null and coalesce({reached}, false) then
        insert into leadstream_outbox (record, lead_id, facts)
        select 'LeadOutcome', {lead_id},
               coalesce(jsonb_object_agg(key, value), '{{}}')
                   || jsonb_build_object({described}, true)
        from jsonb_each(a_row) where key = any({columns});
    end if;
    return null;
end;
"""
# Numbers must have all their digits in JSON, whatever the writer's session says.
_STATEMENTS: tuple[LiteralString, ...] = (
    "create or replace function {name}() returns trigger language plpgsql security definer "
    "set search_path from current set extra_float_digits = 3 as {body}",
    "revoke all on function {name}() from public",
    "create trigger {name} after {events} on {table} for each row execute function {name}()",
)
