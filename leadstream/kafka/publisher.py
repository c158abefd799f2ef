"""The end of a batch: predictions, results, dead letters and offsets become visible together, or not at all."""

import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, NoReturn, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from leadstream.errors import Fenced, Transient, UserError
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import MOCK_CLUSTER, Record, config_error, produce, retrying
from leadstream.kafka.permission import forbidden, told
from leadstream.kafka.source import KafkaSource

OPEN_SECONDS = 5.0
# Commit and abort together, each with one more call, end within the time that a stopping process has.
CALL_SECONDS = 2.0
COMMIT_SECONDS = 10.0
ABORT_SECONDS = 5.0
# What an abort says of records that never left.
PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}


# What ends a batch, in whichever thread, once. Transient: nothing of it counts, try again. Fenced: it may count, or
# another owner does it.
End = Callable[[], None]


class Publisher(Protocol):
    """Publishes what came of a batch and moves the group's offsets past it: of one batch at a time."""

    def open(self) -> None:
        """Get ready; raises Transient while the brokers do not answer."""

    def lacks(self, topic: str) -> str | None:
        """Why nothing can be published to a topic, or None where it is there."""

    def begin(self, outputs: Iterable[Record], batch: Batch) -> End:
        """Hand over all that came of a batch; what comes back waits for the brokers and ends it. Raises like it."""

    def close(self) -> None:
        """Give up what was not committed."""


