"""Lead state from the CRM's Postgres: one read-only query for all leads of a batch."""

import re
from collections.abc import Iterable
from typing import LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from consumer.scoring.leads import Lead
from leadstream.errors import Transient
from leadstream.lead_fields import CRM_FIELDS, LEAD_FIELDS, MAPS, FieldKind, LeadField
from leadstream.postgres import Connection, check_url, connect

STATEMENT_MS = 5_000

# Names, e-mail addresses, phone numbers, conversion_probability and all of `applications` are never
# read. Numbers that are no float64 and times that are infinite are missing values.
_NUMBER: LiteralString = "CASE WHEN {column} BETWEEN -1e308 AND 1e308 THEN {column}::float8 END"
_EXPRESSIONS: dict[FieldKind, LiteralString] = {
    FieldKind.TIME: (
        "CASE WHEN isfinite({column}) THEN floor(extract(epoch FROM {column}) * 1000)::bigint END"
    ),
    FieldKind.DOUBLE: _NUMBER,
    FieldKind.INT: _NUMBER,
    FieldKind.STRING: "{column}::text",
}
_NAME: LiteralString = "(SELECT n.name::text FROM {table} n WHERE n.id = {column} LIMIT 1)"
_MAPS = tuple(field.name for field in LEAD_FIELDS if field.kind in MAPS)
_STATE = (*(field.name for field in CRM_FIELDS), *_MAPS)
_REQUIRED = ("id", "created_at")
_NUMERIC = {"smallint", "integer", "bigint", "real", "double precision", "numeric"}
_INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_INTEGER = re.compile("0|-?[1-9][0-9]{0,18}")


class PostgresLeads:
    """Reads `people` by primary key; a column that this CRM lacks is a missing value."""

    def __init__(self, url: str) -> None:
        """Take the URL without connecting. Raises SettingsError if it cannot be read."""
        self._url = check_url(url)
        self._connection: Connection | None = None
        self._query: sql.Composed | None = None
        self._id_type = "text"

    def fetch(self, lead_ids: Iterable[str]) -> dict[str, Lead]:
        """Return the known leads by id, by one query.

        Raises Transient("postgres") if the database refuses, fails or is too slow.
        """
        try:
            connection = self._connect()
            keys = [key for lead_id in lead_ids if (key := self._key(lead_id)) is not None]
            if not keys:
                return {}
            rows = connection.execute(self._query, (keys,)).fetchall()
        except psycopg.Error as error:
            self.close()
            raise Transient("postgres", _sentence(error)) from error
        return {
            lead_id: Lead(
                dict(zip(_STATE, (*values, *({} for _ in _MAPS)), strict=True)), version or 0
            )
            for lead_id, *values, version in rows
        }

    def close(self) -> None:
        """Close the connection; the next fetch opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._query = None

    def _connect(self) -> Connection:
        if self._connection is not None:
            return self._connection
        connection = connect(
            self._url,
            statement_ms=STATEMENT_MS,
            options="-c default_transaction_read_only=on -c TimeZone=UTC",
            application_name="leadstream",
        )
        self._connection = connection
        types = {
            (table, column): kind
            for table, column, kind in connection.execute(
                "SELECT c.relname, a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a"
                " JOIN pg_class c ON c.oid = a.attrelid"
                " WHERE c.oid IN (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)"
                " AND a.attnum > 0 AND NOT a.attisdropped",
                (["people", *filter(None, (field.name_table for field in CRM_FIELDS))],),
            )
        }
        for column in _REQUIRED:
            if ("people", column) not in types:
                self.close()
                raise Transient(
                    "postgres", f"the table people has no column {column}, or does not exist"
                )
        self._id_type = types["people", "id"]
        self._query = _query(types)
        return connection

    def _key(self, lead_id: str) -> str | int | UUID | None:
        """Return the id in the type of the key column, or None if no row can have it.

        A value of the wrong type would fail the query for all ids.
        """
        if "\0" in lead_id or not _is_text(lead_id):
            return None
        if bits := _INTEGER_BITS.get(self._id_type):
            number = int(lead_id) if _INTEGER.fullmatch(lead_id) else None
            return number if number is not None and abs(number) < 2 ** (bits - 1) else None
        if self._id_type == "uuid":
            try:
                return UUID(lead_id) if str(UUID(lead_id)) == lead_id else None
            except ValueError:
                return None
        return lead_id


def _query(types: dict[tuple[str, str], str]) -> sql.Composed:
    """Return the query for the states of leads, given the type of each (table, column)."""
    version: LiteralString = (
        "p.lead_version::bigint" if ("people", "lead_version") in types else "NULL"
    )
    columns = [*(_expression(field, types) for field in CRM_FIELDS), sql.SQL(version)]
    kind = types["people", "id"]
    array = kind if kind in {*_INTEGER_BITS, "uuid"} else "text"
    return sql.SQL("SELECT p.id::text, {} FROM people p WHERE p.id = ANY(%s::{}[])").format(
        sql.SQL(", ").join(columns), sql.SQL(array)
    )


def _expression(field: LeadField, types: dict[tuple[str, str], str]) -> sql.Composable:
    """Return what reads a field; NULL where this CRM has no column for it."""
    column = sql.SQL("p.{}").format(sql.Identifier(field.column or field.name))
    present = ("people", field.column) in types
    if field.name_table is not None:
        table = field.name_table
        if present and (table, "name") in types and (table, "id") in types:
            return sql.SQL(_NAME).format(table=sql.Identifier(table), column=column)
        column = sql.SQL("p.{}").format(sql.Identifier(field.name))
        present = ("people", field.name) in types
    elif field.kind in (FieldKind.DOUBLE, FieldKind.INT):
        # A column that is no number would fail the cast, and with it the whole batch.
        present = present and types["people", field.column or field.name] in _NUMERIC
    return sql.SQL(_EXPRESSIONS[field.kind]).format(column=column) if present else sql.SQL("NULL")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sentence(error: psycopg.Error) -> str:
    """The server's words without the query or the connection string, which may hold secrets."""
    text = (error.diag.message_primary or str(error).split("\n")[0]).strip()
    return text or type(error).__name__
