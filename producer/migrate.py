"""Migrations of a CRM's database: numbered SQL files, each applied once, in order."""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from leadstream.errors import UserError
from leadstream.postgres import check_url, describe_postgres
from producer.described_migration import (
    needed_triggers,
    outbox_schema,
    replace_triggers,
    triggers_are_present,
)
from producer.described_triggers import OutboxTrigger, triggers_hash
from schemas.crm_description import CrmDescription

Connection = psycopg.Connection[Any]

FOLDER = Path(str(resources.files("producer"))) / "migrations"
# The first migration of a CRM that a file describes, and those that it takes the place of.
DESCRIBED_FOLDER = FOLDER / "described"
_OF_PEOPLE = frozenset({1, 3})
_FIRST, _DESCRIBED = "0001_outbox.sql", ("0001_described_outbox.sql",)
# The number under which leadstream_migrations has the triggers of a description.
_DESCRIPTION = 0
# What it has there instead after --without-triggers.
NO_TRIGGERS = "no triggers"
# Writers of a table wait for the lock that creates a trigger: fail rather than block a CRM.
LOCK_TIMEOUT = "3s"
PRIVILEGES = (
    "CREATE on the schema of the outbox, TRIGGER on the tables of leads and outcomes, and, for an "
    "outbox that exists, the role that made it"
)
_ONE_AT_A_TIME = 0x1EAD5EA


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file; `sha256` is that of its bytes."""

    number: int
    name: str
    sql: str
    sha256: str


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The migrations that were present and those that were applied, by name.

    `notes` are sentences about what will not work in this CRM.
    """

    schema: str
    present: list[str]
    applied: list[str]
    notes: list[str]


