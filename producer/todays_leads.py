"""The leads of today, which the states of the past are reconstructed from."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from producer.field_log import Unplaced, as_text, log_name
from producer.importer import Cells, ImportedRow, is_chosen, read_cells, row_of_cells
from producer.labels import DAY_MS
from producer.mapping import LeadMapping
from producer.past_states import StateField, TodaysLead, Value

# Distinct texts of a field whose values are remembered.
_REMEMBERED = 16_384
_NOT_IN_THE_PAST = ("created_at", "lead_version")


def mapped_fields(mapping: LeadMapping) -> list[StateField]:
    """Return the fields of a lead's state, by the columns of a mapping."""
    own = {f"numbers.{name}": field for name, field in mapping.numbers.items()}
    own |= {f"categories.{name}": field for name, field in mapping.categories.items()}
    found = []
    for name, field in {**mapping.fields, **own}.items():
        if name in _NOT_IN_THE_PAST:
            continue
        column = field.column
        if column is None:
            found.append(StateField(name, None, lambda _: None, field.read({}, 0)))
        else:
            found.append(StateField(name, log_name(column), _remembering(field.read, column)))
    return found


def _remembering(
    read: Callable[[Mapping[str, str | None], int], Value | None], column: str
) -> Callable[[str], Value | None]:
    @lru_cache(_REMEMBERED)
    def value(text: str) -> Value | None:
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError("is no text")
        return read({column: text}, 0)

    return value


def leads_of_file(path: Path, mapping: LeadMapping, now_ms: int) -> Iterator[TodaysLead | Unplaced]:
    """Yield the leads of an export, CSV or Parquet; Unplaced for one that cannot be read."""
    parquet = path.suffix.lower() == ".parquet"
    for line, cells in read_cells(path, mapping, parquet=parquet):
        if isinstance(cells, str):
            yield Unplaced.REFUSED_LEAD
        elif is_chosen(cells, mapping):
            yield lead_of_cells(cells, line, mapping, now_ms)


def lead_of_cells(
    cells: Cells, line: int, mapping: LeadMapping, now_ms: int
) -> TodaysLead | Unplaced:
    """Return the lead that cells describe."""
    row = row_of_cells(cells, line, mapping, now_ms + DAY_MS)
    if not isinstance(row, ImportedRow):
        return Unplaced.REFUSED_LEAD
    texts = {log_name(column): as_text(text) for column, text in cells.items() if text is not None}
    decided = row.decided_at if row.dated else None
    return TodaysLead(row.lead_id, row.state["created_at"], texts, row.converted, decided)


def contact_cells(contact: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the cells of a contact of HubSpot's API, by the columns of a mapping."""
    properties = contact.get("properties")
    found = {
        log_name(name): value.get("value") if isinstance(value, dict) else value
        for name, value in (properties.items() if isinstance(properties, dict) else ())
    }
    found.setdefault("hs_object_id", contact.get("id"))
    found.setdefault("createdate", contact.get("createdat"))
    return {column: as_text(found.get(log_name(column))) for column in columns}
