"""Many records at a time: framed bytes to columns and back, as machine code.

schemas/compiled.py has the kernels (the extra `fast`). Both directions give what the codec gives
record by record, and leave to it what they do not know to be right. Reading marks such a row as not
decoded. Writing refuses all rows (`UnsupportedColumns`), and then the codec names the bad record.
Below some ten records the codec is faster.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_writer
from numpy.typing import NDArray

from leadstream.dictionary import DictionaryColumn
from leadstream.errors import error_text
from schemas.codec import Reader, Writer

try:
    from schemas import compiled
except ImportError:  # without the extra `fast`
    compiled = None  # type: ignore[assignment]

COMPILED = compiled is not None

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# From this number of records on, columns are faster.
MIN_ROWS = 10
_SEED = np.uint64(int.from_bytes(os.urandom(8), "little"))


def use_columns(n: int) -> bool:
    """Return whether n records are decoded and encoded in columns here."""
    return COMPILED and n >= MIN_ROWS


def without_nulls(values: Sequence[bytes | None]) -> tuple[Sequence[bytes], Ints]:
    """Return the values, each null as empty bytes, and their lengths (n,)."""
    present: Sequence[Any] = values
    try:
        return present, np.fromiter(map(len, present), np.int64, len(values))
    except TypeError:  # few batches have a null, and asking each value takes longer
        present = [value or b"" for value in values]
        return present, np.fromiter(map(len, present), np.int64, len(values))


class UnsupportedColumns(Exception):
    """Values that cannot be encoded as columns; record by record, most of them can be."""


class MissingColumnError(Exception):
    """A field of a schema that has no column here: a bug, found when a process starts."""


@dataclass(frozen=True, slots=True, eq=False)
class TextColumn:
    """A column of texts as slices of UTF-8: `lengths` (n,) bytes of `data` from `offsets` (n,).

    A row with a length below 0 is null.
    """

    data: Bytes
    offsets: Ints
    lengths: Ints

    @classmethod
    def from_bytes(cls, texts: Sequence[bytes]) -> "TextColumn":
        """Build the column of these texts."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return cls(np.frombuffer(b"".join(texts), np.uint8), np.cumsum(lengths) - lengths, lengths)

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, indices: NDArray[np.intp]) -> "TextColumn":
        """Return the column of the rows at these indices."""
        return TextColumn(self.data, self.offsets[indices], self.lengths[indices])

    def to_list(self) -> list[bytes]:
        """Return the bytes of each row; those of a null are empty."""
        data, ends = self.data.tobytes(), (self.offsets + self.lengths).tolist()
        return [data[start:end] for start, end in zip(self.offsets.tolist(), ends, strict=True)]

    def equal(self, other: "TextColumn") -> Flags:
        """Return in which rows both columns are equal."""
        mine, others = (
            (self.data, self.offsets, self.lengths),
            (other.data, other.offsets, other.lengths),
        )
        return compiled.equal_slices(*mine, *others)

    def dictionary_encode(self) -> DictionaryColumn:
        """Return the same column by its distinct values, null as None."""
        codes, rows = compiled.dictionary_encode(self.data, self.offsets, self.lengths, _SEED)
        raw = self.take(rows)
        values = [
            text.decode() if length >= 0 else None
            for text, length in zip(raw.to_list(), raw.lengths, strict=True)
        ]
        return DictionaryColumn(codes, values)


@dataclass(frozen=True, slots=True, eq=False)
class MapColumn:
    """A column of maps in their encoded form; `offsets` (n,) is -1 for a null.

    The values are texts if `text_values`, else doubles.
    """

    data: Bytes
    offsets: Ints
    text_values: bool

    def take(self, indices: NDArray[np.intp]) -> "MapColumn":
        """Return the column of the rows at these indices."""
        return MapColumn(self.data, self.offsets[indices], self.text_values)

    def lookup(self, key: str) -> Floats | TextColumn:
        """Return what each map has under a key: a double, else NaN; or a text, else null."""
        offsets, lengths = np.empty_like(self.offsets), np.empty_like(self.offsets)
        sought = np.frombuffer(key.encode(), np.uint8)
        compiled.find_key(self.data, self.offsets, sought, self.text_values, offsets, lengths)
        if self.text_values:
            return TextColumn(self.data, offsets, lengths)
        found = np.full(len(offsets), np.nan)
        compiled.read_doubles(self.data, offsets, found.view(np.uint64))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class OptionalNumbers:
    """A column of doubles that may be null: `values` (n,), NaN for a null."""

    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class OptionalMoments:
    """A column of moments that may be null: `values` (n,) in ms UTC, below 0 for a null."""

    values: Ints


