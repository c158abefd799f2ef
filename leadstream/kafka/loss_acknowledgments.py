"""The losses of a group as the brokers keep them, and their acknowledgment."""

from collections.abc import Iterable
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

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


def read_acknowledged(settings: Settings, places: Iterable[Partition]) -> dict[Partition, int]:
    """Return up to when the losses of these partitions are acknowledged (milliseconds UTC).

    A service asks with a consumer: an AdminClient ends the process with a failed assertion where
    the coordinator of a group does not answer (librdkafka issue 4605). Raises Transient.
    """
    consumer = Consumer(
        client_config(settings)
        | {"group.id": acknowledging_group(settings.group_id), "enable.auto.commit": False},
        logger=SILENT,
    )
    try:
        states = consumer.committed([TopicPartition(*place) for place in places], ASK_SECONDS)
    except KafkaException as error:
        raise Transient("brokers", error_text(error)) from error
    finally:
        consumer.close()
    return _acknowledged(states)


class LossAcknowledgments:
    """The losses that the group's committed offsets name, and which of them are acknowledged."""

    def __init__(self, admin: AdminClient, group_id: str) -> None:
        self._admin = admin
        self._group = group_id
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

    def acknowledge(self, places: Iterable[Partition], at_ms: int) -> None:
        """Acknowledge every loss of these partitions up to a time. Raises UserError and Transient.

        The brokers keep it for offsets.retention.minutes, a week by default: until then the group
        has forgotten the losses.
        """
        offsets = [TopicPartition(*place, 0, acknowledgment(at_ms)) for place in places]
        asked = [ConsumerGroupTopicPartitions(self._acknowledging, offsets)]
        [future] = self._admin.alter_consumer_group_offsets(
            asked, request_timeout=ASK_SECONDS
        ).values()
        for state in self._result(future, "Read", self._acknowledging).topic_partitions or []:
            if state.error is not None:
                raise Transient("brokers", error_text(state.error))

    def _committed(self, group: str) -> list[TopicPartition]:
        [future] = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=ASK_SECONDS
        ).values()
        return self._result(future, "Describe", group).topic_partitions or []

    def _result(self, future: Any, operation: str, group: str) -> Any:
        try:
            return future.result(2 * ASK_SECONDS)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise UserError(describe_error(error.args[0], operation, group)) from None
            raise Transient("brokers", error_text(error)) from error


def _acknowledged(states: Iterable[TopicPartition]) -> dict[Partition, int]:
    return {
        (state.topic, state.partition): acknowledged_at(state.metadata)
        for state in states
        if state.error is None
    }
