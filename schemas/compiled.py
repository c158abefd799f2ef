"""Kernels for Avro bodies of many records to columns and back.

schemas/columns.py says what is decoded and encoded. A schema comes as steps, one for each of its
primitive fields in the order of the body: (kind, what the kind needs). Decoding never decides that
a body is wrong: it leaves what it does not know to be right to the codec, record by record.

Arrays are indexed by unsigned numbers (`U`). For a signed index the compiler must check each time
whether it counts from the end, and a copy of bytes takes ten times as long.
"""

import numpy as np
from numpy.typing import NDArray

from leadstream.compiled import compiled

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Bits = NDArray[np.uint64]

# Kinds of steps. Decoding: (kind, row of its matrix, more). Encoding: (kind, place in its pool,
# more).
LONG, INT, DOUBLE, BOOLEAN, TEXT, ENUM, OPTIONAL, MAP_OF_DOUBLES, MAP_OF_TEXTS = range(9)
CONSTANT, CHOICE, ITEMS = range(9, 12)
ARRAY_OF_TEXTS, ARRAY_OF_REASONS = 12, 13
OPTIONAL_TEXT, OPTIONAL_DOUBLE, OPTIONAL_LONG = 14, 15, 16
NULL_FIRST = 1 << 32

U = np.uint64
_ONE, _SEVEN, _LAST = U(1), U(0x7F), U(0x80)