class TransactionalPublisher:
    """Exactly once: one Kafka transaction for each batch. `on_wait` is told why a commit takes long."""

    def __init__(
        self,
        config: dict[str, Any],
        source: KafkaSource,
        on_wait: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._source = source
        self._on_wait = on_wait
        # Each process has one of its own; what can be granted is what they begin with.
        self._ids = str(config.get("transactional.id"))[: -len(str(uuid.UUID(int=0)))] + "*"
        self._undelivered: str | None = None
        self._clients = {
            key: value for key, value in config.items() if not key.startswith("transaction")
        }
        self._config = config | {
            "delivery.report.only.error": True,
            "on_delivery": self._on_failure,
        }
        self._producer = _producer(self._config)
        self._ready = False

    def open(self) -> None:
        if self._ready:
            return
        cluster = _cluster_id(self._producer, self._source)
        if cluster.startswith(MOCK_CLUSTER):
            raise UserError(
                "this broker has no transactions (it is librdkafka's mock cluster): "
                "set LEADSTREAM_DELIVERY=at-least-once, or use a real Kafka"
            )
        try:
            self._producer.init_transactions(OPEN_SECONDS)
        except KafkaException as error:
            kafka_error: KafkaError = error.args[0]
            if kafka_error.code() in (
                KafkaError._UNSUPPORTED_FEATURE,
                KafkaError.UNSUPPORTED_VERSION,
            ):
                raise UserError(
                    f"this broker has no transactions ({kafka_error.str()}): set LEADSTREAM_DELIVERY=at-least-once"
                ) from None
            if kafka_error.fatal():
                # For this producer only: the next try is another one's.
                self._producer = _producer(self._config)
            why = told(kafka_error, "Write", self._ids)
            raise Transient("brokers", f"no transaction coordinator: {why}") from error
        self._ready = True

    def lacks(self, topic: str) -> str | None:
        return _lacks(self._producer, topic)

    def begin(self, outputs: Iterable[Record], batch: Batch) -> End:
        """A batch in four steps, of which what comes back does the last two:

        1. Begin a transaction.
        2. Produce predictions, results and dead letters into it.
        3. Add the consumed offsets, with the group's metadata, so that a process that lost its partitions is refused.
        4. Commit: all of it becomes visible together, or nothing does.
        """
        deadline = time.monotonic() + COMMIT_SECONDS
        self._undelivered = None
        try:
            self._producer.begin_transaction()
            produce(self._producer, outputs, deadline)
            offsets, group = (
                self._source.offsets(batch),
                self._source.consumer.consumer_group_metadata(),
            )
        except KafkaException as error:
            self._abort(error, outputs)
        return partial(self._commit, offsets, group, outputs, deadline)

    def _commit(
        self,
        offsets: list[TopicPartition],
        group: object,
        outputs: Iterable[Record],
        deadline: float,
    ) -> None:
        try:
            retrying(lambda: self._send_offsets(offsets, group), deadline, self._on_wait)
            retrying(
                lambda: self._producer.commit_transaction(CALL_SECONDS), deadline, self._on_wait
            )
        except KafkaException as error:
            self._abort(error, outputs)

    def _send_offsets(self, offsets: list[TopicPartition], group: object) -> None:
        """In a thread of its own, for librdkafka may never come back from this call, whatever the timeout, once the
        group's coordinator was gone from the cluster (its issues 5456 and 5511): then both clients are given up.
        """
        sent: Future[None] = Future()

        def send() -> None:
            try:
                self._producer.send_offsets_to_transaction(offsets, group, CALL_SECONDS)
                sent.set_result(None)
            except KafkaException as error:
                sent.set_exception(error)

        threading.Thread(target=send, name="offsets", daemon=True).start()
        try:
            sent.result(2 * CALL_SECONDS)
        except TimeoutError:
            raise Fenced("the client hangs since the group's coordinator went away") from None

    def _abort(self, error: KafkaException, outputs: Iterable[Record]) -> NoReturn:
        """Undo the transaction where that is possible; where it is not, rejoining tells what became of it."""
        kafka_error: KafkaError = error.args[0]
        if kafka_error.fatal():
            raise Fenced(kafka_error.str()) from error
        try:
            until = time.monotonic() + ABORT_SECONDS
            retrying(lambda: self._producer.abort_transaction(CALL_SECONDS), until, self._on_wait)
        except KafkaException as abort_error:
            raise Fenced(abort_error.args[0].str()) from error
        # A record that no broker took is named in its report, and only there.
        self._producer.poll(0)
        why = self._undelivered or self._denied(kafka_error, outputs) or kafka_error.str()
        raise Transient("brokers", f"the transaction was aborted: {why}") from error

    def _denied(self, error: KafkaError, outputs: Iterable[Record]) -> str | None:
        """Which permission is missing, where it is one."""
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return told(error, "Read", self._source.group)
        if error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return None
        try:
            return forbidden(self._clients, sorted({record[0] for record in outputs}), "Write")
        except KafkaException:
            return None

    def _on_failure(self, error: KafkaError, message: Message) -> None:
        if error.code() not in PURGED:
            self._undelivered = self._undelivered or told(error, "Write", str(message.topic()))

    def close(self) -> None:
        # Without a flush: what is still queued belongs to a transaction that never committed.
        self._producer.purge()


class AcknowledgedPublisher:
    """At least once: every output is acknowledged by the brokers before the offsets are committed."""

    def __init__(
        self,
        config: dict[str, Any],
        source: KafkaSource,
        on_wait: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._source = source
        self._on_wait = on_wait
        self._producer = _producer(config)
        self._failure: str | None = None
        self._ready = False

    def open(self) -> None:
        if not self._ready:
            _cluster_id(self._producer, self._source)
            self._ready = True

    def lacks(self, topic: str) -> str | None:
        return _lacks(self._producer, topic)

    def begin(self, outputs: Iterable[Record], batch: Batch) -> End:
        """A batch in three steps, of which what comes back does the last two:

        1. Produce predictions, results and dead letters.
        2. Wait until the brokers have acknowledged every one of them.
        3. Commit the consumed offsets.
        """
        deadline = time.monotonic() + COMMIT_SECONDS
        self._failure = None
        try:
            produce(self._producer, outputs, deadline, on_delivery=self._on_delivery)
        except KafkaException as error:
            self._failure = error.args[0].str()
        return partial(self._commit, batch, deadline)

    def _commit(self, batch: Batch, deadline: float) -> None:
        while (undelivered := self._producer.flush(CALL_SECONDS)) and time.monotonic() < deadline:
            self._on_wait(f"{undelivered} outputs are not acknowledged")
        if undelivered or self._failure is not None:
            self._producer.purge()
            self._producer.flush(ABORT_SECONDS)
            why = self._failure or "no acknowledgement in time"
            raise Transient("brokers", f"outputs were not delivered: {why}")
        self._source.commit(batch)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failure = self._failure or told(error, "Write", str(message.topic()))

    def close(self) -> None:
        self._producer.purge()


def _producer(config: dict[str, Any]) -> Producer:
    try:
        return Producer(config)
    except KafkaException as error:
        raise config_error(error) from None


def _cluster_id(producer: Producer, source: KafkaSource) -> str:
    try:
        return str(producer.list_topics(timeout=OPEN_SECONDS).cluster_id or "")
    except KafkaException as error:
        raise Transient("brokers", source.doubt or error.args[0].str()) from error


def _lacks(producer: Producer, topic: str) -> str | None:
    try:
        error = producer.list_topics(topic, timeout=OPEN_SECONDS).topics[topic].error
    except KafkaException as unanswered:
        return f"topic {topic}: {unanswered.args[0].str()}"
    return (
        f"topic {topic}: {error.str()}; `leadstream topics create` makes what is missing"
        if error
        else None
    )
