"""The outbox in the CRM's Postgres, read in the order of commit by lead, and no row before its elders are final.

Positions are drawn before their transaction commits, so a row may appear below one that was read already. What is read
is therefore bounded: by the last position that was drawn at a moment whose writers have all ended since. A writer is a
transaction that holds its lock on the outbox; Postgres lets go of it only after the commit is visible. Ordering by
transaction id instead would be wrong: of two changes of one lead the later may have the lower id.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from leadstream.errors import Transient, UserError
from leadstream.lead_fields import CRM_FIELDS
from leadstream.postgres import Connection, check_url, connect

CHANNEL = "leadstream_outbox"
STATEMENT_MS = 10_000
TRIM_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the outbox; `facts` are columns as the CRM has them, the names of programme and campus looked up."""

    position: int
    event_id: str
    record: str
    lead_id: str
    change_type: str | None
    occurred_at: datetime
    origin: str
    facts: dict[str, Any]


class Outbox:
    """A connection, made again after each failure. Every method raises Transient while Postgres does not answer."""

    def __init__(self, database_url: str) -> None:
        """Does not connect yet. Raises SettingsError where the URL cannot be read."""
        self._url = check_url(database_url)
        self._connection: Connection | None = None
        self._rows = self._last = sql.Composed([])
        self._final = self._barrier = 0
        self._writers: frozenset[str] = frozenset()

    def connect(self) -> bool:
        """Connect where there is no connection; whether there was none. Raises UserError where there is no outbox."""
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
            connection.execute(sql.SQL("listen {}").format(sql.Identifier(CHANNEL)))
            sequence = connection.execute(
                "select pg_get_serial_sequence('leadstream_outbox', 'position')"
            ).fetchone()
            self._last = sql.SQL(
                "select case when is_called then last_value else 0 end from {}"
            ).format(sql.SQL(_trusted(sequence)))
            self._rows = _reading(
                {(table, column) for table, column in connection.execute(_COLUMNS)}
            )
        self._final = self._barrier = 0
        self._writers = frozenset()
        return True

    def check(self, position: int, event_id: str | None) -> None:
        """Whether this is the outbox that was published up to this row. Raises UserError where it is not."""
        with self._failures() as connection:
            [last] = connection.execute(self._last).fetchone() or [0]
            found = connection.execute(
                "select event_id::text from leadstream_outbox where position = %s", (position,)
            )
            row = found.fetchone()
        if last < position or (event_id is not None and (row is None or row[0] != event_id)):
            raise UserError(
                f"the outbox does not have the row that was published last (position {position}): "
                "Postgres was restored, or failed over to a replica that lagged, or is another one; "
                "`leadstream relay --after POSITION` says after which row to go on"
            )

    def rows(self, position: int, limit: int) -> list[Row]:
        """The next rows after a position that nothing can come before any more, at most `limit`, in their order."""
        with self._failures() as connection:
            self._look(connection)
            if self._final <= position:
                return []
            return [
                Row(*row) for row in connection.execute(self._rows, (position, self._final, limit))
            ]

    def pending(self, position: int) -> int:
        """How many positions were drawn after this one, as of the last look: some may never be rows."""
        return max(0, self._barrier - position)

    @property
    def unsettled(self) -> bool:
        """Whether writers are being waited for: that they end without a row is not notified."""
        return bool(self._writers)

    def wait(self, seconds: float) -> None:
        """Return when something was committed to the outbox, or after so many seconds."""
        with self._failures() as connection:
            for _ in connection.notifies(timeout=seconds, stop_after=1):
                pass

    def trim(self, before: int, older_than: timedelta) -> int:
        """Delete at most 10,000 of the oldest rows below a position that are older than so much; how many were."""
        with self._failures() as connection:
            return connection.execute(_TRIM, (before, TRIM_ROWS, older_than)).rowcount

    def close(self) -> None:
        """Give the connection back; the next use makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        """Move the bound: what was drawn is asked first, who may be drawing second, and the rows are read third."""
        if self._writers:
            self._writers &= _writers(connection)
        if not self._writers:
            self._final = self._barrier
            [last] = connection.execute(self._last).fetchone() or [0]
            if last < self._barrier:
                # Positions that were drawn are drawn again: connecting anew checks what is there.
                self.close()
                raise Transient("postgres", "the outbox begins anew")
            if last > self._barrier:
                self._barrier, self._writers = last, _writers(connection)
                if not self._writers:
                    self._final = last

    @contextmanager
    def _failures(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection, and what its errors mean."""
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
                f"DATABASE_URL: {error.diag.message_primary}; the relay needs SELECT and DELETE on leadstream_outbox, "
                "and SELECT on its sequence, programmes and campuses"
            ) from None
        except psycopg.Error as error:
            self.close()
            text = (error.diag.message_primary or str(error).strip().split("\n")[-1]).strip()
            raise Transient("postgres", text or type(error).__name__) from error


_COLUMNS = """
select c.relname::text, a.attname::text
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.oid in (to_regclass('programmes'), to_regclass('campuses')) and a.attnum > 0 and not a.attisdropped
"""

# Shared locks on transaction ids are those of waiters. A transaction is known by its session and by its id, for one
# that is prepared for a two-phase commit changes its session.
_WRITERS = """
with locks as materialized (select * from pg_locks),
     writers as (
         select virtualtransaction from locks
         where locktype = 'relation' and mode = 'RowExclusiveLock' and relation = 'leadstream_outbox'::regclass
           and database = (select oid from pg_database where datname = current_database())
     )
select virtualtransaction from writers
union
select transactionid::text from locks join writers using (virtualtransaction)
where locktype = 'transactionid' and mode = 'ExclusiveLock'
"""

# From the oldest on, only as far as the portion reaches: the age of all others need not be looked at.
_TRIM = """
delete from leadstream_outbox where position in (
    select position from (
        select position, occurred_at from leadstream_outbox where position < %s order by position limit %s
    ) as oldest
    where clock_timestamp() - occurred_at > %s
)
"""


def _writers(connection: psycopg.Connection[Any]) -> frozenset[str]:
    """The transactions that may have drawn a position and have not ended."""
    return frozenset(token for (token,) in connection.execute(_WRITERS))


def _trusted(sequence: Sequence[Any] | None) -> LiteralString:
    """The sequence's name, which Postgres has quoted already."""
    if sequence is None or sequence[0] is None:
        raise psycopg.errors.UndefinedTable
    name: LiteralString = sequence[0]
    return name


def _reading(columns: set[tuple[str, str]]) -> sql.Composed:
    """The query for rows. Names are joined in by the ids that the CRM has; comparing texts, no type can fail it."""
    facts, joins = sql.SQL("coalesce(o.facts, '{{}}')").format(), [sql.Composed([])]
    for field in CRM_FIELDS:
        table = field.name_table
        if table is not None and {(table, "id"), (table, "name")} <= columns:
            joins.append(
                sql.SQL("left join {table} on {table}.id::text = o.facts ->> {id}").format(
                    table=sql.Identifier(table), id=field.column
                )
            )
            facts += sql.SQL(
                " || case when {table}.id is null then '{{}}' else jsonb_build_object({key}, {table}.name) end"
            ).format(table=sql.Identifier(table), key=field.name)
    return sql.SQL(
        "select o.position, o.event_id::text, o.record, o.lead_id, o.change_type, o.occurred_at, o.origin, {facts}"
        " from leadstream_outbox o {joins} where o.position > %s and o.position <= %s order by o.position limit %s"
    ).format(facts=facts, joins=sql.SQL(" ").join(joins))
