"""A reader of CRM exports: rows of CSV or Parquet become records or a training table.

The records are LeadChanged and LeadOutcome. A bad row is reported by its line and never stops the
rest. Reports do not contain values: they may be personal.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadstream.errors import SettingsError, UserError, error_text
from leadstream.lead_fields import STATE_FIELDS
from leadstream.text_forms import column_name, comparable
from producer.csv_file import DEFAULT_ENCODING, CsvShape, find_shape, read_records
from producer.fields import MappedField, Value
from producer.mapping import LeadMapping, column_positions
from producer.moments import starts_day_of
from producer.parquet import read_lines
from producer.table import training_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class UnreadableCell:
    """A cell that could not be read, so that its field is missing; `text` is never printed."""

    field: MappedField
    what: str
    text: str | None = dataclass_field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """A lead as one line describes it; times are in ms UTC.

    `converted` is None if the outcome is not known.
    """

    line: int
    lead_id: str
    occurred_at: int
    lead_version: int
    state: dict[str, Any]
    converted: bool | None
    decided_at: int
    unreadable: tuple[UnreadableCell, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that was refused: its first line in the file, and why, in one sentence.

    `column` and `text` are those of the cell that refused it, if there is one. `text` is never
    printed as it is.
    """

    line: int
    what: str
    column: str | None = None
    text: str | None = dataclass_field(default=None, repr=False, compare=False)


# The cells of one line by column; None where the line ends before the column.
Cells = Mapping[str, str | None]


def read_rows(
    path: Path, mapping: LeadMapping, *, parquet: bool = False
) -> Iterator[ImportedRow | RefusedRow]:
    """Yield the rows of a CSV (or Parquet) file in its order, each parsed or refused.

    Rows that `rows.only` excludes are left out. Raises SettingsError if the file lacks a column of
    the mapping, UserError if it cannot be read at all.
    """
    seen = _SeenRows()
    for line, cells in read_lines(path, mapping) if parquet else _csv_lines(path, mapping):
        if isinstance(cells, str):
            yield RefusedRow(line, cells)
        elif _chosen(cells, mapping):
            result = _row(cells, line, mapping)
            yield seen.check(result) if isinstance(result, ImportedRow) else result


def _chosen(cells: Cells, mapping: LeadMapping) -> bool:
    return all(
        comparable(cells[column] or "").strip() in values for column, values in mapping.only.items()
    )


