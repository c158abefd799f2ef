"""Reads topics from their beginning on, outside of any group: nothing is committed, and each start reads all anew."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from leadstream.errors import Transient
from leadstream.kafka.batch import Message, Partition
from leadstream.kafka.config import config_error, consumer_config
from leadstream.kafka.permission import denied, told
from leadstream.kafka.source import MENDS_ITSELF, NO_TOPIC
from leadstream.log import client_logger
from leadstream.settings import Settings

ASK_SECONDS = 2.0
LOOK_SECONDS = 5.0  # for new partitions and topics
MOST = 2_000


class Tail:
    """Every partition of the topics, those to come as well.

    `wanted` must be there: `absent` names those that are not. `optional` ones are read where they are there. `known`
    are all topics that the brokers have.
    """

    def __init__(
        self,
        settings: Settings,
        wanted: Sequence[str],
        optional: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config = consumer_config(settings) | {
            # The end of a partition is told even where its last records are transaction markers, which are no messages.
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "error_cb": self._on_error,
            "logger": client_logger(),
        }
        try:
            self._consumer = Consumer(config)
        except KafkaException as error:
            raise config_error(error) from None
        self._topics = (*wanted, *optional)
        self._wanted = wanted
        self._clock = clock
        self._next: dict[Partition, int] = {}
        self._unread: set[Partition] = set()
        self._look_at = 0.0
        self._lost = False
        self._trouble: str | None = None
        self.absent: list[str] = list(wanted)
        self.known: frozenset[str] = frozenset()

    @property
    def partitions(self) -> int:
        """How many partitions are being read."""
        return len(self._next)

    @property
    def at_end(self) -> bool:
        """Whether everything that was there has been read."""
        return not self._unread and not self.absent

    def ends(self, topic: str) -> bool:
        """Whether everything that was in this topic has been read, whatever still comes in others."""
        return topic not in self.absent and all(unread != topic for unread, _ in self._unread)

    def poll(self, timeout: float) -> list[Message]:
        """What is there, after up to `timeout` seconds. Raises Transient where the brokers do not answer."""
        if self._clock() >= self._look_at:
            self._look()
        first = self._consumer.poll(timeout)
        polled: list[Any] = [] if first is None else [first, *self._consumer.consume(MOST, 0)]
        messages = []
        for message in polled:
            place, error = (message.topic(), message.partition()), message.error()
            if error is None:
                messages.append(message)
                self._next[place] = message.offset() + 1
                self._unread.add(place)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._unread.discard(place)
            elif error.code() in MENDS_ITSELF | NO_TOPIC:
                self._on_error(error)
            else:
                self._trouble = told(error, "Read", place[0])
        # An error is told only once what was read before it has been handed out: nothing is skipped.
        if not messages and (trouble := self._trouble) is not None:
            self._trouble = None
            raise Transient("brokers", trouble)
        return messages

    def close(self) -> None:
        self._consumer.close()

    def _on_error(self, _error: KafkaError) -> None:
        # The client tells of a trouble once and never that it is over: look at once whether the brokers answer.
        self._look_at = 0.0

    def _look(self) -> None:
        """See which topics and partitions there are, and read on where anything changed or was interrupted."""
        try:
            topics: dict[str, Any] = self._consumer.list_topics(timeout=ASK_SECONDS).topics
        except KafkaException as error:
            self._lost = True
            raise Transient("brokers", error.args[0].str()) from error
        absent = [topic for topic in self._wanted if topic not in topics]
        try:
            if (why := denied(self._consumer, absent, "Read")) is not None:
                raise Transient("brokers", why)
        except KafkaException as error:
            raise Transient("brokers", error.args[0].str()) from error
        self._look_at = self._clock() + (ASK_SECONDS if self.absent else LOOK_SECONDS)
        self.known = frozenset(topics)
        self.absent = absent
        places = {
            (topic, number)
            for topic in self._topics
            if topic in topics
            for number in topics[topic].partitions
        }
        if places == self._next.keys() and not self._lost:
            return
        self._next = {place: self._next.get(place, OFFSET_BEGINNING) for place in sorted(places)}
        # Assigned anew, each partition tells its end anew: what arrived during an interruption counts as unread.
        self._consumer.assign(
            [TopicPartition(*place, offset) for place, offset in self._next.items()]
        )
        self._unread, self._lost = set(places), False
