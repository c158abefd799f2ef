"""Changes that carry the state of their lead, as rows of the history.

They come from a source that can be read twice. The first time finds the leads that were deleted:
what they were before that is not imported.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from leadstream.lead_fields import END_TIME_MS, MAX_ID_CHARACTERS, MIN_TIME_MS
from producer.field_log import Unplaced
from producer.labels import DAY_MS
from producer.log_import import LeadPast

# A LeadChanged, a LeadOutcome, or why there is none.
Found = dict[str, Any] | Unplaced


def states_of_changes(
    read: Callable[[], Iterable[Found]], now_ms: int, unplaced: Counter[Unplaced]
) -> Iterator[LeadPast]:
    """Yield the changes with state, and the outcomes, of leads that were not deleted later."""
    deleted = _deletions(read())
    for found in read():
        if isinstance(found, Unplaced):
            unplaced[found] += 1
        elif "decided_at" in found:
            if deleted.get(found["lead_id"], -1) < found["decided_at"]:
                yield LeadPast([], found)
        elif (reason := _refused(found, deleted, now_ms + DAY_MS)) is not None:
            unplaced[reason] += 1
        else:
            yield LeadPast([found], None)


def _deletions(changes: Iterable[Found]) -> dict[str, int]:
    """Return the time of the last deletion of each lead that was deleted."""
    deleted: dict[str, int] = {}
    for found in changes:
        if isinstance(found, dict) and found.get("change_type") == "DELETED":
            lead, at = found["lead_id"], found["occurred_at"]
            deleted[lead] = max(at, deleted.get(lead, at))
    return deleted


def _refused(change: dict[str, Any], deleted: dict[str, int], latest: int) -> Unplaced | None:
    """Return why a change is no row of the history."""
    lead, at, state = change["lead_id"], change["occurred_at"], change["lead"]
    if not 0 < len(lead) <= MAX_ID_CHARACTERS:
        return Unplaced.WITHOUT_LEAD
    if not MIN_TIME_MS <= at < END_TIME_MS:
        return Unplaced.WITHOUT_TIME
    if at > latest:
        return Unplaced.FUTURE
    if change["change_type"] == "DELETED" or deleted.get(lead, -1) >= at:
        return Unplaced.DELETED
    if state is None:
        return Unplaced.WITHOUT_STATE
    return Unplaced.BEFORE_CREATION if state["created_at"] > at else None
