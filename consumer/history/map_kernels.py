"""Kernels that split encoded Avro maps into keys and values, and gather slices of bytes."""

import numpy as np
from numpy.typing import NDArray

from leadstream.compiled import compiled
from schemas.compiled import read_long

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

U = np.uint64
# A map with more items is left to the codec: looking for a key that occurs twice takes n² steps.
MAX_ITEMS = 64


@compiled
def gather(data: Bytes, offsets: Ints, lengths: Ints, total: int) -> Bytes:
    """Return the slices data[offsets[i]:offsets[i] + lengths[i]] one after another.

    `total` is the sum of the lengths above 0.
    """
    out = np.empty(total, np.uint8)
    at = U(0)
    for row in range(U(offsets.shape[0])):
        if lengths[row] > 0:
            begin = U(offsets[row])
            for i in range(U(lengths[row])):
                out[at + i] = data[begin + i]
            at += U(lengths[row])
    return out


@compiled
def count_items(data: Bytes, offsets: Ints, text_values: bool) -> Ints:
    """Return how many items each map has; -1 for a null, -2 for a map that the codec must read.

    The codec reads maps in which a key occurs twice, and those of more than `MAX_ITEMS` items.
    """
    counts = np.empty(offsets.shape[0], np.int64)
    begins, sizes = np.empty(MAX_ITEMS, np.int64), np.empty(MAX_ITEMS, np.int64)
    for row in range(U(offsets.shape[0])):
        at, items = offsets[row], 0
        if at < 0:
            counts[row] = -1
            continue
        while items >= 0:
            count, at = read_long(data, at, data.shape[0])
            if count == 0:
                break
            if items + count > MAX_ITEMS:
                items = -2
                break
            for _ in range(count):
                size, at = read_long(data, at, data.shape[0])
                for other in range(U(items)):
                    if sizes[other] == size:
                        same = True
                        for i in range(U(size)):
                            if data[U(begins[other]) + i] != data[U(at) + i]:
                                same = False
                                break
                        if same:
                            items = -2
                            break
                if items < 0:
                    break
                begins[U(items)], sizes[U(items)] = at, size
                items += 1
                at += size
                if text_values:
                    size, at = read_long(data, at, data.shape[0])
                    at += size
                else:
                    at += 8
        counts[row] = items
    return counts


@compiled
def split_items(
    data: Bytes,
    offsets: Ints,
    text_values: bool,
    key_at: Ints,
    key_size: Ints,
    value_at: Ints,
    value_size: Ints,
) -> None:
    """Write where each key and each value begins and how long it is, over all maps, in order.

    `offsets` has no map that `count_items` leaves to the codec.
    """
    item = U(0)
    for row in range(U(offsets.shape[0])):
        at = offsets[row]
        if at < 0:
            continue
        while True:
            count, at = read_long(data, at, data.shape[0])
            if count == 0:
                break
            for _ in range(count):
                size, at = read_long(data, at, data.shape[0])
                key_at[item], key_size[item] = at, size
                at += size
                size = 8
                if text_values:
                    size, at = read_long(data, at, data.shape[0])
                value_at[item], value_size[item] = at, size
                at += size
                item += U(1)
