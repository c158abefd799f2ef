"""One life of the relay's transactional producer: records and the outbox's position become visible together."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Report

from leadstream.errors import Fenced, Transient, UserError
from leadstream.kafka.config import MOCK_CLUSTER, config_error, produce, producer_config, retrying
from leadstream.kafka.permission import denied, told
from leadstream.log import client_logger
from leadstream.settings import Settings
from producer.positions import Position

OPEN_SECONDS, CALL_SECONDS, COMMIT_SECONDS, ABORT_SECONDS = 5.0, 2.0, 10.0, 5.0


@dataclass(frozen=True, slots=True)
class Message:
    """A record to publish."""

    topic: str
    key: bytes
    value: bytes


def transactional_id(settings: Settings) -> str:
    """One for each group: a second relay of a group ends the first. It is the key of the position, too."""
    return f"{settings.group_id}-relay"


class Publication:
    """A producer of its own; a method that raises Fenced has ended it."""

    def __init__(self, settings: Settings) -> None:
        config: dict[str, Any] = producer_config(settings, transactional=True) | {
            "delivery.report.only.error": True,
            "on_delivery": self._on_failure,
        }
        self._undelivered: str | None = None
        try:
            self._producer = Producer(
                {
                    **config,
                    "transactional.id": transactional_id(settings),
                    "logger": client_logger(),
                }
            )
        except KafkaException as error:
            raise config_error(error) from None
        self._topics = settings.topics
        self._key = transactional_id(settings).encode()

    def open(self) -> None:
        """Become the one relay: whoever was it before can commit nothing more. Raises Transient, UserError."""
        self._look()
        try:
            self._producer.init_transactions(OPEN_SECONDS)
        except KafkaException as error:
            kafka_error: KafkaError = error.args[0]
            if kafka_error.code() in (
                KafkaError._UNSUPPORTED_FEATURE,
                KafkaError.UNSUPPORTED_VERSION,
            ):
                raise UserError(
                    f"this broker has no transactions ({kafka_error.str()}): the relay needs them"
                ) from None
            why = told(kafka_error, "Write", self._key.decode())
            raise Transient("brokers", f"no transaction coordinator: {why}") from error

    def commit(self, messages: Iterable[Message], position: Position) -> None:
        """Publish a batch:

        1. Begin a transaction.
        2. Produce the records into it, in the order of the outbox.
        3. Produce the position of the last row into it.
        4. Commit: all of it becomes visible together, or nothing does.

        Transient: nothing of it counts, try again. Fenced: it may count; the committed position tells.
        """
        deadline = time.monotonic() + COMMIT_SECONDS
        self._undelivered = None
        try:
            self._producer.begin_transaction()
            place = Message(self._topics.relay_positions, self._key, position.encode())
            records = (
                (each.topic, each.key, each.value, None, None) for each in (*messages, place)
            )
            produce(self._producer, records, deadline)
            retrying(lambda: self._producer.commit_transaction(CALL_SECONDS), deadline)
        except KafkaException as error:
            self._abort(error)

    def close(self) -> None:
        """Give up what was not committed."""
        self._producer.purge()

    def _look(self) -> None:
        try:
            cluster = self._producer.list_topics(timeout=OPEN_SECONDS)
        except KafkaException as error:
            raise Transient("brokers", error.args[0].str()) from error
        if str(cluster.cluster_id or "").startswith(MOCK_CLUSTER):
            raise UserError(
                "this broker has no transactions (it is librdkafka's mock cluster), and the relay needs them: "
                "use a real Kafka"
            )
        wanted = (
            self._topics.lead_changes,
            self._topics.lead_outcomes,
            self._topics.relay_positions,
        )
        if absent := [topic for topic in wanted if topic not in cluster.topics]:
            if (why := denied(self._producer, absent, "Write")) is not None:
                raise Transient("brokers", why)
            raise Transient(
                "brokers",
                f"no {', '.join(absent)}; `leadstream topics create` makes what is missing",
            )

    def _abort(self, error: KafkaException) -> None:
        kafka_error: KafkaError = error.args[0]
        if kafka_error.fatal():
            raise Fenced(kafka_error.str()) from error
        try:
            retrying(
                lambda: self._producer.abort_transaction(CALL_SECONDS),
                time.monotonic() + ABORT_SECONDS,
            )
        except KafkaException as abort_error:
            raise Fenced(abort_error.args[0].str()) from error
        # A record that no broker took is named in its report, and only there.
        self._producer.poll(0)
        raise Transient(
            "brokers", f"the transaction was aborted: {self._undelivered or kafka_error.str()}"
        ) from error

    def _on_failure(self, error: KafkaError, message: Report) -> None:
        if error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            self._undelivered = self._undelivered or told(error, "Write", str(message.topic()))
