"""What every librdkafka client of Leadstream is configured with, and how a transaction is filled and ended."""

import socket
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from leadstream.errors import SettingsError, UserError
from leadstream.kafka.permission import told
from leadstream.settings import KAFKA_PREFIX, Settings

# A transaction spans only produce and commit; a killed process blocks read_committed readers for at most this long.
TRANSACTION_TIMEOUT_MS = 10_000
# A transaction that begins while the markers of the one before are still being written is told to come again. The
# client's 100 ms would be most of the latency of a topic with a few hundred changes a second; it backs off from here.
RETRY_BACKOFF_MS = 5
# Fetched ahead of a partition: ten batches. A message takes 400 bytes beside its own; the client's 100,000 take 40 MB.
QUEUED_MESSAGES = 20_000
# Letters carry headers beyond their originals; the broker's topic limit decides, not the client.
MESSAGE_MAX_BYTES = 8 * 1024 * 1024
_CLASSIC_ONLY = {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"}
# The mock cluster of librdkafka answers every transactional call and does nothing of what they promise.
MOCK_CLUSTER = "mockCluster"

Headers = list[tuple[str, bytes | None]]
# Topic, key, value, headers, and the timestamp in milliseconds UTC, which the client sets where it is None.
Record = tuple[str, bytes | None, bytes | None, Headers | None, int | None]


def client_config(settings: Settings) -> dict[str, Any]:
    """Properties shared by producers, consumers and admin clients, the user's own LEADSTREAM_KAFKA_... ones last."""
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


def producer_config(settings: Settings, *, transactional: bool = False) -> dict[str, Any]:
    """An idempotent producer that partitions as Java clients do; with its own transactional id if asked."""
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
        # With consumer group metadata in the commit (KIP-447) fencing is by group generation, not by this id.
        config["transactional.id"] = f"{settings.group_id}-{uuid.uuid4()}"
        config.setdefault("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
        config.setdefault("retry.backoff.ms", RETRY_BACKOFF_MS)
    return config


def consumer_config(settings: Settings) -> dict[str, Any]:
    """A group consumer that reads committed data and never commits by itself."""
    config = {
        "group.id": settings.group_id,
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 2_000,
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
    if settings.kafka.get("group.protocol") == "consumer":
        # KIP-848: the brokers decide on these, and the client refuses them unless the user insists.
        for name in _CLASSIC_ONLY - settings.kafka.keys():
            del config[name]
    return config


def config_error(error: KafkaException) -> UserError:
    """The one sentence for a client that could not be made: which property, and where it is set."""
    kafka_error: KafkaError = error.args[0]
    text = kafka_error.str().rstrip(".")
    if kafka_error.code() == KafkaError._INVALID_ARG:
        return SettingsError(
            f"a Kafka client refuses its settings: {text}; see the {KAFKA_PREFIX}... variables"
        )
    return UserError(f"a Kafka client could not be made: {text}")


def produce(producer: Producer, records: Iterable[Record], deadline: float, **common: Any) -> None:
    """Hand over records; a full queue is waited for, up to the deadline (time.monotonic). `common` goes with each."""
    for topic, key, value, headers, timestamp in records:
        extra = common
        if headers:
            extra = {**extra, "headers": headers}
        if timestamp is not None:
            extra = {**extra, "timestamp": timestamp}
        while True:
            try:
                producer.produce(topic, value, key, **extra)
                break
            except BufferError:
                if time.monotonic() > deadline:
                    raise KafkaException(
                        KafkaError(KafkaError._QUEUE_FULL, "the producer queue stays full")
                    ) from None
                producer.poll(0.05)
            except KafkaException as error:
                # Without a message there is no report that would name the topic.
                kafka_error: KafkaError = error.args[0]
                if kafka_error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise
                raise KafkaException(
                    KafkaError(kafka_error.code(), told(kafka_error, "Write", topic))
                ) from None


def retrying(
    call: Callable[[], object], deadline: float, on_wait: Callable[[str], None] = lambda _why: None
) -> None:
    """Repeat a call while librdkafka says that it may be repeated, up to the deadline; `on_wait` is told why."""
    while True:
        try:
            call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
            on_wait(error.args[0].str())
        else:
            return
