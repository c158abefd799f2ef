"""The version at which each lead was published last, of as many leads as there is room for: what tells a late change.

Two generations: the young one is written until it is full, then it is the old one, and what the old one had is
forgotten. So at least the last MOST leads are remembered less those of one call, and at most twice as many. What is
being committed has a generation of its own, which leaves no trace where the commit fails. A lead is its key's hash of
64 bits, by Python with a secret of the process: of a million leads remembered, one lead in 10^13 is taken for another.
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
# 16 MB each generation.
MOST = 1 << 19


class Generation(Protocol):
    """Versions by hash."""

    @property
    def count(self) -> int:
        """How many there are."""

    def look_up(self, hashes: Ints, found: Ints) -> None:
        """Where `found` (n,) is 0, the version of the hash there, if there is one."""

    def put(self, hashes: Ints, versions: Ints) -> None:
        """Set versions, none of them 0; of one hash the last stays."""

    def clear(self) -> None:
        """Forget all of them."""


class Slots:
    """In one array, by machine code: 16 bytes a slot, two slots a lead."""

    def __init__(self, most: int) -> None:
        self._slots = np.empty((1 << (2 * most - 1).bit_length(), 2), np.int64)
        self.clear()  # writes to all of it: the memory of a process must not grow as leads come

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
    """In a dictionary: the same, several times as large."""

    def __init__(self, _most: int) -> None:
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
    """Remembers versions by the keys of leads; one of 0 is none, and is not remembered."""

    def __init__(self, most: int = MOST, kind: Callable[[int], Generation] | None = None) -> None:
        self._most = most
        make: Callable[[int], Generation] = kind or (Slots if compiled else Dictionary)
        self._young, self._old = make(most), make(most)
        self._make = make
        self._begun: list[tuple[Ints, Ints, Generation]] = []
        self._hashed: tuple[Sequence[bytes], Ints] = (), np.empty(0, np.int64)
        self.newest(
            [b""]
        )  # compiles what a batch needs, or loads what was compiled: not while one waits
        self._young.put(np.empty(0, np.int64), np.empty(0, np.int64))

    def newest(self, keys: Sequence[bytes]) -> Ints:
        """The version of each lead, (n,); 0 where none is remembered."""
        hashes = self._hashes(keys)
        found = np.zeros(len(hashes), np.int64)
        for _, _, begun in reversed(self._begun):
            begun.look_up(hashes, found)
        self._young.look_up(hashes, found)
        self._old.look_up(hashes, found)
        return found

    def put(self, keys: Sequence[bytes], versions: Ints) -> None:
        """The leads are at these versions now; of one lead the last stays."""
        self._put(*self._known(keys, versions))

    def begin(self, keys: Sequence[bytes], versions: Ints) -> None:
        """The same, until the commit that is under way has ended: it is told by `commit` or `abort`."""
        hashes, versions = self._known(keys, versions)
        if len(hashes):
            generation = self._make(len(hashes))
            generation.put(hashes, versions)
            self._begun.append((hashes, versions, generation))

    def commit(self) -> None:
        """What has begun stays."""
        for hashes, versions, _ in self._begun:
            self._put(hashes, versions)
        self._begun.clear()

    def abort(self) -> None:
        """What has begun never was."""
        self._begun.clear()

    def _known(self, keys: Sequence[bytes], versions: Ints) -> tuple[Ints, Ints]:
        """The hashes of the leads whose versions are known, and these."""
        hashes, some = self._hashes(keys), versions > 0
        return (hashes, versions) if some.all() else (hashes[some], versions[some])

    def _put(self, hashes: Ints, versions: Ints) -> None:
        for at in range(0, len(hashes), self._most):
            part = slice(at, at + self._most)
            if self._young.count + len(hashes[part]) > self._most:
                self._young, self._old = self._old, self._young
                self._young.clear()
            self._young.put(hashes[part], versions[part])

    def _hashes(self, keys: Sequence[bytes]) -> Ints:
        # A batch that is asked about is most often put as the same list: then it is hashed once.
        if self._hashed[0] is not keys:
            self._hashed = keys, np.fromiter(map(hash, keys), np.int64, len(keys))
        return self._hashed[1]
