"""Change events of Debezium, of a topic or of a file, as changes with state."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from leadstream.errors import Poison
from leadstream.kafka.batch import Message, read_headers
from leadstream.kafka.topic_reader import TopicReader
from producer.change_states import Found
from producer.field_log import Unplaced
from producer.log_file import read_json
from schemas.foreign_formats import (
    ConversionOptions,
    ForeignMessage,
    from_debezium,
    headers_by_name,
)


def changes_of_events(events: Iterable[ForeignMessage], how: ConversionOptions) -> Iterator[Found]:
    """Yield the change in each event; one in which nothing changed has none. Raises Transient."""
    for event in events:
        try:
            found = from_debezium(event, how)
        except Poison:
            yield Unplaced.NOT_A_ROW
        except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            yield Unplaced.NOT_A_ROW
        else:
            if found is not None:
                yield found


def events_of_file(path: Path) -> Iterator[ForeignMessage]:
    """Yield the events of a file, a JSON value in each line, as sinks write them.

    A line is the value of an event, an object with its `key` and `value`, or what `kcat -J` prints.
    The same line has the same identity in every file. Raises UserError if it cannot be read.
    """
    for line in read_json(path):
        yield _event(line)


def _event(line: Any) -> ForeignMessage:
    identity = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:32]
    key, value, at = None, line, 0
    if isinstance(line, dict) and "payload" in line and isinstance(line.get("ts"), int):
        key, value, at = line.get("key"), line["payload"], line["ts"]
    elif isinstance(line, dict) and line.keys() == {"key", "value"}:
        key, value = line["key"], line["value"]
    return ForeignMessage(_bytes(key), _bytes(value), {}, at, identity)


def _bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "surrogatepass")


def events_of_topic(reader: TopicReader) -> Iterator[ForeignMessage]:
    """Yield the events that are in a topic now, partition by partition.

    Their identities are those that `leadstream translate` gives. Raises Transient, UserError.
    """
    for partition in reader.partitions():
        low, high = reader.bounds(partition)
        for message in reader.read({partition: low}, {partition: high}):
            yield _foreign(message)


def _foreign(message: Message) -> ForeignMessage:
    kind, timestamp = message.timestamp()
    position = f"{message.topic()}-{message.partition()}-{message.offset()}"
    headers = headers_by_name(read_headers(message))
    at = timestamp if kind else 0
    return ForeignMessage(message.key(), message.value(), headers, at, position)
