"""Publishers: predictions, results, dead letters and offsets of a batch, committed together."""

import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from leadstream.budgets import ABORT_SECONDS, CALL_SECONDS, COMMIT_SECONDS, OPEN_SECONDS
from leadstream.deadline import Deadline
from leadstream.errors import Fenced, Transient
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import Record, make_producer
from leadstream.kafka.fatal import is_fatal
from leadstream.kafka.health import cluster_metadata, describe_error, topic_problem
from leadstream.kafka.source import KafkaSource
from leadstream.kafka.transaction import TransactionalProducer, produce

_UUID_CHARACTERS = len(str(uuid.UUID(int=0)))

# Finishes the commit of a batch, in any thread, once. Transient: nothing of the batch counts, try
# again. Fenced: it may count, or another process owns it.
FinishCommit = Callable[[], None]


class Publisher(Protocol):
    """The outputs of one batch at a time, and the group's offsets past that batch."""

    def open(self) -> None:
        """Get ready. Raises Transient while the brokers do not answer."""

    def topic_problem(self, topic: str) -> str | None:
        """Return why nothing can be published to a topic, or None if it is there."""

    def begin(self, outputs: Iterable[Record], batch: Batch) -> FinishCommit:
        """Hand over the outputs of a batch, and return the call that finishes its commit.

        That call waits for the brokers. Both raise Transient and Fenced.
        """

    def close(self) -> None:
        """Discard everything that is not committed."""


class TransactionalPublisher:
    """A publisher that delivers exactly once: one Kafka transaction for each batch.

    `on_wait` receives the reason while a commit takes long.
    """

    def __init__(
        self,
        config: dict[str, Any],
        source: KafkaSource,
        on_wait: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._source = source
        # Each process has its own id; permissions are granted on the prefix that they share.
        prefix = str(config.get("transactional.id"))[:-_UUID_CHARACTERS] + "*"
        self._transaction = TransactionalProducer(
            config, granted_id=prefix, on_wait=on_wait, doubt=lambda: source.doubt
        )
        self._ready = False

    def open(self) -> None:
        """Fence nothing, for the id is new, but find the transaction coordinator."""
        if not self._ready:
            self._transaction.open("set LEADSTREAM_DELIVERY=at-least-once, or use a real Kafka")
            self._ready = True

    def topic_problem(self, topic: str) -> str | None:
        """Return why nothing can be published to a topic, or None if it is there."""
        return topic_problem(self._transaction.client, topic, OPEN_SECONDS)

    def begin(self, outputs: Iterable[Record], batch: Batch) -> FinishCommit:
        """Commit a batch in four steps; the returned call does the last two:

        1. Begin a transaction.
        2. Produce predictions, results and dead letters into it.
        3. Add the consumed offsets with the group's metadata: the brokers then refuse a process
           that lost its partitions.
        4. Commit: all of it becomes visible together, or nothing does.
        """
        deadline = Deadline.after(COMMIT_SECONDS)
        topics = partial(_topics, outputs)
        with self._transaction.failures(topics, self._source.group):
            self._transaction.begin()
            self._transaction.produce(outputs, deadline)
            offsets = self._source.offsets(batch)
            group = self._source.consumer.consumer_group_metadata()
        return partial(self._commit, offsets, group, topics, deadline)

    def _commit(
        self,
        offsets: list[TopicPartition],
        group: object,
        topics: Callable[[], Iterable[str]],
        deadline: Deadline,
    ) -> None:
        with self._transaction.failures(topics, self._source.group):
            self._transaction.send_offsets(offsets, group, deadline)
            self._transaction.commit(deadline)

    def close(self) -> None:
        """Discard everything that is not committed."""
        self._transaction.close()


class AcknowledgedPublisher:
    """A publisher that delivers at least once: the brokers acknowledge every output first."""

    def __init__(
        self,
        config: dict[str, Any],
        source: KafkaSource,
        on_wait: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._source = source
        self._on_wait = on_wait
        self._fatal: KafkaError | None = None
        self._producer = make_producer(config | {"error_cb": self._on_error})
        self._failure: str | None = None
        self._ready = False

    def open(self) -> None:
        """Find the brokers. Raises Fenced once an error ended the producer."""
        if self._fatal is not None:
            raise Fenced(self._fatal.str())
        if not self._ready:
            cluster_metadata(self._producer, OPEN_SECONDS, lambda: self._source.doubt)
            self._ready = True

    def topic_problem(self, topic: str) -> str | None:
        """Return why nothing can be published to a topic, or None if it is there."""
        return topic_problem(self._producer, topic, OPEN_SECONDS)

    def begin(self, outputs: Iterable[Record], batch: Batch) -> FinishCommit:
        """Commit a batch in three steps; the returned call does the last two:

        1. Produce predictions, results and dead letters.
        2. Wait until the brokers have acknowledged every one of them.
        3. Commit the consumed offsets.
        """
        deadline = Deadline.after(COMMIT_SECONDS)
        self._failure = None
        try:
            produce(self._producer, outputs, deadline, on_delivery=self._on_delivery)
        except KafkaException as error:
            self._on_error(error.args[0])
            self._failure = error.args[0].str()
        return partial(self._commit, batch, deadline)

    def _commit(self, batch: Batch, deadline: Deadline) -> None:
        while (undelivered := self._producer.flush(CALL_SECONDS)) and not deadline.expired:
            self._on_wait(f"{undelivered} outputs are not acknowledged")
        if undelivered or self._failure is not None:
            self._producer.purge()
            self._producer.flush(ABORT_SECONDS)
            why = self._failure or "no acknowledgement in time"
            raise Transient("brokers", f"outputs were not delivered: {why}")
        self._source.commit(batch)

    def _on_error(self, error: KafkaError) -> None:
        if is_fatal(error):
            self._fatal = error

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._on_error(error)
            self._failure = self._failure or describe_error(error, "Write", str(message.topic()))

    def close(self) -> None:
        """Discard everything that is not acknowledged."""
        self._producer.purge()


def _topics(outputs: Iterable[Record]) -> Iterable[str]:
    return (record[0] for record in outputs)
