"""Rows of other systems by the description of a CRM: ids, versions, states, and what changed.

A value is first made what Postgres's `to_jsonb` would have written, so that a lead is the same by
every road. A value that cannot be one of its field raises Poison, which names the field: taken for
a missing one, it would change the score without a word.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from leadstream.lead_fields import CRM_FIELDS, INT_LIMIT, LONG_LIMIT, FieldKind
from schemas.crm_description import (
    CrmDescription,
    DescribedField,
    TimeFormat,
    read_integer,
    read_number,
    read_version,
)
from schemas.crm_rows import is_integer, parse_time
from schemas.description_file import merge_lead, named_columns, parse_description
from schemas.foreign_values import Unreadable, invalid, to_decimal, utf8

# Of the table `people`, the default. A programme or a campus is the id of a row elsewhere: its
# change is one of the lead, too.
_PEOPLE: dict[str, Any] = {
    "lead": {"lead_id": "id", "lead_version": "lead_version"}
    | {field.name: field.name for field in CRM_FIELDS}
}
_NAME_COLUMNS = tuple(field.column for field in CRM_FIELDS if field.name_table and field.column)
# Debezium writes this for a long value that an update did not change: as text, as base64, or as
# the only item of a list.
_NOT_SENT = (
    "__debezium_unavailable_value",
    "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
    b"__debezium_unavailable_value",
)
# What Postgres and Debezium write for a number that is none: it is missing.
_NO_NUMBERS = {"", "nan", "infinity", "-infinity", "+infinity"}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_MAX_NUMBER_CHARACTERS = 400
_DIGITS = re.compile(r"[0-9]{9,19}", re.ASCII)
_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)


def parse_columns(
    columns: str, document: Mapping[str, Any] | None = None, path: str = "--columns"
) -> CrmDescription:
    """Return the description of events: `lead_id=uid, numbers.gpa=average` over a document.

    Without a document, columns have the names of their fields, and the id is `id`. Raises
    SettingsError for an unknown field, and for whatever is wrong with the document.
    """
    table = dict(_PEOPLE if document is None else document)
    given = named_columns(columns)
    lead, database = table.get("lead", {}), table.get("database")
    if given and isinstance(lead, dict):
        table["lead"] = merge_lead(lead, given)
    if "lead_id" in given and isinstance(database, dict):
        table["database"] = {**database, "id": given["lead_id"]}
    return parse_description(path, table)


def basic_row(row: Any, *, local_times: bool = False) -> dict[str, Any] | None:
    """Return a row with values as JSON has them, None for no row.

    With `local_times`, moments without a zone were written as if they were in UTC: they become
    texts without a zone, and the description says in which one they are.
    """
    if row is None:
        return None
    if not isinstance(row, dict):
        raise invalid("the row is no object of columns")
    return {column: _basic(value, local_times) for column, value in row.items()}


def _basic(value: Any, local_times: bool) -> Any:
    if isinstance(value, dict) and value.keys() == {"scale", "value"}:
        value = to_decimal(value["value"], value["scale"])
    if isinstance(value, Decimal):
        integral = value == value.to_integral_value() and value.as_tuple().exponent in range(400)
        return int(value) if integral else float(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat() if local_times else value.isoformat()
    if isinstance(value, bytes) and not was_not_sent(value):
        return utf8(value)
    return value


def was_not_sent(value: Any) -> bool:
    """Return whether Debezium left a value out because it did not change."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return isinstance(value, str | bytes) and value in _NOT_SENT


