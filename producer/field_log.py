"""Rows of a CRM's log of field changes, in the format of each CRM.

Each format is a pure function from a row, with names in the form of `log_name`, to its changes. A
row that has none says why. Nothing of a row is repeated in a reason: it may be personal.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from leadstream.lead_fields import END_TIME_MS, MAX_ID_CHARACTERS, MIN_TIME_MS
from leadstream.text_forms import column_name
from schemas.crm_description import DescribedLog, TimeFormat
from schemas.crm_rows import parse_time

# A longer value is no value of a category or a number.
MAX_VALUE_CHARACTERS = 4_096
MAX_CHANGES_OF_ROW = 10_000


class Unplaced(StrEnum):
    """The reason why something of a log became no state, and the sentence about it."""

    NOT_A_ROW = "rows that cannot be read"
    WITHOUT_LEAD = "rows without the id of a lead"
    WITHOUT_TIME = "rows without a time that can be read"
    FUTURE = "changes later than now"
    UNKNOWN_LEAD = "changes of leads that today's leads do not have: deleted, or left out"
    UNREAD_FIELD = "changes of fields that the mapping does not read"
    BEFORE_CREATION = "changes before their lead was created"
    DUPLICATE = "changes that the log has twice"
    CONTRADICTION = "changes whose value is not the one that the next change starts from"
    NOT_RECORDED = "changes whose values the log does not hold"
    REFUSED_ROW = "rows whose lead, time or outcome cannot be read"
    UNREADABLE = "values that their field cannot hold, which are missing"
    REFUSED_LEAD = "leads of today that cannot be read"
    REPEATED_LEAD = "leads that today's leads have twice"
    NOTHING_KNOWN = "moments of which the log knows no field"
    UNDATED_OUTCOME = "outcomes without a time"
    DELETED = "changes of leads that were deleted since"
    WITHOUT_STATE = "changes without the state of their lead"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A change of one field of a lead, at a time in ms UTC.

    Values are texts, None where there is none. Without `has_old` the log holds new values only.
    """

    lead: str
    field: str
    at: int
    old: str | None
    new: str | None
    has_old: bool = True


Row = Mapping[str, Any]
Entry = FieldChange | Unplaced
RowReader = Callable[[Row], Iterator[Entry]]


@dataclass(frozen=True, slots=True)
class LogColumns:
    """The columns of a log with a change in each row; of several names, the first that is there.

    Names are in the form of `log_name`. A log without `old` holds new values only.
    """

    lead: tuple[str, ...]
    field: tuple[str, ...]
    old: tuple[str, ...]
    new: tuple[str, ...]
    at: tuple[str, ...]


# By the API and Data Loader, and by reports.
SALESFORCE = LogColumns(
    ("leadid", "lead id"),
    ("field", "field / event"),
    ("oldvalue", "old value"),
    ("newvalue", "new value"),
    ("createddate", "edit date"),
)
HUBSPOT = LogColumns(
    ("record id", "contactid", "vid", "hs_object_id", "id"),
    ("property", "property name"),
    (),
    ("value", "property value"),
    ("timestamp", "change date"),
)


def described_columns(log: DescribedLog) -> LogColumns:
    """Return the columns that a description names. The log must have a field in each row."""

    def names(column: str | None) -> tuple[str, ...]:
        return () if column is None else (log_name(column),)

    return LogColumns(
        names(log.lead), names(log.field), names(log.old), names(log.new), names(log.at.column)
    )


def log_name(name: str) -> str:
    """Return the name of a column or field as a log's names are compared."""
    return column_name(name).casefold()


def read_row(row: Row, columns: LogColumns, times: TimeFormat) -> Iterator[Entry]:
    """Yield the one change of a row."""
    lead, field = as_text(_first(row, columns.lead)), as_text(_first(row, columns.field))
    if not field:
        yield Unplaced.NOT_A_ROW
        return
    at = moment_of(_first(row, columns.at), times)
    old, new = _first(row, columns.old), _first(row, columns.new)
    yield change_of(lead, field, at, old, new, has_old=bool(columns.old))


