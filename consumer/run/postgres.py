"""Lead state from the CRM's Postgres: one read-only query for a whole batch, one answer for each lead."""

import re
from collections.abc import Iterable
from typing import LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from consumer.scoring.leads import Lead
from leadstream.errors import Transient
from leadstream.postgres import Connection, check_url, connect

STATEMENT_MS = 5_000

# Names, e-mail addresses, phone numbers, conversion_probability and all of `applications` are never read.
_FIELDS: dict[str, tuple[str, LiteralString]] = {
    "created_at": (
        "created_at",
        "CASE WHEN isfinite(p.created_at) THEN floor(extract(epoch FROM p.created_at) * 1000)::bigint END",
    ),
    "lead_score": (
        "lead_score",
        "CASE WHEN p.lead_score BETWEEN -1e308 AND 1e308 THEN p.lead_score::float8 END",
    ),
    "engagement_score": (
        "engagement_score",
        "CASE WHEN p.engagement_score BETWEEN -1e308 AND 1e308 THEN p.engagement_score::float8 END",
    ),
    "touchpoint_count": (
        "touchpoint_count",
        "CASE WHEN p.touchpoint_count BETWEEN -1e308 AND 1e308 THEN p.touchpoint_count::float8 END",
    ),
    "lifecycle_state": ("lifecycle_state", "p.lifecycle_state::text"),
    "status": ("status", "p.status::text"),
    "source": ("source", "p.source::text"),
    "programme_name": (
        "programme_id",
        "(SELECT g.name::text FROM programmes g WHERE g.id = p.programme_id LIMIT 1)",
    ),
    "campus_name": (
        "campus_id",
        "(SELECT c.name::text FROM campuses c WHERE c.id = p.campus_id LIMIT 1)",
    ),
    "version": ("lead_version", "p.lead_version::bigint"),
}
_STATE = (*(field for field in _FIELDS if field != "version"), "numbers", "categories")
_REQUIRED = ("id", "created_at")
_NUMBERS = ("lead_score", "engagement_score", "touchpoint_count")
_NUMERIC = {"smallint", "integer", "bigint", "real", "double precision", "numeric"}
_INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_INTEGER = re.compile("0|-?[1-9][0-9]{0,18}")


class PostgresLeads:
    """Reads `people` by primary key; a column that this CRM does not have is a missing value, not an error."""

    def __init__(self, url: str) -> None:
        """Does not connect yet. Raises SettingsError where the URL cannot be read."""
        self._url = check_url(url)
        self._connection: Connection | None = None
        self._query: sql.Composed | None = None
        self._id_type = "text"

    def fetch(self, lead_ids: Iterable[str]) -> dict[str, Lead]:
        """One query for all ids. Raises Transient("postgres") where the database refuses, fails or is too slow."""
        try:
            connection = self._connect()
            keys = [key for lead_id in lead_ids if (key := self._key(lead_id)) is not None]
            if not keys:
                return {}
            rows = connection.execute(self._query, (keys,)).fetchall()  # type: ignore[arg-type]  # set by _connect
        except psycopg.Error as error:
            self.close()
            raise Transient("postgres", _sentence(error)) from error
        return {
            lead_id: Lead(dict(zip(_STATE, (*values, {}, {}), strict=True)), version or 0)
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
                " WHERE c.oid IN (to_regclass('people'), to_regclass('programmes'), to_regclass('campuses'))"
                " AND a.attnum > 0 AND NOT a.attisdropped"
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
        """The id as the key column's type; None for an id that no row can have, so it cannot fail its neighbours."""
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
    columns: list[sql.Composable] = []
    for name, (needs, expression) in _FIELDS.items():
        # What is no number in this CRM is a missing value: a cast that fails would fail the whole batch.
        present = ("people", needs) in types and (
            name not in _NUMBERS or types["people", needs] in _NUMERIC
        )
        if name in ("programme_name", "campus_name"):
            table = "programmes" if name == "programme_name" else "campuses"
            present = present and (table, "name") in types and (table, "id") in types
            if not present and ("people", name) in types:
                columns.append(sql.SQL("p.{}::text").format(sql.Identifier(name)))
                continue
        columns.append(sql.SQL(expression) if present else sql.SQL("NULL"))
    kind = types["people", "id"]
    array = kind if kind in {*_INTEGER_BITS, "uuid"} else "text"
    return sql.SQL("SELECT p.id::text, {} FROM people p WHERE p.id = ANY(%s::{}[])").format(
        sql.SQL(", ").join(columns), sql.SQL(array)
    )


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
