"""Kernels for the memory of versions: a hash table with open addressing.

A slot is (hash, version); a version of 0 is an empty slot. The number of slots is a power of two,
and larger than the number that is ever filled. See consumer/scoring/versions.py.
"""

import numpy as np
from numpy.typing import NDArray

from leadstream.compiled import compiled

Ints = NDArray[np.int64]

U = np.uint64


@compiled
def look_up(slots: Ints, hashes: Ints, found: Ints) -> None:
    """Set found[i] to the version of hashes[i], if it is known, where found[i] is 0."""
    mask = U(slots.shape[0] - 1)
    for row in range(U(hashes.shape[0])):
        if found[row] == 0:
            slot = U(hashes[row]) & mask
            while slots[slot, U(1)] != 0 and slots[slot, U(0)] != hashes[row]:
                slot = (slot + U(1)) & mask
            found[row] = slots[slot, U(1)]


@compiled
def put(slots: Ints, hashes: Ints, versions: Ints) -> int:
    """Set the versions, none of them 0, and return the number of newly filled slots."""
    mask = U(slots.shape[0] - 1)
    filled = 0
    for row in range(U(hashes.shape[0])):
        slot = U(hashes[row]) & mask
        while slots[slot, U(1)] != 0 and slots[slot, U(0)] != hashes[row]:
            slot = (slot + U(1)) & mask
        if slots[slot, U(1)] == 0:
            filled += 1
        slots[slot, U(0)], slots[slot, U(1)] = hashes[row], versions[row]
    return filled