def change_of(
    lead: str | None, field: str, at: int | None, old: Any, new: Any, *, has_old: bool = True
) -> Entry:
    """Return a change, or what it lacks."""
    if not lead or len(lead) > MAX_ID_CHARACTERS or not _is_text(lead):
        return Unplaced.WITHOUT_LEAD
    if at is None:
        return Unplaced.WITHOUT_TIME
    texts = as_text(old), as_text(new)
    if not all(map(_is_value, texts)):
        texts = None, None
    return FieldChange(lead, log_name(field), at, *texts, has_old)


def _is_value(text: str | None) -> bool:
    return text is None or (len(text) <= MAX_VALUE_CHARACTERS and _is_text(text))


def _is_text(text: str) -> bool:
    """Return whether a text can be written as UTF-8."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def as_text(value: Any) -> str | None:
    """Return a scalar as text, None for an empty one; other values are JSON."""
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    return json.dumps(value)


def moment_of(value: Any, times: TimeFormat) -> int | None:
    """Return a time in ms UTC; a number, also of digits as text, is of the unit that fits."""
    if isinstance(value, str) and times.forms == ("iso",) and times.base is None:
        value = value.strip()
        if value.isdecimal() and value.isascii() and len(value) < 20:
            value = int(value)
    if isinstance(value, int | float) and times.base is None and times.forms == ("iso",):
        found = parse_time(value)
        return found if found is not None and MIN_TIME_MS <= found < END_TIME_MS else None
    return times.read(value)


def hubspot_row(row: Row, times: TimeFormat) -> Iterator[Entry]:
    """Yield the changes in a row of a property's history, or in a contact of the API."""
    history = row.get("propertieswithhistory")
    if not isinstance(history, dict):
        yield from read_row(row, HUBSPOT, times)
        return
    lead = as_text(row.get("id"))
    for field, versions in list(history.items())[:MAX_CHANGES_OF_ROW]:
        yield from _versions(lead, str(field), versions, times)


def _versions(lead: str | None, field: str, versions: Any, times: TimeFormat) -> Iterator[Entry]:
    """Yield the values of a property. The newest is first, so of one moment the first counts."""
    if not isinstance(versions, list):
        yield Unplaced.NOT_A_ROW
        return
    before: int | None = None
    for each in versions[:MAX_CHANGES_OF_ROW]:
        if not isinstance(each, dict):
            yield Unplaced.NOT_A_ROW
            continue
        at = moment_of(each.get("timestamp"), times)
        if at is None or at != before:
            yield change_of(lead, field, at, None, each.get("value"), has_old=False)
        before = at


# The values of `action` in the table `audit` that concern fields, and that of a deletion.
_AUDIT_DELETE = ("3", "delete")


def dynamics_row(row: Row, times: TimeFormat) -> Iterator[Entry]:
    """Yield the changes in a row of the table `audit`, in its column `changedata`."""
    if (as_text(_first(row, ("action", "event"))) or "").casefold() in _AUDIT_DELETE:
        yield Unplaced.DELETED
        return
    lead = as_text(_first(row, ("_objectid_value", "objectid", "record")))
    at = moment_of(_first(row, ("createdon", "changed date")), times)
    changes = _changed_attributes(row.get("changedata"))
    if changes is None:
        yield Unplaced.NOT_A_ROW
        return
    for each in changes[:MAX_CHANGES_OF_ROW]:
        name = each.get("logicalName") if isinstance(each, dict) else None
        if not isinstance(name, str) or not name:
            yield Unplaced.NOT_A_ROW
            continue
        yield change_of(
            lead,
            name,
            at,
            _key_of(each.get("oldValue")),
            _key_of(each.get("newValue")),
        )


def _changed_attributes(data: Any) -> list[Any] | None:
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError):
            return None
    changes = data.get("changedAttributes") if isinstance(data, dict) else None
    return changes if isinstance(changes, list) else None


def _key_of(value: Any) -> Any:
    """Return the id of a reference, which the audit writes as `table,id`."""
    if isinstance(value, str) and value.count(",") == 1:
        table, _, key = value.partition(",")
        if table.isidentifier() and len(key) == len("00000000-0000-0000-0000-000000000000"):
            return key
    return value


def _first(row: Row, names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if name in row), None)