@dataclass(frozen=True, slots=True, eq=False)
class ListColumn:
    """A column of arrays: `counts` (n,) items in each row.

    `columns` has, by field, the column of the items of all rows one after another.
    """

    counts: Ints
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedColumns:
    """The columns of n records, as far as they could be decoded.

    `decoded` (n,) tells which rows were; the others have no meaning. `sizes` (n,) are the bytes of
    the values. Columns are by the path of the field ("lead.source"): int64 (an enum by the index of
    its symbol), bool, TextColumn, MapColumn, or float64 with NaN where an optional number is null.
    An optional record has a bool of its own: whether it is present. Arrays have no column.
    """

    decoded: Flags
    sizes: Ints
    columns: Mapping[str, Any]


class ColumnReader:
    """A decoder of many values into columns, for values whose writer schema is the current one.

    Other values are not decoded.
    """

    def __init__(self, reader: Reader, fields: Collection[str] | None = None) -> None:
        """Plan the decoding of `fields` (paths), or of every field where it is None.

        Raise MissingColumnError where one of them has no column.
        """
        self._reader = reader
        self._steps: list[tuple[int, int, int]] = []
        self._fields: dict[str, tuple[int, int, bool]] = {}
        self._counts = dict.fromkeys(("ints", "bits", "spans"), 0)
        self.symbols: dict[str, list[str]] = {}
        named: dict[str, Any] = {}
        self._arrays: list[str] = []
        self._plan(parse_schema(reader.schema, named), named, "")
        missing = self._arrays if fields is None else [f for f in fields if f not in self._fields]
        if missing:
            raise MissingColumnError(
                f"{reader.schema['name']}: no column for {', '.join(missing)}; "
                "decode it in schemas/columns.py, or leave it out of `fields`"
            )
        self._program = np.array(self._steps, np.int64)
        # Compile or load the kernels of a batch now, and not while a batch waits.
        for column in self.decode([b""]).columns.values():
            if isinstance(column, TextColumn):
                column.equal(column)
                column.dictionary_encode()
            elif isinstance(column, MapColumn):
                column.lookup("")

    def decode(self, values: Sequence[bytes | None]) -> DecodedColumns:
        """Decode n framed values; a null is not decoded."""
        n = len(values)
        filled, lengths = without_nulls(values)
        data = np.frombuffer(b"".join(filled), np.uint8)
        ends = np.cumsum(lengths)
        bodies = np.full(n, -1, np.int64)
        for header in self._reader.current_headers():
            compiled.match_prefix(
                data, ends - lengths, ends, np.frombuffer(header, np.uint8), bodies
            )
        ints = np.zeros((self._counts["ints"], n), np.int64)
        floats = np.full((self._counts["bits"], n), np.nan)
        offsets = np.full((self._counts["spans"], n), -1, np.int64)
        sizes = offsets.copy()
        read = compiled.decode_rows(
            data, bodies, ends, self._program, ints, floats.view(np.uint64), offsets, sizes
        )
        columns: dict[str, Any] = {}
        for path, (kind, place, optional) in self._fields.items():
            match kind:
                case compiled.DOUBLE:
                    columns[path] = floats[place]
                case compiled.TEXT:
                    columns[path] = TextColumn(data, offsets[place], sizes[place])
                case compiled.MAP_OF_DOUBLES | compiled.MAP_OF_TEXTS:
                    columns[path] = MapColumn(data, offsets[place], kind == compiled.MAP_OF_TEXTS)
                case compiled.BOOLEAN | compiled.OPTIONAL:
                    columns[path] = ints[place].astype(np.bool_)
                case _ if optional:
                    columns[path] = np.where(
                        ints[place - 1] > 0, ints[place].astype(np.float64), np.nan
                    )
                case _:
                    columns[path] = ints[place]
        return DecodedColumns(read, lengths, columns)

    def _plan(
        self, schema: Any, named: Mapping[str, Any], path: str, *, optional: bool = False
    ) -> None:
        """Add the steps that decode a value of this schema, and note where its columns will be."""
        schema = _defined(schema, named)
        kind = (
            "union"
            if isinstance(schema, list)
            else schema["type"]
            if isinstance(schema, dict)
            else schema
        )
        match kind:
            case "record":
                for field in schema["fields"]:
                    self._plan(field["type"], named, f"{path}.{field['name']}".lstrip("."))
            case "union" if len(schema) == 2 and "null" in schema and not optional:
                self._optional(schema, named, path)
            case "int":
                self._step(compiled.INT, "ints", path, optional=optional)
            case "long":
                self._step(compiled.LONG, "ints", path, optional=optional)
            case "double":
                self._step(compiled.DOUBLE, "bits", path)
            case "boolean" if not optional:
                self._step(compiled.BOOLEAN, "ints", path)
            case "string":
                self._step(compiled.TEXT, "spans", path)
            case "enum" if not optional:
                self.symbols[path] = list(schema["symbols"])
                self._step(compiled.ENUM, "ints", path, len(schema["symbols"]))
            case "map" if schema["values"] in ("double", "string"):
                of = (
                    compiled.MAP_OF_TEXTS
                    if schema["values"] == "string"
                    else compiled.MAP_OF_DOUBLES
                )
                self._step(of, "spans", path)
            case "array":
                self._array(schema["items"], named, path)
            case _:
                raise MissingColumnError(f"no column for {path}: columns of {kind} are not decoded")

    def _array(self, items: Any, named: Mapping[str, Any], path: str) -> None:
        """Add the step that skips an array; it has no column.

        An array of pairs of a text and a double is encoded as a map of doubles.
        """
        schema = _defined(items, named)
        fields = (
            [field["type"] for field in schema["fields"]] if isinstance(schema, dict) else schema
        )
        match fields:
            case "string":
                kind = compiled.ARRAY_OF_TEXTS
            case ["string", "double"]:
                kind = compiled.MAP_OF_DOUBLES
            case ["string", "double", ["null", "string"], ["null", "double"], ["null", "double"]]:
                kind = compiled.ARRAY_OF_REASONS
            case _:
                raise MissingColumnError(
                    f"no column for {path}: arrays of {fields} are not decoded"
                )
        self._arrays.append(path)
        self._steps.append((kind, self._counts["spans"], 0))
        self._counts["spans"] += 1

    def _optional(self, schema: list[Any], named: Mapping[str, Any], path: str) -> None:
        null = schema.index("null")
        at = len(self._steps)
        self._step(compiled.OPTIONAL, "ints", path)
        self._plan(schema[1 - null], named, path, optional=True)
        skipped = len(self._steps) - at - 1
        self._steps[at] = (
            *self._steps[at][:2],
            skipped | (compiled.NULL_FIRST if null == 0 else 0),
        )

    def _step(
        self, kind: int, pool: str, path: str, more: int = 0, *, optional: bool = False
    ) -> None:
        place = self._counts[pool]
        self._counts[pool] += 1
        self._steps.append((kind, place, more))
        self._fields[path] = (kind, place, optional)


