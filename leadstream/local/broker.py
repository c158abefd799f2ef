"""The local broker: a given one, Docker, Apache Kafka with Java, or a mock."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import Producer

from leadstream.errors import SettingsError, UserError
from leadstream.local.containers import require_engine, run_container
from leadstream.local.kafka import local_kafka
from leadstream.local.process import Say, accepts_connections

Choice = Literal["docker", "kafka", "mock"]
MOCK_LIMITS = (
    "The mock broker has no real transactions and loses its records with this process: "
    "at-least-once only."
)


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker: its address, its kind, and what it cannot do in one line."""

    bootstrap: str
    kind: Literal["given", "docker", "kafka", "mock"]
    transactions: bool = True
    limits: str | None = None


@contextlib.contextmanager
def local_broker(
    choice: Choice | None = None, say: Say = print, *, environ: Mapping[str, str] = os.environ
) -> Iterator[Broker]:
    """Run the first available broker for the block; `say` gets a line about each step.

    `choice`, or LEADSTREAM_LOCAL_BROKER, selects one kind only. Otherwise a set
    KAFKA_BOOTSTRAP_SERVERS must answer. Raises UserError if there is no broker.
    """
    forced = choice or _choice(environ)
    given = environ.get("KAFKA_BOOTSTRAP_SERVERS", "").strip()
    with contextlib.ExitStack() as stack:
        if forced is not None:
            try:
                broker = stack.enter_context(_STARTS[forced](say, environ))
            except UserError as error:
                raise UserError(
                    f"The broker kind {forced!r} was requested, but is not available: {error}"
                ) from error
        elif given:
            broker = _given(given, say)
        else:
            broker = _first(stack, say, environ)
        yield broker
    if broker.kind != "given":
        say(f"Broker ({broker.kind}): stopped")


def _choice(environ: Mapping[str, str]) -> Choice | None:
    name = environ.get("LEADSTREAM_LOCAL_BROKER", "").strip()
    for choice in _STARTS:
        if name == choice:
            return choice
    if name:
        raise SettingsError(
            f"LEADSTREAM_LOCAL_BROKER is {name!r}: set it to docker, kafka or mock, or unset it."
        )
    return None


def _first(stack: contextlib.ExitStack, say: Say, environ: Mapping[str, str]) -> Broker:
    for kind, start in _STARTS.items():
        try:
            return stack.enter_context(start(say, environ))
        except UserError as error:
            say(f"Broker ({kind}): not available, {error}")
    raise UserError(
        "No broker starts on this machine: set KAFKA_BOOTSTRAP_SERVERS to one of yours."
    )


def _given(bootstrap: str, say: Say) -> Broker:
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition("://")[2].rpartition(":")
        if not port.isdigit():
            raise SettingsError(
                f"KAFKA_BOOTSTRAP_SERVERS has {address.strip()!r}: write host:port, "
                "separated by commas."
            )
        if accepts_connections(host.strip("[]"), int(port), seconds=3):
            say(f"Broker: the given one at {bootstrap}")
            return Broker(bootstrap, "given")
    raise UserError(
        f"KAFKA_BOOTSTRAP_SERVERS is {bootstrap}, and no broker answers there: start it, or unset "
        "the variable."
    )


@contextlib.contextmanager
def _docker(say: Say, environ: Mapping[str, str]) -> Iterator[Broker]:
    require_engine()
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415  (an extra)

    say("Broker (docker): starting a Kafka container; the first time its image is fetched")
    container = KafkaContainer().with_kraft()
    for setting in ("REPLICATION_FACTOR", "MIN_ISR", "NUM_PARTITIONS"):
        container.with_env(f"KAFKA_TRANSACTION_STATE_LOG_{setting}", "1")
    with run_container(container, "Kafka"):
        broker = Broker(container.get_bootstrap_server(), "docker")
        say(f"Broker (docker): serves at {broker.bootstrap}")
        yield broker


@contextlib.contextmanager
def _kafka(say: Say, environ: Mapping[str, str]) -> Iterator[Broker]:
    with local_kafka(say, environ) as node:
        yield Broker(node.bootstrap, "kafka")


@contextlib.contextmanager
def _mock(say: Say, environ: Mapping[str, str]) -> Iterator[Broker]:
    silent = logging.getLogger("leadstream.local.mock")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    # The cluster lives inside this client; other processes reach it by its address.
    owner = Producer({"test.mock.num.brokers": 1}, logger=silent)
    brokers = owner.list_topics(timeout=10).brokers.values()
    bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    say(f"Broker (mock): serves at {bootstrap}. {MOCK_LIMITS}")
    try:
        yield Broker(bootstrap, "mock", transactions=False, limits=MOCK_LIMITS)
    finally:
        owner.purge()


_STARTS: dict[Choice, Callable[[Say, Mapping[str, str]], AbstractContextManager[Broker]]] = {
    "docker": _docker,
    "kafka": _kafka,
    "mock": _mock,
}
