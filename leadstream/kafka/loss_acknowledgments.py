"""The losses of a group as the brokers keep them, and their acknowledgment."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from leadstream.errors import Transient, UserError, error_text
from leadstream.kafka.batch import Partition
from leadstream.kafka.config import client_config
from leadstream.kafka.health import describe_error
from leadstream.kafka.losses import (
    Loss,
    acknowledged_at,
    acknowledging_group,
    acknowledgment,
    read_metadata,
    unacknowledged,
)
from leadstream.log import SILENT
from leadstream.settings import Settings

ASK_SECONDS = 5.0


def read_acknowledged(
    settings: Settings, places: Iterable[Partition], group_id: str | None = None
) -> dict[Partition, int]:
    """Return up to when the losses of these partitions are acknowledged (milliseconds UTC).

    `group_id` is the group that reads them, by default that of the settings. Raises Transient.
    """
    acknowledging = acknowledging_group(group_id or settings.group_id)
    try:
        with _member(settings, acknowledging) as consumer:
            states = consumer.committed([TopicPartition(*place) for place in places], ASK_SECONDS)
    except KafkaException as error:
        raise Transient("brokers", error_text(error)) from error
    return _acknowledged(states)


class LossAcknowledgments:
    """The losses that the committed offsets of a group name, and which of them are acknowledged.

    `topics` are those that the group reads.
    """

    def __init__(self, settings: Settings, group_id: str, topics: Sequence[str]) -> None:
        self._settings = settings
        self._group = group_id
        self._topics = topics
        self._acknowledging = acknowledging_group(group_id)

    def losses(self) -> list[Loss]:
        """Return the losses that nobody acknowledged. Raises UserError and Transient."""
        found = [
            loss
            for state in self._committed(self._group)
            for loss in read_metadata((state.topic, state.partition), state.metadata) or []
        ]
        return unacknowledged(found, self.acknowledged()) if found else []

    def acknowledged(self) -> dict[Partition, int]:
        """Return up to when the losses of each partition are acknowledged (milliseconds UTC).

        Raises UserError and Transient.
        """
        return _acknowledged(self._committed(self._acknowledging))

    def acknowledge(self, at_ms: int) -> None:
        """Acknowledge every loss up to a time. Raises UserError and Transient.

        The brokers keep it for offsets.retention.minutes, a week by default: until then the group
        has forgotten the losses.
        """
        metadata = acknowledgment(at_ms)
        try:
            with _member(self._settings, self._acknowledging) as consumer:
                offsets = [
                    TopicPartition(*place, 0, metadata) for place in self._partitions(consumer)
                ]
                states = consumer.commit(offsets=offsets, asynchronous=False) if offsets else []
        except KafkaException as error:
            self._raise(error, "Read", self._acknowledging)
        for state in states or []:
            if state.error is not None:
                raise Transient("brokers", state.error.str())

    def _committed(self, group: str) -> list[TopicPartition]:
        try:
            with _member(self._settings, group) as consumer:
                places = [TopicPartition(*place) for place in self._partitions(consumer)]
                return consumer.committed(places, ASK_SECONDS) if places else []
        except KafkaException as error:
            self._raise(error, "Describe", group)

    def _partitions(self, consumer: Consumer) -> list[Partition]:
        present = consumer.list_topics(timeout=ASK_SECONDS).topics
        return [
            (topic, partition)
            for topic in self._topics
            if topic in present
            for partition in sorted(present[topic].partitions)
        ]

    def _raise(self, error: KafkaException, operation: str, group: str) -> NoReturn:
        if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise UserError(describe_error(error.args[0], operation, group)) from None
        raise Transient("brokers", error.args[0].str()) from error


@contextmanager
def _member(settings: Settings, group: str) -> Iterator[Consumer]:
    """Open a consumer that reads and writes the offsets of a group, without joining it.

    An AdminClient could end the process with a failed assertion where the coordinator of a group
    goes away (librdkafka issue 4605).
    """
    consumer = Consumer(
        client_config(settings) | {"group.id": group, "enable.auto.commit": False}, logger=SILENT
    )
    try:
        yield consumer
    finally:
        consumer.close()


def _acknowledged(states: Iterable[TopicPartition]) -> dict[Partition, int]:
    return {
        (state.topic, state.partition): acknowledged_at(state.metadata)
        for state in states
        if state.error is None
    }
