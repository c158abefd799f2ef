"""The environment of the demo: a broker, a Postgres and topics, removed afterwards."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psycopg
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from psycopg import sql

from leadstream.cli.demo.display import Screen
from leadstream.cli.topics import create_missing
from leadstream.errors import UserError, error_text
from leadstream.kafka.config import client_config
from leadstream.kafka.topics import VARIABLES
from leadstream.local.broker import Broker, local_broker
from leadstream.local.postgres import Postgres, local_postgres
from leadstream.local.process import free_ports
from leadstream.log import SILENT
from leadstream.settings import KAFKA_PREFIX, Settings, load_settings
from models.registry.signing import key_path, make_key

_PARTITIONS = 3
_GROUP_SECONDS = 15.0


def demo_environment(
    stack: contextlib.ExitStack, screen: Screen, folder: Path
) -> tuple[dict[str, str], Settings]:
    """Start what is missing; return the variables of the environment and the settings.

    On a given broker or Postgres, the demo has topics, a group and a database of its own.
    """
    broker = stack.enter_context(local_broker(say=screen.say))
    postgres = stack.enter_context(local_postgres(screen.say))
    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
        "DATABASE_URL": stack.enter_context(_database(postgres)),
        "MODEL_STORE": str(folder / "models"),
        "LEADSTREAM_MODEL_SIGNING_KEY": str(folder / "model-key.pem"),
        "LEADSTREAM_DELIVERY": "exactly-once" if broker.transactions else "at-least-once",
        "LEADSTREAM_HISTORY": str(folder / "history"),
        "LEADSTREAM_HISTORY_COMMIT_SECONDS": "2",
        "LEADSTREAM_HTTP_PORT": str(free_ports(1)[0]),
        "LEADSTREAM_LOG_FORMAT": "json",
    }
    if broker.kind == "given":
        name = f"leadstream-demo-{secrets.token_hex(4)}"
        variables |= {variable: f"{name}.{topic}" for variable, topic in VARIABLES.items()} | {
            "LEADSTREAM_GROUP_ID": name
        }
        variables |= {
            variable: value
            for variable, value in os.environ.items()
            if variable.startswith(KAFKA_PREFIX)
        }
    settings = load_settings(variables, env_file=None)
    make_key(key_path(settings))
    stack.enter_context(_topics(screen, broker, settings))
    screen.say(f"Delivery: {settings.delivery.value}")
    return variables, settings


@contextlib.contextmanager
def _database(postgres: Postgres) -> Iterator[str]:
    """Yield the URL of the demo's database; in a given Postgres a new one, dropped afterwards."""
    if postgres.kind != "given":
        yield postgres.url
        return
    name = f"leadstream_demo_{secrets.token_hex(4)}"
    try:
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise UserError(
            f"DATABASE_URL: the demo cannot create a database there: {error_text(error)}; "
            "unset DATABASE_URL, and the demo starts a Postgres instead"
        ) from None
    try:
        yield psycopg.conninfo.make_conninfo(postgres.url, dbname=name)
    finally:
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@contextlib.contextmanager
def _topics(screen: Screen, broker: Broker, settings: Settings) -> Iterator[None]:
    """Create the topics; remove them afterwards from a given broker."""
    names: list[str] = list(asdict(settings.topics).values())
    if broker.kind == "mock":
        toucher = Producer({"bootstrap.servers": broker.bootstrap}, logger=SILENT)
        for name in names:  # the mock creates a topic at the first request for it
            toucher.list_topics(name, timeout=10)
    else:
        create_missing(settings, _PARTITIONS)
    try:
        yield
    finally:
        if broker.kind == "given":
            _remove(screen, settings, names)


def _remove(screen: Screen, settings: Settings, topics: list[str]) -> None:
    """Remove topics and group; retry while the session of a killed consumer still lasts."""
    admin = AdminClient(client_config(settings), logger=SILENT)
    deadline = time.monotonic() + _GROUP_SECONDS
    waiting = {**admin.delete_topics(topics), **admin.delete_consumer_groups([settings.group_id])}
    while waiting:
        name, future = waiting.popitem()
        try:
            future.result(30)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.NON_EMPTY_GROUP and time.monotonic() < deadline:
                time.sleep(0.5)
                waiting |= admin.delete_consumer_groups([name])
            elif code != KafkaError.GROUP_ID_NOT_FOUND:
                screen.say(f"{name} could not be removed from the brokers: {error_text(error)}")
