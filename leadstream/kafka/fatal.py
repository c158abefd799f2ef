"""Errors that end a Kafka client, and what the process does then: join again, or end."""

from collections.abc import Mapping

from confluent_kafka import KafkaError

from leadstream.errors import Fenced, UserError, error_text
from leadstream.settings import variable_of

_INSTANCE = "group.instance.id"
_PROTOCOL = "group.protocol"
_ASSIGNOR = "group.remote.assignor"
# The client reports a fatal error without its cause, but with the sentence of that.
_CAUSES = {
    error_text(KafkaError(code)): code
    for code in (
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.UNRELEASED_INSTANCE_ID,
        KafkaError.UNSUPPORTED_ASSIGNOR,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.GROUP_ID_NOT_FOUND,
        KafkaError._UNSUPPORTED_FEATURE,
    )
}
# A member that is refused with one of these joins as soon as the group allows it.
REFUSED_JOIN = {KafkaError.INCONSISTENT_GROUP_PROTOCOL, KafkaError.GROUP_MAX_SIZE_REACHED}


def is_fatal(error: KafkaError) -> bool:
    """Return whether an error ends its client: the client does nothing after it."""
    return error.fatal() or error.code() in (
        KafkaError._FATAL,
        KafkaError._FENCED,
        KafkaError.FENCED_INSTANCE_ID,
    )


def ended_client(error: KafkaError, properties: Mapping[str, str]) -> Fenced | UserError:
    """Return the error to raise for a client that an error ended.

    Fenced: a new client can join the group. UserError: a new one would end, too, or would end
    another process. `properties` are those of the consumer.
    """
    group = properties.get("group.id", "")
    instance = properties.get(_INSTANCE, "")
    match _cause(error):
        case KafkaError.FENCED_INSTANCE_ID:
            return UserError(
                f"another process joined the group {group} with the same "
                f"{variable_of(_INSTANCE)}={instance}: give each process its own, or stop the other"
            )
        case KafkaError.UNSUPPORTED_ASSIGNOR:
            return UserError(
                f"the brokers do not know {variable_of(_ASSIGNOR)}="
                f"{properties.get(_ASSIGNOR, '')}: set one of their group.consumer.assignors, "
                "or unset it"
            )
        case KafkaError.UNSUPPORTED_VERSION | KafkaError._UNSUPPORTED_FEATURE:
            return UserError(
                f"the brokers do not serve {variable_of(_PROTOCOL)}="
                f"{properties.get(_PROTOCOL, 'classic')} ({error_text(error)}): upgrade "
                "them, or unset it"
            )
        case KafkaError.GROUP_ID_NOT_FOUND:
            return Fenced(
                f"the group {group} still has members of the classic protocol, and cannot change "
                f"its protocol before they leave: stop every process of it that runs without "
                f"{variable_of(_PROTOCOL)}=consumer"
            )
        case KafkaError.UNRELEASED_INSTANCE_ID:
            return Fenced(
                f"another member of the group {group} has {variable_of(_INSTANCE)}={instance}: "
                "it has to leave, or its session has to end, first"
            )
        case _:
            return Fenced(error_text(error))


def _cause(error: KafkaError) -> int:
    """Return the code of the error that was fatal."""
    if error.code() != KafkaError._FATAL:
        return error.code()
    named = (code for sentence, code in _CAUSES.items() if sentence in error_text(error))
    return next(named, KafkaError._FATAL)
