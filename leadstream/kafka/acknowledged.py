"""Records of a batch that the brokers acknowledged: they are not sent again before its commit."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadstream.kafka.batch import Batch, Partition
from leadstream.kafka.config import Record

# The message, by index in its batch, that each record comes from.
Sources = Sequence[int] | NDArray[np.intp]
# Topic, key and value of a record.
Identity = tuple[str, bytes | None, bytes | None]


@dataclass(frozen=True, slots=True)
class Sent:
    """Records that were handed to a producer, and the partition and offset that each comes from."""

    records: Sequence[Record]
    places: Sequence[tuple[Partition, int]] | None

    @classmethod
    def from_outputs(
        cls, outputs: Iterable[Record], batch: Batch, sources: Sources | None
    ) -> "Sent":
        """Return the outputs of a batch; without `sources` their places are unknown."""
        records = list(outputs)
        if sources is None:
            return cls(records, None)
        return cls(records, _Origins(batch, sources))

    def without(self, acknowledged: "Acknowledged") -> "Sent":
        """Return the records that were not acknowledged by an earlier try."""
        if not acknowledged or self.places is None:
            return self
        kept = [
            (record, place)
            for record, place in zip(self.records, self.places, strict=True)
            if not acknowledged.has(record, place)
        ]
        return Sent([record for record, _ in kept], [place for _, place in kept])

    def first(self, count: int) -> "Sent":
        """Return the first records."""
        places = self.places
        return Sent(
            self.records[:count], None if places is None else [places[i] for i in range(count)]
        )


class _Origins(Sequence[tuple[Partition, int]]):
    """The places of records, which are looked up only after a failure."""

    def __init__(self, batch: Batch, sources: Sources) -> None:
        self._batch, self._sources = batch, sources

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, row: Any) -> Any:
        index = int(self._sources[row])
        return self._batch.places[index], int(self._batch.offsets[index])


class Acknowledged:
    """The acknowledged records of batches that are not committed: offsets by where they went."""

    def __init__(self) -> None:
        self._offsets: dict[tuple[str, bytes | None, Partition], set[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._offsets)

    def has(self, record: Record, place: tuple[Partition, int]) -> bool:
        """Return whether the brokers have the record of this place."""
        return place[1] in self._offsets.get((record[0], record[1], place[0]), ())

    def add(self, sent: Sent, failed: Counter[Identity]) -> None:
        """Add what was sent and did not fail.

        A record of a key makes the later ones of its key count as not sent: they must stay last.
        """
        if sent.places is None:
            return
        left, before = failed.copy(), {key: set(value) for key, value in self._offsets.items()}
        for record, (partition, offset) in zip(sent.records, sent.places, strict=True):
            if left[record[:3]] > 0:
                left[record[:3]] -= 1
                continue
            key = record[0], record[1], partition
            later = {each for each in before.get(key, ()) if each > offset}
            self._offsets[key] = (self._offsets.get(key, set()) - later) | {offset}

    def forget(self, batch: Batch) -> None:
        """Drop the records of a committed batch."""
        if self._offsets:
            self._offsets = {
                key: kept
                for key, offsets in self._offsets.items()
                if (kept := {each for each in offsets if each >= batch.next.get(key[2], 0)})
            }
