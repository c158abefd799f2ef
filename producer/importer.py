"""A reader of CRM exports: rows of CSV or Parquet become records or a training table.

The records are LeadChanged and LeadOutcome. A bad row is reported by its line and never stops the
rest. Reports do not contain values: they may be personal.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadstream.errors import SettingsError, UserError, error_text
from leadstream.lead_fields import STATE_FIELDS
from leadstream.text_forms import column_name, comparable
from producer.csv_file import (
    DEFAULT_ENCODING,
    NO_NAMES,
    CsvShape,
    find_shape,
    holds_values,
    read_records,
)
from producer.fields import MappedField, Value
from producer.labels import DAY_MS, Labels, OutcomeOfRow, check_balance, label_rows
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

    `converted` is None if the outcome is not known. `dated` tells whether the file says when it
    was decided; without that, `decided_at` is `occurred_at`.
    """

    line: int
    lead_id: str
    occurred_at: int
    lead_version: int
    state: dict[str, Any]
    converted: bool | None
    decided_at: int
    unreadable: tuple[UnreadableCell, ...] = ()
    dated: bool = False


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that was refused: its first line in the file, and why, in one sentence.

    `column` and `text` are those of the cell that refused it, if there is one. `text` is never
    printed as it is. `converted` is its outcome, as far as that can be read.
    """

    line: int
    what: str
    column: str | None = None
    text: str | None = dataclass_field(default=None, repr=False, compare=False)
    converted: bool | None = dataclass_field(default=None, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class LabeledTable:
    """The training table of a file, and the labels of its rows, which left out some."""

    table: "pd.DataFrame"
    labels: Labels


# The cells of one line by column; None where the line ends before the column.
Cells = Mapping[str, str | None]


def read_rows(
    path: Path, mapping: LeadMapping, *, parquet: bool = False, now_ms: int | None = None
) -> Iterator[ImportedRow | RefusedRow]:
    """Yield the rows of a CSV (or Parquet) file in its order, each parsed or refused.

    Rows that `rows.only` excludes are left out. A row with a time later than a day from now
    (`now_ms`, by default the clock) is refused: one such date would stand for the newest. Raises
    SettingsError if the file lacks a column of the mapping, UserError if it cannot be read at all.
    """
    latest = (time.time_ns() // 1_000_000 if now_ms is None else now_ms) + DAY_MS
    seen = _SeenRows()
    for line, cells in read_cells(path, mapping, parquet=parquet):
        if isinstance(cells, str):
            yield RefusedRow(line, cells)
        elif is_chosen(cells, mapping):
            result = row_of_cells(cells, line, mapping, latest)
            yield seen.check(result) if isinstance(result, ImportedRow) else result


def read_cells(
    path: Path, mapping: LeadMapping, *, parquet: bool = False
) -> Iterator[tuple[int, Cells | str]]:
    """Yield the first line of each row of a file, with its mapped cells or with its fault.

    Raises SettingsError if the file lacks a column of the mapping, UserError if it cannot be read.
    """
    return read_lines(path, mapping) if parquet else _csv_lines(path, mapping)


def is_chosen(cells: Cells, mapping: LeadMapping) -> bool:
    """Return whether `rows.only` of the mapping includes a row, and it is not soft-deleted."""
    chosen = all(
        comparable(cells[column] or "").strip() in values for column, values in mapping.only.items()
    )
    return chosen and not (mapping.deleted and mapping.deleted.holds(cells))


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
            form = f"has an id that differs from that of line {line} by its form only"
            return RefusedRow(row.line, form, converted=row.converted)
        first = self._lines.setdefault((row.lead_id, row.occurred_at), row.line)
        if first != row.line:
            same = f"tells of the same lead at the same moment as line {first}"
            return RefusedRow(row.line, same, converted=row.converted)
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
        if shape.score == 0 and holds_values(shape.header):
            raise UserError(f"{path}: {NO_NAMES}")
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


def row_of_cells(
    cells: Cells, line: int, mapping: LeadMapping, latest: int
) -> ImportedRow | RefusedRow:
    """Return the row that cells hold, or why it is refused; no time is later than `latest`."""
    row = _RowReader(mapping, cells, line, [])
    try:
        read = _imported(row)
    except _Refused as refused:
        outcome = _readable_outcome(row)
        return RefusedRow(line, refused.what, refused.column, refused.text, outcome)
    for what, moment in (("changed", read.occurred_at), ("was decided", read.decided_at)):
        if moment > latest:
            why = f"{what} later than now: correct its date"
            return RefusedRow(line, why, converted=read.converted)
    return read


def _readable_outcome(row: _RowReader) -> bool | None:
    outcome = row.mapping.outcome
    text = row.cells[outcome.column] if outcome else None
    try:
        return outcome.read({outcome.column: text}) if outcome and text is not None else None
    except ValueError:
        return None


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
    return ImportedRow(
        row.line,
        lead_id,
        occurred_at,
        lead_version,
        state,
        converted,
        occurred_at if decided_at is None else decided_at,
        tuple(row.unreadable),
        dated=decided_at is not None,
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


def _outcome(row: _RowReader, occurred_at: int) -> tuple[bool | None, int | None]:
    outcome = row.mapping.outcome
    if outcome is None:
        return None, None
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
        return converted, None
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
    path: Path,
    mapping: LeadMapping,
    *,
    parquet: bool = False,
    horizon_days: float | None = None,
) -> list[ImportedRow | RefusedRow]:
    """Return the rows of a file to train on.

    Raises SettingsError if the mapping has no outcome, or a horizon but no `outcome.decided_at`.
    """
    if mapping.outcome is None:
        raise SettingsError(
            f"{mapping.name}: outcome: is missing: training needs the column that holds it"
        )
    if horizon_days is not None and mapping.outcome.decided_at is None:
        raise SettingsError(
            f"{mapping.name}: outcome.decided_at: is missing: a horizon needs the column that says "
            "when a lead converted; name it, or leave out --horizon"
        )
    return list(read_rows(path, mapping, parquet=parquet))


def table_of_rows(
    results: Sequence[ImportedRow | RefusedRow],
    *,
    oldest: float | None = None,
    newest: float | None = None,
    limit: int | None = None,
) -> "pd.DataFrame":
    """Build a training table of the rows with a known outcome; see `labeled_table`."""
    return labeled_table(results, None, oldest=oldest, newest=newest, limit=limit).table


def labeled_table(
    results: Sequence[ImportedRow | RefusedRow],
    horizon_days: float | None,
    *,
    oldest: float | None = None,
    newest: float | None = None,
    limit: int | None = None,
) -> LabeledTable:
    """Build a training table (see `training_frame`) with the labels of `label_rows`.

    Shares are taken before rows without a label are left out. Raises UserError if rows of one
    outcome are left out more often than of the other.
    """
    rows = select(
        [r for r in results if isinstance(r, ImportedRow)],
        oldest=oldest,
        newest=newest,
        limit=limit,
    )
    outcomes = [
        OutcomeOfRow(row.occurred_at, row.converted, row.decided_at if row.dated else None)
        for row in rows
    ]
    labeled = label_rows(outcomes, horizon_days)
    _check_outcomes([r for r in results if isinstance(r, RefusedRow)], rows, labeled)
    kept = [
        (row, label) for row, label in zip(rows, labeled.labels, strict=True) if label is not None
    ]
    table = training_frame(
        [row.lead_id for row, _ in kept],
        [row.occurred_at for row, _ in kept],
        [row.state for row, _ in kept],
        [label for _, label in kept],
    )
    return LabeledTable(table, labeled)


def _check_outcomes(
    refused: Sequence[RefusedRow], rows: Sequence[ImportedRow], labeled: Labels
) -> None:
    """Check that rows are not left out by their outcome; young ones are left out by their date."""
    reasons = Counter(row.what for row in refused if row.converted is not None)
    if labeled.undated:
        reasons["converted, but the file does not say when"] = labeled.undated
    if not reasons:
        return
    kept, out = (
        [sum(row.converted is outcome for row in part) for outcome in (True, False)]
        for part in (rows, refused)
    )
    check_balance(
        (kept[0] - labeled.undated, kept[1]),
        (out[0] + labeled.undated, out[1]),
        reasons.most_common(1)[0][0],
    )
