"""The state of the CRM's Postgres: clock, migrations, triggers, and the outbox's newest row."""

import time
from dataclasses import dataclass

import psycopg

from leadstream.errors import Transient
from leadstream.postgres import connect, describe_postgres
from producer.migrate import migrations

STATEMENT_MS = 10_000
TRIGGERS = (
    ("people", "leadstream_person_changed"),
    ("applications", "leadstream_application_submitted"),
    ("leadstream_outbox", "leadstream_wake"),
)


@dataclass(frozen=True, slots=True)
class NewestRow:
    """The newest row of the outbox; `written_at` is seconds since 1970 by Postgres's clock."""

    position: int
    written_at: float


@dataclass(frozen=True, slots=True)
class PostgresStatus:
    """The result of `read_postgres_status`.

    `clock_ahead_seconds` is how far Postgres's clock is ahead of ours; `applied` and `missing` are
    names of migrations.
    """

    clock_ahead_seconds: float
    applied: list[str]
    missing: list[str]
    absent_triggers: list[tuple[str, str]]
    last: NewestRow | None


def read_postgres_status(database_url: str) -> PostgresStatus:
    """Read the status, and change nothing.

    Raises Transient if Postgres does not answer or refuses this role.
    """
    try:
        with connect(
            database_url, statement_ms=STATEMENT_MS, options="-c default_transaction_read_only=on"
        ) as connection:
            before = time.time()
            [clock] = connection.execute(
                "select extract(epoch from clock_timestamp())::float8"
            ).fetchone() or [before]
            ahead = clock - (before + time.time()) / 2
            [outbox, log] = connection.execute(_TABLES).fetchone() or [None, None]
            if outbox is None or log is None:
                return PostgresStatus(ahead, [], [], [], None)
            names = [
                name
                for (name,) in connection.execute(
                    "select name from leadstream_migrations order by number"
                )
            ]
            firing = set(connection.execute(_FIRING).fetchall())
            there = {
                table
                for (table,) in connection.execute(_THERE, ([table for table, _ in TRIGGERS],))
            }
            row = connection.execute(_LAST).fetchone()
    except psycopg.Error as error:
        raise Transient("postgres", describe_postgres(error)) from error
    return PostgresStatus(
        ahead,
        names,
        [each.name for each in migrations() if each.name not in names],
        [each for each in TRIGGERS if each[0] in there and each not in firing],
        NewestRow(*row) if row else None,
    )


_TABLES = (
    "select to_regclass('leadstream_outbox')::text, to_regclass('leadstream_migrations')::text"
)
# D is disabled, R fires in replicas only.
_FIRING = """
select tgrelid::regclass::text, tgname::text from pg_trigger
where tgrelid in (
    to_regclass('people'), to_regclass('applications'), to_regclass('leadstream_outbox')
  )
  and tgenabled in ('O', 'A')
"""
_THERE = "select name from unnest(%s::text[]) as name where to_regclass(name) is not null"
_LAST = (
    "select position, extract(epoch from occurred_at)::float8 from leadstream_outbox"
    " order by position desc limit 1"
)