def migrations(folder: Path = FOLDER) -> list[Migration]:
    """Read the files `0001_name.sql` of a folder in the order of their numbers."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        content = path.read_bytes()
        number = int(path.name.partition("_")[0])
        found.append(
            Migration(number, path.name, content.decode(), hashlib.sha256(content).hexdigest())
        )
    return found


def migrate(
    database_url: str,
    *,
    dry_run: bool = False,
    folder: Path = FOLDER,
    description: CrmDescription | None = None,
    triggers: bool = True,
) -> MigrationResult:
    """Apply the missing migrations in one transaction; `dry_run` rolls it back at the end.

    A described CRM gets the triggers of its description, unless `triggers` is false. Raises
    UserError if this database is no CRM, or not the described one, if a migration was edited after
    it was applied, or if a right is missing.
    """
    crm = description if description and description.database else None
    with _connected(database_url) as connection, connection.transaction(force_rollback=dry_run):
        connection.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
        connection.execute("select pg_advisory_xact_lock(%s)", (_ONE_AT_A_TIME,))
        if crm is None:
            _refuse_described(connection)
            schema, notes = _look(connection)
            wanted: list[OutboxTrigger] = []
        else:
            schema = outbox_schema(connection)
            wanted, notes = needed_triggers(connection, crm, triggers=triggers)
        # The functions keep this path. Temporary tables come last and so cannot shadow others.
        connection.execute(
            sql.SQL("set local search_path = {}, pg_temp").format(sql.Identifier(schema))
        )
        connection.execute(_VERSIONS)
        done = connection.execute(
            "select number, name, sha256 from leadstream_migrations order by number"
        ).fetchall()
        before = next((row for row in done if row[0] == _DESCRIPTION), None)
        known = expected_migrations([name for _, name, _ in done], folder, described=bool(crm))
        applied = _apply_missing(connection, done, known)
        sha256 = triggers_hash(wanted)
        same = before is not None and before[2] == sha256
        if wanted and not (same and triggers_are_present(connection, wanted)):
            name = replace_triggers(connection, wanted)
            connection.execute("delete from leadstream_migrations where number = 0")
            _record(connection, _DESCRIPTION, name, sha256)
            applied.append(name)
        elif crm and not triggers and before is None:
            _record(connection, _DESCRIPTION, NO_TRIGGERS, sha256)
        return MigrationResult(schema, [name for _, name, _ in done], applied, notes)


def expected_migrations(
    done: Collection[str], folder: Path = FOLDER, *, described: bool
) -> list[Migration]:
    """Return the migrations of this kind of CRM, given the names of those that the database has.

    An outbox that was made for the table people keeps its migrations when it gets a description.
    """
    known = migrations(folder)
    if not described or _FIRST in done:
        return known
    others = [each for each in known if each.number not in _OF_PEOPLE]
    return [*migrations(DESCRIBED_FOLDER), *others]


def _apply_missing(
    connection: Connection, done: list[tuple[int, str, str]], known: list[Migration]
) -> list[str]:
    """Apply the migrations that the database does not have, and return their names."""
    _compare(done, known)
    applied = []
    for migration in known:
        if migration.number not in {number for number, _, _ in done}:
            connection.execute(migration.sql.encode())
            _record(connection, migration.number, migration.name, migration.sha256)
            applied.append(migration.name)
    return applied


def _record(connection: Connection, number: int, name: str, sha256: str) -> None:
    connection.execute(
        "insert into leadstream_migrations (number, name, sha256) values (%s, %s, %s)",
        (number, name, sha256),
    )


_VERSIONS = """
create table if not exists leadstream_migrations (
    number integer primary key,
    name text not null,
    sha256 text not null,
    applied_at timestamptz not null default now(),
    applied_by text not null default current_user
)
"""

_COLUMNS = """
select c.relname, n.nspname, array_agg(a.attname::text)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.oid in (to_regclass('people'), to_regclass('applications'))
group by c.relname, n.nspname
"""


def _look(connection: Connection) -> tuple[str, list[str]]:
    """Return the schema of people, and what will not work in this CRM."""
    tables = {
        table: (schema, set(columns)) for table, schema, columns in connection.execute(_COLUMNS)
    }
    if "people" not in tables:
        raise UserError(
            "DATABASE_URL: no table people on its search path: name the CRM's database (and schema)"
        )
    schema, columns = tables["people"]
    if lacking := {"id", "created_at"} - columns:
        raise UserError(
            f"DATABASE_URL: the table people has no column {', '.join(sorted(lacking))}"
        )
    if "applications" not in tables:
        return schema, ["there is no table applications: no outcomes will be sent"]
    if lacking := {"person_id", "submitted_at"} - tables["applications"][1]:
        return schema, [
            f"applications has no column {', '.join(sorted(lacking))}: no outcomes will be sent"
        ]
    return schema, []


def _refuse_described(connection: Connection) -> None:
    """Raise UserError if the outbox is that of a described CRM."""
    found = connection.execute("select to_regclass('leadstream_migrations')").fetchone()
    if found is None or found[0] is None:
        return
    query = "select from leadstream_migrations where number = %s or name = any(%s)"
    if connection.execute(query, (_DESCRIPTION, list(_DESCRIBED))).fetchone() is not None:
        raise UserError(
            "the outbox in this database is that of a CRM that a file describes: "
            "set LEADSTREAM_FIELDS to the file"
        )


def _compare(done: list[tuple[int, str, str]], known: list[Migration]) -> None:
    by_number = {migration.number: migration for migration in known}
    for number, name, sha256 in done:
        if number == _DESCRIPTION:
            continue
        if number not in by_number:
            raise UserError(
                f"the database has {name}, which this Leadstream does not know: install a newer one"
            )
        if by_number[number].sha256 != sha256:
            raise UserError(
                f"{by_number[number].name} was changed after it was applied here as {name}: "
                "restore the file, and make the change a migration of its own"
            )


@contextmanager
def _connected(database_url: str) -> Iterator[Connection]:
    try:
        with psycopg.connect(
            check_url(database_url), connect_timeout=10, autocommit=True
        ) as connection:
            yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        raise UserError(
            f"DATABASE_URL: this role may not do that ({error.diag.message_primary}); "
            f"`db migrate` needs {PRIVILEGES}; ?options=-csearch_path%3DSCHEMA at the end of the "
            "URL names another schema for it"
        ) from None
    except psycopg.errors.LockNotAvailable:
        raise UserError(
            f"the table of leads or of outcomes was in use for over {LOCK_TIMEOUT}: "
            "nothing was changed, try again"
        ) from None
    except psycopg.OperationalError as error:
        raise UserError(
            f"DATABASE_URL: Postgres does not answer: {describe_postgres(error)}"
        ) from None
    except psycopg.Error as error:
        what = describe_postgres(error)
        raise UserError(
            f"DATABASE_URL: the migrations do not fit this database, nothing was changed: {what}"
        ) from None
