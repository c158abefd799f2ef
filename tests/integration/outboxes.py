"""CRMs with an outbox, each in a schema of its own."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from producer.crm import create_schema
from producer.migrate import migrate


@dataclass(frozen=True, slots=True)
class OutboxCrm:
    """A CRM at work; `url` finds its schema."""

    url: str
    connection: psycopg.Connection[Any]

    def do(self, statement: str, *values: Any) -> None:
        self.connection.execute(statement.encode(), values)

    def add(self, *lead_ids: str, **columns: Any) -> None:
        names = "".join(f", {name}" for name in columns)
        marks = ", %s" * len(columns)
        for lead_id in lead_ids:
            self.do(
                f"insert into people (id, created_at{names}) values (%s, now(){marks})",
                lead_id,
                *columns.values(),
            )

    def score(self, lead_id: str, score: float) -> None:
        self.do("update people set lead_score = %s where id = %s", score, lead_id)

    def outbox(self) -> list[tuple[str, str]]:
        """Lead id and event id of each change, in order."""
        return self.connection.execute(
            "select lead_id, event_id::text from leadstream_outbox where record = "
            "'LeadChanged' order by position"
        ).fetchall()


@contextlib.contextmanager
def schema_of_its_own(server_url: str) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """The URL of a new schema and a connection that stands in it."""
    schema = f"outbox_{uuid.uuid4().hex[:8]}"
    url = f"{server_url}{'&' if '?' in server_url else '?'}options=-csearch_path%3D{schema}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create schema {schema}")
        yield url, connection
        connection.execute(f"drop schema {schema} cascade")


@contextlib.contextmanager
def outbox_crm(server_url: str) -> Iterator[OutboxCrm]:
    with schema_of_its_own(server_url) as (url, connection):
        create_schema(connection)
        migrate(url)
        yield OutboxCrm(url, connection)
