"""The rows of the outbox that still exist, as changes with state and outcomes."""

from collections.abc import Iterator

from leadstream.errors import Fenced, Poison, Transient, UserError
from producer.change_states import Found
from producer.field_log import Unplaced
from producer.outbox import Outbox, OutboxRow
from producer.outbox_records import lead_change_record, lead_outcome_record
from schemas.crm_description import CrmDescription

_PORTION = 2_000


def changes_of_outbox(database_url: str, description: CrmDescription | None) -> Iterator[Found]:
    """Yield the change or outcome in each row that is final now, with the event_id of the relay.

    Raises UserError without an outbox, Transient if Postgres does not answer.
    """
    outbox, position = Outbox(database_url, description), 0
    try:
        outbox.connect()
        while rows := outbox.rows(position, _PORTION):
            for row in rows:
                yield _found(row, description)
            position = rows[-1].position
    finally:
        outbox.close()


def _found(row: OutboxRow, description: CrmDescription | None) -> Found:
    if row.unreadable is not None:
        return Unplaced.NOT_A_ROW
    try:
        if row.record == "LeadOutcome":
            return lead_outcome_record(row, description)
        return lead_change_record(row, description)
    except (Transient, Fenced, UserError):
        raise
    except (Poison, ArithmeticError, LookupError, TypeError, ValueError):
        return Unplaced.NOT_A_ROW
