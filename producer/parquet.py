"""A reader of Parquet files as the CSV that they would make.

Every cell becomes the text that a mapping reads. Numbers are as short as possible, with the
mapping's decimal sign; integral ones have no fraction. True and false are lower case. Times with a
zone are in UTC; times without one stay as they are, so that the mapping's zone applies. Null and
NaN are missing. Columns with more than one value in a cell, or with bytes, are refused. Batches of
rows are read one after another.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leadstream.errors import SettingsError, UserError, error_text
from producer.mapping import LeadMapping, column_positions

if TYPE_CHECKING:
    import pyarrow as pa

INSTALL = (
    "Parquet is read by pyarrow, which is not installed here: pip install 'leadstream[parquet]'"
)
BATCH_ROWS = 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = (
    -62_135_596_800_000_000,
    253_402_300_799_999_999,
)  # microseconds: the years 1 to 9999
_NO_TIME = "outside the years 1 to 9999"


def read_lines(path: Path, mapping: LeadMapping) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each row and its mapped cells by column.

    Rows are numbered as in a CSV with a header: the first is 2. Raises SettingsError if the file
    lacks a column of the mapping or its type cannot become text. Raises UserError if the file
    cannot be read or pyarrow is missing.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise UserError(INSTALL) from error
    try:
        with path.open("rb") as file:
            table = parquet.ParquetFile(file)
            fields = list(table.schema_arrow)
            at = column_positions([field.name.strip() for field in fields], path, mapping)
            columns = {column: fields[number].name for column, number in at.items()}
            texts = {}
            for column, number in at.items():
                kind = fields[number].type
                if (to_texts := _reader(kind, mapping.decimal)) is None:
                    key = mapping.columns().get(column, "database.deleted")
                    raise SettingsError(
                        f"{mapping.name}: {key}: {path.name} has {column!r} as {kind}, "
                        "which is no text"
                    )
                texts[column] = to_texts
            line = 2
            for batch in table.iter_batches(BATCH_ROWS, columns=list(columns.values())):
                cells = {
                    column: texts[column](batch.column(name)) for column, name in columns.items()
                }
                for row in zip(*cells.values(), strict=True):
                    yield line, dict(zip(cells, row, strict=True))
                    line += 1
    except (pa.ArrowException, OSError) as error:
        # Arrow raises OSError for damaged pages, too, and its messages may have many lines.
        why = (
            getattr(error, "strerror", None)
            or f"is not Parquet that can be read ({' '.join(error_text(error).split())})"
        )
        raise UserError(f"{path}: {why}") from None


def read_header(path: Path) -> list[str]:
    """Return the names of the columns.

    Raises UserError if the file cannot be read or pyarrow is missing.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise UserError(INSTALL) from error
    try:
        return [name.strip() for name in parquet.read_schema(path).names]
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: {getattr(error, 'strerror', None) or 'is not Parquet that can be read'}"
        ) from None


def read_texts(path: Path, max_rows: int) -> list[list[str]]:
    """Return the cells of all columns as texts; a column that cannot become text has none."""
    from pyarrow import parquet  # noqa: PLC0415  # an extra; `read_header` came before

    with path.open("rb") as file:
        table = parquet.ParquetFile(file)
        readers = [_reader(field.type, ".") for field in table.schema_arrow]
        columns: list[list[str]] = [[] for _ in readers]
        for batch in table.iter_batches(BATCH_ROWS):
            for cells, reader, array in zip(columns, readers, batch.columns, strict=True):
                cells.extend(reader(array) if reader else [""] * len(array))
            if len(columns[0]) >= max_rows:
                break
    return columns


def _reader(kind: "pa.DataType", decimal: str) -> "Callable[[pa.Array], list[str]] | None":
    """Return a function from a column of this type to texts, or None."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import types as is_  # noqa: PLC0415

    if is_.is_dictionary(kind):
        inner = _reader(kind.value_type, decimal)
        return inner and (lambda array: inner(array.dictionary_decode()))
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        # Bytes that are no text become surrogates, so that only their own row is refused.
        return lambda array: _texts(
            array.cast(pa.large_binary()), lambda raw: raw.decode(errors="surrogateescape")
        )
    if is_.is_boolean(kind):
        return lambda array: _texts(array, lambda value: "true" if value else "false")
    if is_.is_integer(kind):
        return lambda array: _texts(array, str)
    if is_.is_floating(kind):
        numbers: Any = {16: np.float16, 32: np.float32, 64: np.float64}[kind.bit_width]
        return lambda array: _texts(
            array, lambda value: _float(numbers(value)).replace(".", decimal)
        )
    if is_.is_decimal(kind):
        return lambda array: _texts(array, lambda value: format(value, "f").replace(".", decimal))
    if is_.is_timestamp(kind):
        scale = pa.timestamp("us", kind.tz)
        zone = "+00:00" if kind.tz else ""
        return lambda array: _texts(
            array.cast(scale, safe=False).cast(pa.int64()), lambda at: _moment(at, zone)
        )
    if is_.is_date(kind):
        return lambda array: _texts(array.cast(pa.date32()).cast(pa.int32()), _day)
    return (lambda array: [""] * len(array)) if is_.is_null(kind) else None


def _texts(array: "pa.Array", text: Callable[[Any], str]) -> list[str]:
    return ["" if value is None else text(value) for value in array.to_pylist()]


def _float(value: "np.floating[Any]") -> str:
    if np.isnan(value):
        return ""
    # Beyond, a float of this size skips integers, and an id may have lost its last digits.
    exact = 2.0 ** (np.finfo(type(value)).nmant + 1)
    return str(int(value)) if abs(value) < exact and value == int(value) else str(value)


def _moment(microseconds: int, zone: str) -> str:
    if not _FIRST <= microseconds <= _LAST:
        return _NO_TIME
    return (
        f"{(_EPOCH + timedelta(microseconds=microseconds)).replace(tzinfo=None).isoformat()}{zone}"
    )


def _day(days: int) -> str:
    at = days * 86_400_000_000
    return _moment(at, "")[:10] if _FIRST <= at <= _LAST else _NO_TIME
