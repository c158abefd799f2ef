"""The state of the CRM's Postgres: clock, migrations, triggers, and the outbox's newest row."""

import time
from dataclasses import dataclass

import psycopg

from leadstream.errors import Transient
from leadstream.postgres import Connection, connect, describe_postgres
from producer.crm_fit import described_tables
from producer.described_migration import possible_triggers
from producer.described_triggers import triggers_hash
from producer.migrate import NO_TRIGGERS, expected_migrations
from schemas.crm_description import CrmDescription
from schemas.crm_tables import find_tables

STATEMENT_MS = 10_000
_WAKE = ("leadstream_outbox", "leadstream_wake")
_OF_PEOPLE = (
    ("people", "leadstream_person_changed"),
    ("applications", "leadstream_application_submitted"),
    _WAKE,
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
    names of migrations, and of the triggers of a description. `absent_triggers` are pairs of a
    table and a trigger. `polled` tells that the outbox was made without triggers.
    """

    clock_ahead_seconds: float
    applied: list[str]
    missing: list[str]
    absent_triggers: list[tuple[str, str]]
    last: NewestRow | None
    polled: bool


def read_postgres_status(
    database_url: str, description: CrmDescription | None = None
) -> PostgresStatus:
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
                return PostgresStatus(ahead, [], [], [], None, polled=False)
            rows = connection.execute(_APPLIED).fetchall()
            missing, triggers = _expected(connection, description, rows)
            firing = set(connection.execute(_FIRING, ([table for table, _ in triggers],)))
            there = {table for (table,) in connection.execute(_THERE, ([t for t, _ in triggers],))}
            row = connection.execute(_LAST).fetchone()
    except psycopg.Error as error:
        raise Transient("postgres", describe_postgres(error)) from error
    return PostgresStatus(
        ahead,
        [name for name, _ in rows],
        missing,
        [each for each in triggers if each[0] in there and each not in firing],
        NewestRow(*row) if row else None,
        NO_TRIGGERS in [name for name, _ in rows],
    )


def _expected(
    connection: Connection, description: CrmDescription | None, rows: list[tuple[str, str]]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the migrations that are missing, and the triggers that a CRM of this kind needs."""
    crm = description if description and description.database else None
    names = [name for name, _ in rows]
    known = expected_migrations(names, described=crm is not None)
    missing = [each.name for each in known if each.name not in names]
    if crm is None:
        return missing, list(_OF_PEOPLE)
    if NO_TRIGGERS in names:
        return missing, [_WAKE]
    wanted = possible_triggers(crm, find_tables(connection, described_tables(crm)))
    if wanted and triggers_hash(wanted) not in [sha256 for _, sha256 in rows]:
        missing.append(f"the triggers of {crm.path}")
    return missing, [*((each.table.name.quoted(), each.name) for each in wanted), _WAKE]


_TABLES = (
    "select to_regclass('leadstream_outbox')::text, to_regclass('leadstream_migrations')::text"
)
_APPLIED = "select name, sha256 from leadstream_migrations order by number"
# D is disabled, R fires in replicas only.
_FIRING = """
select name, tgname::text
from unnest(%s::text[]) as name join pg_trigger on tgrelid = to_regclass(name)
where tgenabled in ('O', 'A')
"""
_THERE = "select name from unnest(%s::text[]) as name where to_regclass(name) is not null"
_LAST = (
    "select position, extract(epoch from occurred_at)::float8 from leadstream_outbox"
    " order by position desc limit 1"
)
