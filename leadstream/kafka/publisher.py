"""Publishers: predictions, results, dead letters and offsets of a batch, committed together."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from leadstream.budgets import ABORT_SECONDS, CALL_SECONDS, COMMIT_SECONDS, OPEN_SECONDS
from leadstream.deadline import Deadline
from leadstream.errors import Fenced, RecordRefused, Transient, error_text
from leadstream.kafka.acknowledged import Acknowledged, Identity, Sent, Sources
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import Record, make_producer
from leadstream.kafka.fatal import is_fatal
from leadstream.kafka.health import cluster_metadata, topic_problem
from leadstream.kafka.source import KafkaSource
from leadstream.kafka.topic_config import BATCH_SIZE, RecordLimits, record_size
from leadstream.kafka.transaction import (
    PURGED,
    TOO_LARGE,
    TransactionalProducer,
    describe_delivery,
    lacks_key,
    produce,
)

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

    def begin(
        self, outputs: Iterable[Record], batch: Batch, sources: Sources | None = None
    ) -> FinishCommit:
        """Hand over the outputs of a batch, and return the call that finishes its commit.

        `sources` are the messages of the batch, by index, that the outputs come from. The returned
        call waits for the brokers. Both raise Transient and Fenced.
        """

    def close(self) -> None:
        """Discard everything that is not committed."""


class TransactionalPublisher:
    """A publisher that delivers exactly once: one Kafka transaction for each batch.

    `on_wait` receives the reason while a commit takes long. `limits` learns what the topics accept.
    """

    def __init__(
        self,
        config: dict[str, Any],
        source: KafkaSource,
        on_wait: Callable[[str], None] = lambda _why: None,
        limits: RecordLimits | None = None,
    ) -> None:
        self._config = config
        self._source = source
        self._limits = limits or RecordLimits()
        # Each process has its own id; permissions are granted on the prefix that they share.
        prefix = str(config.get("transactional.id"))[:-_UUID_CHARACTERS] + "*"
        self._transaction = TransactionalProducer(
            config,
            granted_id=prefix,
            on_wait=on_wait,
            doubt=lambda: source.doubt,
            on_refused=self._on_refused,
            on_keyless=self._limits.refused_keyless,
        )
        self._opened = self._ready = False
        self._check = _TopicCheck(self.topic_problem)

    def open(self) -> None:
        """Fence nothing, for the id is new, but find the transaction coordinator."""
        if not self._ready:
            cluster_metadata(self._transaction.client, OPEN_SECONDS, lambda: self._source.doubt)
            self._limits.update(self._config)
            if self._transaction.limit_batches(self._limits.batch_bytes()):
                self._opened = False
            if not self._opened:
                self._transaction.open("set LEADSTREAM_DELIVERY=at-least-once, or use a real Kafka")
                self._opened = True
            self._ready = True

    def topic_problem(self, topic: str) -> str | None:
        """Return why nothing can be published to a topic, or None if it is there."""
        return topic_problem(self._transaction.client, topic, OPEN_SECONDS)

    def begin(
        self, outputs: Iterable[Record], batch: Batch, sources: Sources | None = None
    ) -> FinishCommit:
        """Commit a batch in four steps; the returned call does the last two:

        1. Begin a transaction.
        2. Produce predictions, results and dead letters into it.
        3. Add the consumed offsets with the group's metadata: the brokers then refuse a process
           that lost its partitions.
        4. Commit: all of it becomes visible together, or nothing does.
        """
        deadline = Deadline.after(COMMIT_SECONDS)
        topics = partial(_topics, outputs)
        self._check(outputs)
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
            self._check.due = True
            self._transaction.send_offsets(offsets, group, deadline)
            self._transaction.commit(deadline)
            self._check.due = False

    def _on_refused(self, topic: str, size: int) -> None:
        self._limits.refused(topic, size)
        self._ready = False

    def close(self) -> None:
        """Discard everything that is not committed."""
        self._transaction.close()


class AcknowledgedPublisher:
    """A publisher that delivers at least once: the brokers acknowledge every output first.

    A record that cannot be written repeats no other: what was acknowledged is not sent again with
    the next try.
    """

    def __init__(
        self,
        config: dict[str, Any],
        source: KafkaSource,
        on_wait: Callable[[str], None] = lambda _why: None,
        limits: RecordLimits | None = None,
    ) -> None:
        self._config = config
        self._batch_size = int(config.get("batch.size", BATCH_SIZE))
        self._source = source
        self._on_wait = on_wait
        self._limits = limits or RecordLimits()
        self._fatal: KafkaError | None = None
        self._producer = self._make(config)
        self._why: str | None = None
        self._refused = False
        self._failed: Counter[Identity] = Counter()
        self._acknowledged = Acknowledged()
        self._ready = False
        self._check = _TopicCheck(self.topic_problem)

    def _make(self, config: dict[str, Any]) -> Producer:
        return make_producer(config | {"error_cb": self._on_error})

    def open(self) -> None:
        """Find the brokers, and learn what the topics accept.

        Raises Fenced once an error ended the producer.
        """
        if self._fatal is not None:
            raise Fenced(error_text(self._fatal))
        if self._ready:
            return
        cluster_metadata(self._producer, OPEN_SECONDS, lambda: self._source.doubt)
        self._limits.update(self._config)
        given = int(self._config.get("batch.size", BATCH_SIZE))
        if (size := min(given, self._limits.batch_bytes())) != self._batch_size:
            self._batch_size = size
            self._producer = self._make(self._config | {"batch.size": size})
        self._ready = True

    def topic_problem(self, topic: str) -> str | None:
        """Return why nothing can be published to a topic, or None if it is there."""
        return topic_problem(self._producer, topic, OPEN_SECONDS)

    def begin(
        self, outputs: Iterable[Record], batch: Batch, sources: Sources | None = None
    ) -> FinishCommit:
        """Commit a batch in three steps; the returned call does the last two:

        1. Produce predictions, results and dead letters.
        2. Wait until the brokers have acknowledged every one of them.
        3. Commit the consumed offsets.
        """
        deadline = Deadline.after(COMMIT_SECONDS)
        self._why, self._refused, self._failed = None, False, Counter()
        self._check(outputs)
        sent = Sent.from_outputs(outputs, batch, sources).without(self._acknowledged)
        waiting = iter(sent.records)
        try:
            produce(self._producer, waiting, deadline, on_delivery=self._on_delivery)
        except KafkaException as error:
            self._on_error(error.args[0])
            self._why = error_text(error)
            sent = sent.first(len(sent.records) - len(list(waiting)) - 1)
        return partial(self._commit, batch, sent, deadline)

    def _commit(self, batch: Batch, sent: Sent, deadline: Deadline) -> None:
        while (undelivered := self._producer.flush(CALL_SECONDS)) and not deadline.expired:
            self._on_wait(f"{undelivered} outputs are not acknowledged")
        if undelivered or self._why is not None:
            self._check.due = True
            self._producer.purge()
            self._producer.flush(ABORT_SECONDS)
            self._acknowledged.add(sent, self._failed)
            why = self._why or self._unanswered()
            kind = RecordRefused if self._refused else Transient
            raise kind("brokers", f"outputs were not delivered: {why}")
        self._source.commit(batch)
        self._acknowledged.forget(batch)

    def _unanswered(self) -> str:
        """Return which topic acknowledged nothing in time, and why if the brokers say."""
        for topic in sorted({topic for topic, _, _ in self._failed}):
            return self.topic_problem(topic) or f"topic {topic}: no acknowledgement in time"
        return "no acknowledgement in time"

    def _on_error(self, error: KafkaError) -> None:
        if is_fatal(error):
            self._fatal = error

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        self._on_error(error)
        topic, key, value = str(message.topic()), message.key(), message.value()
        self._failed[topic, key, value] += 1
        if error.code() not in PURGED:
            self._why = self._why or describe_delivery(error, topic)
        if error.code() in TOO_LARGE:
            self._refused, self._ready = True, False
            self._limits.refused(topic, record_size(key, value, None))
        elif lacks_key(error, message):
            self._refused = True
            self._limits.refused_keyless(topic)

    def close(self) -> None:
        """Discard everything that is not acknowledged."""
        self._producer.purge()


class _TopicCheck:
    """A check that the topics of a batch exist: of the first batch, and after a failure.

    The client itself waits for an absent topic until a time-out that does not name it.
    """

    def __init__(self, problem: Callable[[str], str | None]) -> None:
        self._problem = problem
        self.due = True

    def __call__(self, outputs: Iterable[Record]) -> None:
        """Raise Transient if a topic is missing."""
        if not self.due:
            return
        for topic in sorted(set(_topics(outputs))):
            if (why := self._problem(topic)) is not None:
                raise Transient("brokers", why)
        self.due = False


def _topics(outputs: Iterable[Record]) -> Iterable[str]:
    return (record[0] for record in outputs)