class ColumnWriter:
    """An encoder of records of one kind from columns, in the framing of a writer.

    A column is one value for all rows; an array of float64, int64 or bool; a TextColumn; a
    DictionaryColumn of any values; a list of texts; a ListColumn; OptionalNumbers; or
    OptionalMoments. A TextColumn may have nulls where the schema is a union of null and string.
    """

    def __init__(self, writer: Writer, columns: Collection[str]) -> None:
        """Check that `columns` are the fields of the schema, items of arrays as "array.field".

        Raise MissingColumnError where they are not.
        """
        self._writer = writer
        named: dict[str, Any] = {}
        self._schema: Any = parse_schema(writer.schema, named)
        self._named = named
        self._check(set(self._paths(self._schema)), set(columns))
        if COMPILED:
            nothing = _Pools()
            nothing.constant(b"", 0)
            nothing.encode(0)  # as in ColumnReader: not while a batch waits

    def encode(self, columns: Mapping[str, Any], n: int) -> list[bytes]:
        """Encode n records; every field of the schema has its column.

        Raises UnsupportedColumns if a column does not fit its field, MissingColumnError if the
        columns are not the fields, and Transient if the registry does not answer.
        """
        pools = _Pools()
        pools.constant(self._writer.header(), n)
        try:
            self._record(self._schema, columns, n, pools)
        except (
            AttributeError,
            OverflowError,
            TypeError,
            UnicodeEncodeError,
            ValueError,
            KeyError,
        ) as error:
            raise UnsupportedColumns(error_text(error)) from error
        return pools.encode(n)

    def _paths(self, schema: Any) -> Iterator[str]:
        """Yield the name of each column that a record needs; items have one for each field."""
        for field in schema["fields"]:
            part = _defined(field["type"], self._named)
            items = _defined(part.get("items"), self._named) if isinstance(part, dict) else None
            if isinstance(items, dict):
                yield from (f"{field['name']}.{path}" for path in self._paths(items))
            else:
                yield field["name"]

    def _check(self, fields: set[str], columns: set[str]) -> None:
        if different := sorted(fields ^ columns):
            raise MissingColumnError(
                f"{self._schema['name']}: the columns are not the fields of the schema; "
                f"add or remove {', '.join(different)}"
            )

    def _record(self, schema: Any, columns: Mapping[str, Any], n: int, pools: "_Pools") -> None:
        self._check({field["name"] for field in schema["fields"]}, set(columns))
        for field in schema["fields"]:
            self._field(field["type"], columns[field["name"]], n, pools)

    def _field(self, schema: Any, column: Any, n: int, pools: "_Pools") -> None:
        schema = _defined(schema, self._named)
        kind = schema["type"] if isinstance(schema, dict) else schema
        match column:
            case TextColumn() if kind == ["null", "string"]:
                pools.texts(column, n, optional=True)
            case OptionalNumbers(values=values) if kind == ["null", "double"]:
                pools.optional_numbers(values, n)
            case OptionalMoments(values=moments) if kind == ["null", {"type": "long"}]:
                pools.optional_moments(moments, n)
            case ListColumn() if kind == "array":
                pools.items(column.counts, n)
                before = len(pools.steps)
                self._record(
                    _defined(schema["items"], self._named),
                    column.columns,
                    int(column.counts.sum()),
                    pools,
                )
                pools.steps[before - 1][2] = len(pools.steps) - before
            case DictionaryColumn():
                pools.choice(
                    [self._constant(schema, value) for value in column.values], column.codes, n
                )
            case np.ndarray():
                pools.numbers(kind, column, n)
            case TextColumn() if kind == "string":
                pools.texts(column, n)
            case list() if kind == "string":
                pools.texts(TextColumn.from_bytes([text.encode() for text in column]), n)
            case None | str() | int() | float() | bool():
                pools.constant(self._constant(schema, column), n)
            case _:
                raise UnsupportedColumns(f"a column of type {type(column).__name__} is no {kind}")

    def _constant(self, schema: Any, value: Any) -> bytes:
        stream = BytesIO()
        schemaless_writer(stream, schema, value, strict=True)
        return stream.getvalue()


