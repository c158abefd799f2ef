"""Kafka transactions: begin, produce, commit, or undo it and say why."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NoReturn

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from leadstream.budgets import ABORT_SECONDS, CALL_SECONDS, OPEN_SECONDS
from leadstream.deadline import Deadline
from leadstream.error_table import About, about_kafka
from leadstream.errors import Fenced, RecordRefused, Transient, UserError, error_text
from leadstream.kafka.config import Record, make_producer
from leadstream.kafka.health import cluster_metadata, describe_error, is_mock, missing_permission
from leadstream.kafka.topic_config import BATCH_SIZE, record_size

# An abort reports these for records that were never sent.
PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_UNSUPPORTED = {KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION}


class TransactionalProducer:
    """A producer whose transactions become visible as a whole, or not at all.

    Every step raises KafkaException; inside `failures` that becomes Transient or Fenced. `on_wait`
    receives the reason while a step takes long. `doubt` returns the client's last report of the
    brokers. `granted_id` is the id, or the prefix of ids, that permissions are granted on. With
    `report_all` acknowledged records are reported to the `on_delivery` of `produce`, too.
    `on_refused` receives the topic and the size of a record that the brokers refuse as too large,
    `on_keyless` the topic of one that they refuse without a key.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        granted_id: str,
        on_wait: Callable[[str], None] = lambda _why: None,
        doubt: Callable[[], str | None] = lambda: None,
        report_all: bool = False,
        on_refused: Callable[[str, int], None] = lambda _topic, _size: None,
        on_keyless: Callable[[str], None] = lambda _topic: None,
    ) -> None:
        self._given = config
        self._config = config | {
            "delivery.report.only.error": not report_all,
            "on_delivery": self._on_failure,
        }
        self._granted_id = granted_id
        self._on_wait = on_wait
        self._doubt = doubt
        self._on_refused = on_refused
        self._on_keyless = on_keyless
        self._undelivered: str | None = None
        self._refused = False
        self.client = make_producer(self._config)

    def limit_batches(self, max_bytes: int) -> bool:
        """Send at most `max_bytes` of several records together.

        Returns whether that needed another client, which is not open yet.
        """
        size = min(int(self._given.get("batch.size", BATCH_SIZE)), max_bytes)
        if int(self._config.get("batch.size", BATCH_SIZE)) == size:
            return False
        self._config["batch.size"] = size
        self.client.purge()
        self.client = make_producer(self._config)
        return True

    def open(self, advice: str, seconds: float = OPEN_SECONDS) -> None:
        """Fence every earlier producer of this id, and finish or abort its open transaction.

        Raises Transient if the brokers do not answer within `seconds`, and UserError with `advice`
        if they have no transactions.
        """
        cluster = cluster_metadata(self.client, seconds, self._doubt)
        if is_mock(cluster):
            raise UserError(
                "this broker has no transactions (it is librdkafka's mock cluster): " + advice
            )
        try:
            # In short calls: Python handles Ctrl-C only between them.
            retry(
                lambda: self.client.init_transactions(min(CALL_SECONDS, seconds)),
                Deadline.after(seconds),
            )
        except KafkaException as error:
            kafka_error: KafkaError = error.args[0]
            if kafka_error.code() in _UNSUPPORTED:
                raise UserError(
                    f"this broker has no transactions ({error_text(kafka_error)}): {advice}"
                ) from None
            if kafka_error.fatal():
                # This producer stays unusable; the next attempt needs a new one.
                self.client = make_producer(self._config)
            why = describe_error(kafka_error, "Write", self._granted_id)
            raise Transient("brokers", f"no transaction coordinator: {why}") from error

    def begin(self) -> None:
        """Begin a transaction."""
        self._undelivered, self._refused = None, False
        self.client.begin_transaction()

    def produce(self, records: Iterable[Record], deadline: Deadline, **options: Any) -> None:
        """Add records to the transaction; `options` go with each."""
        produce(self.client, records, deadline, **options)

    def send_offsets(
        self, offsets: list[TopicPartition], group: object, deadline: Deadline
    ) -> None:
        """Add consumed offsets to the transaction, with the metadata of their group.

        Raises Fenced if the client hangs.
        """
        retry(lambda: self._send_offsets(offsets, group), deadline, self._on_wait)

    def commit(self, deadline: Deadline) -> None:
        """Commit the transaction."""
        retry(lambda: self.client.commit_transaction(CALL_SECONDS), deadline, self._on_wait)

    def abort(self, deadline: Deadline) -> None:
        """Undo the transaction."""
        retry(lambda: self.client.abort_transaction(CALL_SECONDS), deadline, self._on_wait)

    @contextmanager
    def failures(
        self, topics: Callable[[], Iterable[str]], group: str | None = None
    ) -> Iterator[None]:
        """Abort the transaction if the block raises KafkaException, and raise what that means.

        Transient: nothing of it counts, try again. Fenced: it may count, or another process owns
        it. `topics` returns those written to, and `group` is the one whose offsets are added.
        """
        try:
            yield
        except KafkaException as error:
            self._give_up(error, topics, group)

    def close(self) -> None:
        """Discard everything that is not committed."""
        # Without a flush: what is still queued belongs to a transaction that never committed.
        self.client.purge()

    def _send_offsets(self, offsets: list[TopicPartition], group: object) -> None:
        """Send the offsets from a thread of its own, which may hang.

        librdkafka may never return from this call, whatever the timeout, once the group's
        coordinator left the cluster (its issues 5456 and 5511): then both clients are given up.
        """
        sent: Future[None] = Future()

        def send() -> None:
            try:
                self.client.send_offsets_to_transaction(offsets, group, CALL_SECONDS)
                sent.set_result(None)
            except KafkaException as error:
                sent.set_exception(error)

        threading.Thread(target=send, name="offsets", daemon=True).start()
        try:
            sent.result(2 * CALL_SECONDS)
        except TimeoutError:
            raise Fenced("the client hangs since the group's coordinator went away") from None

    def _give_up(
        self, error: KafkaException, topics: Callable[[], Iterable[str]], group: str | None
    ) -> NoReturn:
        kafka_error: KafkaError = error.args[0]
        if kafka_error.fatal():
            raise Fenced(error_text(kafka_error)) from error
        try:
            self.abort(Deadline.after(ABORT_SECONDS))
        except KafkaException as abort_error:
            raise Fenced(error_text(abort_error)) from error
        # Only the delivery report names a record that no broker accepted.
        self.client.poll(0)
        why = (
            self._undelivered or self._denied(kafka_error, topics, group) or error_text(kafka_error)
        )
        kind = RecordRefused if self._refused else Transient
        raise kind("brokers", f"the transaction was aborted: {why}") from error

    def _denied(
        self, error: KafkaError, topics: Callable[[], Iterable[str]], group: str | None
    ) -> str | None:
        """Return which permission is missing, if that is the reason."""
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED and group is not None:
            return describe_error(error, "Read", group)
        if error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return None
        clients = {k: v for k, v in self._given.items() if not k.startswith("transaction")}
        try:
            return missing_permission(clients, sorted(set(topics())), "Write")
        except KafkaException:
            return None

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is None or error.code() in PURGED:
            return
        topic = str(message.topic())
        self._undelivered = self._undelivered or describe_delivery(error, topic)
        if error.code() in TOO_LARGE:
            self._refused = True
            self._on_refused(topic, record_size(message.key(), message.value(), None))
        elif lacks_key(error, message):
            self._refused = True
            self._on_keyless(topic)


