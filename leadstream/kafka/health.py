"""Reasons why a Kafka client cannot work: silent brokers, absent topics, missing permissions."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its __all__
    AclOperation,
    AdminClient,
)

from leadstream.error_table import About, about_kafka
from leadstream.errors import Transient, UserError, error_text
from leadstream.log import SILENT

PERMISSION_SECONDS = 5.0
# librdkafka reports these while it repairs them itself: they are no records, and nothing to do.
SELF_REPAIRING = {
    KafkaError._PARTITION_EOF,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
}
UNKNOWN_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}
CREATE_TOPICS = "`leadstream topics create` makes what is missing"
_KINDS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
}
_MOCK_CLUSTER = "mockCluster"


def describe_error(error: KafkaError, operation: str, name: str) -> str:
    """Return the client's sentence, or the missing permission: `operation` on `name`."""
    kind = _KINDS.get(error.code())
    return _needed(operation, kind, name) if kind else error_text(error)


def cluster_metadata(
    client: Consumer | Producer,
    seconds: float,
    doubt: Callable[[], str | None] = lambda: None,
) -> Any:
    """Return the brokers and topics that the cluster reports.

    Raises Transient if no broker answers. `doubt` returns what the client last reported of the
    brokers; it says more than a time-out.
    """
    try:
        return client.list_topics(timeout=seconds)
    except KafkaException as error:
        raise Transient("brokers", doubt() or error_text(error)) from error


def is_mock(cluster: Any) -> bool:
    """Return whether the metadata of a cluster is that of librdkafka's mock cluster.

    It answers every transactional call and keeps none of their promises. It has no topic settings,
    and leaves most questions without an answer.
    """
    return str(cluster.cluster_id or "").startswith(_MOCK_CLUSTER)


def unreadable_batch(event: Any, group: str | None = None) -> UserError | None:
    """Return the error to raise for a batch that the client cannot read; None for other events.

    Every try would fail at the same offset, and the client does not know where the batch ends.
    """
    error: KafkaError = event.error()
    if about_kafka(error.code()) is not About.RECORD:
        return None
    offset = event.offset()
    if offset is None or offset < 0:
        return None
    place = f"topic {event.topic()}, partition {event.partition()}, offset {offset}"
    skip = f"; else set the offsets of the group {group} past it" if group else ""
    return UserError(
        f"{place}: the client cannot read the batch that begins there ({error_text(error)}): "
        "if it is only large, raise "
        f"LEADSTREAM_KAFKA_MESSAGE_MAX_BYTES{skip}"
    )


def topic_problem(client: Producer, topic: str, seconds: float) -> str | None:
    """Return why nothing can be published to a topic, or None if it is there."""
    try:
        error = client.list_topics(topic, timeout=seconds).topics[topic].error
    except KafkaException as unanswered:
        return f"topic {topic}: {error_text(unanswered)}"
    if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return describe_error(error, "Write", topic)
    return f"topic {topic}: {error_text(error)}; {CREATE_TOPICS}" if error else None


def denied_topic(client: Consumer | Producer, topics: Iterable[str], operation: str) -> str | None:
    """Return the sentence for the first of these topics that this account may not even see.

    A list of all topics leaves such topics out, as if they did not exist. Raises KafkaException.
    """
    for topic in topics:
        error = client.list_topics(topic, timeout=PERMISSION_SECONDS).topics[topic].error
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return describe_error(error, operation, topic)
    return None


def missing_permission(
    config: Mapping[str, Any], topics: Iterable[str], operation: str
) -> str | None:
    """Return the sentence for the first topic on which this account may not Read or Write.

    The brokers answer it. The client reports an unreadable topic once and never its end, and an
    aborted transaction does not name the topic. Raises KafkaException.
    """
    admin = AdminClient(
        {key: value for key, value in config.items() if key != "logger"}, logger=SILENT
    )
    asked = admin.describe_topics(
        TopicCollection(list(topics)),
        include_authorized_operations=True,
        request_timeout=PERMISSION_SECONDS,
    )
    for topic, future in asked.items():
        try:
            allowed = future.result().authorized_operations
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                return describe_error(error.args[0], operation, topic)
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue
            raise
        # Brokers before 2.3 do not report operations.
        if allowed and AclOperation[operation.upper()] not in allowed:
            return _needed(operation, "topic", topic)
    return None


def _needed(operation: str, kind: str, name: str) -> str:
    return f"this account needs the permission {operation} on {kind} {name}"
