"""The states of the changes of a batch: those that they carry, and those that Postgres has."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.change_columns import inputs_from_states, replace_rows
from consumer.scoring.events import EventTable
from consumer.scoring.latest import LatestPerLead, inherit
from consumer.scoring.leads import Lead, LeadLookup
from consumer.scoring.validity import check_state_time
from consumer.scoring.versions import Versions
from features import Columns
from features.spec import FeatureSpec
from leadstream.errors import Poison, Reason
from schemas.crm_rows import corrected_state

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class LeadsRead:
    """The leads that Postgres returned, by id, and what that took: queries, ids, and seconds."""

    leads: Mapping[str, Lead | Poison]
    queries: int = 0
    asked: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class LeadStates:
    """The model inputs of all messages of a batch, and the version (n,) that each state is at.

    `failed` says by row why a change has no state that can be scored. `stale` counts the rows in
    Postgres that were older than their change: those of a replica that lags.
    """

    columns: Columns
    versions: NDArray[np.int64]
    failed: dict[int, Poison]
    stale: int = 0


def read_leads(lookup: LeadLookup | None, lead_ids: Iterable[str]) -> LeadsRead:
    """Read leads in one query, each id once. Raises Transient if Postgres does not answer."""
    ids = dict.fromkeys(lead_ids)
    if not ids or lookup is None:
        return LeadsRead({})
    began = time.perf_counter()
    leads = lookup.fetch(ids)
    return LeadsRead(leads, 1, len(ids), time.perf_counter() - began)


def leads_without_state(table: EventTable, latest: LatestPerLead) -> list[str]:
    """Return the ids of the changes that carry no state, in the order of the batch."""
    return [table.keys[row].decode() for row in np.sort(_without_state(table, latest)).tolist()]


def join_states(
    table: EventTable,
    latest: LatestPerLead,
    leads: Mapping[str, Lead | Poison],
    inputs: Sequence[FeatureSpec],
    memory: Versions | None,
    *,
    database: bool,
) -> LeadStates:
    """Return the states of all changes; `database` says whether `leads` could be looked up.

    A state from Postgres has the version of its row, which may be higher or lower than that of the
    change, or the change's own where rows have none. A change without a version is as new as the
    newest state before it, in the batch or in the `memory` of what was published.
    """
    rows = _without_state(table, latest)
    changes = table.changes
    if not len(rows):
        return LeadStates(changes.states, latest.versions, {})
    found: list[int] = []
    states: list[Lead] = []
    failed: dict[int, Poison] = {}
    for row, occurred_at in zip(rows.tolist(), changes.occurred_at[rows].tolist(), strict=True):
        try:
            lead = leads.get(table.keys[row].decode())
            if isinstance(lead, Poison):
                raise lead
            if lead is None:
                raise lead_not_found("the change carries no state and ", database=database)
            lead = lead_as_of(lead, occurred_at)
        except Poison as poison:
            failed[row] = poison
        else:
            found.append(row)
            states.append(lead)
    if not found:
        versions = _inherited(table, latest, changes.lead_version, failed, memory)
        return LeadStates(changes.states, versions, failed)
    at = np.array(found, np.intp)
    columns = inputs_from_states([lead.state for lead in states], inputs)
    versions = changes.lead_version.copy()
    rows_versions = np.array([lead.version for lead in states], np.int64)
    known = rows_versions > 0
    versions[at] = np.where(known, rows_versions, versions[at])
    return LeadStates(
        {name: replace_rows(own, at, columns[name]) for name, own in changes.states.items()},
        _inherited(table, latest, versions, failed, memory),
        failed,
        int((known & (rows_versions < changes.lead_version[at])).sum()),
    )


def _inherited(
    table: EventTable,
    latest: LatestPerLead,
    versions: NDArray[np.int64],
    failed: Collection[int],
    memory: Versions | None,
) -> NDArray[np.int64]:
    """Return the versions (n,) of all rows; nothing inherits from those that are not published."""
    failures = np.fromiter(failed, np.intp, len(failed))
    own = versions.copy()
    own[failures] = 0
    found = inherit(table, own, memory).copy()
    found[failures] = latest.versions[failures]
    return found


def lead_as_of(lead: Lead, occurred_at: int) -> Lead:
    """Return a lead of Postgres as of a change (ms UTC), with a creation that fits it.

    Raises Poison INVALID_EVENT if the lead was created too long after it.
    """
    state = corrected_state(lead.state, occurred_at)
    check_state_time(state["created_at"], occurred_at)
    return lead if state is lead.state else Lead(state, lead.version)


def lead_not_found(context: str = "", *, database: bool) -> Poison:
    """Return the poison of a lead that has no state, after the words of `context`."""
    why = "Postgres has no such lead" if database else "DATABASE_URL is not set"
    return Poison(Reason.LEAD_NOT_FOUND, "state", f"{context}{why}")


def _without_state(table: EventTable, latest: LatestPerLead) -> Ints:
    return latest.order[~table.changes.has_state[latest.order]]