def lacks_key(error: KafkaError, message: Message) -> bool:
    """Return whether a topic refuses a record that has no key: it is compacted."""
    return error.code() == KafkaError.INVALID_RECORD and message.key() is None


def describe_delivery(error: KafkaError, topic: str) -> str:
    """Return why a record did not reach its topic."""
    if error.code() == KafkaError.INVALID_TIMESTAMP:
        return (
            f"topic {topic} refuses the present time: compare this clock with that of the brokers"
        )
    if about_kafka(error.code()) is About.RECORD:
        return f"topic {topic} refuses a record: {error_text(error)}"
    return describe_error(error, "Write", topic)


def produce(
    producer: Producer, records: Iterable[Record], deadline: Deadline, **options: Any
) -> None:
    """Hand records to a producer, and wait while its queue is full; `options` go with each record.

    Raises KafkaException if the queue stays full until the deadline.
    """
    for topic, key, value, headers, timestamp in records:
        extra = options
        if headers:
            extra = {**extra, "headers": headers}
        if timestamp is not None:
            extra = {**extra, "timestamp": timestamp}
        while True:
            try:
                producer.produce(topic, value, key, **extra)
                break
            except BufferError:
                if deadline.expired:
                    raise KafkaException(
                        KafkaError(KafkaError._QUEUE_FULL, "the producer queue stays full")
                    ) from None
                producer.poll(0.05)
            except KafkaException as error:
                # No delivery report follows that would name the topic.
                kafka_error: KafkaError = error.args[0]
                if kafka_error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise
                raise KafkaException(
                    KafkaError(kafka_error.code(), describe_error(kafka_error, "Write", topic))
                ) from None


def retry(
    call: Callable[[], object],
    deadline: Deadline,
    on_wait: Callable[[str], None] = lambda _why: None,
) -> None:
    """Repeat a call while librdkafka calls its error retriable, up to the deadline.

    `on_wait` receives the reason before each repetition. Raises the last KafkaException.
    """
    while True:
        try:
            call()
        except KafkaException as error:
            if not error.args[0].retriable() or deadline.expired:
                raise
            on_wait(error_text(error))
        else:
            return
