"""Lead state from the CRM's Postgres: one read-only query for all leads of a batch."""

import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from consumer.scoring.leads import Lead
from leadstream.error_table import About
from leadstream.errors import Poison, Reason, Transient
from leadstream.lead_fields import CRM_FIELDS, LEAD_FIELDS, MAPS, FieldKind, LeadField
from leadstream.postgres import (
    Connection,
    about_postgres,
    check_url,
    connect,
    describe_postgres,
    name_postgres,
)
from schemas.crm_rows import parse_time

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
_ABSENT = sql.SQL("NULL")
_NAME: LiteralString = "(SELECT n.name::text FROM {table} n WHERE n.id = {column} LIMIT 1)"
_NAME_BY_TEXT: LiteralString = (
    "(SELECT n.name::text FROM {table} n WHERE n.id::text = {column}::text LIMIT 1)"
)
_MAPS = tuple(field.name for field in LEAD_FIELDS if field.kind in MAPS)
_STATE = (*(field.name for field in CRM_FIELDS), *_MAPS)
_REQUIRED = ("id", "created_at")
_TIMES = {"timestamp with time zone", "timestamp without time zone", "date"}
_TEXTS = {"text", "character varying", "character", "name"}
_NUMERIC = {"smallint", "integer", "bigint", "real", "double precision", "numeric"}
_INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_INTEGER = re.compile("0|-?[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,256}(\.[0-9]{1,256})?")
# A version of another type counts if its text is a whole number.
_VERSION: LiteralString = (
    "CASE WHEN p.lead_version::text ~ '^-?[0-9]{1,18}([.]0*)?$'"
    " THEN p.lead_version::text::numeric::bigint END"
)
# A column of a domain has the type that the domain stands for.
_TYPES = """
WITH RECURSIVE base(id, kind) AS (
    SELECT oid, oid FROM pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT t.oid, b.kind FROM pg_type t JOIN base b ON t.typbasetype = b.id WHERE t.typtype = 'd'
)
SELECT c.relname, a.attname, format_type(b.kind, NULL)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN base b ON b.id = a.atttypid
WHERE c.oid IN (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)
  AND a.attnum > 0 AND NOT a.attisdropped
"""


class PostgresLeads:
    """Reads `people` by primary key; a column that this CRM lacks is a missing value."""

    def __init__(self, url: str) -> None:
        """Take the URL without connecting. Raises SettingsError if it cannot be read."""
        self._url = check_url(url)
        self._connection: Connection | None = None
        self._query: sql.Composed | None = None
        self._id_type = "text"
        # Times that this CRM keeps as numbers or texts.
        self._parsed_times: list[str] = []
        # The fields that this CRM has no column for, as of the last connection.
        self.lacking: tuple[str, ...] = ()
        # Of the server's clock to this machine's, at the last connection.
        self.clock_ahead_seconds: float | None = None

    def fetch(self, lead_ids: Iterable[str]) -> dict[str, Lead | Poison]:
        """Return the known leads by id, by one query; it is halved if the database refuses an id.

        Raises Transient("postgres") if the database refuses, fails or is too slow.
        """
        try:
            self._connect()
            keys = [key for lead_id in lead_ids if (key := self._key(lead_id)) is not None]
            return self._fetch(keys) if keys else {}
        except psycopg.Error as error:
            self.close()
            raise Transient("postgres", describe_postgres(error)) from error

    def _fetch(self, keys: Sequence[str | int | UUID]) -> dict[str, Lead | Poison]:
        """Return the leads of some keys. An error about a value costs the lead of that value."""
        try:
            rows = self._connect().execute(self._query, (list(keys),)).fetchall()
        except (psycopg.Error, UnicodeError) as error:
            if about_postgres(error) is not About.RECORD:
                raise
            if len(keys) == 1:
                detail = f"Postgres cannot return this lead: {name_postgres(error)}"
                return {str(keys[0]): Poison(Reason.LEAD_NOT_FOUND, "state", detail)}
            half = len(keys) // 2
            return self._fetch(keys[:half]) | self._fetch(keys[half:])
        if self._id_type == "numeric":
            asked = set(map(str, keys))
            # 7.5 equals 7.50, but is another id.
            rows = [row for row in rows if row[0] in asked]
        return {lead_id: self._lead(values, version) for lead_id, *values, version in rows}

    def _lead(self, values: Sequence[Any], version: int | None) -> Lead:
        state = dict(zip(_STATE, (*values, *({} for _ in _MAPS)), strict=True))
        for name in self._parsed_times:
            state[name] = parse_time(state[name])
        return Lead(state, version or 0)

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
                _TYPES, (["people", *filter(None, (field.name_table for field in CRM_FIELDS))],)
            )
        }
        for column in _REQUIRED:
            if ("people", column) not in types:
                self.close()
                raise Transient(
                    "postgres", f"the table people has no column {column}, or does not exist"
                )
        self._id_type = types["people", "id"]
        self._parsed_times = [
            field.name
            for field in CRM_FIELDS
            if field.kind is FieldKind.TIME
            and types.get(("people", field.column or field.name), "date") not in _TIMES
        ]
        self._query = _query(types)
        asked = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        self.clock_ahead_seconds = asked.fetchone()[0] - time.time()  # type: ignore[index]  # one row
        self.lacking = tuple(
            field.name for field in CRM_FIELDS if _expression(field, types) == _ABSENT
        )
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
        if self._id_type == "numeric":
            return lead_id if _DECIMAL.fullmatch(lead_id) else None
        if self._id_type == "uuid":
            try:
                return UUID(lead_id) if str(UUID(lead_id)) == lead_id else None
            except ValueError:
                return None
        return lead_id


