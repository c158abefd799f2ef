"""The next offset of each partition, and what the offsets tell: deleted, or gone back."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from leadstream.kafka.batch import Batch, Partition
from leadstream.kafka.losses import Losses

# The first and the end offset of a partition, as the brokers last reported them.
Bounds = Callable[[Partition], tuple[int, int]]


class OffsetObserver(Protocol):
    """An observer of offsets that others changed."""

    def no_offset(self, place: Partition) -> None:
        """Note a partition with records of which the group has committed none."""

    def foreign_offset(self, place: Partition, offset: int) -> None:
        """Note an offset of the group that another program, or an older version, committed."""

    def went_back(self, place: Partition, expected: int, found: int) -> None:
        """Note a partition whose offsets went back: its topic was made again, or truncated."""


class OffsetLedger:
    """The offsets of this member's partitions.

    A partition is learned before its first record counts: from then on, every gap that is not one
    of transactions or compaction is a loss.
    """

    def __init__(self, losses: Losses, observer: OffsetObserver | None = None) -> None:
        self.losses = losses
        self._observer = observer
        self.next: dict[Partition, int] = {}

    def learn(
        self, place: Partition, committed: int, metadata: str | None, low: int, high: int
    ) -> None:
        """Start a partition at its committed offset, negative if it has none.

        `low` and `high` are its first and its end offset.
        """
        self.next[place] = low
        if committed < 0:
            if low < high and self._observer:
                self._observer.no_offset(place)
            return
        ours = self.losses.restore(place, metadata)
        if not ours and self._observer:
            self._observer.foreign_offset(place, committed)
        if committed < low:
            self.losses.lost(place, committed, low - 1)
        elif committed > high:
            self._back(place, committed, low)
        else:
            self.next[place] = committed

    def read(self, batch: Batch, bounds: Bounds) -> None:
        """Note the records of a batch."""
        counts = np.bincount(batch.places.codes, minlength=len(batch.places.values)).tolist()
        for code, (place, end) in enumerate(batch.next.items()):
            expected = self.next.get(place, batch.first[place])
            if batch.first[place] < expected:
                self._back(place, expected, batch.first[place])
            elif end - expected != counts[code]:
                offsets = batch.offsets[batch.places.codes == code]
                self._find_gaps(place, expected, offsets.tolist(), bounds)
            self.next[place] = end

    def read_to(self, place: Partition, end: int, bounds: Bounds) -> None:
        """Note that nothing readable is left in a partition before `end`."""
        expected = self.next.get(place, end)
        if end < expected:
            self._back(place, expected, end)
        elif end > expected:
            self._find_gaps(place, expected, [end], bounds)
        self.next[place] = end

    def rewind(self, place: Partition, offset: int) -> None:
        """Note that a partition is read again from an offset; one to learn stays one."""
        if place in self.next:
            self.next[place] = offset

    def forget(self, places: set[Partition]) -> None:
        """Forget partitions that this process no longer owns."""
        for place in places:
            self.next.pop(place, None)

    def _find_gaps(
        self, place: Partition, expected: int, offsets: list[int], bounds: Bounds
    ) -> None:
        """Report the offsets between two records that lie before the first one that is kept."""
        low = bounds(place)[0]
        if expected >= low:
            return  # markers of transactions, aborted records, or compaction
        for offset in offsets:
            if expected < low and expected < offset:
                self.losses.lost(place, expected, min(offset, low) - 1)
            expected = offset + 1

    def _back(self, place: Partition, expected: int, found: int) -> None:
        if self._observer:
            self._observer.went_back(place, expected, found)
