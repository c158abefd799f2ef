"""Kafka transactions of the relay: records and the outbox's position become visible together."""

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import KafkaException

from leadstream.budgets import COMMIT_SECONDS, OPEN_SECONDS
from leadstream.deadline import Deadline
from leadstream.errors import Transient, error_text
from leadstream.kafka.config import producer_config
from leadstream.kafka.health import CREATE_TOPICS, cluster_metadata, denied_topic
from leadstream.kafka.topic_config import RECORD_OVERHEAD, record_limits
from leadstream.kafka.transaction import TransactionalProducer
from leadstream.log import client_logger
from leadstream.settings import Settings
from producer.positions import Position


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """A record to publish."""

    topic: str
    key: bytes
    value: bytes


def transactional_id(settings: Settings) -> str:
    """Return the transactional id of a group's relay, which is also the key of its position.

    One for each group: a second relay of a group fences the first.
    """
    return f"{settings.group_id}-relay"


class Publication:
    """A transactional producer of the relay. A method that raises Fenced has ended it."""

    def __init__(self, settings: Settings) -> None:
        id_ = transactional_id(settings)
        config = producer_config(settings, transactional=True) | {
            "transactional.id": id_,
            "logger": client_logger(),
        }
        topics = settings.topics
        self._config = config
        self._limits = record_limits(settings, topics.lead_changes, topics.lead_outcomes)
        self._transaction = TransactionalProducer(
            config, granted_id=id_, on_refused=self._on_refused
        )
        self._outdated = False
        self._positions, self._key = topics.relay_positions, id_.encode()
        self._topics = (topics.lead_changes, topics.lead_outcomes, topics.relay_positions)

    def open(self) -> None:
        """Fence the relay before this one. Raises Transient, and UserError without transactions."""
        self._check_topics()
        self._limits.update(self._config)
        self._transaction.limit_batches(self._limits.batch_bytes())
        self._transaction.open("the relay needs them; use a real Kafka")

    def max_bytes(self, topic: str) -> int:
        """Return the most bytes of a key and a value that a topic accepts."""
        if self._outdated:
            self._limits.update(self._config)
            self._outdated = False
            if self._transaction.limit_batches(self._limits.batch_bytes()):
                self._transaction.open("the relay needs them; use a real Kafka")
        return self._limits.max_bytes(topic) - RECORD_OVERHEAD

    def commit(self, records: Iterable[OutboxRecord], position: Position) -> None:
        """Publish a batch:

        1. Begin a transaction.
        2. Produce the records into it, in the order of the outbox.
        3. Produce the position of the last row into it.
        4. Commit: all of it becomes visible together, or nothing does.

        Raises Transient if nothing of it counts: try again. Raises Fenced if it may count: read
        the committed position to find out.
        """
        deadline = Deadline.after(COMMIT_SECONDS)
        last = OutboxRecord(self._positions, self._key, position.encode())
        with self._transaction.failures(lambda: self._topics):
            self._transaction.begin()
            self._transaction.produce(
                ((each.topic, each.key, each.value, None, None) for each in (*records, last)),
                deadline,
            )
            self._transaction.commit(deadline)

    def _on_refused(self, topic: str, size: int) -> None:
        self._limits.refused(topic, size)
        self._outdated = True

    def close(self) -> None:
        """Discard everything that is not committed."""
        self._transaction.close()

    def _check_topics(self) -> None:
        """Raise Transient if a topic that the relay writes to does not exist."""
        client = self._transaction.client
        there = cluster_metadata(client, OPEN_SECONDS).topics
        if absent := [topic for topic in self._topics if topic not in there]:
            try:
                why = denied_topic(client, absent, "Write")
            except KafkaException as error:
                raise Transient("brokers", error_text(error)) from error
            raise Transient("brokers", why or f"no {', '.join(absent)}; {CREATE_TOPICS}")
