"""Decoded records as Arrow tables: from the columns of the kernel, or from the codec's records."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leadstream.dictionary import DictionaryColumn
from leadstream.errors import error_text
from leadstream.lead_fields import END_TIME_MS
from schemas.columns import COMPILED, DecodedColumns, MapColumn, TextColumn

if COMPILED:
    from consumer.history import map_kernels
    from schemas.compiled import read_doubles

Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]

# Times from the year 1 up to, not including, the year 10000 have a timestamp.
_FIRST_MS = -62_135_596_800_000


class UnsupportedValues(Exception):
    """Values that have no place in a column; record by record, most of them have one."""


def from_columns(
    schema: pa.Schema,
    table: DecodedColumns,
    rows: Ints,
    *,
    flat: str,
    symbols: Mapping[str, Sequence[str]],
    place: Mapping[str, pa.Array],
) -> pa.Table:
    """Return rows of decoded columns as an Arrow table, with the columns of `place` (k,) as given.

    Columns of the optional record `flat` are null where it is.
    """
    present: Flags = table.columns[flat][rows]
    arrays = dict(place)
    for field in schema:
        if field.name in arrays:
            continue
        inner = f"{flat}.{field.name}"
        values = table.columns.get(inner, table.columns.get(field.name))
        kept = present if inner in table.columns else None
        arrays[field.name] = _array(values, rows, field, kept, symbols.get(field.name))
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def from_records(schema: pa.Schema, records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return records as an Arrow table; times are milliseconds UTC, absent fields are null.

    Raises UnsupportedValues if a value does not fit its column.
    """
    try:
        arrays = [
            _values([record.get(field.name) for record in records], field.type) for field in schema
        ]
    except (pa.ArrowException, OverflowError, TypeError, ValueError, UnicodeError) as error:
        raise UnsupportedValues(error_text(error)) from error
    return pa.table(arrays, schema=schema)


def moments(milliseconds: NDArray[np.int64], present: Flags | None = None) -> pa.Array:
    """Return times as timestamps; null where a time is not `present`, or has no timestamp."""
    fits = (milliseconds >= _FIRST_MS) & (milliseconds < END_TIME_MS)
    kept = fits if present is None else fits & present
    micros = np.where(kept, milliseconds, 0) * 1000
    return pa.array(micros, mask=~kept).cast(pa.timestamp("us", tz="UTC"))


def months(times: pa.Array) -> pa.Array:
    """Return the month of each time as text, such as 2026-11."""
    codes = times.cast(pa.int64()).to_numpy(zero_copy_only=False).astype("datetime64[us]")
    distinct, rows = np.unique(codes.astype("datetime64[M]"), return_inverse=True)
    names = pa.array([str(month) for month in distinct])
    return pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32()), names).cast(pa.string())


def _values(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind):
        present = np.array([value is not None for value in values], np.bool_)
        return moments(np.array([value or 0 for value in values], np.int64), present)
    if pa.types.is_map(kind):
        values = [None if value is None else list(value.items()) for value in values]
    return pa.array(values, kind)


def _array(
    values: Any, rows: Ints, field: pa.Field, present: Flags | None, symbols: Sequence[str] | None
) -> pa.Array:
    match values:
        case TextColumn():
            return text_array(values.take(rows))
        case MapColumn():
            return map_array(values.take(rows), field.type)
        case np.ndarray() if symbols is not None:
            return dictionary_array(DictionaryColumn(values[rows], symbols))
    taken = values[rows]
    if pa.types.is_timestamp(field.type):
        return moments(taken, present)
    missing = np.isnan(taken) if taken.dtype.kind == "f" else np.zeros(len(rows), np.bool_)
    if present is not None:
        missing |= ~present
    if pa.types.is_integer(field.type) and taken.dtype.kind == "f":
        taken = np.where(missing, 0, taken).astype(np.int64)
    return pa.array(taken, mask=missing).cast(field.type)


def dictionary_array(column: DictionaryColumn) -> pa.Array:
    """Return a column of few distinct texts as an array of texts."""
    codes = pa.array(column.codes.astype(np.int32))
    return pa.DictionaryArray.from_arrays(codes, pa.array(column.values, pa.string())).cast(
        pa.string()
    )


def text_array(column: TextColumn) -> pa.Array:
    """Return a column of texts as an array; a length below 0 is a null."""
    lengths = np.maximum(column.lengths, 0)
    ends = np.zeros(len(column) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    data = map_kernels.gather(column.data, column.offsets, column.lengths, int(ends[-1]))
    absent = column.lengths < 0
    validity = pa.py_buffer(np.packbits(~absent, bitorder="little")) if absent.any() else None
    buffers = [validity, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(column), buffers)


def splittable(column: MapColumn) -> Flags:
    """Return which rows `map_array` can take; the codec must read the others."""
    counts = map_kernels.count_items(column.data, column.offsets, column.text_values)
    return np.asarray(counts > -2)


def map_array(column: MapColumn, kind: pa.DataType) -> pa.Array:
    """Return a column of maps as an array."""
    counts = map_kernels.count_items(column.data, column.offsets, column.text_values)
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(np.maximum(counts, 0), out=ends[1:])
    spans = [np.empty(int(ends[-1]), np.int64) for _ in range(4)]
    map_kernels.split_items(column.data, column.offsets, column.text_values, *spans)
    key_at, key_size, value_at, value_size = spans
    keys = text_array(TextColumn(column.data, key_at, key_size))
    if column.text_values:
        items = text_array(TextColumn(column.data, value_at, value_size))
    else:
        numbers = np.empty(len(value_at))
        read_doubles(column.data, value_at, numbers.view(np.uint64))
        items = pa.array(numbers)
    # A null in the offsets is a null map.
    offsets = pa.array(ends.astype(np.int32), mask=np.append(counts < 0, False))
    return pa.MapArray.from_arrays(offsets, keys, items).cast(kind)
