"""Rows that hold the state of a lead at a time: a file with a mapping, one row for each moment."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from producer.field_log import Unplaced
from producer.importer import (
    ImportedRow,
    is_chosen,
    lead_change_of_row,
    lead_outcome_of_row,
    read_cells,
    row_of_cells,
)
from producer.labels import DAY_MS
from producer.log_import import LeadPast
from producer.mapping import LeadMapping


def states_of_file(
    path: Path, mapping: LeadMapping, now_ms: int, unplaced: Counter[Unplaced]
) -> Iterator[LeadPast]:
    """Yield the state in each row, as of its `occurred_at`, and its outcome if it has a time."""
    parquet = path.suffix.lower() == ".parquet"
    for line, cells in read_cells(path, mapping, parquet=parquet):
        if isinstance(cells, str):
            unplaced[Unplaced.NOT_A_ROW] += 1
        elif is_chosen(cells, mapping):
            row = row_of_cells(cells, line, mapping, now_ms + DAY_MS)
            if isinstance(row, ImportedRow):
                yield _past(row, unplaced)
            else:
                unplaced[Unplaced.REFUSED_ROW] += 1


def _past(row: ImportedRow, unplaced: Counter[Unplaced]) -> LeadPast:
    unplaced[Unplaced.UNREADABLE] += len(row.unreadable)
    outcome = lead_outcome_of_row(row)
    if outcome is not None and not row.dated:
        unplaced[Unplaced.UNDATED_OUTCOME] += 1
        outcome = None
    return LeadPast([_change(row)], outcome)


def _change(row: ImportedRow) -> dict[str, Any]:
    kind = "CREATED" if row.occurred_at == row.state["created_at"] else "UPDATED"
    return {**lead_change_of_row(row), "change_type": kind}
