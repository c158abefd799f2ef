"""Lead state from the CRM's Postgres: one read-only query for all leads of a batch."""

import re
import time
from collections.abc import Iterable, Sequence
from uuid import UUID

import psycopg

from consumer.run.described_query import described_query
from consumer.run.lead_query import INTEGER_BITS, LeadQuery, people_query
from consumer.scoring.leads import Lead
from leadstream.error_table import About
from leadstream.errors import Poison, Reason, Transient
from leadstream.lead_fields import CRM_FIELDS
from leadstream.postgres import (
    Connection,
    about_postgres,
    check_url,
    connect,
    describe_postgres,
    name_postgres,
)
from schemas.crm_description import CrmDescription
from schemas.crm_tables import find_tables, state_tables

Key = str | int | UUID
STATEMENT_MS = 5_000

_REQUIRED = ("id", "created_at")
_INTEGER = re.compile("0|-?[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,256}(\.[0-9]{1,256})?")
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
    """Reads leads by primary key: of `people`, or of the table that a description names.

    A column that this CRM lacks is a missing value.
    """

    def __init__(self, url: str, description: CrmDescription | None = None) -> None:
        """Take the URL without connecting. Raises SettingsError if it cannot be read."""
        self._url = check_url(url)
        self._description = description
        self._connection: Connection | None = None
        self._query: LeadQuery | None = None
        # The fields that this CRM has no column for, as of the last connection.
        self.lacking: tuple[str, ...] = ()
        # Of the server's clock to this machine's, at the last connection.
        self.clock_ahead_seconds: float | None = None

    def fetch(self, lead_ids: Iterable[str]) -> dict[str, Lead | Poison]:
        """Return the known leads by id, by one query; it is halved if the database refuses an id.

        Raises Transient("postgres") if the database refuses, fails or is too slow.
        """
        try:
            _, query = self._connect()
            keys = [key for each in lead_ids if (key := _key(each, query.id_type)) is not None]
            return self._fetch(keys) if keys else {}
        except psycopg.Error as error:
            self.close()
            raise Transient("postgres", describe_postgres(error)) from error

    def _fetch(self, keys: Sequence[Key]) -> dict[str, Lead | Poison]:
        """Return the leads of some keys. An error about a value costs the lead of that value."""
        connection, query = self._connect()
        try:
            rows = connection.execute(query.statement, (list(keys),)).fetchall()
        except (psycopg.Error, UnicodeError) as error:
            if about_postgres(error) is not About.RECORD:
                raise
            if len(keys) == 1:
                detail = f"Postgres cannot return this lead: {name_postgres(error)}"
                return {str(keys[0]): Poison(Reason.LEAD_NOT_FOUND, "state", detail)}
            half = len(keys) // 2
            return self._fetch(keys[:half]) | self._fetch(keys[half:])
        if query.exact:
            asked = set(map(str, keys))
            # 7.5 equals 7.50, but is another id.
            rows = [row for row in rows if row[0] in asked]
        found = ((lead_id, query.read(values)) for lead_id, *values in rows)
        return {lead_id: lead for lead_id, lead in found if lead is not None}

    def close(self) -> None:
        """Close the connection; the next fetch opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._query = None

    def _connect(self) -> tuple[Connection, LeadQuery]:
        if self._connection is not None and self._query is not None:
            return self._connection, self._query
        connection = self._connection = connect(
            self._url,
            statement_ms=STATEMENT_MS,
            options="-c default_transaction_read_only=on -c TimeZone=UTC -c extra_float_digits=3",
            application_name="leadstream",
        )
        try:
            query = self._query = self._build_query(connection)
        except Transient:
            self.close()
            raise
        asked = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        self.clock_ahead_seconds = asked.fetchone()[0] - time.time()  # type: ignore[index]  # one row
        self.lacking = query.lacking
        return connection, query

    def _build_query(self, connection: Connection) -> LeadQuery:
        """Return the query for the tables as they are. Raises Transient if one does not fit."""
        described = self._description
        if described is not None and described.database is not None:
            tables = find_tables(connection, state_tables(described))
            return described_query(described, described.database, tables)
        names = ["people", *filter(None, (field.name_table for field in CRM_FIELDS))]
        rows = connection.execute(_TYPES, (names,))
        types = {(table, column): kind for table, column, kind in rows}
        for column in _REQUIRED:
            if ("people", column) not in types:
                raise Transient(
                    "postgres", f"the table people has no column {column}, or does not exist"
                )
        return people_query(types)


def _key(lead_id: str, id_type: str) -> Key | None:
    """Return the id in the type of the key column, or None if no row can have it.

    A value of the wrong type would fail the query for all ids.
    """
    if "\0" in lead_id or not _is_text(lead_id):
        return None
    if bits := INTEGER_BITS.get(id_type):
        number = int(lead_id) if _INTEGER.fullmatch(lead_id) else None
        return number if number is not None and abs(number) < 2 ** (bits - 1) else None
    if id_type == "numeric":
        return lead_id if _DECIMAL.fullmatch(lead_id) else None
    if id_type == "uuid":
        try:
            return UUID(lead_id) if str(UUID(lead_id)) == lead_id else None
        except ValueError:
            return None
    return lead_id


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
