"""The outbox in the CRM's Postgres, read in the order of commit of each lead.

A row gets its position before its transaction commits. It may therefore appear below a row that was
read already. Reads stop at a safe upper bound: the last position that was drawn at a moment whose
writers have all ended since. A writer is a transaction that holds a lock on the outbox; Postgres
releases the lock after the commit is visible. Ordering by transaction id would be wrong: of two
changes of one lead, the later may have the lower id.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from leadstream.error_table import About
from leadstream.errors import Transient, UserError
from leadstream.lead_fields import CRM_FIELDS
from leadstream.postgres import (
    Connection,
    about_postgres,
    check_url,
    connect,
    describe_postgres,
    name_postgres,
)
from schemas.crm_description import NAMES, CrmDescription, Lookup
from schemas.crm_tables import find_tables, json_row, literal, name, table_name, usable_lookups

CHANNEL = "leadstream_outbox"
STATEMENT_MS = 10_000
TRIM_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One row of the outbox.

    `crm` holds columns of the CRM as they are, and the names that ids stand for. Of a row that the
    client cannot read, only `position` and `event_id` are known, and `unreadable` says why.
    """

    position: int
    event_id: str
    record: str
    lead_id: str
    change_type: str | None
    occurred_at: datetime
    origin: str
    crm: dict[str, Any]
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row of the outbox that cannot be published; `why` names the error, without a value."""

    position: int
    event_id: str
    why: str


class Outbox:
    """A connection to the outbox. Methods raise Transient while Postgres does not answer.

    After a failure the next `connect` opens another connection.
    """

    def __init__(self, database_url: str, description: CrmDescription | None = None) -> None:
        """Check the URL, without connecting. Raises SettingsError if it cannot be parsed."""
        self._url = check_url(database_url)
        self._description = description
        self._connection: Connection | None = None
        self._rows = self._last = sql.Composed([])
        # Rows up to `_safe_bound` are final. `_drawn` was the last position when `_writers`
        # were read.
        self._safe_bound = self._drawn = 0
        self._writers: frozenset[str] = frozenset()

    def connect(self) -> bool:
        """Connect if there is no connection, and return whether there was none.

        Raises UserError if the database has no outbox, or one whose positions do not rise.
        """
        if self._connection is not None:
            return False
        with self._failures():
            connection = self._connection = connect(
                self._url,
                statement_ms=STATEMENT_MS,
                application_name="leadstream relay",
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
            )
            if not connection.local_settings:  # a pooler gives the session to others
                connection.execute(sql.SQL("listen {}").format(sql.Identifier(CHANNEL)))
            sequence = connection.execute(
                "select pg_get_serial_sequence('leadstream_outbox', 'position')"
            ).fetchone()
            try:
                _check_steps(connection)
            except UserError:
                self.close()
                raise
            self._last = sql.SQL(
                "select case when is_called then last_value else 0 end from {}"
            ).format(sql.SQL(_trusted(sequence)))
            self._rows = self._reading(connection)
        self._safe_bound = self._drawn = 0
        self._writers = frozenset()
        return True

    def _reading(self, connection: Connection) -> sql.Composed:
        """Return the query for rows, with names joined by the CRM's ids."""
        described = self._description
        if described is None or described.database is None:
            return _rows_of_people({(table, name) for table, name in connection.execute(_COLUMNS)})
        lookups = described.lookups()
        tables = find_tables(connection, [lookup.table for _, lookup in lookups.values()])
        return _rows_of_described(
            {
                field: (column, table_name(tables[lookup.table].name), lookup)
                for field, (column, lookup) in usable_lookups(described, tables).items()
            }
        )

    def check(self, position: int, event_id: str | None) -> None:
        """Check that the row that was published last is in this outbox. Raises UserError if not."""
        with self._failures() as connection:
            [last] = connection.execute(self._last).fetchone() or [0]
            found = connection.execute(
                "select event_id::text from leadstream_outbox where position = %s", (position,)
            )
            row = found.fetchone()
        if last < position or (event_id is not None and (row is None or row[0] != event_id)):
            raise UserError(
                f"the outbox does not have the row that was published last (position {position}): "
                "Postgres was restored, or failed over to a replica that lagged, or is another "
                "one; "
                "`leadstream relay --after POSITION` says after which row to go on"
            )

    def rows(self, position: int, limit: int) -> list[OutboxRow]:
        """Return at most `limit` rows after a position, in order, up to the safe upper bound.

        There are fewer before a row that cannot be read, which then comes alone.
        """
        with self._failures() as connection:
            self._look(connection)
            if self._safe_bound <= position:
                return []
            return self._read(connection, position, limit)

    def _read(
        self, connection: psycopg.Connection[Any], position: int, limit: int
    ) -> list[OutboxRow]:
        bounds = (position, self._safe_bound)
        try:
            return [OutboxRow(*row) for row in connection.execute(self._rows, (*bounds, limit))]
        except (psycopg.Error, ValueError, OverflowError) as error:
            if isinstance(error, psycopg.Error) and about_postgres(error) is not About.RECORD:
                raise
            if limit > 1:
                return self._read(connection, position, limit // 2)
            row = connection.execute(_FIRST, bounds).fetchone()
            return [_unreadable(*row, why=name_postgres(error))] if row else []

    def pending(self, position: int) -> int:
        """Return how many positions were drawn after this one; some may never become rows."""
        return max(0, self._drawn - position)

    @property
    def has_open_writers(self) -> bool:
        """Return whether reads wait for writers, which may end without a notification."""
        return bool(self._writers)

    def wait(self, seconds: float) -> None:
        """Wait until a row is committed to the outbox, at most `seconds`."""
        with self._failures() as connection:
            for _ in connection.notifies(timeout=seconds, stop_after=1):
                pass

    def trim(self, before: int, older_than: timedelta) -> int:
        """Delete old rows below a position, at most 10,000, and return how many were deleted."""
        with self._failures() as connection:
            return connection.execute(_TRIM, (before, TRIM_ROWS, older_than)).rowcount

    def close(self) -> None:
        """Close the connection; the next `connect` opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        """Advance the safe bound: ask for the last position first, then for its writers."""
        if self._writers:
            self._writers &= _writers(connection)
        if not self._writers:
            self._safe_bound = self._drawn
            [last] = connection.execute(self._last).fetchone() or [0]
            if last < self._drawn:
                # The sequence was reset: a new connection checks which rows are there.
                self.close()
                raise Transient("postgres", "the outbox begins again")
            if last > self._drawn:
                self._drawn, self._writers = last, _writers(connection)
                if not self._writers:
                    self._safe_bound = last

    @contextmanager
    def _failures(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield the connection, and raise what its errors mean."""
        try:
            yield self._connection  # type: ignore[misc]  # connect() comes before everything else
        except (
            psycopg.errors.UndefinedTable,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.UndefinedFunction,
        ):
            self.close()
            raise UserError(
                "DATABASE_URL: there is no outbox in this database; `leadstream db migrate` adds it"
            ) from None
        except psycopg.errors.InsufficientPrivilege as error:
            self.close()
            raise UserError(
                f"DATABASE_URL: {error.diag.message_primary}; the relay needs SELECT and DELETE on "
                "leadstream_outbox, and SELECT on its sequence and the tables of names, such as "
                "programmes and campuses"
            ) from None
        except psycopg.Error as error:
            self.close()
            raise Transient("postgres", describe_postgres(error)) from error


_COLUMNS = """
select c.relname::text, a.attname::text
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.oid in (to_regclass('programmes'), to_regclass('campuses'))
  and a.attnum > 0 and not a.attisdropped
"""

# Only waiters hold shared locks on transaction ids. A transaction is identified by its session and
# its id, because one that is prepared for a two-phase commit changes its session.
_WRITERS = """
with locks as materialized (select * from pg_locks),
     writers as (
         select virtualtransaction from locks
         where locktype = 'relation' and mode = 'RowExclusiveLock'
           and relation = 'leadstream_outbox'::regclass
           and database = (select oid from pg_database where datname = current_database())
     )
select virtualtransaction from writers
union
select transactionid::text from locks join writers using (virtualtransaction)
where locktype = 'transactionid' and mode = 'ExclusiveLock'
"""

_STEPS = """
select seqcache, seqincrement > 0, seqcycle from pg_sequence
where seqrelid = pg_get_serial_sequence('leadstream_outbox', 'position')::regclass
"""
_FIRST = """
select position, event_id::text from leadstream_outbox
where position > %s and position <= %s order by position limit 1
"""
# The inner limit keeps the query from reading the age of every row.
_TRIM = """
delete from leadstream_outbox where position in (
    select position from (
        select position, occurred_at from leadstream_outbox
        where position < %s order by position limit %s
    ) as oldest
    where occurred_at < clock_timestamp() - %s
)
"""


def _unreadable(position: int, event_id: str, *, why: str) -> OutboxRow:
    return OutboxRow(position, event_id, "", "", None, datetime.fromtimestamp(0, UTC), "", {}, why)


def _writers(connection: psycopg.Connection[Any]) -> frozenset[str]:
    """Return the open transactions that may have drawn a position."""
    return frozenset(token for (token,) in connection.execute(_WRITERS))


def _trusted(sequence: Sequence[Any] | None) -> LiteralString:
    """Return the sequence's name, which Postgres has quoted already."""
    if sequence is None or sequence[0] is None:
        raise psycopg.errors.UndefinedTable
    name: LiteralString = sequence[0]
    return name


def _check_steps(connection: Connection) -> None:
    """Raise UserError if a session may draw a position below one that another has drawn before.

    A sequence with a cache hands out blocks: a row of an old block appears below rows that were
    read long ago, without a writer that could be waited for.
    """
    found = connection.execute(_STEPS).fetchone()
    if found and found != (1, True, False):
        cache, rises, cycles = found
        raise UserError(
            f"DATABASE_URL: the sequence of leadstream_outbox.position has CACHE {cache}"
            f"{'' if rises else ', a negative INCREMENT'}{', CYCLE' if cycles else ''}, so rows "
            "could be passed over; run `alter sequence leadstream_outbox_position_seq cache 1 "
            "increment 1 no cycle`, and end the CRM's connections that are open, which keep "
            "positions of their own"
        )


def _rows_of_people(columns: set[tuple[str, str]]) -> sql.Composed:
    """Return the query for rows, with names joined by the CRM's ids.

    Ids are compared as text, so that no type of id can fail the query.
    """
    columns_of_row, joins = sql.SQL("coalesce(o.facts, '{{}}')").format(), [sql.Composed([])]
    for field in CRM_FIELDS:
        table = field.name_table
        if table is not None and {(table, "id"), (table, "name")} <= columns:
            joins.append(
                sql.SQL("left join {table} on {table}.id::text = o.facts ->> {id}").format(
                    table=sql.Identifier(table), id=field.column
                )
            )
            columns_of_row += sql.SQL(
                " || case when {table}.id is null then '{{}}'"
                " else jsonb_build_object({key}, {table}.name) end"
            ).format(table=sql.Identifier(table), key=field.name)
    return _rows(columns_of_row, joins)


def _rows_of_described(
    lookups: Mapping[str, tuple[str, sql.Composable, Lookup]],
) -> sql.Composed:
    """Return the query for rows, with the values of lookups by name of the field.

    A value is found by the column, in the table. Of several, the smallest is taken.
    """
    joins, names = [sql.Composed([])], dict[str, sql.Composable]()
    for number, (field, (column, table, lookup)) in enumerate(lookups.items()):
        alias = sql.SQL(f"l{number}")
        joins.append(
            sql.SQL(
                "left join (select rtrim({key}::text) as key, min({value}::text) as value"
                " from {table} group by 1) {alias} on {alias}.key = rtrim(o.facts ->> {column})"
            ).format(
                key=name(lookup.key),
                value=name(lookup.value),
                table=table,
                alias=alias,
                column=literal(column),
            )
        )
        names[field] = sql.SQL("{}.value").format(alias)
    row = sql.SQL("coalesce(o.facts, '{{}}') || jsonb_build_object({}::text, {})").format(
        literal(NAMES), json_row(names)
    )
    return _rows(row, joins)


def _rows(columns_of_row: sql.Composable, joins: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(
        "select o.position, o.event_id::text, o.record, o.lead_id, o.change_type, o.occurred_at,"
        " o.origin, {facts} from leadstream_outbox o {joins}"
        " where o.position > %s and o.position <= %s order by o.position limit %s"
    ).format(facts=columns_of_row, joins=sql.SQL(" ").join(joins))
