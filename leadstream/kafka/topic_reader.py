"""A reader of one topic outside of any group, up to an end or for some time."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its __all__
    AdminClient,
    OffsetSpec,
)

from leadstream.budgets import POLL_SECONDS, READER_SILENCE_SECONDS
from leadstream.deadline import Deadline
from leadstream.errors import Transient, UserError, error_text
from leadstream.kafka.batch import Message
from leadstream.kafka.config import client_config, config_error, consumer_config
from leadstream.kafka.health import (
    CREATE_TOPICS,
    SELF_REPAIRING,
    UNKNOWN_TOPIC,
    describe_error,
    unreadable_batch,
)
from leadstream.log import client_logger
from leadstream.settings import Settings

ASK_SECONDS = 10.0
MAX_MESSAGES = 2_000
_NO_GROUP = KafkaError.GROUP_AUTHORIZATION_FAILED


class NoTopic(UserError):
    """A topic that does not exist."""


class TopicReader:
    """A reader of one topic: `read` up to an end, `follow` for some time, as often as needed.

    Raises NoTopic if the topic does not exist. Raises Transient if the brokers do not answer, if
    nothing arrives for `quiet` seconds, or once `stopped` returns True. `properties` are further
    librdkafka properties. `position` holds the next offset of each partition that was read.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        *,
        committed: bool = True,
        quiet: float = READER_SILENCE_SECONDS,
        properties: Mapping[str, Any] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._consumer = assigned_consumer(
            settings,
            {
                **(properties or {}),
                "isolation.level": "read_committed" if committed else "read_uncommitted",
                "fetch.wait.max.ms": 10,
            },
        )
        self.topic = topic
        self._quiet = quiet
        self._stopped = stopped
        self._group = settings.group_id
        self.position: dict[int, int] = {}

    def partitions(self) -> list[int]:
        """Return the numbers of the topic's partitions."""
        try:
            found = self._consumer.list_topics(self.topic, timeout=ASK_SECONDS).topics[self.topic]
        except KafkaException as error:
            raise _unanswered(error) from error
        if found.error is not None and found.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise UserError(describe_error(found.error, "Read", self.topic))
        if found.error is not None:
            kind = NoTopic if found.error.code() in UNKNOWN_TOPIC else UserError
            raise kind(f"topic {self.topic}: {error_text(found.error)}; {CREATE_TOPICS}")
        return sorted(found.partitions)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset of a partition, and the end of what is readable in it now."""
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=ASK_SECONDS
            )
        except KafkaException as error:
            raise _unanswered(error) from error
        return low, high

    def read(
        self,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        limit: int | None = None,
    ) -> Iterator[Message]:
        """Yield the records from `starts` to before `ends`, by partition.

        Without `ends` the end is what is readable now; with `limit` at most that many records of
        each partition. An end may lie behind an open transaction: the reader waits for its outcome.
        """
        wanted = {p: start for p, start in starts.items() if ends is None or start < ends[p]}
        self.position.update(wanted)
        if not wanted:
            return
        self._consumer.assign([TopicPartition(self.topic, p, start) for p, start in wanted.items()])
        unread, count = set(wanted), Counter[int]()
        while unread:
            for message in self._next_messages():
                partition = message.partition()
                if partition not in unread:
                    continue
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    if (unreadable := unreadable_batch(message)) is not None:
                        raise unreadable
                    raise Transient("brokers", self._describe(error))
                offset, end = message.offset(), None if ends is None else ends[partition]
                if error is not None:
                    self.position[partition] = offset
                    if end is None or offset >= end:
                        unread.discard(partition)
                    continue
                if end is None or offset < end:
                    self.position[partition] = offset + 1
                    count[partition] += 1
                    yield message
                if end is not None and offset >= end - 1:
                    self.position[partition] = end
                    unread.discard(partition)
                if count[partition] == limit:
                    unread.discard(partition)

    def follow(self, starts: Mapping[int, int], seconds: float) -> Iterator[Message]:
        """Yield the records from `starts` on, and those that still arrive within `seconds`."""
        self._consumer.assign([TopicPartition(self.topic, p, start) for p, start in starts.items()])
        deadline = Deadline.after(seconds)
        while not deadline.expired:
            message: Any = self._consumer.poll(min(deadline.left(), POLL_SECONDS))
            if message is None:
                continue
            error = message.error()
            if error is None:
                yield message
            elif error.code() not in SELF_REPAIRING:
                raise Transient("brokers", self._describe(error))

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def _describe(self, error: KafkaError) -> str:
        if error.code() == _NO_GROUP:
            return describe_error(error, "Describe", self._group)
        return describe_error(error, "Read", self.topic)

    def _next_messages(self) -> list[Any]:
        deadline = Deadline.after(self._quiet)
        while not (messages := poll_messages(self._consumer, POLL_SECONDS)):
            if self._stopped():
                raise Transient("brokers", f"stopped while {self.topic} was read")
            if deadline.expired:
                raise Transient(
                    "brokers", f"nothing came from {self.topic} within {self._quiet:g} s"
                )
        return messages


class TopicOffsets:
    """Offsets that the brokers report: ends of partitions, and what the consumers committed."""

    def __init__(self, settings: Settings) -> None:
        self._admin = AdminClient(client_config(settings), logger=client_logger())
        self._group = settings.group_id

    def ends(self, topic: str, partitions: list[int]) -> dict[int, int]:
        """Return the offset after the last record of each partition, committed or not."""
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
        """Return the group's committed offset of each partition that has one."""
        places = [TopicPartition(topic, partition) for partition in partitions]
        asked = [ConsumerGroupTopicPartitions(self._group, places)]
        try:
            [future] = self._admin.list_consumer_group_offsets(
                asked, request_timeout=ASK_SECONDS
            ).values()
            found = future.result().topic_partitions or []
        except KafkaException as error:
            if error.args[0].code() == _NO_GROUP:
                raise UserError(describe_error(error.args[0], "Describe", self._group)) from None
            raise _unanswered(error) from error
        return {
            place.partition: place.offset
            for place in found
            if place.error is None and place.offset >= 0
        }


def assigned_consumer(settings: Settings, properties: Mapping[str, Any]) -> Consumer:
    """Return a consumer for assigned partitions, which reports the end of each as an event.

    Raises SettingsError or UserError if the client cannot be made.
    """
    config = {
        **consumer_config(settings),
        "logger": client_logger(),
        **properties,
        # Transaction markers are no messages: only this event shows that nothing follows.
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
    }
    try:
        return Consumer(config)
    except KafkaException as error:
        raise config_error(error) from None


def poll_messages(consumer: Consumer, timeout: float) -> list[Any]:
    """Return the messages and events that are there, after up to `timeout` seconds."""
    first = consumer.poll(timeout)
    return [] if first is None else [first, *consumer.consume(MAX_MESSAGES, 0)]


def _unanswered(error: KafkaException) -> Transient:
    return Transient(
        "brokers", f"{error_text(error)}; check KAFKA_BOOTSTRAP_SERVERS, and that Kafka is up"
    )
