"""Versions of leads in a table with open addressing, as machine code; consumer/scoring/versions.py says what it is for.

A slot is (hash, version), empty where the version is 0; there are a power of two of them, more than are ever filled.
"""

import numpy as np
from numpy.typing import NDArray

from leadstream.compiled import compiled

Ints = NDArray[np.int64]

U = np.uint64


@compiled
def look_up(slots: Ints, hashes: Ints, found: Ints) -> None:
    """Where found[i] is 0, the version that the table has under hashes[i], if it has one."""
    mask = U(slots.shape[0] - 1)
    for row in range(U(hashes.shape[0])):
        if found[row] == 0:
            slot = U(hashes[row]) & mask
            while slots[slot, U(1)] != 0 and slots[slot, U(0)] != hashes[row]:
                slot = (slot + U(1)) & mask
            found[row] = slots[slot, U(1)]


@compiled
def put(slots: Ints, hashes: Ints, versions: Ints) -> int:
    """Set the versions, none of them 0, under these hashes; of one hash the last stays. How many slots that filled."""
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
