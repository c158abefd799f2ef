"""Migrations of a CRM's database: numbered SQL files, each applied once, in order."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from leadstream.errors import UserError, error_text
from leadstream.postgres import check_url

Connection = psycopg.Connection[Any]

FOLDER = Path(str(resources.files("producer"))) / "migrations"
# Writers of a table wait for the lock that creates a trigger: fail rather than block a CRM.
LOCK_TIMEOUT = "3s"
PRIVILEGES = (
    "CREATE on the schema of people, TRIGGER on people and applications, and, for an outbox that "
    "exists, the role that made it"
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


def migrate(database_url: str, *, dry_run: bool = False, folder: Path = FOLDER) -> MigrationResult:
    """Apply the missing migrations in one transaction; `dry_run` rolls it back at the end.

    Raises UserError if this database is no CRM, if a migration was edited after it was applied, or
    if a right is missing.
    """
    known = migrations(folder)
    with _connected(database_url) as connection, connection.transaction(force_rollback=dry_run):
        connection.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
        connection.execute("select pg_advisory_xact_lock(%s)", (_ONE_AT_A_TIME,))
        schema, notes = _look(connection)
        # The functions keep this path. Temporary tables come last and so cannot shadow others.
        connection.execute(
            sql.SQL("set local search_path = {}, pg_temp").format(sql.Identifier(schema))
        )
        connection.execute(_VERSIONS)
        done = connection.execute(
            "select number, name, sha256 from leadstream_migrations order by number"
        ).fetchall()
        _compare(done, known)
        applied = []
        for migration in known:
            if migration.number not in {number for number, _, _ in done}:
                connection.execute(migration.sql.encode())
                connection.execute(
                    "insert into leadstream_migrations (number, name, sha256) values (%s, %s, %s)",
                    (migration.number, migration.name, migration.sha256),
                )
                applied.append(migration.name)
        return MigrationResult(schema, [name for _, name, _ in done], applied, notes)


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


def _compare(done: list[tuple[int, str, str]], known: list[Migration]) -> None:
    by_number = {migration.number: migration for migration in known}
    for number, name, sha256 in done:
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
            f"`db migrate` needs {PRIVILEGES}"
        ) from None
    except psycopg.errors.LockNotAvailable:
        raise UserError(
            f"people or applications were in use for over {LOCK_TIMEOUT}: "
            "nothing was changed, try again"
        ) from None
    except psycopg.OperationalError as error:
        raise UserError(
            f"DATABASE_URL: Postgres does not answer: {error_text(error).splitlines()[-1]}"
        ) from None
    except psycopg.Error as error:
        what = error.diag.message_primary or error_text(error).splitlines()[0]
        raise UserError(
            f"DATABASE_URL: the migrations do not fit this database, nothing was changed: {what}"
        ) from None