def completed(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with what was not sent, because it did not change, from the row before."""
    return {
        name: before.get(name, value) if was_not_sent(value) else value
        for name, value in after.items()
    }


def is_unchanged(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, description: CrmDescription
) -> bool:
    """Return whether nothing changed that a score depends on.

    Only REPLICA IDENTITY FULL makes `before` complete; without it, no comparison is possible.
    """
    created = next((f.column for f in description.fields if f.name == "created_at"), None)
    if not before or after is None or before.get(created or "") is None:
        return False
    full = completed(after, before)
    return all(before.get(column) == full.get(column) for column in watched_columns(description))


def is_gone(row: Mapping[str, Any], description: CrmDescription) -> bool:
    """Return whether a row is no lead any more; a condition on a column it lacks says nothing."""
    deleted = description.database.deleted if description.database else None
    return bool(deleted and deleted.holds(row)) or any(
        each.column in row and not each.holds(row) for each in description.only
    )


def watched_columns(description: CrmDescription) -> Iterator[str]:
    """Yield the columns whose change is one of the lead."""
    yield from description.state_columns()
    yield from description.presence_columns()
    if description.database is None:
        yield from _NAME_COLUMNS


def row_state(
    row: Mapping[str, Any], description: CrmDescription, *, local_times: bool = False
) -> dict[str, Any] | None:
    """Return the LeadState in a basic row.

    It is None where the row has no time of creation, or not all of the state: what was not sent is
    not missing, nor is the name behind a key. The consumer then reads the state from Postgres.
    """
    columns = description.state_columns()
    if any(was_not_sent(row.get(column)) for column in columns):
        return None
    readable = dict(row)
    for field in description.fields:
        if field.column is not None and field.column in row:
            readable[field.column] = _checked(field, row[field.column], local_times)
    if any(row.get(column) is not None for column, _ in description.lookups().values()):
        return None
    state = description.lead_state(readable)
    return state if state["created_at"] is not None else None


def row_version(row: Mapping[str, Any], description: CrmDescription) -> int:
    """Return the version in a basic row: a whole number, or a time in milliseconds."""
    value = None if description.version is None else row.get(description.version)
    if _readable("lead_version", value) is None or value == "" or was_not_sent(value):
        return 0
    number, real = read_integer(value), read_number(value)
    if number is None and real is not None and real.is_integer():
        number = int(real)
    if number is not None and not is_integer(number, LONG_LIMIT):
        raise invalid("the field lead_version is a number that is too large for its field")
    if number is not None:
        return number
    if isinstance(value, str) and (found := read_version(value, description)):
        return found
    raise invalid("the field lead_version is no integer, and no time")


def event_time(name: str, value: Any) -> int | None:
    """Return the milliseconds UTC of an event's own time; None only where there is no value."""
    if _readable(name, value) is None or value == "":
        return None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    found = parse_time(value)
    if found is None:
        raise _no_time(name)
    return found


def _readable(name: str, value: Any) -> Any:
    if isinstance(value, Unreadable):
        raise invalid(f"the field {name} is {value.why}")
    return value


def _checked(field: DescribedField, value: Any, local_times: bool) -> Any:
    """Return a value that its field can have, or that is missing."""
    value = _readable(field.name, value)
    if field.lookup is not None or _is_absent(field, value):
        return value
    match field.kind:
        case FieldKind.TIME:
            value = _moment(field, value, local_times)
            if field.read({field.column or "": value}, {}) is None:
                raise _no_time(field.name, field.times)
        case FieldKind.DOUBLE | FieldKind.INT:
            _check_number(field, value)
        case _:
            pass
    return value


def _is_absent(field: DescribedField, value: Any) -> bool:
    if isinstance(value, float):
        return value - value != 0 and field.kind is not FieldKind.TIME
    return value is None or (
        isinstance(value, str)
        and (value.strip() in field.missing or value.strip().lower() in _NO_NUMBERS)
    )


def _moment(field: DescribedField, value: Any, local_times: bool) -> Any:
    """Return a time as its format reads it; only the format iso takes a number of any unit."""
    times: TimeFormat = field.times
    if times.forms != ("iso",) or times.base is not None:
        return value
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if local_times and not isinstance(value, str) and (found := parse_time(value)) is not None:
        return (_EPOCH + _MILLISECOND * found).replace(tzinfo=None).isoformat()
    return value


def _check_number(field: DescribedField, value: Any) -> None:
    if isinstance(value, str) and field.values.get(value.strip()) is not None:
        return
    number = read_number(value)
    if number is None:
        if isinstance(value, str):
            if len(value) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(value.strip()):
                return  # too large for a double, and so missing
            raise invalid(
                f"the field {field.name} is a text that is no number: set Debezium's "
                "decimal.handling.mode to double or string, or send the schema of the row"
            )
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(f"the field {field.name} is no number")
        if field.kind is FieldKind.DOUBLE:
            return
        raise invalid(f"the field {field.name} is a number that is too large for its field")
    if field.kind is FieldKind.INT and number >= INT_LIMIT:
        raise invalid(f"the field {field.name} is a number that is too large for its field")
    if field.kind is FieldKind.INT and not number.is_integer():
        raise invalid(f"the field {field.name} is no integer")


def _no_time(name: str, times: TimeFormat = TimeFormat()) -> Any:  # noqa: B008  # frozen
    if times.forms != ("iso",) or times.base is not None:
        forms = ", ".join(times.forms)
        return invalid(f"the field {name} is no time of the described format: {forms}")
    return invalid(
        f"the field {name} is no plausible time: send ISO 8601, or the schema that tells the "
        "unit, or a number of seconds, milliseconds, microseconds or nanoseconds since 1970"
    )
