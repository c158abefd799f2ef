"""The reasons of scored leads as columns: fields, points, values and percentiles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.columns import category
from leadstream.dictionary import DictionaryColumn, dictionary_encode
from leadstream.lead_fields import MAX_CATEGORY_CHARACTERS
from models.serve.scorer import Scores
from schemas.columns import ListColumn, OptionalNumbers, TextColumn

try:
    from consumer.scoring import compiled
except ImportError:  # without the extra `fast`
    compiled = None  # type: ignore[assignment]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DECIMALS = 6
_NUMBER_BYTES = 24
_MOMENT = b"0000-00-00T00:00:00Z"
_ZERO, _POINT, _MINUS = b"0.-"


def reason_columns(scores: Scores, chosen: Any) -> ListColumn:
    """Return the reasons of the chosen rows; a field with 0 points is no reason."""
    points = scores.strongest.points[chosen]
    moved = points != 0
    fields = scores.strongest.indices[chosen][moved]
    rows = np.broadcast_to(np.arange(len(scores.raw))[chosen][:, None], points.shape)[moved]
    values = values_of(scores, rows, fields)
    return ListColumn(
        moved.sum(axis=1),
        {
            "feature": DictionaryColumn(fields, scores.fields),
            "contribution": points[moved],
            "value": values,
            "percentile": OptionalNumbers(scores.percentiles[chosen][moved]),
            "given_rate": OptionalNumbers(
                np.where(values.lengths < 0, scores.given_rates[fields], np.nan)
            ),
        },
    )


def warm_up() -> None:
    """Compile or load the machine code of the texts now, and not while a batch waits."""
    number_texts(np.zeros(1))
    moment_texts(np.zeros(1, np.int64))


def values_of(scores: Scores, rows: NDArray[np.intp], fields: NDArray[np.intp]) -> TextColumn:
    """Return what each row (m,) has in a field (m,), as text; null if it has no valid value."""
    offsets, lengths = np.zeros(len(rows), np.int64), np.full(len(rows), -1, np.int64)
    data: list[Bytes] = []
    size = 0
    for field in np.flatnonzero(np.bincount(fields)).tolist():
        at = np.flatnonzero(fields == field)
        texts = _texts(scores, scores.fields[field], rows[at])
        offsets[at], lengths[at] = texts.offsets + size, texts.lengths
        data.append(texts.data)
        size += len(texts.data)
    return TextColumn(np.concatenate(data) if data else np.empty(0, np.uint8), offsets, lengths)


def _texts(scores: Scores, name: str, rows: NDArray[np.intp]) -> TextColumn:
    given = scores.matrix.given
    if name == "created_at":
        return moment_texts(given.created_at[rows])
    if name in given.numbers:
        return number_texts(given.numbers[name][rows])
    values = given.categories[name]
    if not isinstance(values, DictionaryColumn):
        values = dictionary_encode([value if isinstance(value, str) else None for value in values])
    known = TextColumn.from_bytes([_category(value) for value in values.values])
    texts = known.take(values.codes[rows])
    return TextColumn(texts.data, texts.offsets, np.where(texts.lengths > 0, texts.lengths, -1))


def _category(value: object) -> bytes:
    """Return a category as it came, but for control characters; empty if it has no text."""
    if not isinstance(value, str) or not (len(value) > MAX_CATEGORY_CHARACTERS or category(value)):
        return b""
    # Postgres refuses a NUL, and a terminal obeys escape sequences.
    text = "".join(each if each.isprintable() else " " for each in value[:MAX_CATEGORY_CHARACTERS])
    return text.encode("utf-8", "replace")


def moment_texts(moments: Ints) -> TextColumn:
    """Return moments (n,), ms UTC, in ISO 8601 to the second, as in 2026-11-30T08:15:00Z."""
    if compiled is None:
        return plain_moment_texts(moments)
    data = np.tile(np.frombuffer(_MOMENT, np.uint8), len(moments))
    compiled.write_moments(moments, data)
    starts = np.arange(len(moments), dtype=np.int64) * len(_MOMENT)
    return TextColumn(data, starts, np.full_like(starts, len(_MOMENT)))


def plain_moment_texts(moments: Ints) -> TextColumn:
    """Return the same as `moment_texts` without numba."""
    days, seconds = np.divmod(moments // 1_000, 86_400)
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    years, month = np.divmod(months.astype(np.int64), 12)
    digits = np.tile(np.frombuffer(_MOMENT, np.uint8), (len(moments), 1))
    _put(digits, years + 1970, 4, 4)
    _put(digits, month + 1, 7, 2)
    _put(digits, (dates - months.astype("datetime64[D]")).astype(np.int64) + 1, 10, 2)
    for end, part in ((13, seconds // 3_600), (16, seconds // 60 % 60), (19, seconds % 60)):
        _put(digits, part, end, 2)
    starts = np.arange(len(moments), dtype=np.int64) * digits.shape[1]
    return TextColumn(digits.ravel(), starts, np.full_like(starts, digits.shape[1]))


def number_texts(values: Floats) -> TextColumn:
    """Return numbers (n,) to at most six decimals, as in 82.5 and -3; a NaN is null."""
    if compiled is None:
        return plain_number_texts(values)
    data = np.empty(_NUMBER_BYTES * len(values), np.uint8)
    offsets, lengths = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    compiled.write_numbers(values, data, offsets, lengths)
    return TextColumn(data, offsets, lengths)


def plain_number_texts(values: Floats) -> TextColumn:
    """Return the same as `number_texts` without numba.

    Numbers are within 1e15 of zero. Each row of digits has a sign, the integer part and decimals;
    the text is the part of it that a person would write.
    """
    n = len(values)
    present = ~np.isnan(values)
    size = np.abs(np.where(present, values, 0.0))
    integer = size.astype(np.int64)
    rest = np.rint((size - integer) * 10**DECIMALS).astype(np.int64)
    integer += rest == 10**DECIMALS
    rest[rest == 10**DECIMALS] = 0
    wide = len(str(int(integer.max()))) if n else 1
    width = 1 + wide + 1 + DECIMALS
    digits = np.empty((n, width), np.uint8)
    integer_digits, decimals = _count(integer, wide), DECIMALS - _put(digits, rest, width)
    _put(digits[:, : 1 + wide], integer, 1 + wide, wide)
    digits[:, 1 + wide] = _POINT
    negative = (values < 0) & ((integer > 0) | (rest > 0))
    begin = 1 + wide - integer_digits - negative
    rows = np.flatnonzero(negative)
    digits[rows, begin[rows]] = _MINUS
    lengths = integer_digits + negative + np.where(decimals > 0, 1 + decimals, 0)
    starts = np.arange(n, dtype=np.int64) * width + begin
    return TextColumn(digits.ravel(), starts, np.where(present, lengths, -1))


def _put(digits: Bytes, numbers: Ints, end: int, count: int = DECIMALS) -> Ints:
    """Write the last `count` digits of numbers (n,) before column `end`; return their end zeros."""
    zeros, only_zeros = np.zeros(len(numbers), np.int64), np.ones(len(numbers), np.bool_)
    for place in range(count):
        numbers, digit = np.divmod(numbers, 10)
        digits[:, end - 1 - place] = digit + _ZERO
        only_zeros &= digit == 0
        zeros += only_zeros
    return zeros


def _count(numbers: Ints, limit: int) -> Ints:
    """Return how many digits integers (n,) have, 1 to `limit`."""
    powers = 10 ** np.arange(1, limit, dtype=np.int64)
    return 1 + np.searchsorted(powers, numbers, side="right")
