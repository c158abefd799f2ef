"""Headers of dead letters, from Leadstream, Kafka Connect, Spring Kafka or Kafka Streams.

Each writer has its own names. Connect's `DeadLetterQueueReporter` and Streams'
`ExceptionHandlerUtils` (KIP-1034) write text. Spring's `DeadLetterPublishingRecoverer` writes
partition, offset and timestamp as big-endian integers.
"""

from dataclasses import dataclass

from leadstream.kafka.config import Headers
from leadstream.kafka.dead_letter import (
    BYTES,
    CUT,
    NO_KEY,
    SHA256,
    TIMESTAMP,
    cause_print,
    replays,
)

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
class CutRecord:
    """The parts that a letter lacks of its original, and the length and digest of its value."""

    parts: tuple[str, ...]
    value_bytes: int | None
    value_sha256: str | None


@dataclass(frozen=True, slots=True)
class ParsedHeaders:
    """The origin of a letter and the cause of its failure; None for an unknown origin.

    `reason` is one of the ten reasons, or the exception class of another writer. `failed_at` and
    `original_timestamp` are milliseconds UTC, or None. `cut` says what did not fit into the letter,
    and `keyless` that its key was made up.
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
    original_timestamp: int | None = None
    cut: CutRecord | None = None
    keyless: bool = False


def parse_headers(headers: Headers) -> ParsedHeaders:
    """Parse the headers of a letter; the last of repeated headers counts, as for its writers."""
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
    """Return the headers that the original record had, without the count of replays."""
    added = (_OURS, _ADDED.get(writer, _OURS))
    return [pair for pair in headers if not pair[0].startswith(added)]


def _ours(headers: Headers, last: dict[str, bytes | None]) -> ParsedHeaders:
    return ParsedHeaders(
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
        _number(last.get(TIMESTAMP)),
        _cut(last),
        NO_KEY in last,
    )


def _cut(last: dict[str, bytes | None]) -> CutRecord | None:
    if CUT not in last:
        return None
    return CutRecord(
        tuple(_text(last[CUT]).split(",")),
        _number(last.get(BYTES.format("value"))),
        _text(last.get(SHA256.format("value"))) or None,
    )


def _spring(headers: Headers, last: dict[str, bytes | None]) -> ParsedHeaders:
    # Spring wraps the exception of the listener into a generic one: the cause is the reason.
    exception = _text(last.get(f"{_SPRING}exception-cause-fqcn")) or _text(
        last.get(f"{_SPRING}exception-fqcn")
    )
    exception = exception or _text(last.get(f"{_SPRING}key-exception-fqcn"))
    message = _text(last.get(f"{_SPRING}exception-message")) or _text(
        last.get(f"{_SPRING}key-exception-message")
    )
    # Each retry topic appends an origin: the first one is the original topic.
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
    """Return topic, partition and offset, with None for each missing header."""
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
) -> ParsedHeaders:
    reason = exception.rpartition(".")[2].rpartition("$")[2] or UNKNOWN
    return ParsedHeaders(
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
        0,  # other writers do not count replays, and a header that they pass on proves nothing
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "backslashreplace")


def _number(value: bytes | None) -> int | None:
    """Parse decimal digits, or a big-endian int or long."""
    if value is None:
        return None
    if value.isdigit() and len(value) < 20:
        return int(value)
    return int.from_bytes(value, "big", signed=True) if len(value) in (4, 8) else None
