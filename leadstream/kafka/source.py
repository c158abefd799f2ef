"""Batches from a consumer group; partitions move only between two batches."""

import time
from collections.abc import Callable, Set
from contextlib import suppress
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from leadstream.budgets import LEAVE_SECONDS
from leadstream.deadline import Deadline
from leadstream.errors import Fenced, Transient, UserError, error_text
from leadstream.kafka.batch import Batch, ClosedBy, Message, Partition
from leadstream.kafka.config import config_error
from leadstream.kafka.fatal import REFUSED_JOIN, ended_client, is_fatal
from leadstream.kafka.health import (
    SELF_REPAIRING,
    UNKNOWN_TOPIC,
    cluster_metadata,
    describe_error,
    missing_permission,
    unreadable_batch,
)
from leadstream.kafka.ledger import OffsetLedger
from leadstream.kafka.losses import Losses

BATCH_MAX_BYTES = 32 * 1024 * 1024
# A few bytes of a request ask for a lead; with more in one batch, changes would wait for them.
REQUESTS_MAX_BYTES = 64 * 1024
# Seeking, pausing or reading positions of a partition that was just revoked is no failure.
_MOVED_AWAY = {KafkaError._STATE, KafkaError._UNKNOWN_PARTITION}
ASK_SECONDS = 2.0
# For a look that nothing waits for.
LOOK_SECONDS = 0.2


class Source(Protocol):
    """Batches of the assigned partitions, and the ways to rewind and to pause them."""

    def poll(self, timeout: float) -> Batch | None:
        """Return the next batch, or None if nothing arrived within `timeout` seconds."""

    def rewind(self, batch: Batch) -> None:
        """Seek to the beginning of `batch`, but not in partitions that moved away."""

    def idle(self, timeout: float) -> None:
        """Keep the group membership for up to `timeout` seconds without consuming."""

    def assigned(self) -> frozenset[Partition]:
        """Return the partitions that this process owns now."""

    def lag(self) -> dict[Partition, int]:
        """Return how many records of each assigned partition are unread, as the client knows it."""

    def close(self) -> None:
        """Leave the group. Uncommitted work goes to the next owner."""


