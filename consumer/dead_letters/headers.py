"""What the headers of a dead letter say, whoever wrote it: Leadstream, Kafka Connect, Spring Kafka or Kafka Streams.

Each has its own names: Connect's `DeadLetterQueueReporter` and Streams' `ExceptionHandlerUtils` (KIP-1034) write text,
Spring's `DeadLetterPublishingRecoverer` writes partition, offset and timestamp as big-endian integers.
"""

from dataclasses import dataclass

from leadstream.kafka.config import Headers
from leadstream.kafka.dead_letter import cause_print, replays

UNKNOWN = "UNKNOWN"
_CONNECT = "__connect.errors."
_STREAMS = "__streams.errors."
_SPRING = "kafka_dlt-"
_OURS = "dlq."
_ADDED = {
    "Leadstream": _CONNECT,
    "Kafka Connect": _CONNECT,
    "Kafka Streams": _STREAMS,
    "Spring Kafka": _SPRING,
}


@dataclass(frozen=True, slots=True)
class Facts:
    """Where a letter came from (None where nothing says), and why it is one.

    `reason` is one of the ten, or the class of another writer's exception. `failed_at` is milliseconds UTC, or None.
    """

    writer: str
    topic: str | None
    partition: int | None
    offset: int | None
    reason: str
    stage: str
    exception: str
    message: str
    fingerprint: str
    failed_at: int | None
    group: str
    model_version: str
    replays: int


def facts_of(headers: Headers) -> Facts:
    """The facts in a letter's headers; of a header that is there twice the last one counts, as to its writers."""
    last = dict(headers)
    if "dlq.reason" in last:
        return _ours(headers, last)
    if any(name.startswith(_SPRING) for name in last):
        return _spring(headers, last)
    for writer, prefix, names in (
        ("Kafka Streams", _STREAMS, ("exception", "message")),
        ("Kafka Connect", _CONNECT, ("exception.class.name", "exception.message")),
    ):
        if any(name.startswith(prefix) for name in last):
            exception, message = (_text(last.get(prefix + name)) for name in names)
            stage = _text(last.get(f"{prefix}stage"))
            return _foreign(writer, headers, _origin(last, prefix), exception, message, stage=stage)
    return _foreign("unknown", headers, (None, None, None), "", "")


def own_headers(headers: Headers, writer: str) -> Headers:
    """The headers that the record had before this writer made a letter of it, and without the count of replays."""
    added = (_OURS, _ADDED.get(writer, _OURS))
    return [pair for pair in headers if not pair[0].startswith(added)]


def _ours(headers: Headers, last: dict[str, bytes | None]) -> Facts:
    return Facts(
        "Leadstream",
        *_origin(last, _CONNECT),
        _text(last["dlq.reason"]) or UNKNOWN,
        _text(last.get(f"{_CONNECT}stage")),
        _text(last.get(f"{_CONNECT}exception.class.name")),
        _text(last.get(f"{_CONNECT}exception.message")),
        _text(last.get("dlq.fingerprint")),
        _number(last.get("dlq.failed_at")),
        _text(last.get("dlq.consumer_group")),
        _text(last.get("dlq.model_version")),
        replays(headers),
    )


def _spring(headers: Headers, last: dict[str, bytes | None]) -> Facts:
    # What the listener threw is wrapped into an exception that says nothing: the cause is the reason.
    exception = _text(last.get(f"{_SPRING}exception-cause-fqcn")) or _text(
        last.get(f"{_SPRING}exception-fqcn")
    )
    exception = exception or _text(last.get(f"{_SPRING}key-exception-fqcn"))
    message = _text(last.get(f"{_SPRING}exception-message")) or _text(
        last.get(f"{_SPRING}key-exception-message")
    )
    # Origins are appended on the way through retry topics: the first is where the record was sent.
    first = dict(reversed(headers))
    group = _text(last.get(f"{_SPRING}original-consumer-group"))
    return _foreign(
        "Spring Kafka",
        headers,
        _origin(first, f"{_SPRING}original-"),
        exception,
        message,
        group=group,
    )


def _origin(
    named: dict[str, bytes | None], prefix: str
) -> tuple[str | None, int | None, int | None]:
    """Topic, partition and offset, as far as they are told."""
    partition, offset = (_number(named.get(prefix + name)) for name in ("partition", "offset"))
    return _text(named.get(f"{prefix}topic")) or None, partition, offset


def _foreign(
    writer: str,
    headers: Headers,
    origin: tuple[str | None, int | None, int | None],
    exception: str,
    message: str,
    *,
    stage: str = "",
    group: str = "",
) -> Facts:
    reason = exception.rpartition(".")[2].rpartition("$")[2] or UNKNOWN
    return Facts(
        writer,
        *origin,
        reason,
        stage,
        exception,
        message,
        cause_print(f"{writer} {reason}", stage, message),
        None,
        group,
        "",
        replays(headers),
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "backslashreplace")


def _number(value: bytes | None) -> int | None:
    """Decimal digits, or else a big-endian int or long."""
    if value is None:
        return None
    if value.isdigit() and len(value) < 20:
        return int(value)
    return int.from_bytes(value, "big", signed=True) if len(value) in (4, 8) else None
