"""Values between Kafka and a loop: a message, a batch of messages, and a record to publish."""

import gc
from dataclasses import dataclass
from enum import StrEnum
from operator import methodcaller
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from leadstream.dictionary import DictionaryColumn
from leadstream.kafka.config import Headers

Partition = tuple[str, int]


class Message(Protocol):
    """A consumed record, as confluent-kafka presents it."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> Headers | None: ...
    def timestamp(self) -> tuple[int, int]: ...


UNREADABLE_NAME = "unreadable-header-name"
# A plain call may skip the interpreter's check, and the error would appear somewhere later.
_CALL_HEADERS = methodcaller("headers")


def read_headers(message: Message) -> Headers:
    """Return the headers of a message, in their order.

    The client fails at a name that is not UTF-8, and cannot give its bytes: such a header keeps its
    value under UNREADABLE_NAME. Read headers only with this function.
    """
    try:
        headers: Headers | None = _CALL_HEADERS(message)
    except (UnicodeDecodeError, SystemError):
        return _readable_headers(message)
    return headers or []


def _readable_headers(message: Message) -> Headers:
    # The second call returns tuples whose names are null pointers: touching one ends the process.
    # The garbage collector lists what a tuple holds, without the null pointers.
    pairs = _CALL_HEADERS(message) or []
    held = [gc.get_referents(pair) for pair in pairs]
    headers = [
        pair if len(parts) > 1 else (UNREADABLE_NAME, *parts)
        for pair, parts in zip(pairs, held, strict=True)
    ]
    replace = getattr(message, "set_headers", None)
    if replace is not None:
        replace(headers)
    return headers


class ClosedBy(StrEnum):
    """The reason why a batch was closed: it was full, waited long enough, or nothing was left."""

    SIZE = "size"
    BYTES = "bytes"
    LINGER = "linger"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Messages of this process's partitions in the order of their offsets.

    `places`, whose values are partitions, and `offsets` (n,) give the origin of each message.
    `first` holds the offsets to seek back to, and `next` those to commit: the last offset of each
    partition plus one.
    """

    messages: list[Message]
    places: DictionaryColumn
    offsets: NDArray[np.int64]
    first: dict[Partition, int]
    next: dict[Partition, int]
    closed_by: ClosedBy

    @classmethod
    def from_messages(cls, messages: list[Message], closed_by: ClosedBy) -> "Batch":
        """Return the batch of these messages."""
        numbers: dict[Partition, int] = {}
        places = [
            numbers.setdefault((message.topic(), message.partition()), len(numbers))
            for message in messages
        ]
        codes = np.array(places, np.intp)
        offsets = np.array([message.offset() for message in messages], np.int64)
        first, last = np.empty((2, len(numbers)), np.int64)
        last[codes] = offsets  # of equal indices numpy leaves the value of the last
        first[codes[::-1]] = offsets[::-1]
        return cls(
            messages,
            DictionaryColumn(codes, list(numbers)),
            offsets,
            dict(zip(numbers, first.tolist(), strict=True)),
            dict(zip(numbers, (last + 1).tolist(), strict=True)),
            closed_by,
        )


class Output(NamedTuple):
    """A record to publish: a `Record` with names. A plain tuple costs a tenth of it.

    `timestamp` is milliseconds UTC; None lets the client set it.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None
    timestamp: int | None = None
