"""A permission that is missing at the brokers, in one sentence: which operation, on what."""

from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient  # type: ignore[attr-defined]  # not in its __all__

from leadstream.log import SILENT

SECONDS = 5.0
_KINDS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
}


def told(error: KafkaError, operation: str, name: str) -> str:
    """The client's words; where a permission is missing, `operation` is the one that is needed, and `name` on what."""
    kind = _KINDS.get(error.code())
    return _needed(operation, kind, name) if kind else error.str()


def denied(client: Consumer | Producer, topics: Iterable[str], operation: str) -> str | None:
    """The sentence for the first of these topics that this account may not even see. Raises KafkaException.

    A list of all topics leaves such topics out, as if there were none of that name.
    """
    for topic in topics:
        error = client.list_topics(topic, timeout=SECONDS).topics[topic].error
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return told(error, operation, topic)
    return None


def forbidden(config: Mapping[str, Any], topics: Iterable[str], operation: str) -> str | None:
    """The sentence for the first of these topics on which this account may not do that, Read or Write, as the brokers
    say. Raises KafkaException.

    The client tells of what may not be read once, and never that it is over; of a transaction it does not say which
    topic may not be written.
    """
    admin = AdminClient(
        {key: value for key, value in config.items() if key != "logger"}, logger=SILENT
    )
    asked = admin.describe_topics(
        TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=SECONDS
    )
    for topic, future in asked.items():
        try:
            allowed = future.result().authorized_operations
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                return told(error.args[0], operation, topic)
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue
            raise
        # Brokers before 2.3 do not say.
        if allowed and AclOperation[operation.upper()] not in allowed:
            return _needed(operation, "topic", topic)
    return None


def _needed(operation: str, kind: str, name: str) -> str:
    return f"this account needs the permission {operation} on {kind} {name}"