def _query(types: dict[tuple[str, str], str]) -> sql.Composed:
    """Return the query for the states of leads, given the type of each (table, column)."""
    version: LiteralString = _VERSION if ("people", "lead_version") in types else "NULL"
    if types.get(("people", "lead_version")) in _INTEGER_BITS:
        version = "p.lead_version::bigint"
    columns = [*(_expression(field, types) for field in CRM_FIELDS), sql.SQL(version)]
    kind = types["people", "id"]
    array = kind if kind in {*_INTEGER_BITS, "uuid", "numeric"} else "text"
    # A type that has no equality with text cannot use its index, but answers.
    key = "p.id" if kind in _TEXTS or array != "text" else "p.id::text"
    return sql.SQL("SELECT p.id::text, {} FROM people p WHERE {} = ANY(%s::{}[])").format(
        sql.SQL(", ").join(columns), sql.SQL(key), sql.SQL(array)
    )


def _expression(field: LeadField, types: dict[tuple[str, str], str]) -> sql.Composable:
    """Return what reads a field; NULL where this CRM has no column for it."""
    column = sql.SQL("p.{}").format(sql.Identifier(field.column or field.name))
    present = ("people", field.column) in types
    if field.name_table is not None:
        table = field.name_table
        if present and (table, "name") in types and (table, "id") in types:
            own, other = types["people", field.column or field.name], types[table, "id"]
            name = _NAME if own == other else _NAME_BY_TEXT
            return sql.SQL(name).format(table=sql.Identifier(table), column=column)
        column = sql.SQL("p.{}").format(sql.Identifier(field.name))
        present = ("people", field.name) in types
    elif present and field.kind is FieldKind.TIME:
        kind = types["people", field.column or field.name]
        if kind not in _TIMES:
            expression = _NUMBER if kind in _NUMERIC else _EXPRESSIONS[FieldKind.STRING]
            return sql.SQL(expression).format(column=column)
    elif field.kind in (FieldKind.DOUBLE, FieldKind.INT):
        # A column that is no number would fail the cast, and with it the whole batch.
        present = present and types["people", field.column or field.name] in _NUMERIC
    return sql.SQL(_EXPRESSIONS[field.kind]).format(column=column) if present else _ABSENT


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
