"""The records that rows of the outbox become."""

from collections.abc import Callable, Mapping
from typing import Any

from leadstream.errors import Poison, UserError
from leadstream.lead_fields import LONG_LIMIT, MAX_CHANGE_BYTES
from producer.outbox import OutboxRow
from schemas.crm_description import DESCRIBED, NAMES, CrmDescription
from schemas.crm_rows import (
    corrected_change_time,
    corrected_state,
    is_integer,
    lead_state,
    parse_time,
    to_milliseconds,
)


def lead_outcome_record(
    row: OutboxRow, description: CrmDescription | None = None
) -> dict[str, Any]:
    """Build the LeadOutcome of a submitted application."""
    decided_at: Any = parse_time(row.crm.get("decided_at"))
    if described := _description_of(row, description):
        field = described.outcome.decided_at if described.outcome else None
        decided_at = field and field.read(row.crm, {})
    return {
        "lead_id": row.lead_id,
        "converted": True,
        "decided_at": to_milliseconds(row.occurred_at) if decided_at is None else decided_at,
    }


def lead_change_record(
    row: OutboxRow, description: CrmDescription | None = None, *, state: bool = True
) -> dict[str, Any]:
    """Build the LeadChanged of a row.

    It has no state if `state` is false, if the row holds none, or if the row was written before
    the CRM was described. Raises UserError for a row that only a description can read.
    """
    described = _description_of(row, description)
    lead, version = None, row.crm.get("lead_version")
    if described is not None:
        version = described.lead_version(row.crm)
        if row.change_type != "DELETED":
            lead = described.lead_state(row.crm, row.crm.get(NAMES))
            lead = lead if lead["created_at"] is not None else None
    elif description is None:
        lead = lead_state(row.crm)
    occurred_at = corrected_change_time(
        to_milliseconds(row.occurred_at), lead["created_at"] if lead else None
    )
    return {
        "event_id": row.event_id,
        "lead_id": row.lead_id,
        "change_type": row.change_type,
        "occurred_at": occurred_at,
        "lead_version": version if is_integer(version, LONG_LIMIT) else 0,
        "origin": row.origin,
        "lead": corrected_state(lead, occurred_at) if lead and state else None,
    }


def _description_of(row: OutboxRow, description: CrmDescription | None) -> CrmDescription | None:
    """Return the description of a row that the triggers of a description wrote."""
    if not row.crm.get(DESCRIBED):
        return None
    if description is None:
        raise UserError(
            "the outbox has rows of a CRM that a file describes: set LEADSTREAM_FIELDS to the file"
        )
    return description


def encode_change(
    encode: Callable[[Mapping[str, Any]], bytes],
    record: Mapping[str, Any],
    limit: int = MAX_CHANGE_BYTES,
) -> bytes:
    """Encode a change, without its state if that cannot be encoded or exceeds `limit` bytes.

    So every row can be sent, and the consumer reports what is wrong with a lead.
    """
    try:
        value = encode(record)
    except Poison:
        value = b""
    fits = 0 < len(value) <= min(limit, MAX_CHANGE_BYTES)
    return value if fits else encode({**record, "lead": None})
