"""From a row of the outbox to the record that it stands for. What is no value of its field is a missing value."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from leadstream.errors import Poison
from producer.bad import MAX_CHANGE_BYTES
from producer.outbox import Row

# The clock of the CRM's application may be ahead of its database's: a lead cannot have changed before it was created.
CLOCKS_DIFFER_MS = 300_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXTS = ("lifecycle_state", "status", "source", "programme_name", "campus_name")


def outcome_of(row: Row) -> dict[str, Any]:
    """The LeadOutcome of a submitted application."""
    decided_at = _moment(row.facts.get("decided_at"))
    return {
        "lead_id": row.lead_id,
        "converted": True,
        "decided_at": _milliseconds(row.occurred_at) if decided_at is None else decided_at,
    }


def change_of(row: Row, *, state: bool = True) -> dict[str, Any]:
    """The LeadChanged of a row; without its state where that is not wanted, or has no time of creation."""
    facts, version = row.facts, row.facts.get("lead_version")
    occurred_at, created_at = _milliseconds(row.occurred_at), _moment(facts.get("created_at"))
    if created_at is not None and 0 < created_at - occurred_at <= CLOCKS_DIFFER_MS:
        occurred_at = created_at
    return {
        "event_id": row.event_id,
        "lead_id": row.lead_id,
        "change_type": row.change_type,
        "occurred_at": occurred_at,
        "lead_version": version if _whole(version, 2**63) else 0,
        "origin": row.origin,
        "lead": _state(facts, created_at)
        if state and created_at is not None and row.change_type != "DELETED"
        else None,
    }


def encode_change(encode: Callable[[Mapping[str, Any]], bytes], record: Mapping[str, Any]) -> bytes:
    """The bytes of a change; without its state where it cannot be written or is longer than a change may be.

    So every row can be sent, and what is wrong with a lead is told where it is scored.
    """
    try:
        value = encode(record)
    except Poison:
        value = b""
    return value if 0 < len(value) <= MAX_CHANGE_BYTES else encode({**record, "lead": None})


def _state(facts: Mapping[str, Any], created_at: int) -> dict[str, Any]:
    touchpoints = facts.get("touchpoint_count")
    return {
        "created_at": created_at,
        "lead_score": _number(facts.get("lead_score")),
        "engagement_score": _number(facts.get("engagement_score")),
        "touchpoint_count": touchpoints if _whole(touchpoints, 2**31) else None,
        **{name: _text(facts.get(name)) for name in _TEXTS},
        "numbers": {},
        "categories": {},
    }


def _number(value: Any) -> float | None:
    """A finite number, as JSON has no other; texts (NaN is one) and integers beyond a double are missing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e308:
        return None
    return float(value)


def _whole(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _moment(value: Any) -> int | None:
    """Milliseconds of a timestamp as Postgres writes it in JSON, UTC where it names no zone; None for infinity."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return _milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