class KafkaSource:
    """A member of a consumer group.

    Rebalance callbacks run only inside `poll` and `idle`. They find no batch but the one being
    collected, and remove the messages of revoked and lost partitions from it. Whether a batch that
    is being committed may still count, the brokers decide by the group's generation.
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
        ledger: OffsetLedger | None = None,
    ) -> None:
        try:
            # The end of a partition shows that nothing but markers and aborted records follows.
            self.consumer = Consumer(
                config | {"error_cb": self._on_error, "enable.partition.eof": True}
            )
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
        self._ledger = ledger or OffsetLedger(Losses())
        self._ledger.next.clear()
        self._ends: dict[Partition, int] = {}
        self._size = 0
        self._trouble: KafkaError | None = None
        # A batch that no try can read; the records before it come first.
        self._stop: UserError | None = None
        self._fatal: KafkaError | None = None
        self._doubt: str | None = None
        # Missing permissions: on the group until it is joined, on a topic until it is granted.
        self._denied: str | None = None
        self._unreadable = False
        self._ask_at = 0.0
        self.consumer.subscribe(
            topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, timeout: float) -> Batch | None:
        self._collected, self._size, self._ends = [], 0, {}
        first = self.consumer.poll(timeout)
        if first is not None:
            self._collect([first])
            closed_by = self._fill()
        self._raise_fatal()
        # An error is raised after the records before it were returned: none is skipped.
        if not self._collected:
            self._note_ends()
            self._raise_trouble()
            return None
        batch = Batch.from_messages(self._collected, closed_by)
        if not self._assigned.issuperset(batch.next):
            batch = Batch.from_messages(self._owned(batch.messages), closed_by)
            if not batch.messages:
                self._note_ends()
                return None
        self._learn_for(batch)
        self._ledger.read(batch, self._bounds)
        self._note_ends(batch)
        if any(topic == self._requests for topic, _ in batch.next):
            batch = self._few_requests(batch)
        return batch

    def _few_requests(self, batch: Batch) -> Batch:
        """Return the batch without the requests beyond REQUESTS_MAX_BYTES, and rewind those."""
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
            # In neither this batch nor the next, they would be lost: rejoin instead.
            raise Fenced(f"requests could not be put back: {trouble.detail}") from trouble
        return Batch.from_messages(now, ClosedBy.BYTES)

    def _fill(self) -> ClosedBy:
        """Collect what is there, and wait for more as long as the linger allows."""
        deadline = Deadline.after(self._linger)
        while len(self._collected) < self._max_records:
            if self._size >= BATCH_MAX_BYTES:
                return ClosedBy.BYTES
            messages = self.consumer.consume(self._max_records - len(self._collected), 0)
            if not messages:
                left = deadline.left()
                message = self.consumer.poll(left) if left > 0 else None
                if message is None:
                    return ClosedBy.LINGER if self._linger else ClosedBy.DRAIN
                messages = [message]
            self._collect(messages)
        return ClosedBy.SIZE

    def _collect(self, messages: list[Any]) -> None:
        events = [message for message in messages if message.error() is not None]
        if events:
            messages = [message for message in messages if message.error() is None]
            self._ends |= _ends(events)
        for event in events:
            self._note(event)
        self._collected += messages
        self._size += sum(map(len, messages))  # of their values

    def _note(self, event: Any) -> None:
        """Keep an error until the records before it were returned."""
        error: KafkaError = event.error()
        if (unreadable := unreadable_batch(event, self.group)) is not None:
            self._stop = unreadable
        elif is_fatal(error):
            self._fatal = error
        elif error.code() in UNKNOWN_TOPIC:
            self._doubt = error_text(error)
        elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._unreadable = True
        elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            self._denied = describe_error(error, "Read", self.group)
        elif error.code() in REFUSED_JOIN:
            self._denied = (
                f"the group {self.group} does not let this process in: {error_text(error)}"
            )
        elif error.code() not in SELF_REPAIRING:
            self._trouble = error

    def _raise_fatal(self) -> None:
        """Raise Fenced or UserError if an error ended the client; then it owns nothing."""
        if self._fatal is not None:
            raise ended_client(self._fatal, self._config)

    def _raise_trouble(self) -> None:
        if self._stop is not None:
            raise self._stop
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise Transient("brokers", error_text(trouble))
        if self._unreadable:
            self._unreadable = self._ask_permission()
        if self._denied is not None:
            raise Transient("brokers", self._denied)
        if self._doubt is not None and time.monotonic() >= self._ask_at:
            self._ask(self._doubt)

    def _ask(self, doubt: str) -> None:
        """Look whether the brokers and topics are there; raise Transient if no broker answers.

        The client reports a trouble once and never its end. Absent topics do not hold back others.
        """
        present = cluster_metadata(self.consumer, ASK_SECONDS, lambda: doubt).topics
        absent = [topic for topic in self._topics if topic not in present]
        self._on_absent(absent)
        self._ask_at = time.monotonic() + ASK_SECONDS
        if not absent:
            self._doubt = None

    def _ask_permission(self) -> bool:
        """Return False if every topic may be read; raise Transient if not, or without an answer."""
        try:
            why = missing_permission(self._config, self._topics, "Read")
        except KafkaException as error:
            raise Transient("brokers", error_text(error)) from error
        if why is not None:
            raise Transient("brokers", why)
        return False

    def rewind(self, batch: Batch) -> None:
        for (topic, partition), offset in batch.first.items():
            if (topic, partition) in self._assigned:
                self._ledger.rewind((topic, partition), offset)
                self._unless_moved(self.consumer.seek, TopicPartition(topic, partition, offset))

    def idle(self, timeout: float) -> None:
        paused = set(self._assigned)
        try:
            self._unless_moved(
                self.consumer.pause, [TopicPartition(*partition) for partition in paused]
            )
            message: Any = self.consumer.poll(timeout)
            if message is not None and message.error() is not None:
                self._note(message)
                self._ends = _ends([message])
                self._note_ends()
            elif message is not None:
                # It arrived in spite of the pause, for example just after an assignment.
                self.rewind(Batch.from_messages([message], ClosedBy.DRAIN))
        finally:
            # Lost partitions too: the client would keep them paused until they come back.
            resumed = [TopicPartition(*partition) for partition in paused | self._assigned]
            self._unless_moved(self.consumer.resume, resumed)
        self._raise_fatal()

    def commit(self, batch: Batch) -> None:
        """Commit the offsets of a batch without a transaction.

        Raises Transient while the group is not stable.
        """
        offsets = self.offsets(batch)
        if not offsets:
            return
        try:
            committed = self.consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise self._uncommitted(error.args[0]) from error
        for partition in committed or []:
            if partition.error is not None:
                raise self._uncommitted(partition.error)

    def _uncommitted(self, error: KafkaError) -> Transient | Fenced | UserError:
        if is_fatal(error):
            return ended_client(error, self._config)
        return Transient("brokers", f"offsets were not committed: {error_text(error)}")

    def offsets(self, batch: Batch) -> list[TopicPartition]:
        """Return the offsets to commit for a batch, of owned partitions only.

        A broker would accept the others, too.
        """
        return [
            TopicPartition(*place, offset, self._ledger.losses.metadata(place))
            for place, offset in batch.next.items()
            if place in self._assigned
        ]

    def assigned(self) -> frozenset[Partition]:
        return frozenset(self._assigned)

    def lag(self) -> dict[Partition, int]:
        with suppress(KafkaException):
            self._learn(self._assigned - self._ledger.next.keys(), LOOK_SECONDS)
        return {
            place: max(0, self._bounds(place)[1] - position)
            for place, position in self._ledger.next.items()
        }

    def _learn_for(self, batch: Batch) -> None:
        """Learn the new partitions of a batch. Raises Transient, with the batch rewound."""
        unknown = batch.next.keys() - self._ledger.next.keys()
        try:
            self._learn(unknown, ASK_SECONDS)
        except KafkaException as error:
            self.rewind(batch)
            self._ledger.forget(unknown)
            raise Transient("brokers", describe_error(error.args[0], "Read", self.group)) from error

    def _learn(self, places: Set[Partition], seconds: float) -> None:
        """Read the committed offsets of partitions, and their bounds. Raises KafkaException."""
        if not places:
            return
        asked = [TopicPartition(*place) for place in sorted(places)]
        for found in self.consumer.committed(asked, seconds):
            if found.error is not None:
                raise KafkaException(found.error)
            place = (found.topic, found.partition)
            low, high = self._bounds(place)
            # What the client knows may stem from an earlier time as the owner.
            if high < max(0, found.offset):
                low, high = self.consumer.get_watermark_offsets(TopicPartition(*place), seconds)
            self._ledger.learn(place, found.offset, found.metadata, low, high)

    def _note_ends(self, batch: Batch | None = None) -> None:
        """Note partitions that were read to their end; those in a batch only beyond it."""
        for place, end in self._ends.items():
            beyond = batch is None or end > batch.next.get(place, -1)
            if place in self._ledger.next and beyond:
                self._ledger.read_to(place, end, self._bounds)

    def _bounds(self, place: Partition) -> tuple[int, int]:
        """Return the first and the end offset of a partition; a negative end is not known yet."""
        bounds = self.consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        return bounds or (0, -1)

    def end(self, place: Partition) -> int:
        """Return the end offset of a partition. Raises Transient if the brokers do not answer."""
        try:
            _, high = self.consumer.get_watermark_offsets(TopicPartition(*place), ASK_SECONDS)
        except KafkaException as error:
            raise Transient("brokers", error_text(error)) from error
        return int(high)

    @property
    def group(self) -> str:
        """Return the name of the consumer group."""
        return str(self._config["group.id"])

    @property
    def doubt(self) -> str | None:
        """Return the client's last report of brokers that do not answer, or refuse the client."""
        return self._doubt

    def close(self) -> None:
        """Give the partitions away, then close.

        A callback inside the client's own close may never return, and then it holds Python's lock
        and stops the whole process (librdkafka's issue 4041).
        """
        # RuntimeError: the client is closed already.
        with suppress(KafkaException, RuntimeError):
            self.consumer.unsubscribe()
            deadline = Deadline.after(LEAVE_SECONDS)
            while self._assigned and not deadline.expired:
                self.consumer.poll(0.05)
        self.consumer.close()

    def _on_error(self, error: KafkaError) -> None:
        if is_fatal(error):
            self._fatal = error
        else:
            self._doubt = error_text(error)

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned |= {(p.topic, p.partition) for p in partitions}
        self._denied = None
        self._on_rebalance("assigned", len(partitions))

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._release("revoked", partitions)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._release("lost", partitions)

    def _release(self, kind: str, partitions: list[TopicPartition]) -> None:
        gone = {(p.topic, p.partition) for p in partitions}
        self._assigned -= gone
        self._ledger.forget(gone)
        self._collected = self._owned(self._collected)
        self._on_rebalance(kind, len(partitions))

    def _owned(self, messages: list[Any]) -> list[Any]:
        """Return the messages of partitions that are owned now."""
        return [
            message
            for message in messages
            if (message.topic(), message.partition()) in self._assigned
        ]

    def _unless_moved(self, call: Callable[[Any], object], argument: Any) -> None:
        try:
            call(argument)
        except KafkaException as error:
            if is_fatal(error.args[0]):
                raise ended_client(error.args[0], self._config) from error
            if error.args[0].code() not in _MOVED_AWAY:
                raise Transient("brokers", error_text(error)) from error


def _ends(events: list[Any]) -> dict[Partition, int]:
    """Return the ends of partitions that events of the client report."""
    return {
        (event.topic(), event.partition()): event.offset()
        for event in events
        if event.error().code() == KafkaError._PARTITION_EOF
    }
