"""One CRM in Postgres and one `leadstream run` on it, shared by the tests that only send and
read.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres
from producer.crm import create_schema
from tests.integration.running import Running, Stage
from tests.unit.pipelines import STATE


@dataclass(frozen=True, slots=True)
class CrmTables:
    """The demo's tables in a schema of their own; `url` finds them there."""

    url: str
    connection: psycopg.Connection[Any]

    def add(self, *lead_ids: str, **columns: Any) -> None:
        """People with the state of tests/unit/pipelines.py, but for these columns."""
        state = {
            name: STATE[name] for name in ("lead_score", "engagement_score", "touchpoint_count")
        }
        state |= {name: STATE[name] for name in ("lifecycle_state", "status", "source")} | columns
        names = ", ".join(state)
        marks = ", ".join(["%s"] * len(state))
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"insert into people (id, created_at, {names}) values (%s, "
                f"to_timestamp(%s), {marks})",
                [(lead_id, STATE["created_at"] / 1000, *state.values()) for lead_id in lead_ids],
            )


@pytest.fixture(scope="session")
def crm(postgres: Postgres) -> Iterator[CrmTables]:
    schema = f"crm_{uuid.uuid4().hex[:8]}"
    url = f"{postgres.url}{'&' if '?' in postgres.url else '?'}options=-csearch_path%3D{schema}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create schema {schema}")
        create_schema(connection)
        yield CrmTables(url, connection)
        connection.execute(f"drop schema {schema} cascade")


@dataclass(frozen=True, slots=True)
class ServedConsumer:
    """A running process that nobody ends before the session does: use leads of your own."""

    stage: Stage
    process: Running
    crm: CrmTables


@pytest.fixture(scope="session")
def served(
    kafka: Broker, crm: CrmTables, model_store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedConsumer]:
    stage = Stage.on(kafka.bootstrap, tmp_path_factory.mktemp("served"), model_store)
    stage.environment["DATABASE_URL"] = crm.url
    with stage.running() as process:
        yield ServedConsumer(stage, process.until_ready(), crm)
        assert process.stop() == 0
