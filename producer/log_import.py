"""The import of a log: leads of today and changes in, states of the past and outcomes out."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from producer.field_log import Entry, FieldChange, Unplaced
from producer.labels import DAY_MS
from producer.log_staging import LogStaging
from producer.mapping import MappedOutcome
from producer.past_states import (
    PlacementCounts,
    StateField,
    TodaysLead,
    TrackedSince,
    past_states,
)


@dataclass(frozen=True, slots=True)
class OutcomeColumn:
    """The column of a log that holds the outcome, and how it is read."""

    column: str
    outcome: MappedOutcome

    def read(self, text: str | None) -> bool | None:
        """Return the outcome in a text; None if there is none, or it cannot be read."""
        try:
            return self.outcome.read({self.outcome.column: text or ""})
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class LogImport:
    """The rules of an import of a log.

    `conversions` are fields of which each change is a conversion. `tracked` are columns that the
    log would have, though they never changed. With `tracked_since` (ms UTC) the log holds every
    change from then on; by default from the first change of the column on. `key` makes of an id
    what the log and the leads have in common.
    """

    fields: Sequence[StateField]
    now_ms: int
    outcome: OutcomeColumn | None = None
    conversions: frozenset[str] = frozenset()
    tracked: Collection[str] = ()
    tracked_since: int | None = None
    has_old: bool = True
    key: Callable[[str], str] = str

    def watched(self) -> set[str]:
        """Return the columns whose changes count."""
        columns = {each.column for each in self.fields if each.column is not None}
        return columns | self.conversions | ({self.outcome.column} if self.outcome else set())


@dataclass(slots=True)
class LogReport:
    """An account of a log: counts, and since when each column was tracked.

    `columns` has the column of each field of a state.
    """

    counts: PlacementCounts = field(default_factory=PlacementCounts)
    since: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    changes: int = 0


@dataclass(frozen=True, slots=True)
class LeadPast:
    """The past of a lead: LeadChanged records with state, in order, and its LeadOutcome."""

    changes: list[dict[str, Any]]
    outcome: dict[str, Any] | None


def import_log(
    leads: Iterable[TodaysLead | Unplaced],
    log: Iterable[Entry],
    how: LogImport,
    report: LogReport,
) -> Iterator[LeadPast]:
    """Yield the past of each lead. Reads both inputs to their ends first."""
    report.columns = {each.name: each.column for each in how.fields if each.column is not None}
    with LogStaging() as staging:
        for lead in leads:
            if isinstance(lead, Unplaced):
                report.counts.unplaced[lead] += 1
            else:
                staging.add_lead(how.key(lead.lead_id), lead)
        _stage(log, how, report, staging)
        tracked = TrackedSince(_tracked(how, report.since), how.has_old)
        for same, changes in staging.by_lead():
            if not same:
                report.counts.unplaced[Unplaced.UNKNOWN_LEAD] += len(changes)
                continue
            report.counts.unplaced[Unplaced.REPEATED_LEAD] += len(same) - 1
            yield _past(same[0], changes, how, tracked, report.counts)


def _stage(log: Iterable[Entry], how: LogImport, report: LogReport, staging: LogStaging) -> None:
    watched, latest, unplaced = how.watched(), how.now_ms + DAY_MS, report.counts.unplaced
    for entry in log:
        report.changes += 1
        if isinstance(entry, Unplaced):
            unplaced[entry] += 1
        elif entry.field not in watched:
            unplaced[Unplaced.UNREAD_FIELD] += 1
        elif entry.at > latest:
            unplaced[Unplaced.FUTURE] += 1
        else:
            first = report.since.setdefault(entry.field, entry.at)
            report.since[entry.field] = min(first, entry.at)
            staging.add_change(how.key(entry.lead), entry)


def _tracked(how: LogImport, since: dict[str, int]) -> Mapping[str, int]:
    """Return from when on each column is known; the caller's word counts if it is earlier."""
    asserted = how.tracked_since
    if asserted is not None:
        for column in {*since, *how.tracked}:
            since[column] = min(asserted, since.get(column, asserted))
    return since


def _past(
    lead: TodaysLead,
    changes: list[FieldChange],
    how: LogImport,
    tracked: TrackedSince,
    counts: PlacementCounts,
) -> LeadPast:
    columns = {each.column for each in how.fields}
    of_state = [change for change in changes if change.field in columns]
    states = past_states(lead, of_state, how.fields, tracked, counts)
    records = [past_change(lead.lead_id, at, state) for at, state in states]
    return LeadPast(records, _outcome(lead, changes, how, counts))


def past_change(lead_id: str, at: int, state: dict[str, Any]) -> dict[str, Any]:
    """Return the LeadChanged of a moment; its event_id is the same at each import."""
    identity = hashlib.sha256(f"history\0{lead_id}\0{at}".encode()).hexdigest()[:32]
    return {
        "event_id": identity,
        "lead_id": lead_id,
        "change_type": "CREATED" if at == state["created_at"] else "UPDATED",
        "occurred_at": at,
        "lead_version": 0,
        "origin": "crm",
        "lead": state,
    }


def _outcome(
    lead: TodaysLead, changes: list[FieldChange], how: LogImport, counts: PlacementCounts
) -> dict[str, Any] | None:
    """Return the outcome of a lead; its time is that of the first conversion in the log.

    Without one, the time is the one that today's lead has.
    """
    converted = [change.at for change in changes if _is_conversion(change, how)]
    decided_at = min(converted) if converted else lead.decided_at
    if lead.converted is None and not converted:
        return None
    if decided_at is None:
        counts.unplaced[Unplaced.UNDATED_OUTCOME] += 1
        return None
    won = lead.converted if lead.converted is not None else True
    return {"lead_id": lead.lead_id, "converted": won or bool(converted), "decided_at": decided_at}


def _is_conversion(change: FieldChange, how: LogImport) -> bool:
    if change.field in how.conversions:
        return True
    rule = how.outcome
    if rule is None or change.field != rule.column:
        return False
    return rule.read(change.new) is True and rule.read(change.old) is not True
