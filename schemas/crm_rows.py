"""Rows of a CRM's table `people` as LeadState. A value that does not fit its field is missing."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from leadstream.lead_fields import CRM_FIELDS, INT_LIMIT, LEAD_FIELDS, MAPS, FieldKind

# The clock of the CRM's application may be ahead of its database's. A lead cannot have changed
# before it was created.
MAX_CLOCK_DIFFERENCE_MS = 300_000
# A local time that is read as UTC is ahead by its zone's difference, which is at most this.
MAX_ZONE_DIFFERENCE_MS = 14 * 3_600_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A time as a number is in seconds, milliseconds, microseconds or nanoseconds. Its size tells which,
# for times from 1973 to 5138. Smaller numbers, such as days, are no times.
_MIN_SECONDS, _MIN_MILLISECONDS, _MIN_MICROSECONDS, _MIN_NANOSECONDS, _END_NANOSECONDS = (
    10**8,
    10**11,
    10**14,
    10**17,
    10**20,
)
MAX_TIME_CHARACTERS = 64


def lead_state(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Build a LeadState from columns that have the names of its fields.

    Return None without a time of creation, because a state must have one.
    """
    state = {field.name: _PARSERS[field.kind](row.get(field.name)) for field in CRM_FIELDS}
    if state["created_at"] is None:
        return None
    return state | {field.name: {} for field in LEAD_FIELDS if field.kind in MAPS}


def corrected_change_time(occurred_at: int, created_at: int | None) -> int:
    """Return when a change happened (ms UTC), given when another clock created its lead."""
    ahead = 0 if created_at is None else created_at - occurred_at
    return occurred_at + ahead if 0 < ahead <= MAX_CLOCK_DIFFERENCE_MS else occurred_at


def corrected_state(state: dict[str, Any], occurred_at: int) -> dict[str, Any]:
    """Return a state whose lead was not created after its change (ms UTC).

    A time of creation that is ahead by a zone's difference or less is a local time without its
    zone: the lead is as new as the change. A time further ahead stays, and is refused later.
    """
    ahead = (state["created_at"] or occurred_at) - occurred_at
    return state | {"created_at": occurred_at} if 0 < ahead <= MAX_ZONE_DIFFERENCE_MS else state


def parse_number(value: Any) -> float | None:
    """Return a finite number; texts (as which JSON has NaN) and larger numbers are missing."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return float(value) if -1e308 <= value <= 1e308 else None


def is_integer(value: Any, limit: int) -> bool:
    """Return whether this is an integer from -limit up to, not including, limit."""
    return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit


def parse_text(value: Any) -> str | None:
    """Return a text; numbers and truth values are written as JSON writes them."""
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)


def parse_time(value: Any) -> int | None:
    """Return milliseconds UTC of an ISO 8601 text, a number or a datetime; None for anything else.

    A text without a zone is in UTC.
    """
    if isinstance(value, datetime):
        return to_milliseconds(value if value.tzinfo else value.replace(tzinfo=UTC))
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _from_number(value)
    if not isinstance(value, str) or len(value) > MAX_TIME_CHARACTERS:
        return None
    # Debezium writes the zone of a date, too.
    text = value[:-1] if len(value) == len("2026-01-31Z") and value.endswith("Z") else value
    try:
        return parse_time(datetime.fromisoformat(text))
    except ValueError:
        return None


def _from_number(value: float | Decimal) -> int | None:
    """Return milliseconds of a time in the unit that its size tells; None if none fits."""
    size: Any = abs(value)
    if not _MIN_SECONDS <= size < _END_NANOSECONDS:
        return None
    if size < _MIN_MILLISECONDS:
        return int(value * 1000)
    for minimum, divisor in ((_MIN_NANOSECONDS, 1_000_000), (_MIN_MICROSECONDS, 1000)):
        if size >= minimum:
            return int(value // divisor)
    return int(value)


def to_milliseconds(at: datetime) -> int:
    """Return milliseconds since 1970 UTC, rounded down."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _integer(value: Any) -> int | None:
    return value if is_integer(value, INT_LIMIT) else None


_PARSERS: dict[FieldKind, Callable[[Any], Any]] = {
    FieldKind.TIME: parse_time,
    FieldKind.DOUBLE: parse_number,
    FieldKind.INT: _integer,
    FieldKind.STRING: parse_text,
}
