"""The tables of a described CRM as the database's catalog has them, and their names in SQL.

Statements with names of the description need a parameter list, if an empty one, because `name` and
`literal` double each % for the client.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from schemas.crm_description import CrmDescription, Lookup, TableName


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table or view that exists; `columns` has the type of each column by name.

    `kind` is the catalog's: r table, p partitioned table, v view, m materialized view, f foreign
    table. A column of a domain has the type that the domain stands for.
    """

    name: TableName
    kind: str
    columns: Mapping[str, str]


def find_tables(
    connection: psycopg.Connection[Any], names: Iterable[TableName]
) -> dict[TableName, FoundTable]:
    """Return the tables that exist, by the names that were asked for."""
    asked = list(dict.fromkeys(names))
    kinds: dict[int, tuple[TableName, str]] = {}
    columns: dict[int, dict[str, str]] = {}
    rows = connection.execute(_COLUMNS, ([each.quoted() for each in asked],))
    for number, schema, table, kind, column, column_type in rows:
        kinds[number] = TableName(table, schema), kind
        columns.setdefault(number, {})[column] = column_type
    return {
        asked[number - 1]: FoundTable(name, kind, columns[number])
        for number, (name, kind) in kinds.items()
    }


def state_tables(description: CrmDescription) -> list[TableName]:
    """Return the tables that the state of a lead is in: that of leads, and those of lookups."""
    leads = [description.database.table] if description.database else []
    return [*leads, *(lookup.table for _, lookup in description.lookups().values())]


def usable_lookups(
    description: CrmDescription, tables: Mapping[TableName, FoundTable]
) -> dict[str, tuple[str, Lookup]]:
    """Return the lookups whose tables have their columns: column and lookup, by name of field."""
    return {
        name: (column, lookup)
        for name, (column, lookup) in description.lookups().items()
        if lookup.table in tables
        and {lookup.key, lookup.value} <= tables[lookup.table].columns.keys()
    }


def name(*parts: str) -> sql.Composable:
    """Return a quoted name for a statement with parameters."""
    return _doubled(sql.Identifier(*parts))


def literal(value: str) -> sql.Composable:
    """Return a quoted text for a statement with parameters."""
    return _doubled(sql.Literal(value))


def table_name(table: TableName) -> sql.Composable:
    """Return the quoted name of a table for a statement with parameters."""
    return name(table.schema, table.table) if table.schema else name(table.table)


def id_text(alias: LiteralString, column: str, column_type: str) -> sql.Composable:
    """Return the expression of an id as text: that of JSON, as triggers write it.

    Only a `character` is without the spaces that fill it up.
    """
    how: LiteralString = (
        "{}.{}::text" if column_type == "character" else "to_jsonb({}.{}) #>> '{{}}'"
    )
    return sql.SQL(how).format(sql.SQL(alias), name(column))


def json_row(columns: Mapping[str, sql.Composable]) -> sql.Composable:
    """Return the expression of a JSON object with these members; there is no limit to them."""
    if not columns:
        return sql.SQL("'{}'::jsonb")
    members = (sql.SQL("{} AS {}").format(value, name(key)) for key, value in columns.items())
    return sql.SQL("(SELECT to_jsonb(r.*) FROM (SELECT {}) AS r)").format(
        sql.SQL(", ").join(members)
    )


def described_row(
    description: CrmDescription,
    leads: FoundTable,
    tables: Mapping[TableName, FoundTable],
    more: Iterable[str] = (),
) -> tuple[sql.Composable, sql.Composable, tuple[str, ...]]:
    """Return the expressions of a row and its names for `lead_state`, of the table with alias p.

    The row has the columns of the state, and `more`. The third value are the fields that the tables
    have no column for.
    """
    columns = [
        column for column in (*more, *description.state_columns()) if column in leads.columns
    ]
    names = {
        field: _looked_up(column, lookup, leads, tables[lookup.table])
        for field, (column, lookup) in usable_lookups(description, tables).items()
        if column in leads.columns
    }
    lacking = tuple(
        each.name
        for each in description.fields
        if each.column and not (each.name in names if each.lookup else each.column in columns)
    )
    row = json_row({column: sql.SQL("p.{}").format(name(column)) for column in columns})
    return row, json_row(names), lacking


def _looked_up(column: str, lookup: Lookup, leads: FoundTable, names: FoundTable) -> sql.Composable:
    """Return the name for a key. Of several, the smallest: the outbox takes the same."""
    cast: LiteralString = "" if leads.columns[column] == names.columns[lookup.key] else "::text"
    return sql.SQL(
        "(SELECT min(n.{value}::text) FROM {table} n WHERE n.{key}{cast} = p.{column}{cast})"
    ).format(
        value=name(lookup.value),
        table=table_name(names.name),
        key=name(lookup.key),
        column=name(column),
        cast=sql.SQL(cast),
    )


def _doubled(part: sql.Composable) -> sql.Composable:
    quoted = part.as_string().replace("%", "%%")
    return sql.SQL(quoted)


_COLUMNS = """
WITH RECURSIVE base(id, kind) AS (
    SELECT oid, oid FROM pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT t.oid, b.kind FROM pg_type t JOIN base b ON t.typbasetype = b.id WHERE t.typtype = 'd'
)
SELECT n.number, s.nspname::text, c.relname::text, c.relkind::text, a.attname::text,
       format_type(b.kind, NULL)
FROM unnest(%s::text[]) WITH ORDINALITY AS n(name, number)
JOIN pg_class c ON c.oid = to_regclass(n.name)
JOIN pg_namespace s ON s.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN base b ON b.id = a.atttypid
ORDER BY n.number, a.attnum
"""
