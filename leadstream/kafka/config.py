"""Configurations of the librdkafka clients: producers, consumers and admin clients."""

import socket
import uuid
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from leadstream.budgets import (
    HEARTBEAT_INTERVAL_MS,
    SESSION_TIMEOUT_MS,
    TRANSACTION_TIMEOUT_MS,
)
from leadstream.errors import SettingsError, UserError, error_text
from leadstream.settings import KAFKA_PREFIX, Settings

# While the markers of one transaction are being written, the brokers make the next one retry. The
# client's 100 ms would be most of the latency of a quiet topic; it backs off from here.
RETRY_BACKOFF_MS = 5
# Messages fetched ahead for each partition: ten batches. Each takes 400 bytes more than its own
# size; the client's 100,000 would take 40 MB.
QUEUED_MESSAGES = 20_000
# A dead letter is larger than its original, by its headers. The broker's topic limit decides.
MESSAGE_MAX_BYTES = 8 * 1024 * 1024
# A client decompresses a batch up to this size; a record of a megabyte may have held that much.
CONSUMED_MAX_BYTES = 64 * 1024 * 1024
_FETCH_LIMITS = {"message.max.bytes", "fetch.max.bytes", "receive.message.max.bytes"}
_CLASSIC_ONLY = {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"}

Headers = list[tuple[str, bytes | None]]
# Topic, key, value, headers, and the timestamp in milliseconds UTC; None lets the client set it.
Record = tuple[str, bytes | None, bytes | None, Headers | None, int | None]


def client_config(settings: Settings) -> dict[str, Any]:
    """Return the properties of every client, with the user's LEADSTREAM_KAFKA_... ones last."""
    servers = settings.need(
        "KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092"
    )
    return {
        "bootstrap.servers": servers,
        "client.id": f"leadstream-{socket.gethostname()}",
        "message.max.bytes": MESSAGE_MAX_BYTES,
        "log.connection.close": False,
        **settings.kafka,
    }


def producer_config(
    settings: Settings, *, transactional: bool = False, verb: str = "run"
) -> dict[str, Any]:
    """Return the properties of an idempotent producer that partitions as Java clients do.

    With `transactional` it has a transactional id of its own, which begins with the group and the
    verb: a permission on this prefix covers no id of the relay or the triage.
    """
    config = {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "linger.ms": 2,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 1_000_000,
        **client_config(settings),
    }
    if transactional:
        # KIP-447: the group's generation in the commit fences, not this id.
        config["transactional.id"] = f"{settings.group_id}-{verb}-{uuid.uuid4()}"
        config.setdefault("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
        config.setdefault("retry.backoff.ms", RETRY_BACKOFF_MS)
    return config


def consumer_config(settings: Settings) -> dict[str, Any]:
    """Return the properties of a consumer that reads committed data and never commits by itself."""
    config = {
        "group.id": settings.group_id,
        "auto.offset.reset": "earliest",
        "session.timeout.ms": SESSION_TIMEOUT_MS,
        "heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
        "fetch.queue.backoff.ms": 20,
        "queued.min.messages": QUEUED_MESSAGES,
        "queued.max.messages.kbytes": 16_384,
        "fetch.wait.max.ms": 100,
        "topic.metadata.refresh.interval.ms": 10_000,
        **client_config(settings),
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "partition.assignment.strategy": "cooperative-sticky",
    }
    if _FETCH_LIMITS.isdisjoint(settings.kafka):
        config["message.max.bytes"] = CONSUMED_MAX_BYTES
    if settings.kafka.get("group.protocol") == "consumer":
        # KIP-848: the brokers decide on these; the client refuses them unless the user sets them.
        for name in _CLASSIC_ONLY - settings.kafka.keys():
            del config[name]
    return config


def config_error(error: KafkaException) -> UserError:
    """Return the error for a client that could not be made: the property, and where it is set."""
    kafka_error: KafkaError = error.args[0]
    text = error_text(kafka_error).rstrip(".")
    if kafka_error.code() == KafkaError._INVALID_ARG:
        return SettingsError(
            f"a Kafka client refuses its settings: {text}; see the {KAFKA_PREFIX}... variables"
        )
    return UserError(f"a Kafka client could not be made: {text}")


def make_producer(config: Mapping[str, Any]) -> Producer:
    """Return a producer. Raises SettingsError or UserError if it cannot be made."""
    try:
        return Producer(dict(config))
    except KafkaException as error:
        raise config_error(error) from None
