"""A partition's log as the broker keeps it on disk: the one place that tells transactions apart.

Consumers are told which records are committed, never which belong together. The log's batches carry
the id of the producer, and control batches (the markers) say where each of its transactions ended,
and how. Format: Kafka's documentation, "Record Batch"; keys and values of the offsets topic: its
OffsetCommitKey and OffsetCommitValue.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# baseOffset, batchLength, partitionLeaderEpoch, magic, crc, attributes, lastOffsetDelta,
# baseTimestamp, maxTimestamp, producerId, producerEpoch, baseSequence, records
_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_AT = 12  # batchLength counts what follows it
_COMPRESSION, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20
_COMMIT = 1
_OFFSET_COMMIT_KEYS = {0, 1}


@dataclass(frozen=True, slots=True)
class LogBatch:
    """One batch of a log.

    `commits` is None for records, and tells for a marker whether it commits or aborts.
    """

    first: int
    last: int
    producer: int
    transactional: bool
    commits: bool | None
    records: tuple[tuple[bytes | None, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class OffsetCommit:
    """A group's offset of one partition."""

    group: str
    topic: str
    partition: int
    offset: int


def log_batches(folder: Path, *, read_records: bool = False) -> Iterator[LogBatch]:
    """The batches of a partition whose log is in `folder`; keys and values of uncompressed ones if
    asked for.
    """
    for segment in sorted(folder.glob("*.log")):
        data = segment.read_bytes()
        at = 0
        while at + _HEADER.size <= len(data):
            first, length, _, magic, _, attributes, delta, _, _, producer, _, _, count = (
                _HEADER.unpack_from(data, at)
            )
            end = at + _LENGTH_AT + length
            if magic != 2 or end > len(data):
                break  # being written
            control = bool(attributes & _CONTROL)
            plain = (read_records or control) and not attributes & _COMPRESSION
            records = tuple(_records(data[at + _HEADER.size : end], count)) if plain else ()
            commits = struct.unpack(">hh", records[0][0] or b"")[1] == _COMMIT if control else None
            transactional = bool(attributes & _TRANSACTIONAL)
            yield LogBatch(first, first + delta, producer, transactional, commits, records)
            at = end


def offset_commit(key: bytes | None, value: bytes | None) -> OffsetCommit | None:
    """A record of the offsets topic, None where it is about something else or removes an offset."""
    if key is None or value is None or struct.unpack_from(">h", key)[0] not in _OFFSET_COMMIT_KEYS:
        return None
    group, at = _text(key, 2)
    topic, at = _text(key, at)
    return OffsetCommit(
        group, topic, struct.unpack_from(">i", key, at)[0], struct.unpack_from(">q", value, 2)[0]
    )


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + struct.unpack_from(">h", data, at)[0]
    return data[at + 2 : end].decode(), end


def _records(data: bytes, count: int) -> Iterator[tuple[bytes | None, bytes | None]]:
    at = 0
    for _ in range(count):
        length, at = _varint(data, at)
        end = at + length
        at += 1  # attributes
        for _ in range(2):  # the deltas of timestamp and offset
            _, at = _varint(data, at)
        key, at = _bytes(data, at)
        value, at = _bytes(data, at)
        yield key, value
        at = end


def _bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(data, at)
    return (None, at) if length < 0 else (data[at : at + length], at + length)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return number >> 1 ^ -(number & 1), at
