"""Many records at once: columns to framed bytes, the same bytes as `Writer.encode` gives record by record.

A field's values become a piece: all their bytes in one array, and how many of them each row has. Pieces are laid into
each other, field by field, in numpy. What it cannot write it refuses whole (`NotColumns`): then the records are to be
written one by one, and the bad one is told by its own name. Below some tens of records that is faster anyway.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_writer
from numpy.typing import NDArray

from schemas.codec import Writer

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


class NotColumns(Exception):
    """These columns cannot be written together; one by one the records may be."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """A column of arrays: `counts` (n,) items in each row, and the columns of all items one after another.

    `columns` is a mapping for items that are records, else the one column of the items themselves.
    """

    counts: Ints
    columns: Any


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A column of texts out of few: `codes` (n,) are places in `texts`."""

    codes: NDArray[Any]
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """The bytes of n rows one after another, and how many each has: (n,), or one number for all."""

    data: Bytes
    lengths: Ints | int


class ColumnWriter:
    """Encodes records of one kind from columns, in the framing of a writer.

    A column is one value for all rows, a list of texts or symbols, an array of float64, int64 or bool, a Choice, or
    Items.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        named: dict[str, Any] = {}
        self._schema: Any = parse_schema(writer.schema, named)
        self._named = named

    def encode(self, columns: Mapping[str, Any], n: int) -> list[bytes]:
        """The framed bytes of n records; every field of the schema has its column.

        Raises NotColumns where a column does not fit its field, and Transient where the registry does not answer.
        """
        header = np.frombuffer(self._writer.header(), np.uint8)
        try:
            body = self._record(self._schema, columns, n)
        except (AttributeError, OverflowError, TypeError, UnicodeEncodeError, ValueError, KeyError) as error:
            raise NotColumns(str(error)) from error
        whole = _laid([_Piece(np.tile(header, n), len(header)), body], n)
        ends = np.cumsum(np.broadcast_to(whole.lengths, n)).tolist()
        joined = whole.data.tobytes()
        return [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _record(self, schema: Any, columns: Mapping[str, Any], n: int) -> _Piece:
        fields = schema["fields"]
        if len(columns) != len(fields):
            raise NotColumns("the columns are not the fields of the schema")
        return _laid([self._piece(field["type"], columns[field["name"]], n) for field in fields], n)

    def _piece(self, schema: Any, column: Any, n: int) -> _Piece:
        schema = self._named.get(schema, schema) if isinstance(schema, str) else schema
        kind = schema["type"] if isinstance(schema, dict) else schema
        match column:
            case Items() if kind == "array":
                return self._array(schema["items"], column, n)
            case Choice():
                return _chosen([self._constant(schema, text) for text in column.texts], column.codes, n)
            case np.ndarray():
                return _numbers(kind, column, n)
            case list() if kind == "string" and len(column) == n:
                return _texts(column)
            case list() if kind == "enum":
                places = {symbol: place for place, symbol in enumerate(schema["symbols"])}
                return _numbers("long", np.array([places[symbol] for symbol in column], np.int64), n)
            case str() | int() | float() | bool():
                constant = self._constant(schema, column)
                return _Piece(np.tile(np.frombuffer(constant, np.uint8), n), len(constant))
        raise NotColumns(f"a column of type {type(column).__name__} is no {kind}")

    def _constant(self, schema: Any, value: Any) -> bytes:
        stream = BytesIO()
        schemaless_writer(stream, schema, value, strict=True)
        return stream.getvalue()

    def _array(self, schema: Any, column: Items, n: int) -> _Piece:
        """An array is its number of items, the items, and a zero; without items only the zero."""
        counts, total = column.counts, int(column.counts.sum())
        schema = self._named.get(schema, schema) if isinstance(schema, str) else schema
        if isinstance(column.columns, Mapping):
            items = self._record(schema, column.columns, total)
        else:
            items = self._piece(schema, column.columns, total)
        ends = np.concatenate([[0], np.cumsum(np.broadcast_to(items.lengths, total))])
        last = np.cumsum(counts)
        of_rows = _Piece(items.data, ends[last] - ends[last - counts])
        some, zero = _varints(counts), _Piece(np.zeros(n, np.uint8), 1)
        # Where there is none its own zero would be one too many.
        some = _Piece(some.data[np.repeat(counts > 0, some.lengths)], np.where(counts > 0, some.lengths, 0))
        return _laid([some, of_rows, zero], n)


def records(columns: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """The n records that the columns hold, as plain Python values."""
    rows = zip(*(_values(column, n) for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _values(column: Any, n: int) -> list[Any]:
    match column:
        case Items(counts=counts, columns=inner):
            total = int(counts.sum())
            items = records(inner, total) if isinstance(inner, Mapping) else _values(inner, total)
            ends = np.cumsum(counts).tolist()
            return [items[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)]
        case Choice(codes=codes, texts=texts):
            return [texts[code] for code in codes.tolist()]
        case np.ndarray():
            values: list[Any] = column.tolist()
            return values
        case list():
            return column
    return [column] * n


def _laid(pieces: Sequence[_Piece], n: int) -> _Piece:
    """Pieces of the same n rows as one: each row has its bytes of the first, of the second, and so on."""
    pieces = _joined(pieces, n)
    if len(pieces) == 1:
        return pieces[0]
    lengths: Ints = np.zeros(n, np.int64)
    for piece in pieces:
        lengths += piece.lengths
    starts = np.cumsum(lengths) - lengths
    data = np.empty(int(lengths.sum()), np.uint8)
    for piece in pieces:
        if isinstance(piece.lengths, int):
            data[starts[:, None] + np.arange(piece.lengths)] = piece.data.reshape(n, piece.lengths)
        else:
            gaps = starts - (np.cumsum(piece.lengths) - piece.lengths)
            data[np.repeat(gaps, piece.lengths) + np.arange(len(piece.data))] = piece.data
        starts += piece.lengths
    return _Piece(data, lengths)


def _joined(pieces: Sequence[_Piece], n: int) -> list[_Piece]:
    """Neighbours whose rows are all of one length become one piece: they need no looking for each row's place."""
    found: list[_Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and isinstance(last.lengths, int) and isinstance(piece.lengths, int):
            width = last.lengths + piece.lengths
            both = np.concatenate([last.data.reshape(n, -1), piece.data.reshape(n, -1)], axis=1) if n else piece.data
            found[-1] = _Piece(both.ravel(), width)
        else:
            found.append(piece)
    return found


def _numbers(kind: str, column: NDArray[Any], n: int) -> _Piece:
    if column.shape != (n,):
        raise NotColumns(f"a column has the shape {column.shape}, not {(n,)}")
    match kind, column.dtype.kind:
        case "double", "f":
            return _Piece(column.astype("<f8").view(np.uint8), 8)
        case "boolean", "b":
            return _Piece(column.astype(np.uint8), 1)
        case "long", "i":
            return _varints(column.astype(np.int64))
        case "int", "i":
            if len(column) and not -(2**31) <= int(column.min()) <= int(column.max()) < 2**31:
                raise NotColumns("a number does not fit 32 bits")
            return _varints(column.astype(np.int64))
    raise NotColumns(f"a column of {column.dtype} is no {kind}")


def _varints(numbers: Ints) -> _Piece:
    """Zigzag, then seven bits a byte, the lowest first; all but the last have the eighth bit set."""
    rest = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    columns = []
    more = np.ones(len(numbers), np.bool_)
    lengths = np.zeros(len(numbers), np.int64)
    while more.any():
        lengths += more
        low, rest = (rest & np.uint64(0x7F)).astype(np.uint8), rest >> np.uint64(7)
        going_on = rest > 0
        columns.append(np.where(going_on, low | np.uint8(0x80), low))
        more = more & going_on
    if not columns:
        return _Piece(np.empty(0, np.uint8), lengths)
    block = np.stack(columns, axis=1)
    return _Piece(block[np.arange(block.shape[1]) < lengths[:, None]], lengths)


def _texts(texts: list[str]) -> _Piece:
    encoded = [text.encode() for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    data = np.frombuffer(b"".join(encoded), np.uint8)
    return _laid([_varints(lengths), _Piece(data, lengths)], len(encoded))


def _chosen(choices: list[bytes], codes: NDArray[Any], n: int) -> _Piece:
    if codes.shape != (n,):
        raise NotColumns(f"a column has the shape {codes.shape}, not {(n,)}")
    sizes = np.array([len(choice) for choice in choices] or [0], np.int64)
    data = np.frombuffer(b"".join(choices), np.uint8)
    starts = (np.cumsum(sizes) - sizes)[codes]
    lengths = sizes[codes]
    total = int(lengths.sum())
    places = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(total)
    return _Piece(data[places], lengths)