@compiled
def read_long(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """Read a number: return (the number at `at`, the position after it).

    The position is -1 if there is no number of at most 64 bits.
    """
    bits, shift = U(0), U(0)
    while at < end and shift < U(64):
        byte = U(data[U(at)])
        at += 1
        bits |= (byte & _SEVEN) << shift
        if byte < _LAST:
            if shift == U(63) and byte > _ONE:
                return 0, -1
            return int(np.int64(bits >> _ONE) ^ -np.int64(bits & _ONE)), at
        shift += U(7)
    return 0, -1


@compiled
def is_text(data: Bytes, at: int, end: int) -> bool:
    """Check that data[at:end] is UTF-8 as Python reads it (RFC 3629).

    Surrogates and overlong sequences are not.
    """
    while at < end:
        head = data[U(at)]
        at += 1
        if head < 0x80:
            continue
        if head < 0xC2 or head > 0xF4:
            return False
        more = 1 if head < 0xE0 else 2 if head < 0xF0 else 3
        if at + more > end:
            return False
        low, high = np.uint8(0x80), np.uint8(0xBF)
        if head == 0xE0:
            low = np.uint8(0xA0)
        elif head == 0xED:
            high = np.uint8(0x9F)
        elif head == 0xF0:
            low = np.uint8(0x90)
        elif head == 0xF4:
            high = np.uint8(0x8F)
        if data[U(at)] < low or data[U(at)] > high:
            return False
        for i in range(at + 1, at + more):
            if data[U(i)] < 0x80 or data[U(i)] > 0xBF:
                return False
        at += more
    return True


@compiled
def _text(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """Return (where the text at `at` begins, where it ends), or an end of -1."""
    length, at = read_long(data, at, end)
    if at < 0 or length < 0 or length > end - at or not is_text(data, at, at + length):
        return 0, -1
    return at, at + length


@compiled
def _optional(data: Bytes, at: int, end: int, text: bool) -> int:
    """Return where the union of null and a text, or a double, at `at` ends, or -1."""
    if at < 0 or at >= end or (data[U(at)] != 0 and data[U(at)] != 2):
        return -1
    if data[U(at)] == 0:
        return at + 1
    if not text:
        return at + 9
    _, after = _text(data, at + 1, end)
    return after


@compiled
def _items(data: Bytes, at: int, end: int, texts: int, doubles: int, reasons: bool) -> int:
    """Return where the map or array at `at` ends, or -1.

    Each item has this many texts, then this many doubles; a map's key is a text. `reasons` have an
    optional text and two optional doubles more. Blocks that state their size are left to the codec.
    """
    while True:
        count, at = read_long(data, at, end)
        if at < 0 or count < 0:
            return -1
        if count == 0:
            return at
        for _ in range(count):
            for _ in range(texts):
                _, at = _text(data, at, end)
                if at < 0:
                    return -1
            at += 8 * doubles
            if reasons:
                at = _optional(data, at, end, True)
                at = _optional(data, at, end, False)
                at = _optional(data, at, end, False)
            if at < 0 or at > end:
                return -1


@compiled
def _bits(data: Bytes, at: int) -> np.uint64:
    bits, first = U(0), U(at)
    for i in range(U(8)):
        bits |= U(data[first + i]) << (U(8) * i)
    return bits


@compiled
def decode_rows(
    data: Bytes,
    starts: Ints,
    ends: Ints,
    steps: Ints,
    ints: Ints,
    bits: Bits,
    offsets: Ints,
    lengths: Ints,
) -> NDArray[np.bool_]:
    """Decode the bodies data[starts[i]:ends[i]], and return which rows were decoded, (n,).

    A start of -1 means that there is no body. `ints`, `bits` (of doubles), `offsets` and `lengths`
    (of texts and maps) have a row for each field and n columns.
    """
    n = starts.shape[0]
    good = np.zeros(n, np.bool_)
    for row in range(U(n)):
        at, end = starts[row], ends[row]
        step = 0
        while at >= 0 and step < steps.shape[0]:
            kind, place, more = steps[U(step), 0], U(steps[U(step), 1]), steps[U(step), 2]
            step += 1
            if kind == DOUBLE:
                if at + 8 > end:
                    at = -1
                    break
                bits[place, row] = _bits(data, at)
                at += 8
            elif kind == TEXT:
                begin, at = _text(data, at, end)
                offsets[place, row], lengths[place, row] = begin, at - begin
            elif (
                kind == MAP_OF_DOUBLES
                or kind == MAP_OF_TEXTS
                or kind == ARRAY_OF_TEXTS
                or kind == ARRAY_OF_REASONS
            ):
                begin = at
                at = _items(
                    data,
                    at,
                    end,
                    2 if kind == MAP_OF_TEXTS else 1,
                    1 if kind == MAP_OF_DOUBLES or kind == ARRAY_OF_REASONS else 0,
                    kind == ARRAY_OF_REASONS,
                )
                offsets[place, row], lengths[place, row] = begin, at - begin
            elif kind == BOOLEAN:
                if at >= end or data[U(at)] > 1:
                    at = -1
                    break
                ints[place, row] = data[U(at)]
                at += 1
            else:
                value, at = read_long(data, at, end)
                if kind == OPTIONAL:
                    null = 0 if more & NULL_FIRST else 1
                    if value != 0 and value != 1:
                        at = -1
                    elif value == null:
                        step += more & (NULL_FIRST - 1)
                    else:
                        ints[place, row] = 1
                elif kind == ENUM:
                    if value < 0 or value >= more:
                        at = -1
                    ints[place, row] = value
                elif kind == INT and (value < -(2**31) or value >= 2**31):
                    at = -1
                else:
                    ints[place, row] = value
        good[row] = at == end and at >= 0
        if not good[row]:  # what was decoded before the fault counts as null
            offsets[:, row] = -1
            lengths[:, row] = -1
    return good


@compiled
def _same(a: Bytes, a_at: np.uint64, b: Bytes, b_at: np.uint64, size: np.uint64) -> bool:
    for i in range(size):  # noqa: SIM110 -- not compiled with all()
        if a[a_at + i] != b[b_at + i]:
            return False
    return True


@compiled
def match_prefix(data: Bytes, starts: Ints, ends: Ints, head: Bytes, bodies: Ints) -> None:
    """Set bodies[i] to the position after `head` where data[starts[i]:ends[i]] begins with it."""
    size = head.shape[0]
    for row in range(U(starts.shape[0])):
        at = starts[row]
        if ends[row] - at >= size and _same(data, U(at), head, U(0), U(size)):
            bodies[row] = at + size


@compiled
def equal_slices(
    a: Bytes, a_at: Ints, a_size: Ints, b: Bytes, b_at: Ints, b_size: Ints
) -> NDArray[np.bool_]:
    """Compare two slices in each row, and return where they are the same bytes."""
    found = np.zeros(a_at.shape[0], np.bool_)
    for row in range(U(a_at.shape[0])):
        size = a_size[row]
        found[row] = size == b_size[row] and (
            size < 1 or _same(a, U(a_at[row]), b, U(b_at[row]), U(size))
        )
    return found


@compiled
def dictionary_encode(
    data: Bytes, offsets: Ints, lengths: Ints, seed: np.uint64
) -> tuple[Ints, Ints]:
    """Number the distinct slices: return (the code of each row, a row that has each code).

    A slice of length -1 counts as a value of its own. Hashes are FNV-1a (draft-eastlake-fnv) from a
    random seed, so that no sender can choose texts that all collide.
    """
    n = offsets.shape[0]
    size = 16
    while size < 2 * n:
        size *= 2
    table = np.full(size, -1, np.int64)
    codes = np.empty(n, np.int64)
    first = np.empty(n, np.int64)
    count = 0
    for row in range(U(n)):
        length = lengths[row]
        at, bytes_ = U(max(offsets[row], 0)), U(max(length, 0))
        hashed = seed
        for i in range(bytes_):
            hashed = (hashed ^ U(data[at + i])) * U(0x100000001B3)
        slot = hashed ^ (hashed >> U(29))
        while True:
            slot &= U(size - 1)
            code = table[slot]
            if code < 0:
                table[slot] = count
                first[U(count)] = row
                codes[row] = count
                count += 1
                break
            other = U(first[U(code)])
            if lengths[other] == length and _same(
                data, U(max(offsets[other], 0)), data, at, bytes_
            ):
                codes[row] = code
                break
            slot += _ONE
    return codes, first[:count]


@compiled
def find_key(
    data: Bytes, offsets: Ints, key: Bytes, text_values: bool, found: Ints, lengths: Ints
) -> None:
    """Find where the value of `key` in each row's map begins, and how long a text is.

    `found` is -1 where the map lacks the key. The maps were decoded by `decode_rows`. If a key
    occurs twice, the last value counts, as in a dict.
    """
    for row in range(offsets.shape[0]):
        found[row], lengths[row] = -1, -1
        at = offsets[row]
        if at < 0:
            continue
        while True:
            count, at = read_long(data, at, data.shape[0])
            if count == 0:
                break
            for _ in range(count):
                length, at = read_long(data, at, data.shape[0])
                same = length == key.shape[0] and _same(data, U(at), key, U(0), U(length))
                at += length
                size = 8
                if text_values:
                    size, at = read_long(data, at, data.shape[0])
                if same:
                    found[row], lengths[row] = at, size
                at += size


@compiled
def read_doubles(data: Bytes, places: Ints, bits: Bits) -> None:
    """Read the doubles at `places` (n,) as bits (n,); those of -1 are left as they are."""
    for row in range(places.shape[0]):
        if places[row] >= 0:
            bits[row] = _bits(data, places[row])


@compiled
def _put_long(out: Bytes, at: np.uint64, value: int) -> np.uint64:
    """Write a number in zigzag, seven bits a byte, the lowest first.

    All bytes but the last have the eighth bit set.
    """
    rest = U((value << 1) ^ (value >> 63))
    while rest > _SEVEN:
        out[at] = np.uint8((rest & _SEVEN) | _LAST)
        rest >>= U(7)
        at += _ONE
    out[at] = np.uint8(rest)
    return at + _ONE


@compiled
def _put_bytes(
    out: Bytes, at: np.uint64, data: Bytes, begin: np.uint64, length: np.uint64
) -> np.uint64:
    for i in range(length):
        out[at + i] = data[begin + i]
    return at + length


@compiled
def encode_rows(
    steps: Bits,
    ints: Ints,
    bits: Bits,
    data: Bytes,
    offsets: Ints,
    lengths: Ints,
    out: Bytes,
    ends: Ints,
) -> None:
    """Encode n records one after another into `out`, and where each ends into `ends` (n,).

    ITEMS comes before the steps of its items, and says how many they are; its counts are ints. One
    loop serves fields and items: a function that takes all these arrays costs more than its work.
    """
    at, count = U(0), U(steps.shape[0])
    written = np.zeros(
        steps.shape[0], np.uint64
    )  # items of each array so far, which follow each other over all rows
    for row in range(U(ends.shape[0])):
        step, item = U(0), U(row)
        inside, first, last, stop = False, U(0), U(0), U(0)
        while inside or step < count:
            if inside and step == last:
                item += _ONE
                if item < stop:
                    step = first
                else:
                    written[first - _ONE] = item
                    out[at] = 0
                    at += _ONE
                    inside, item = False, U(row)
                continue
            kind, place, more = steps[step, 0], steps[step, 1], steps[step, 2]
            step += _ONE
            if kind == U(LONG):
                at = _put_long(out, at, ints[place + item])
            elif kind == U(DOUBLE):
                rest = bits[place + item]
                for i in range(U(8)):
                    out[at + i] = np.uint8((rest >> (U(8) * i)) & U(0xFF))
                at += U(8)
            elif kind == U(CONSTANT):
                at = _put_bytes(out, at, data, place, more)
            elif kind == U(CHOICE):
                choice = more + U(ints[place + item])
                at = _put_bytes(out, at, data, U(offsets[choice]), U(lengths[choice]))
            elif kind == U(TEXT):
                at = _put_long(out, at, lengths[place + item])
                at = _put_bytes(out, at, data, U(offsets[place + item]), U(lengths[place + item]))
            elif kind == U(BOOLEAN):
                out[at] = np.uint8(ints[place + item])
                at += _ONE
            elif kind == U(OPTIONAL_TEXT):
                present = lengths[place + item] >= 0
                out[at] = np.uint8(2 if present else 0)
                at += _ONE
                if present:
                    size = lengths[place + item]
                    at = _put_long(out, at, size)
                    at = _put_bytes(out, at, data, U(offsets[place + item]), U(size))
            elif kind == U(OPTIONAL_LONG):
                absent = ints[place + item] < 0
                out[at] = np.uint8(0 if absent else 2)
                at += _ONE
                if not absent:
                    at = _put_long(out, at, ints[place + item])
            elif kind == U(OPTIONAL_DOUBLE):
                rest = bits[place + item]
                absent = (rest & U(0x7FFFFFFFFFFFFFFF)) > U(0x7FF0000000000000)  # a NaN
                out[at] = np.uint8(0 if absent else 2)
                at += _ONE
                if not absent:
                    for i in range(U(8)):
                        out[at + i] = np.uint8((rest >> (U(8) * i)) & U(0xFF))
                    at += U(8)
            elif ints[place + row] == 0:  # no items: only the end of the array
                out[at] = 0
                at += _ONE
                step += more
            else:
                at = _put_long(out, at, ints[place + row])
                inside, first, last = True, step, step + more
                item = written[step - _ONE]
                stop = item + U(ints[place + row])
        ends[row] = at
