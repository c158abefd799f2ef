"""The memory of the version at which each lead was published last, which makes older changes late.

It has two generations. The young one is written until it is full and then becomes the old one;
what the old one held is forgotten. So at least the last MAX_LEADS leads are remembered, less those
of one call, and at most twice as many. Versions of a commit in flight have a generation of their
own, which leaves no trace if the commit fails.

A lead is the 64-bit hash of its key, by Python, with a secret of the process. Of a million leads
remembered, one lead in 10^13 is taken for another.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

try:
    from consumer.scoring import compiled
except ImportError:  # without the extra `fast`
    compiled = None  # type: ignore[assignment]

Ints = NDArray[np.int64]

# The header of a null in the predictions topic: the version that it ends, where one is known.
VERSION_HEADER = "lead_version"
# 16 MB for each generation.
MAX_LEADS = 1 << 19


class Generation(Protocol):
    """Versions by the hash of a key."""

    @property
    def count(self) -> int:
        """Return the number of versions."""

    def look_up(self, hashes: Ints, found: Ints) -> None:
        """Fill in the version of each hash that is known, where `found` (n,) is 0."""

    def put(self, hashes: Ints, versions: Ints) -> None:
        """Set versions, none of them 0; the last one of a hash counts."""

    def clear(self) -> None:
        """Forget all versions."""


class Slots:
    """A generation in one array for the kernel: 16 bytes a slot, two slots a lead."""

    def __init__(self, max_leads: int) -> None:
        self._slots = np.empty((1 << (2 * max_leads - 1).bit_length(), 2), np.int64)
        self.clear()  # touches all pages: the process must not grow as leads arrive

    @property
    def count(self) -> int:
        return self._count

    def look_up(self, hashes: Ints, found: Ints) -> None:
        compiled.look_up(self._slots, hashes, found)

    def put(self, hashes: Ints, versions: Ints) -> None:
        self._count += compiled.put(self._slots, hashes, versions)

    def clear(self) -> None:
        self._count = 0
        self._slots.fill(0)


class Dictionary:
    """A generation in a dictionary, several times as large."""

    def __init__(self, _max_leads: int) -> None:
        self._versions: dict[int, int] = {}

    @property
    def count(self) -> int:
        return len(self._versions)

    def look_up(self, hashes: Ints, found: Ints) -> None:
        if self._versions:
            there = [
                known or self._versions.get(key, 0)
                for key, known in zip(hashes.tolist(), found, strict=True)
            ]
            found[:] = there

    def put(self, hashes: Ints, versions: Ints) -> None:
        self._versions.update(zip(hashes.tolist(), versions.tolist(), strict=True))

    def clear(self) -> None:
        self._versions.clear()


class Versions:
    """Remembers versions by the keys of leads; a version of 0 is unknown and not remembered."""

    def __init__(
        self, max_leads: int = MAX_LEADS, kind: Callable[[int], Generation] | None = None
    ) -> None:
        self._max_leads = max_leads
        make: Callable[[int], Generation] = kind or (Slots if compiled else Dictionary)
        self._young, self._old = make(max_leads), make(max_leads)
        self._make = make
        self._started: list[tuple[Ints, Ints, Generation]] = []
        self._hashed: tuple[Sequence[bytes], Ints] = (), np.empty(0, np.int64)
        # Compiles the kernels now, or loads them, and not while a batch waits.
        self.newest([b""])
        self._young.put(np.empty(0, np.int64), np.empty(0, np.int64))

    @property
    def count(self) -> int:
        """Return the number of versions, those that both generations hold counted twice."""
        return self._young.count + self._old.count + sum(len(part[0]) for part in self._started)

    def newest(self, keys: Sequence[bytes]) -> Ints:
        """Return the version of each lead, (n,), 0 if none is remembered."""
        hashes = self._hashes(keys)
        found = np.zeros(len(hashes), np.int64)
        for _, _, started in reversed(self._started):
            started.look_up(hashes, found)
        self._young.look_up(hashes, found)
        self._old.look_up(hashes, found)
        return found

    def put(self, keys: Sequence[bytes], versions: Ints) -> None:
        """Remember these versions; the last one of a lead counts."""
        self._put(*self._known(keys, versions))

    def begin(self, keys: Sequence[bytes], versions: Ints) -> None:
        """Remember these versions until `commit` keeps them or `abort` forgets them."""
        if not len(keys):
            return
        hashes, versions = self._known(keys, versions)
        if len(hashes):
            generation = self._make(len(hashes))
            generation.put(hashes, versions)
            self._started.append((hashes, versions, generation))

    def commit(self) -> None:
        """Keep the versions of the commits in flight."""
        for hashes, versions, _ in self._started:
            self._put(hashes, versions)
        self._started.clear()

    def abort(self) -> None:
        """Forget the versions of the commits in flight."""
        self._started.clear()

    def _known(self, keys: Sequence[bytes], versions: Ints) -> tuple[Ints, Ints]:
        """Return the hashes of the leads with a version above 0, and these versions."""
        hashes, some = self._hashes(keys), versions > 0
        return (hashes, versions) if some.all() else (hashes[some], versions[some])

    def _put(self, hashes: Ints, versions: Ints) -> None:
        for first in range(0, len(hashes), self._max_leads):
            part = slice(first, first + self._max_leads)
            if self._young.count + len(hashes[part]) > self._max_leads:
                self._young, self._old = self._old, self._young
                self._young.clear()
            self._young.put(hashes[part], versions[part])

    def _hashes(self, keys: Sequence[bytes]) -> Ints:
        # Most batches put the very list that they looked up before: it is hashed once.
        if self._hashed[0] is not keys:
            self._hashed = keys, np.fromiter(map(hash, keys), np.int64, len(keys))
        return self._hashed[1]
