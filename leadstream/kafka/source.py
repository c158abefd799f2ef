"""Where batches come from: a member of a consumer group whose partitions move only while no batch is worked on."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from leadstream.errors import Fenced, Transient
from leadstream.kafka.batch import Batch, ClosedBy, Message, Partition
from leadstream.kafka.config import config_error
from leadstream.kafka.permission import forbidden, told

BATCH_MAX_BYTES = 32 * 1024 * 1024
# A few bytes of a request ask for a lead: with more of them in one batch, all changes would wait for its end.
REQUESTS_MAX_BYTES = 64 * 1024
# Seeking, pausing or reading positions of a partition that has just moved away is no failure.
_MOVED_AWAY = {KafkaError._STATE, KafkaError._UNKNOWN_PARTITION}
# Reported by librdkafka while it mends them by itself: no record, and nothing to do.
MENDS_ITSELF = {
    KafkaError._PARTITION_EOF,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
}
NO_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}
ASK_SECONDS = 2.0
LEAVE_SECONDS = 2.0


class Source(Protocol):
    """Batches of the assigned partitions, and the ways to hold and to retry them."""

    def poll(self, timeout: float) -> Batch | None:
        """The next batch, or None where nothing came within `timeout` seconds."""

    def rewind(self, batch: Batch) -> None:
        """Stand again where `batch` began; partitions that have moved away are left to their new owner."""

    def idle(self, timeout: float) -> None:
        """Keep the group membership for up to `timeout` seconds without consuming."""

    def assigned(self) -> frozenset[Partition]:
        """The partitions that this process owns now."""

    def lag(self) -> dict[Partition, int]:
        """Records of each assigned partition behind its end, as far as the client knows without asking."""

    def close(self) -> None:
        """Leave the group; uncommitted work goes to the next owner."""


class KafkaSource:
    """A group consumer. Rebalance callbacks run only inside `poll` and `idle`, so they meet no batch but the one
    being collected, and take the messages of revoked and lost partitions out of it. Of a batch that is being committed
    meanwhile the brokers know by the group's generation whether it still may be.
    """

    def __init__(
        self,
        config: dict[str, Any],
        topics: list[str],
        *,
        max_records: int,
        linger_ms: int,
        requests: str | None = None,
        on_rebalance: Callable[[str, int], None] = lambda _kind, _partitions: None,
        on_absent: Callable[[list[str]], None] = lambda _topics: None,
    ) -> None:
        try:
            self.consumer = Consumer(config | {"error_cb": self._on_error})
        except KafkaException as error:
            raise config_error(error) from None
        self._config = config
        self._topics = topics
        self._requests = requests
        self._max_records = max_records
        self._linger = linger_ms / 1000
        self._on_rebalance = on_rebalance
        self._on_absent = on_absent
        self._assigned: set[Partition] = set()
        self._collected: list[Message] = []
        self._positions: dict[Partition, int] = {}
        self._size = 0
        self._trouble: KafkaError | None = None
        self._doubt: str | None = None
        # Permissions that were missing: the group's until it is joined, a topic's until the brokers say otherwise.
        self._kept_out: str | None = None
        self._unreadable = False
        self._ask_at = 0.0
        self.consumer.subscribe(
            topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, timeout: float) -> Batch | None:
        self._collected, self._size = [], 0
        first = self.consumer.poll(timeout)
        if first is not None:
            self._collect([first])
            closed_by = self._fill()
        # An error is told only once what was consumed before it has been handed out: nothing is skipped.
        if not self._collected:
            self._tell()
            return None
        batch = Batch.from_messages(self._collected, closed_by)
        if not self._assigned.issuperset(batch.next):
            batch = Batch.from_messages(self._owned(batch.messages), closed_by)
            if not batch.messages:
                return None
        if any(topic == self._requests for topic, _ in batch.next):
            batch = self._few_requests(batch)
        self._positions |= batch.next
        return batch

    def _few_requests(self, batch: Batch) -> Batch:
        """The batch without the requests beyond REQUESTS_MAX_BYTES: they are put back, and no change waits for them."""
        size, now, later = 0, list[Message](), list[Message]()
        for message in batch.messages:
            if message.topic() == self._requests:
                before, size = size, size + len(message.value() or b"")
                if later or (before and size > REQUESTS_MAX_BYTES):
                    later.append(message)
                    continue
            now.append(message)
        if not later:
            return batch
        try:
            self.rewind(Batch.from_messages(later, batch.closed_by))
        except Transient as trouble:
            # Consumed and neither in this batch nor in the next, they would be lost: go back to what is committed.
            raise Fenced(f"requests could not be put back: {trouble.detail}") from trouble
        return Batch.from_messages(now, ClosedBy.BYTES)

    def _fill(self) -> ClosedBy:
        """Take what is there at once; wait for more only as long as the linger says."""
        deadline = time.monotonic() + self._linger
        while len(self._collected) < self._max_records:
            if self._size >= BATCH_MAX_BYTES:
                return ClosedBy.BYTES
            messages = self.consumer.consume(self._max_records - len(self._collected), 0)
            if not messages:
                left = deadline - time.monotonic()
                message = self.consumer.poll(left) if left > 0 else None
                if message is None:
                    return ClosedBy.LINGER if self._linger else ClosedBy.DRAIN
                messages = [message]
            self._collect(messages)
        return ClosedBy.SIZE

    def _collect(self, messages: list[Any]) -> None:
        errors = [error for message in messages if (error := message.error()) is not None]
        if errors:
            messages = [message for message in messages if message.error() is None]
        for error in errors:
            self._note(error)
        self._collected += messages
        self._size += sum(map(len, messages))  # of their values

    def _note(self, error: KafkaError) -> None:
        """Keep what is to be told once everything that was consumed before has been handed out."""
        if error.code() in NO_TOPIC:
            self._doubt = error.str()
        elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._unreadable = True
        elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            self._kept_out = told(error, "Read", self.group)
        elif error.code() not in MENDS_ITSELF:
            self._trouble = error

    def _tell(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise (
                Fenced(trouble.str()) if trouble.fatal() else Transient("brokers", trouble.str())
            )
        if self._unreadable:
            self._unreadable = self._ask_permission()
        if self._kept_out is not None:
            raise Transient("brokers", self._kept_out)
        if self._doubt is not None and time.monotonic() >= self._ask_at:
            self._ask(self._doubt)

    def _ask(self, doubt: str) -> None:
        """The client tells of a trouble once and never that it is over: see whether the brokers and topics are there.

        Absent topics do not hold back those that are there. Raises Transient where no broker answers.
        """
        try:
            present = self.consumer.list_topics(timeout=ASK_SECONDS).topics
        except KafkaException as error:
            raise Transient("brokers", doubt) from error
        absent = [topic for topic in self._topics if topic not in present]
        self._on_absent(absent)
        self._ask_at = time.monotonic() + ASK_SECONDS
        if not absent:
            self._doubt = None

    def _ask_permission(self) -> bool:
        """False where every topic may be read. Raises Transient where one may not, or no broker answers."""
        try:
            why = forbidden(self._config, self._topics, "Read")
        except KafkaException as error:
            raise Transient("brokers", error.args[0].str()) from error
        if why is not None:
            raise Transient("brokers", why)
        return False

    def rewind(self, batch: Batch) -> None:
        for (topic, partition), offset in batch.first.items():
            if (topic, partition) in self._assigned:
                self._positions[topic, partition] = offset
                self._unless_moved(self.consumer.seek, TopicPartition(topic, partition, offset))

    def idle(self, timeout: float) -> None:
        paused = set(self._assigned)
        try:
            self._unless_moved(
                self.consumer.pause, [TopicPartition(*partition) for partition in paused]
            )
            message: Any = self.consumer.poll(timeout)
            if message is not None and message.error() is not None:
                self._note(message.error())
            elif message is not None:
                # It arrived in spite of the pause, for example just after an assignment: it has not been seen.
                self.rewind(Batch.from_messages([message], ClosedBy.DRAIN))
        finally:
            # Those that were lost meanwhile too: the client keeps them paused, and so they would come back.
            resumed = [TopicPartition(*partition) for partition in paused | self._assigned]
            self._unless_moved(self.consumer.resume, resumed)

    def commit(self, batch: Batch) -> None:
        """Commit the offsets of a batch, without a transaction. Raises Transient where the group is not stable."""
        offsets = self.offsets(batch)
        if not offsets:
            return
        try:
            committed = self.consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise Transient(
                "brokers", f"offsets were not committed: {error.args[0].str()}"
            ) from error
        for partition in committed or []:
            if partition.error is not None:
                raise Transient("brokers", f"offsets were not committed: {partition.error.str()}")

    def offsets(self, batch: Batch) -> list[TopicPartition]:
        """What to commit for a batch: only partitions owned now, for a broker would accept the others too."""
        return [
            TopicPartition(topic, partition, offset)
            for (topic, partition), offset in batch.next.items()
            if (topic, partition) in self._assigned
        ]

    def assigned(self) -> frozenset[Partition]:
        return frozenset(self._assigned)

    def lag(self) -> dict[Partition, int]:
        lags = {}
        for (topic, partition), position in self._positions.items():
            _, high = self.consumer.get_watermark_offsets(
                TopicPartition(topic, partition), cached=True
            )
            if high >= 0:
                lags[topic, partition] = max(0, high - position)
        return lags

    @property
    def group(self) -> str:
        """The consumer group."""
        return str(self._config["group.id"])

    @property
    def doubt(self) -> str | None:
        """What the client said last of brokers that do not answer, or do not let it in."""
        return self._doubt

    def close(self) -> None:
        """Give the partitions away, then close: a callback inside of the client's own close may never come back, and
        then it holds Python's lock and with it the whole process (librdkafka's issue 4041).
        """
        with suppress(
            KafkaException, RuntimeError
        ):  # so the client calls that it is closed already
            self.consumer.unsubscribe()
            deadline = time.monotonic() + LEAVE_SECONDS
            while self._assigned and time.monotonic() < deadline:
                self.consumer.poll(0.05)
        self.consumer.close()

    def _on_error(self, error: KafkaError) -> None:
        self._doubt = error.str()

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned |= {(p.topic, p.partition) for p in partitions}
        self._kept_out = None
        self._on_rebalance("assigned", len(partitions))

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._let_go("revoked", partitions)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._let_go("lost", partitions)

    def _let_go(self, kind: str, partitions: list[TopicPartition]) -> None:
        gone = {(p.topic, p.partition) for p in partitions}
        self._assigned -= gone
        self._positions = {p: offset for p, offset in self._positions.items() if p not in gone}
        self._collected = self._owned(self._collected)
        self._on_rebalance(kind, len(partitions))

    def _owned(self, messages: list[Any]) -> list[Any]:
        """The messages of partitions that are owned now."""
        return [
            message
            for message in messages
            if (message.topic(), message.partition()) in self._assigned
        ]

    @staticmethod
    def _unless_moved(call: Callable[[Any], object], argument: Any) -> None:
        try:
            call(argument)
        except KafkaException as error:
            if error.args[0].code() not in _MOVED_AWAY:
                raise Transient("brokers", error.args[0].str()) from error
