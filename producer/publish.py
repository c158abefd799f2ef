"""A Kafka producer for events that loses none silently.

Every record is acknowledged, or a UserError reports it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from leadstream.errors import UserError, error_text
from leadstream.kafka.config import config_error, producer_config
from leadstream.kafka.connection_check import ConnectionCheck
from leadstream.log import SILENT
from leadstream.settings import Settings
from schemas.codec import Writer
from schemas.registry import Registry

DELIVERY_TIMEOUT_MS = 30_000
_CONNECT_SECONDS = 10.0


class EventPublisher:
    """An encoder and sender of records.

    `delivered` is the number of records that the brokers have acknowledged.
    """

    def __init__(self, producer: Producer, registry: Registry | None) -> None:
        self._producer = producer
        self._registry = registry
        self._writers: dict[tuple[str, str], Writer] = {}
        self._failed = 0
        self._first_failure = ""
        self.delivered = 0

    def encode(self, name: str, topic: str, record: Mapping[str, Any]) -> bytes:
        """Encode an Avro record (`name` as in the contract) for this topic.

        Raises as `Writer.encode` does.
        """
        if (name, topic) not in self._writers:
            self._writers[name, topic] = Writer(name, self._registry, topic)
        return self._writers[name, topic].encode(record)

    def send(self, name: str, topic: str, key: str, record: Mapping[str, Any] | None) -> None:
        """Encode and send one record; None is a tombstone."""
        self.send_bytes(
            topic, key.encode(), None if record is None else self.encode(name, topic, record)
        )

    def send_bytes(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        on_delivered: Callable[[Message], None] = lambda _message: None,
    ) -> None:
        """Send these bytes, and call `on_delivered` after they are acknowledged.

        Raises UserError as soon as the delivery of any record failed.
        """

        def report(error: KafkaError | None, message: Message) -> None:
            self._report(error, message)
            if error is None:
                on_delivered(message)

        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=report)
                break
            except BufferError:  # the queue is full: every report of a delivery makes room
                self._producer.poll(0.5)
            except KafkaException as error:
                raise UserError(f"{topic}: {_sentence(error.args[0])}") from None
        self._producer.poll(0)
        self._check()

    def flush(self) -> None:
        """Wait until every record is acknowledged; UserError if one is not."""
        left = self._producer.flush(DELIVERY_TIMEOUT_MS / 1000 + 5)
        self._failed += left
        self._first_failure = self._first_failure or "the brokers did not acknowledge them in time"
        self._check()

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.delivered += 1
        else:
            self._failed += 1
            self._first_failure = self._first_failure or f"{message.topic()}: {_sentence(error)}"

    def _check(self) -> None:
        if self._failed:
            raise UserError(
                f"{self._failed} records were not delivered "
                f"({self.delivered} were): {self._first_failure}"
            )


@contextmanager
def publishing(settings: Settings) -> Iterator[EventPublisher]:
    """Open a publisher on the brokers of the settings.

    Leaving the block waits for every acknowledgement.
    """
    ConnectionCheck(settings).check()
    config = {"message.timeout.ms": DELIVERY_TIMEOUT_MS, **producer_config(settings)}
    try:
        producer = Producer(config, logger=SILENT)
    except KafkaException as error:
        raise config_error(error) from None
    try:
        producer.list_topics(timeout=_CONNECT_SECONDS)
    except KafkaException as error:
        servers = config["bootstrap.servers"]
        raise UserError(
            f"KAFKA_BOOTSTRAP_SERVERS: {servers} does not answer: {_sentence(error.args[0])}"
        ) from None
    registry = Registry(settings.schema_registry_url) if settings.schema_registry_url else None
    publisher = EventPublisher(producer, registry)
    try:
        yield publisher
        publisher.flush()
    except KeyboardInterrupt:
        producer.flush(5)
        raise
    finally:
        if registry is not None:
            registry.close()


def _sentence(error: KafkaError) -> str:
    if error.code() in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}:
        return "the topic does not exist; `leadstream topics create` makes it"
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return "this account needs the permission Write on the topic"
    return error_text(error).removeprefix("Local: ").rstrip(".")
