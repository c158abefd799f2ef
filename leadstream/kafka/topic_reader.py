"""Topics read outside of any group, up to an end that is asked for, as often as it is asked."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in its __all__

from leadstream.errors import Transient, UserError
from leadstream.kafka.batch import Message
from leadstream.kafka.config import client_config, config_error, consumer_config
from leadstream.kafka.permission import told
from leadstream.kafka.source import MENDS_ITSELF, NO_TOPIC
from leadstream.log import client_logger
from leadstream.settings import Settings

ASK_SECONDS = 10.0
# A process that was killed may keep its transaction open, and with it this reader waiting, for as long as that lasts
# and the broker's next look at it: 10 seconds each.
QUIET_SECONDS = 40.0
POLL_SECONDS = 0.25
MOST = 2_000
_NO_GROUP = KafkaError.GROUP_AUTHORIZATION_FAILED


class NoTopic(UserError):
    """The topic is not there."""


class Log:
    """One topic; `read` reads on from where the last one ended, or from where it is told to; `follow` waits for more.

    Raises NoTopic where the topic is not there, and Transient where the brokers do not answer, or nothing comes for
    `quiet` seconds. `properties` are more of librdkafka's.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        *,
        committed: bool = True,
        quiet: float = QUIET_SECONDS,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        config = consumer_config(settings) | {
            **(properties or {}),
            # The end of a partition is told even where its last records are transaction markers, which are no messages.
            "enable.partition.eof": True,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
            "logger": client_logger(),
        }
        try:
            self._consumer = Consumer(config)
        except KafkaException as error:
            raise config_error(error) from None
        self.topic = topic
        self._quiet = quiet
        self._group = settings.group_id
        self.position: dict[int, int] = {}

    def partitions(self) -> list[int]:
        """The topic's partitions."""
        try:
            found = self._consumer.list_topics(self.topic, timeout=ASK_SECONDS).topics[self.topic]
        except KafkaException as error:
            raise _unanswered(error) from error
        if found.error is not None and found.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise UserError(told(found.error, "Read", self.topic))
        if found.error is not None:
            kind = NoTopic if found.error.code() in NO_TOPIC else UserError
            raise kind(
                f"topic {self.topic}: {found.error.str()}; `leadstream topics create` makes what is missing"
            )
        return sorted(found.partitions)

    def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset of a partition, and the end of what is readable in it now."""
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=ASK_SECONDS
            )
        except KafkaException as error:
            raise _unanswered(error) from error
        return low, high

    def read(
        self, starts: Mapping[int, int], ends: Mapping[int, int] | None = None
    ) -> Iterator[Message]:
        """Everything from `starts` to before `ends`, by partition; without ends, to what is readable now.

        An end may lie behind a transaction that is still open: then its outcome is waited for.
        """
        wanted = {p: start for p, start in starts.items() if ends is None or start < ends[p]}
        self.position.update(wanted)
        if not wanted:
            return
        self._consumer.assign([TopicPartition(self.topic, p, start) for p, start in wanted.items()])
        unread = set(wanted)
        while unread:
            for message in self._some():
                partition = message.partition()
                if partition not in unread:
                    continue
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise Transient("brokers", self._told(error))
                offset, end = message.offset(), None if ends is None else ends[partition]
                if error is not None:
                    self.position[partition] = offset
                    if end is None or offset >= end:
                        unread.discard(partition)
                    continue
                if end is None or offset < end:
                    self.position[partition] = offset + 1
                    yield message
                if end is not None and offset >= end - 1:
                    self.position[partition] = end
                    unread.discard(partition)

    def follow(self, starts: Mapping[int, int], seconds: float) -> Iterator[Message]:
        """What stands from `starts` on, and what is still to come, for so many seconds."""
        self._consumer.assign([TopicPartition(self.topic, p, start) for p, start in starts.items()])
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            message: Any = self._consumer.poll(min(left, POLL_SECONDS))
            if message is None:
                continue
            error = message.error()
            if error is None:
                yield message
            elif error.code() not in MENDS_ITSELF:
                raise Transient("brokers", self._told(error))

    def _told(self, error: KafkaError) -> str:
        return told(
            error,
            *(("Read", self.topic) if error.code() != _NO_GROUP else ("Describe", self._group)),
        )

    def _some(self) -> list[Any]:
        deadline = time.monotonic() + self._quiet
        # In short waits: Python hears of Ctrl-C only between calls into the client.
        while (first := self._consumer.poll(POLL_SECONDS)) is None:
            if time.monotonic() > deadline:
                raise Transient(
                    "brokers", f"nothing came from {self.topic} within {self._quiet:g} s"
                )
        return [first, *self._consumer.consume(MOST, 0)]

    def close(self) -> None:
        """Give up the connection."""
        self._consumer.close()


class Cluster:
    """What is asked of the brokers and not read: ends, and the offsets that the consumers' group has committed."""

    def __init__(self, settings: Settings) -> None:
        self._admin = AdminClient(client_config(settings), logger=client_logger())
        self._group = settings.group_id

    def ends(self, topic: str, partitions: list[int]) -> dict[int, int]:
        """One past the last record of each partition, be it committed or not."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(topic, partition): latest for partition in partitions}
        options = {
            "isolation_level": IsolationLevel.READ_UNCOMMITTED,
            "request_timeout": ASK_SECONDS,
        }
        try:
            found = {
                place.partition: future.result()
                for place, future in self._admin.list_offsets(asked, **options).items()
            }
        except KafkaException as error:
            raise _unanswered(error) from error
        return {partition: result.offset for partition, result in found.items()}

    def committed(self, topic: str, partitions: list[int]) -> dict[int, int]:
        """Where the consumers go on in each partition; one that they never committed is left out."""
        places = [TopicPartition(topic, partition) for partition in partitions]
        asked = [ConsumerGroupTopicPartitions(self._group, places)]
        try:
            [future] = self._admin.list_consumer_group_offsets(
                asked, request_timeout=ASK_SECONDS
            ).values()
            found = future.result().topic_partitions or []
        except KafkaException as error:
            if error.args[0].code() == _NO_GROUP:
                raise UserError(told(error.args[0], "Describe", self._group)) from None
            raise _unanswered(error) from error
        return {
            place.partition: place.offset
            for place in found
            if place.error is None and place.offset >= 0
        }


def _unanswered(error: KafkaException) -> Transient:
    return Transient(
        "brokers", f"{error.args[0].str()}; check KAFKA_BOOTSTRAP_SERVERS, and that Kafka is up"
    )