class _SeenRows:
    """The ids and moments of earlier rows; a row that looks like an earlier one is refused."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int], int] = {}
        self._ids: dict[str, tuple[str, int]] = {}

    def check(self, row: ImportedRow) -> ImportedRow | RefusedRow:
        lead_id, line = self._ids.setdefault(
            comparable(row.lead_id).strip(), (row.lead_id, row.line)
        )
        if lead_id != row.lead_id:
            return RefusedRow(
                row.line, f"has an id that differs from that of line {line} by its form only"
            )
        first = self._lines.setdefault((row.lead_id, row.occurred_at), row.line)
        if first != row.line:
            return RefusedRow(
                row.line, f"tells of the same lead at the same moment as line {first}"
            )
        return row


def _csv_lines(path: Path, mapping: LeadMapping) -> Iterator[tuple[int, Cells | str]]:
    """Yield the first line of each record, with its mapped cells by column or with its fault."""
    try:
        shape = _shape(path, mapping)
        at = column_positions(shape.header, path, mapping)
        for line, cells in read_records(path, shape):
            if isinstance(cells, str):
                yield line, cells
                continue
            size = len(cells)
            yield (
                line,
                {column: cells[place] if place < size else None for column, place in at.items()},
            )
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except LookupError:
        raise SettingsError(
            f"{mapping.name}: file.encoding: {mapping.encoding!r} is not known"
        ) from None
    except UnicodeError:
        raise UserError(
            f"{path}: is not {mapping.encoding or 'text that can be read'}; set file.encoding in "
            f"{mapping.name}"
        ) from None


def _shape(path: Path, mapping: LeadMapping) -> CsvShape:
    """Return how the file is written, and check what the mapping says about it."""
    wanted = {column_name(column) for column in mapping.columns()}

    def score(header: Sequence[str]) -> int:
        return len(wanted.intersection(header))

    shape = find_shape(path, score, encoding=mapping.encoding, delimiter=mapping.delimiter)
    if shape.score < len(wanted):
        if any("\ud800" <= char <= "\udfff" for name in shape.header for char in name):
            raise UserError(
                f"{path}: its header is not {shape.encoding}; set file.encoding in {mapping.name}, "
                'for example "cp1252"'
            )
        free = find_shape(path, score, encoding=mapping.encoding)
        if free.score > shape.score:
            raise SettingsError(
                f"{mapping.name}: file.delimiter: {path.name} separates its columns by "
                f"{free.delimiter!r}"
            )
    return shape


class _Refused(Exception):  # never leaves this module
    def __init__(self, what: str, column: str | None = None, text: str | None = None) -> None:
        self.what, self.column, self.text = what, column, text


@dataclass(frozen=True, slots=True)
class _RowReader:
    """The cells of one row; cells that cannot be read and are not required are collected."""

    mapping: LeadMapping
    cells: Cells
    line: int
    unreadable: list[UnreadableCell]

    def optional(self, field: MappedField) -> Value | None:
        """Return the value of a field, or None if it is missing or cannot be read."""
        text = None if field.column is None else self.cells[field.column]
        what = "ends before the column" if field.column is not None and text is None else None
        if what is None:
            try:
                self.check_text(text)
                return field.read(self.cells, self.line)
            except ValueError as error:
                what = error_text(error)
        self.unreadable.append(UnreadableCell(field, what, text))
        return None

    def required(self, field: MappedField) -> Value:
        """Return the value of a field. Raises _Refused if there is none."""
        if (value := self.if_any(field)) is None:
            raise _Refused(f"{field.column or field.key}: is missing", field.column)
        return value

    def if_any(self, field: MappedField) -> Value | None:
        """Return the value of a field, or None if it is missing. Raises _Refused if it is wrong."""
        text = None if field.column is None else self.cell(field.column)
        try:
            self.check_text(text)
            return field.read(self.cells, self.line)
        except ValueError as error:
            raise _Refused(
                f"{field.column or field.key}: {error_text(error)}", field.column, text
            ) from None

    def cell(self, column: str) -> str:
        """Return the text of a cell that must be there."""
        if (text := self.cells[column]) is None:
            raise _Refused(f"{column}: the row ends before it", column)
        return text

    def check_text(self, text: str | None) -> None:
        """Raise ValueError for bytes that are no text, which the reader made surrogates of."""
        if text and not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"is not {self.mapping.encoding or DEFAULT_ENCODING}")


def _row(cells: Cells, line: int, mapping: LeadMapping) -> ImportedRow | RefusedRow:
    row = _RowReader(mapping, cells, line, [])
    try:
        return _imported(row)
    except _Refused as refused:
        return RefusedRow(line, refused.what, refused.column, refused.text)


def _imported(row: _RowReader) -> ImportedRow:
    """Return the row; only what says which lead it is, when and with which outcome is required."""
    mapping = row.mapping
    lead_id = str(row.required(mapping.lead_id))
    created_at = int(row.required(mapping.fields["created_at"]))
    version = mapping.fields.get("lead_version")
    lead_version = int(row.if_any(version) or 0) if version else 0
    occurred_at = _occurred_at(row, created_at)
    converted, decided_at = _outcome(row, occurred_at)
    values: dict[str, Any] = {
        name: row.optional(field)
        for name, field in mapping.fields.items()
        if name not in ("created_at", "lead_version")
    }
    own = {
        kind: {
            name: value
            for name, field in fields.items()
            if (value := row.optional(field)) is not None
        }
        for kind, fields in (("numbers", mapping.numbers), ("categories", mapping.categories))
    }
    values |= {"created_at": created_at}
    state = {name: values.get(name) for name in STATE_FIELDS if name not in own} | own
    unreadable = tuple(row.unreadable)
    return ImportedRow(
        row.line, lead_id, occurred_at, lead_version, state, converted, decided_at, unreadable
    )


def _occurred_at(row: _RowReader, created_at: int) -> int:
    """Return when the lead was as the row says: at its creation, if it never changed."""
    field = row.mapping.occurred_at
    moment = row.if_any(field) if field else None
    if field is None or moment is None:
        return created_at
    if created_at <= int(moment):
        return int(moment)
    if field.zone and starts_day_of(int(moment), created_at, field.zone):
        return created_at  # a date without a time
    raise _Refused("was created after it changed")


def _outcome(row: _RowReader, occurred_at: int) -> tuple[bool | None, int]:
    outcome = row.mapping.outcome
    if outcome is None:
        return None, occurred_at
    text = row.cell(outcome.column)
    try:
        row.check_text(text)
        converted = outcome.read({outcome.column: text})
    except ValueError as error:
        raise _Refused(f"{outcome.column}: {error_text(error)}", outcome.column, text) from None
    decided_at = (
        row.if_any(outcome.decided_at) if outcome.decided_at and converted is not None else None
    )
    if decided_at is None:
        return converted, occurred_at
    if int(decided_at) < occurred_at:
        raise _Refused("was decided before it changed, so its fields may tell the outcome")
    return converted, int(decided_at)


def select(
    rows: Sequence[ImportedRow],
    *,
    oldest: float | None = None,
    newest: float | None = None,
    limit: int | None = None,
) -> list[ImportedRow]:
    """Return rows in the order of time: the oldest or newest share, at most the first `limit`.

    `oldest` = x and `newest` = 1 - x select every row exactly once.
    """
    ordered = sorted(rows, key=lambda row: (row.occurred_at, row.line))
    if oldest is not None:
        ordered = ordered[: _share(oldest, len(ordered))]
    elif newest is not None:
        ordered = ordered[_share(1 - newest, len(ordered)) :]
    return ordered[:limit]


def _share(share: float, size: int) -> int:
    return int(share * size + 1e-6)


def lead_change_of_row(row: ImportedRow) -> dict[str, Any]:
    """Build the LeadChanged of a row.

    Its event_id is the same at each import of the same row.
    """
    identity = f"import\0{row.lead_id}\0{row.occurred_at}\0{row.lead_version}"
    return {
        "event_id": hashlib.sha256(identity.encode()).hexdigest()[:32],
        "lead_id": row.lead_id,
        "change_type": "CREATED",
        "occurred_at": row.occurred_at,
        "lead_version": row.lead_version,
        "origin": "crm",
        "lead": row.state,
    }


def lead_outcome_of_row(row: ImportedRow) -> dict[str, Any] | None:
    """Build the LeadOutcome of a row, or return None if it is not known."""
    if row.converted is None:
        return None
    return {"lead_id": row.lead_id, "converted": row.converted, "decided_at": row.decided_at}


def read_table(
    path: Path,
    mapping: LeadMapping,
    *,
    oldest: float | None = None,
    newest: float | None = None,
    limit: int | None = None,
    parquet: bool = False,
) -> tuple["pd.DataFrame", list[RefusedRow]]:
    """Build the training table of a file; also return the rows that were refused."""
    results = read_decided(path, mapping, parquet=parquet)
    table = table_of_rows(results, oldest=oldest, newest=newest, limit=limit)
    return table, [result for result in results if isinstance(result, RefusedRow)]


def read_decided(
    path: Path, mapping: LeadMapping, *, parquet: bool = False
) -> list[ImportedRow | RefusedRow]:
    """Return the rows of a file to train on. Raises SettingsError if the mapping has no outcome."""
    if mapping.outcome is None:
        raise SettingsError(
            f"{mapping.name}: outcome: is missing: training needs the column that holds it"
        )
    return list(read_rows(path, mapping, parquet=parquet))


def table_of_rows(
    results: Sequence[ImportedRow | RefusedRow],
    *,
    oldest: float | None = None,
    newest: float | None = None,
    limit: int | None = None,
) -> "pd.DataFrame":
    """Build a training table (see `training_frame`) of the rows with a known outcome.

    Shares are taken before the others are left out.
    """
    chosen = select(
        [r for r in results if isinstance(r, ImportedRow)],
        oldest=oldest,
        newest=newest,
        limit=limit,
    )
    rows = [row for row in chosen if row.converted is not None]
    return training_frame(
        [row.lead_id for row in rows],
        [row.occurred_at for row in rows],
        [row.state for row in rows],
        [bool(row.converted) for row in rows],
    )
