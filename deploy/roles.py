"""Give the consumer and the relay a role of the database each, with what it needs and no more."""

import os
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

FOLDER = Path("/roles")
RIGHTS = {
    "consumer": ("select on people, programmes, campuses",),
    "relay": (
        "select, delete on leadstream_outbox",
        "select on sequence leadstream_outbox_position_seq",
        "select on programmes, campuses",
    ),
}


def make_roles(connection: psycopg.Connection[Any], folder: Path = FOLDER) -> None:
    """Make each role, or set its password, and grant its rights; a second time changes nothing."""
    [schema] = connection.execute("select current_schema()").fetchone() or [""]
    for service, rights in RIGHTS.items():
        role = sql.Identifier(f"leadstream_{service}")
        password = (folder / service / "password").read_text("utf-8").strip()
        found = connection.execute(
            "select 1 from pg_roles where rolname = %s", (f"leadstream_{service}",)
        ).fetchone()
        verb = sql.SQL("alter" if found else "create")
        connection.execute(sql.SQL("{} role {} login password {}").format(verb, role, password))
        connection.execute(
            sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(schema), role)
        )
        for right in rights:
            statement = sql.SQL("grant {} to {}").format(sql.SQL(right), role)
            connection.execute(statement)


if __name__ == "__main__":
    with psycopg.connect(os.environ["DATABASE_URL"]) as database:
        make_roles(database)