class _Pools:
    """The arguments of the encoding kernel: its steps, and pools of numbers and bytes.

    All integers are in one array, all doubles in another, and all bytes in a third.
    """

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        self._ints: list[Ints] = []
        self._floats: list[Floats] = []
        self._offsets: list[Ints] = []
        self._lengths: list[Ints] = []
        self._data: list[Bytes] = []
        self._data_at: dict[int, int] = {}
        self._sizes = {"ints": 0, "floats": 0, "spans": 0, "data": 0}
        self._room = 0

    def constant(self, value: bytes, n: int) -> None:
        """Add a step that writes the same bytes in every row."""
        last = self.steps[-1] if self.steps else None
        at = self._sizes["data"]
        self._bytes(np.frombuffer(value, np.uint8))
        self._room += n * len(value)
        if last and last[0] == compiled.CONSTANT and last[1] + last[2] == at:
            last[2] += len(value)
        else:
            self.steps.append([compiled.CONSTANT, at, len(value)])

    def choice(self, choices: Sequence[bytes], codes: NDArray[np.intp], n: int) -> None:
        """Add a step that writes, in each row, the bytes that its code chooses."""
        if codes.shape != (n,) or (
            n and not 0 <= int(codes.min()) <= int(codes.max()) < len(choices)
        ):
            raise UnsupportedColumns("a code chooses nothing")
        texts = TextColumn.from_bytes(choices)
        self._room += n * max(map(len, choices), default=0)
        self.steps.append(
            [
                compiled.CHOICE,
                self._add("ints", self._ints, codes.astype(np.int64)),
                self._spans(texts),
            ]
        )

    def texts(self, column: TextColumn, n: int, *, optional: bool = False) -> None:
        """Add a step for a string field, or for one that may be null."""
        if len(column) != n or (not optional and n and int(column.lengths.min()) < 0):
            raise UnsupportedColumns("a text is missing")
        self._room += 11 * n + int(np.maximum(column.lengths, 0).sum())
        kind = compiled.OPTIONAL_TEXT if optional else compiled.TEXT
        self.steps.append([kind, self._spans(column), 0])

    def optional_numbers(self, values: Floats, n: int) -> None:
        """Add a step for a union of null and double."""
        if values.shape != (n,):
            raise UnsupportedColumns(f"a column has the shape {values.shape}, not {(n,)}")
        self._room += 9 * n
        self.steps.append([compiled.OPTIONAL_DOUBLE, self._add("floats", self._floats, values), 0])

    def optional_moments(self, moments: Ints, n: int) -> None:
        """Add a step for a union of null and a moment."""
        if moments.shape != (n,):
            raise UnsupportedColumns(f"a column has the shape {moments.shape}, not {(n,)}")
        self._room += 11 * n
        self.steps.append(
            [compiled.OPTIONAL_LONG, self._add("ints", self._ints, moments.astype(np.int64)), 0]
        )

    def numbers(self, kind: str, column: NDArray[Any], n: int) -> None:
        """Add a step for a field of numbers or flags."""
        if column.shape != (n,):
            raise UnsupportedColumns(f"a column has the shape {column.shape}, not {(n,)}")
        self._room += 10 * n
        match kind, column.dtype.kind:
            case "double", "f":
                place = self._add("floats", self._floats, column.astype(np.float64))
                self.steps.append([compiled.DOUBLE, place, 0])
            case "boolean", "b":
                self.steps.append(
                    [compiled.BOOLEAN, self._add("ints", self._ints, column.astype(np.int64)), 0]
                )
            case (("long" | "int"), "i"):
                if (
                    kind == "int"
                    and n
                    and not -(2**31) <= int(column.min()) <= int(column.max()) < 2**31
                ):
                    raise UnsupportedColumns("a number does not fit 32 bits")
                self.steps.append(
                    [compiled.LONG, self._add("ints", self._ints, column.astype(np.int64)), 0]
                )
            case _:
                raise UnsupportedColumns(f"a column of {column.dtype} is no {kind}")

    def items(self, counts: Ints, n: int) -> None:
        """Add a step for an array field; the steps of its items follow."""
        if counts.shape != (n,) or (n and int(counts.min()) < 0):
            raise UnsupportedColumns("an array has no number of items")
        self._room += 11 * n
        self.steps.append(
            [compiled.ITEMS, self._add("ints", self._ints, counts.astype(np.int64)), 0]
        )

    def encode(self, n: int) -> list[bytes]:
        """Run the kernel and return the bytes of each of n rows."""
        out, ends = np.empty(self._room, np.uint8), np.empty(n, np.int64)
        ints, floats = _joined(self._ints, np.int64), _joined(self._floats, np.float64)
        spans = _joined(self._offsets, np.int64), _joined(self._lengths, np.int64)
        steps = np.array(self.steps, np.uint64)
        compiled.encode_rows(
            steps, ints, floats.view(np.uint64), _joined(self._data, np.uint8), *spans, out, ends
        )
        stops = ends.tolist()
        data = out[: stops[-1] if stops else 0].tobytes()
        return [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

    def _add(self, pool: str, parts: list[Any], part: NDArray[Any]) -> int:
        at = self._sizes[pool]
        parts.append(part)
        self._sizes[pool] += len(part)
        return at

    def _bytes(self, data: Bytes) -> int:
        """Return where these bytes are in the pool; those of several columns are added once."""
        if id(data) not in self._data_at:
            self._data_at[id(data)] = self._add("data", self._data, data)
        return self._data_at[id(data)]

    def _spans(self, texts: TextColumn) -> int:
        at = self._bytes(texts.data)
        self._add("spans", self._offsets, texts.offsets + at)
        self._lengths.append(texts.lengths)
        return self._sizes["spans"] - len(texts)


def to_records(columns: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """Return the n records that the columns hold, as basic Python values."""
    rows = zip(*(_values(column, n) for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _values(column: Any, n: int) -> Sequence[Any]:
    match column:
        case ListColumn(counts=counts, columns=inner):
            items = to_records(inner, int(counts.sum()))
            ends = np.cumsum(counts).tolist()
            return [
                items[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)
            ]
        case np.ndarray():
            values: list[Any] = column.tolist()
            return values
        case OptionalNumbers(values=numbers):
            return [
                None if absent else number
                for number, absent in zip(numbers.tolist(), np.isnan(numbers), strict=True)
            ]
        case OptionalMoments(values=moments):
            return [None if moment < 0 else moment for moment in moments.tolist()]
        case TextColumn():
            present = (column.lengths >= 0).tolist()
            return [
                text.decode() if there else None
                for text, there in zip(column.to_list(), present, strict=True)
            ]
        case DictionaryColumn() | list():
            return column
    return [column] * n


def _defined(schema: Any, named: Mapping[str, Any]) -> Any:
    """Return the definition where a schema is only a name."""
    return named.get(schema, schema) if isinstance(schema, str) else schema


def _joined(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
