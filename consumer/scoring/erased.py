"""The places of the erasures that were published: what lies before one must not come back.

A group that an operator sets back to the beginning reads the changes of erased leads again. By
versions alone they are not late: they may have none, or the one that the null ends.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.events import EventKind, EventTable
from leadstream.kafka.batch import Batch, Message, Partition, read_headers
from leadstream.kafka.config import Headers

Ints = NDArray[np.intp]

# The headers of a null that say which change erased the lead; predictions have fields like these.
TOPIC, PARTITION, OFFSET = "source_topic", "source_partition", "source_offset"
# Brokers accept records of up to an hour ahead: one that is later was sent after the erasure, to a
# topic that was made again.
AHEAD_MS = 3_600_000


class PublishedErasures:
    """The offset at which each lead was erased, by partition.

    A partition is forgotten once its batches begin behind its last erasure, which is where a group
    that was not set back begins: then this costs nothing.
    """

    def __init__(self) -> None:
        self._erased: dict[Partition, dict[bytes, tuple[int, int]]] = {}
        self._last: dict[Partition, int] = {}

    def note(self, null: Message, topic: str) -> None:
        """Remember the erasure that a null in the predictions topic names, if it is of `topic`."""
        key, place = null.key(), source_in(read_headers(null))
        if key is None or place is None or place[0] != topic:
            return
        name, partition, offset = place
        kind, written_at = null.timestamp()
        newest = written_at + AHEAD_MS if kind else np.iinfo(np.int64).max
        self._erased.setdefault((name, partition), {})[key] = (offset, int(newest))
        self._last[name, partition] = max(offset, self._last.get((name, partition), 0))

    def before(self, batch: Batch, table: EventTable) -> Ints:
        """Return the changes of a batch that lie before a published erasure of their lead."""
        for place, first in batch.first.items():
            if self._last.get(place, first) <= first:
                self._last.pop(place, None)
                self._erased.pop(place, None)
        found = [self._before(place, batch, table) for place in batch.first if place in self._last]
        return np.concatenate(found) if found else np.empty(0, np.intp)

    def _before(self, place: Partition, batch: Batch, table: EventTable) -> Ints:
        code, erased = batch.places.values.index(place), self._erased[place]
        rows = np.flatnonzero((batch.places.codes == code) & (table.kind == EventKind.CHANGE))
        return np.array(
            [
                row
                for row in rows.tolist()
                if (end := erased.get(table.keys[row])) is not None
                and batch.offsets[row] < end[0]
                and batch.messages[row].timestamp()[1] <= end[1]
            ],
            np.intp,
        )


def source_headers(topic: str, partition: int, offset: int) -> Headers:
    """Return the headers that name the change that erased a lead."""
    return [
        (TOPIC, topic.encode()),
        (PARTITION, str(partition).encode()),
        (OFFSET, str(offset).encode()),
    ]


def source_in(headers: Sequence[tuple[str, bytes | None]]) -> tuple[str, int, int] | None:
    """Return the topic, partition and offset that such headers name, None without all of them."""
    named = dict(headers)
    topic, partition, offset = (named.get(name) or b"" for name in (TOPIC, PARTITION, OFFSET))
    numbers = partition.isdigit() and offset.isdigit() and len(partition) < 10 and len(offset) < 19
    if not topic or not numbers:
        return None
    return topic.decode("utf-8", "replace"), int(partition), int(offset)
