"""The published position of an outbox, in a compacted topic of its own.

The relay writes it in the same transactions as the records. The value is JSON: `position` and
`event_id` of the last row (null before the first), and `relay`, the id of the process.
"""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from leadstream.errors import Transient, UserError
from leadstream.kafka.topic_reader import TopicOffsets, TopicReader
from leadstream.settings import Settings

# The marker of a transaction follows each record: this many offsets hold at least a few records.
FIRST_LOOK = 64


@dataclass(frozen=True, slots=True)
class Position:
    """The last row that was published, and the id of the relay that published it."""

    position: int
    event_id: str | None
    relay: str

    def encode(self) -> bytes:
        """Return the value of its record."""
        return json.dumps(asdict(self)).encode()


def read_position(
    settings: Settings, key: str, stopped: Callable[[], bool] = lambda: False
) -> Position | None:
    """Return the newest committed position under a key, or None if there is none.

    Waits for transactions that are still open, for one may hide a position. Raises Transient if the
    brokers do not answer or the topic does not exist, and UserError for a record of another kind.
    """
    topic = settings.topics.relay_positions
    with closing(TopicReader(settings, topic, stopped=stopped)) as reader:
        try:
            partitions = reader.partitions()
        except UserError as error:
            raise Transient("brokers", str(error)) from error
        for partition, end in TopicOffsets(settings).ends(topic, partitions).items():
            if (found := _newest(reader, partition, end, key.encode())) is not None:
                return found
    return None


def _newest(reader: TopicReader, partition: int, end: int, key: bytes) -> Position | None:
    """Read from further and further before the end, until the key is found or all is read."""
    first, _ = reader.bounds(partition)
    look = FIRST_LOOK
    while first < end:
        start = max(first, end - look)
        found = None
        for message in reader.read({partition: start}, {partition: end}):
            if message.key() == key:
                found = _decode(message.value(), reader.topic)
        if found is not None or start == first:
            return found
        look *= 16
    return None


def _decode(value: bytes | None, topic: str) -> Position | None:
    if value is None:
        return None
    try:
        fields: Any = json.loads(value)
        return Position(int(fields["position"]), fields["event_id"], fields["relay"])
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{topic} holds a record that is no position: only `leadstream relay` may write to it"
        ) from None
