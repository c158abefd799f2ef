"""Kernels for the memory of versions, and for the values of reasons as texts.

The memory is a hash table with open addressing. A slot is (hash, version); a version of 0 is an
empty slot. The number of slots is a power of two, and larger than the number that is ever filled.
See consumer/scoring/versions.py.
"""

import numpy as np
from numpy.typing import NDArray

from leadstream.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

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


@compiled
def _put_digits(data: Bytes, end: int, number: int, count: int) -> int:
    """Write a number before `end`, with at least `count` digits; return where it begins."""
    at = end
    while number > 0 or end - at < count:
        at -= 1
        data[U(at)] = np.uint8(48 + number % 10)
        number //= 10
    return at


@compiled
def write_numbers(values: Floats, data: Bytes, offsets: Ints, lengths: Ints) -> None:
    """Write numbers to at most six decimals, the end of each in 24 bytes of its own; NaN is null.

    `data` is (24 n,). Numbers are within 1e15 of zero.
    """
    for row in range(values.shape[0]):
        value = values[row]
        end = at = 24 * (row + 1)
        lengths[row], offsets[row] = -1, -1
        if np.isnan(value):
            continue
        size = abs(value)
        integer = int(size)
        rest = int(np.rint((size - integer) * 1e6))
        if rest == 1_000_000:
            integer, rest = integer + 1, 0
        negative = value < 0 and (integer > 0 or rest > 0)
        if rest > 0:
            count = 6
            while rest % 10 == 0:
                rest //= 10
                count -= 1
            at = _put_digits(data, at, rest, count) - 1
            data[U(at)] = np.uint8(46)
        at = _put_digits(data, at, integer, 1)
        if negative:
            at -= 1
            data[U(at)] = np.uint8(45)
        offsets[row], lengths[row] = at, end - at


@compiled
def write_moments(moments: Ints, data: Bytes) -> None:
    """Write moments in ms UTC, years 1970 to 9999, over the digits of n texts in ISO 8601.

    `data` is (20 n,). Days become dates as in H. Hinnant, "chrono-Compatible Low-Level Date
    Algorithms" (2014): years begin in March, and 400 of them have 146,097 days.
    """
    for row in range(moments.shape[0]):
        begin = 20 * row
        seconds = moments[row] // 1_000
        days, seconds = seconds // 86_400 + 719_468, seconds % 86_400
        era, day = days // 146_097, days % 146_097
        year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
        day -= 365 * year + year // 4 - year // 100
        month = (5 * day + 2) // 153
        day -= (153 * month + 2) // 5
        month = month + 3 if month < 10 else month - 9
        year += 400 * era + (1 if month <= 2 else 0)
        _put_digits(data, begin + 4, year, 4)
        _put_digits(data, begin + 7, month, 2)
        _put_digits(data, begin + 10, day + 1, 2)
        _put_digits(data, begin + 13, seconds // 3_600, 2)
        _put_digits(data, begin + 16, seconds // 60 % 60, 2)
        _put_digits(data, begin + 19, seconds % 60, 2)
