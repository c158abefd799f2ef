"""A reader of CRM exports: rows of CSV or Parquet become records or a training table.

The records are LeadChanged and LeadOutcome. A bad row is reported by its line and never stops the
rest. Reports do not contain values: they may be personal.
"""

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from leadstream.errors import SettingsError, UserError, error_text
from leadstream.lead_fields import STATE_FIELDS
from producer.fields import MappedField, Value
from producer.mapping import LeadMapping, column_positions
from producer.parquet import read_lines
from producer.table import training_frame

if TYPE_CHECKING:
    import pandas as pd


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


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that was refused: its first line in the file, and why, in one sentence."""

    line: int
    what: str


def read_rows(
    path: Path, mapping: LeadMapping, *, parquet: bool = False
) -> Iterator[ImportedRow | RefusedRow]:
    """Yield the rows of a CSV (or Parquet) file in its order, each parsed or refused.

    Rows that `rows.only` excludes are left out. Raises SettingsError if the file lacks a column of
    the mapping, UserError if it cannot be read at all.
    """
    first_lines: dict[tuple[str, int], int] = {}
    for line, cells in read_lines(path, mapping) if parquet else _csv_lines(path, mapping):
        if isinstance(cells, str):
            yield RefusedRow(line, cells)
            continue
        if any(cells[column].strip() not in values for column, values in mapping.only.items()):
            continue
        result = _row(cells, line, mapping)
        if isinstance(result, ImportedRow):
            first = first_lines.setdefault((result.lead_id, result.occurred_at), line)
            if first != line:
                result = RefusedRow(
                    line, f"tells of the same lead at the same moment as line {first}"
                )
        yield result


def _csv_lines(path: Path, mapping: LeadMapping) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Yield the first line of each record, with its mapped cells by column or with its fault."""
    # A byte order mark (Excel writes one) is no part of the first column's name.
    encoding = (
        "utf-8-sig"
        if mapping.encoding.lower().replace("_", "-") in {"utf-8", "utf8"}
        else mapping.encoding
    )
    try:
        # Bytes that are no text become surrogates, so that only their own row is refused.
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            yield from _csv_cells(file, path, mapping)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except LookupError:
        raise SettingsError(
            f"{mapping.name}: file.encoding: {mapping.encoding!r} is not known"
        ) from None
    except UnicodeError:
        raise UserError(
            f"{path}: is not {mapping.encoding}; set file.encoding in {mapping.name}"
        ) from None


def _csv_cells(
    file: TextIO, path: Path, mapping: LeadMapping
) -> Iterator[tuple[int, dict[str, str] | str]]:
    reader = csv.reader(file, delimiter=mapping.delimiter)
    header = [name.strip() for name in next(reader, [])]
    at = column_positions(header, path, mapping)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, f"is not CSV: {error_text(error)}"
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            yield line, f"has {len(cells)} fields, the header has {len(header)}"
            continue
        yield line, {column: cells[number] for column, number in at.items()}


class _Refused(Exception):  # never leaves this module
    pass


def _row(cells: Mapping[str, str], line: int, mapping: LeadMapping) -> ImportedRow | RefusedRow:
    try:
        for column, text in cells.items():
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                return RefusedRow(line, f"{column}: is not {mapping.encoding}")
        lead_id = _required(mapping.lead_id, cells, line)
        values = {name: _read(field, cells, line) for name, field in mapping.fields.items()}
        created_at = values["created_at"]
        if created_at is None:
            return RefusedRow(line, f"{mapping.fields['created_at'].column}: is missing")
        occurred_at = (
            _required(mapping.occurred_at, cells, line) if mapping.occurred_at else created_at
        )
        if created_at > occurred_at:  # type: ignore[operator]  # both are times
            return RefusedRow(line, "was created after it changed")
        own = {
            kind: {
                name: value
                for name, field in fields.items()
                if (value := _read(field, cells, line)) is not None
            }
            for kind, fields in (("numbers", mapping.numbers), ("categories", mapping.categories))
        }
        converted, decided_at = _outcome(cells, line, mapping, int(occurred_at))
    except _Refused as refused:
        return RefusedRow(line, str(refused))
    version = int(values.pop("lead_version", None) or 0)
    state = {name: values.get(name) for name in STATE_FIELDS if name not in own} | own
    return ImportedRow(line, str(lead_id), int(occurred_at), version, state, converted, decided_at)


def _outcome(
    cells: Mapping[str, str], line: int, mapping: LeadMapping, occurred_at: int
) -> tuple[bool | None, int]:
    outcome = mapping.outcome
    if outcome is None:
        return None, occurred_at
    try:
        converted = outcome.read(cells)
    except ValueError as error:
        raise _Refused(f"{outcome.column}: {error_text(error)}") from None
    decided_at = _read(outcome.decided_at, cells, line) if outcome.decided_at else None
    if decided_at is None:
        return converted, occurred_at
    if int(decided_at) < occurred_at:
        raise _Refused("was decided before it changed, so its fields may tell the outcome")
    return converted, int(decided_at)


def _read(field: MappedField, cells: Mapping[str, str], line: int) -> Value | None:
    try:
        return field.read(cells, line)
    except ValueError as error:
        raise _Refused(f"{field.column or field.key}: {error_text(error)}") from None


def _required(field: MappedField, cells: Mapping[str, str], line: int) -> Value:
    value = _read(field, cells, line)
    if value is None:
        raise _Refused(f"{field.column or field.key}: is missing")
    return value


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
    """Build a training table (see `training_frame`); also return the rows that were refused.

    It has the rows with a known outcome. Shares are taken before the others are left out. Raises
    SettingsError if the mapping has no outcome.
    """
    if mapping.outcome is None:
        raise SettingsError(
            f"{mapping.name}: outcome: is missing: training needs the column that holds it"
        )
    results = list(read_rows(path, mapping, parquet=parquet))
    problems = [result for result in results if isinstance(result, RefusedRow)]
    chosen = select(
        [r for r in results if isinstance(r, ImportedRow)],
        oldest=oldest,
        newest=newest,
        limit=limit,
    )
    rows = [row for row in chosen if row.converted is not None]
    table = training_frame(
        [row.lead_id for row in rows],
        [row.occurred_at for row in rows],
        [row.state for row in rows],
        [bool(row.converted) for row in rows],
    )
    return table, problems
