"""A row of a CRM's table of people as a LeadState. What is no value of its field is a missing value."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

TEXTS = ("lifecycle_state", "status", "source", "programme_name", "campus_name")
STATE_COLUMNS = ("created_at", "lead_score", "engagement_score", "touchpoint_count", *TEXTS)
# The clock of the CRM's application may be ahead of its database's: a lead cannot have changed before it was created.
CLOCKS_DIFFER_MS = 300_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A time as a number is in milliseconds, microseconds or nanoseconds; between 1973 and 5138 its size tells which.
_MICROSECONDS_FROM, _NANOSECONDS_FROM = 10**14, 10**17


def lead_state(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The LeadState of columns named as its fields; None without a time of creation, for then it is no state."""
    created_at = parse_time(row.get("created_at"))
    if created_at is None:
        return None
    touchpoints = row.get("touchpoint_count")
    return {
        "created_at": created_at,
        "lead_score": number(row.get("lead_score")),
        "engagement_score": number(row.get("engagement_score")),
        "touchpoint_count": touchpoints if is_integer(touchpoints, 2**31) else None,
        **{name: text(row.get(name)) for name in TEXTS},
        "numbers": {},
        "categories": {},
    }


def corrected_change_time(occurred_at: int, created_at: int | None) -> int:
    """When a change happened (ms UTC), given when its lead was created by another clock."""
    ahead = 0 if created_at is None else created_at - occurred_at
    return occurred_at + ahead if 0 < ahead <= CLOCKS_DIFFER_MS else occurred_at


def number(value: Any) -> float | None:
    """A finite number; texts (as which JSON has NaN) and what is beyond a double are missing."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return float(value) if -1e308 <= value <= 1e308 else None


def is_integer(value: Any, limit: int) -> bool:
    """Whether this is an integer within limits."""
    return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit


def text(value: Any) -> str | None:
    """A text; numbers and truth values as JSON writes them."""
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)


def parse_time(value: Any) -> int | None:
    """Milliseconds UTC of an ISO 8601 text (UTC where it names no zone) or of a number; None where it is neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= _NANOSECONDS_FROM:
            return value // 1_000_000
        return value // 1000 if abs(value) >= _MICROSECONDS_FROM else value
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return to_milliseconds(at if at.tzinfo else at.replace(tzinfo=UTC))


def to_milliseconds(at: datetime) -> int:
    """Milliseconds since 1970 UTC, rounded down."""
    return (at - _EPOCH) // timedelta(milliseconds=1)
