"""A reader of whole topics from their beginning on, outside of any group; nothing is committed."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from leadstream.errors import Transient, error_text
from leadstream.kafka.batch import Message, Partition
from leadstream.kafka.health import (
    SELF_REPAIRING,
    UNKNOWN_TOPIC,
    cluster_metadata,
    denied_topic,
    describe_error,
    unreadable_batch,
)
from leadstream.kafka.topic_reader import assigned_consumer, poll_messages
from leadstream.settings import Settings

ASK_SECONDS = 2.0
LOOK_SECONDS = 5.0  # for new partitions and topics


class TopicFollower:
    """A reader of every partition of some topics, including partitions that are added later.

    `absent` names the `required` topics that do not exist; `optional` topics are read if they do.
    `known` holds all topics of the brokers, and `position` the next offset of each partition.
    """

    def __init__(
        self,
        settings: Settings,
        required: Sequence[str],
        optional: Sequence[str] = (),
        *,
        properties: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer = assigned_consumer(
            settings, {**(properties or {}), "error_cb": self._on_error}
        )
        self._topics = (*required, *optional)
        self._required = required
        self._clock = clock
        self._unread: set[Partition] = set()
        self._look_at = 0.0
        self._lost = False
        self._trouble: str | None = None
        self.position: dict[Partition, int] = {}
        self.absent: list[str] = list(required)
        self.known: frozenset[str] = frozenset()

    @property
    def partitions(self) -> int:
        """Return how many partitions are being read."""
        return len(self.position)

    @property
    def at_end(self) -> bool:
        """Return whether everything that was there has been read."""
        return not self._unread and not self.absent

    def topic_at_end(self, topic: str) -> bool:
        """Return whether everything that was in this topic has been read."""
        return topic not in self.absent and all(unread != topic for unread, _ in self._unread)

    def ends(self, timeout: float) -> dict[Partition, int]:
        """Return the end of each partition that is being read. Raises Transient."""
        try:
            return {
                place: self._consumer.get_watermark_offsets(TopicPartition(*place), timeout)[1]
                for place in self.position
            }
        except KafkaException as error:
            raise Transient("brokers", error_text(error)) from error

    def poll(self, timeout: float) -> list[Message]:
        """Return the records that are there, after up to `timeout` seconds.

        Raises Transient if the brokers do not answer or refuse to let this account read.
        """
        if self._clock() >= self._look_at:
            self._look()
        messages = []
        for message in poll_messages(self._consumer, timeout):
            place, error = (message.topic(), message.partition()), message.error()
            if error is None:
                messages.append(message)
                self.position[place] = message.offset() + 1
                self._unread.add(place)
            elif error.code() == KafkaError._PARTITION_EOF:
                self.position[place] = message.offset()
                self._unread.discard(place)
            elif error.code() in SELF_REPAIRING | UNKNOWN_TOPIC:
                self._on_error(error)
            elif (unreadable := unreadable_batch(message)) is not None:
                raise unreadable
            else:
                self._trouble = describe_error(error, "Read", place[0])
        # The error is raised after the records before it were returned: none is skipped.
        if not messages and (trouble := self._trouble) is not None:
            self._trouble = None
            raise Transient("brokers", trouble)
        return messages

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def _on_error(self, _error: KafkaError) -> None:
        # The client reports a trouble once and never its end: look whether the brokers answer.
        self._look_at = 0.0

    def _look(self) -> None:
        """Find topics and partitions, and assign them where any changed or was interrupted."""
        try:
            topics: dict[str, Any] = cluster_metadata(self._consumer, ASK_SECONDS).topics
        except Transient:
            self._lost = True
            raise
        absent = [topic for topic in self._required if topic not in topics]
        try:
            if (why := denied_topic(self._consumer, absent, "Read")) is not None:
                raise Transient("brokers", why)
        except KafkaException as error:
            raise Transient("brokers", error_text(error)) from error
        self._look_at = self._clock() + (ASK_SECONDS if self.absent else LOOK_SECONDS)
        self.known = frozenset(topics)
        self.absent = absent
        places = {
            (topic, number)
            for topic in self._topics
            if topic in topics
            for number in topics[topic].partitions
        }
        if places == self.position.keys() and not self._lost:
            return
        self.position = {
            place: self.position.get(place, OFFSET_BEGINNING) for place in sorted(places)
        }
        # Assigning reports every end again: what arrived during an interruption counts as unread.
        self._consumer.assign(
            [TopicPartition(*place, offset) for place, offset in self.position.items()]
        )
        self._unread, self._lost = set(places), False
