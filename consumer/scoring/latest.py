"""The latest change of each lead in a batch, and the order of its older ones."""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.events import EventKind, EventTable
from consumer.scoring.versions import Versions
from leadstream.dictionary import dictionary_encode

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class LatestPerLead:
    """The changes of m leads, and the erasures.

    `order` has the rows of the changes, lead by lead, by lead_version and then by offset. Lead i
    has `order[starts[i]:ends[i]]`: the last one is its latest change, those before are previous
    ones. `erasures` (k,) are rows, `ended` (k,) the highest version that each ends, 0 if unknown.
    `superseded` are rows that a newer erasure or a newer change of their lead made irrelevant.
    `versions` has the version of every row of the table; one that has none takes that of its lead.
    """

    order: Ints
    starts: Ints
    ends: Ints
    erasures: Ints
    ended: NDArray[np.int64]
    superseded: Ints
    versions: NDArray[np.int64]

    def by_version(self, table: EventTable, versions: NDArray[np.int64]) -> "LatestPerLead":
        """Return the same in the order of other versions, those of the states.

        A state that is older than an erasure before its change is superseded by it.
        """
        if versions is self.versions:
            return self
        leads = np.repeat(np.arange(len(self.starts)), self.ends - self.starts)
        kept = ~self._is_erased(table, versions)
        order, leads = self.order[kept], leads[kept]
        # Of equal versions, the later message is the newer one.
        order = order[np.lexsort((order, np.maximum(versions[order], 0), leads))]
        sizes = np.bincount(leads)
        ends = np.cumsum(sizes[sizes > 0])
        return replace(
            self,
            order=order,
            starts=ends - sizes[sizes > 0],
            ends=ends,
            superseded=np.concatenate([self.superseded, self.order[~kept]]),
        )

    def _is_erased(self, table: EventTable, versions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the changes have a state from before an erasure of their lead."""
        erased = np.zeros(len(self.order), np.bool_)
        ended = {
            table.keys[row]: (row, version)
            for row, version in zip(self.erasures.tolist(), self.ended.tolist(), strict=True)
        }
        without_state = ~table.changes.has_state[self.order]
        for place in np.flatnonzero(without_state).tolist() if ended else ():
            row = int(self.order[place])
            erasure, end = ended.get(table.keys[row], (row, 0))
            erased[place] = row > erasure and 0 < versions[row] < end
        return erased


def latest_per_lead(table: EventTable, memory: Versions | None, *, coalesce: bool) -> LatestPerLead:
    """Return the latest change per lead, or without `coalesce` each change as one of its own.

    A version of 0 is unknown: such a change is as new as the newest one before it, in the batch or
    in the `memory` of what was published. A null value and a DELETED, whatever its version,
    supersede all changes before them, and older versions that come later.
    """
    changes, erasures = table.rows(EventKind.CHANGE), table.rows(EventKind.ERASURE)
    versions = inherit(table, table.changes.lead_version, memory)
    ended, superseded = table.changes.lead_version[erasures], np.empty(0, np.intp)
    if coalesce and len(erasures):
        changes, erasures, ended, superseded = _apply_erasures(table, changes, erasures)
    n = len(changes)
    # Without `coalesce` each change is as good as a lead of its own.
    leads = dictionary_encode([table.keys[row] for row in changes.tolist()]) if coalesce else None
    if leads is None or len(leads.values) == n:
        starts, ends = np.arange(n), np.arange(1, n + 1)
        return LatestPerLead(changes, starts, ends, erasures, ended, superseded, versions)
    # The sort is stable: among equal versions the later offset comes last.
    order = changes[np.lexsort((np.maximum(versions[changes], 0), leads.codes))]
    sizes = leads.counts()
    ends = np.cumsum(sizes)
    return LatestPerLead(order, ends - sizes, ends, erasures, ended, superseded, versions)


def inherit(
    table: EventTable, versions: NDArray[np.int64], memory: Versions | None
) -> NDArray[np.int64]:
    """Return the versions (n,) of all rows; one without takes the highest before it of its lead.

    What comes before is in the batch, or in the `memory` of what was published.
    """
    changes, erasures = table.rows(EventKind.CHANGE), table.rows(EventKind.ERASURE)
    rows = np.sort(np.concatenate([changes, erasures])) if len(erasures) else changes
    known = np.maximum(versions[rows], 0)
    unknown = known == 0
    if not unknown.any():
        return versions
    if memory is not None and memory.count:
        known[unknown] = memory.newest([table.keys[row] for row in rows[unknown].tolist()])
    if not known.any():
        return versions
    leads = dictionary_encode([table.keys[row] for row in rows.tolist()]).codes
    by_lead = np.argsort(leads, kind="stable")
    values, ranks = np.unique(known, return_inverse=True)
    # Leads rise, so the running maximum never reaches back into the lead before.
    base = leads[by_lead] * len(values)
    highest = values[np.maximum.accumulate(base + ranks[by_lead]) - base]
    taken = unknown[by_lead] & (highest > 0)
    inherited = versions.copy()
    inherited[rows[by_lead][taken]] = highest[taken]
    return inherited


def _apply_erasures(
    table: EventTable, changes: Ints, erasures: Ints
) -> tuple[Ints, Ints, NDArray[np.int64], Ints]:
    """Return the remaining changes, the remaining erasures with what they end, and the rest."""
    erased_leads = {table.keys[row] for row in erasures.tolist()}
    histories: dict[bytes, list[int]] = defaultdict(list)
    for row in np.sort(np.concatenate([changes, erasures])).tolist():
        if table.keys[row] in erased_leads:
            histories[table.keys[row]].append(row)
    superseded: list[int] = []
    ended: dict[int, int] = {}
    for history in histories.values():
        _apply_to_lead(table, history, superseded, ended)
    dropped = np.array(superseded, np.intp)
    rows = sorted(ended)
    return (
        np.setdiff1d(changes, dropped, assume_unique=True),
        np.array(rows, np.intp),
        np.array([ended[row] for row in rows], np.int64),
        dropped,
    )


def _apply_to_lead(
    table: EventTable, history: list[int], superseded: list[int], ended: dict[int, int]
) -> None:
    kept: list[int] = []
    erased_version = newest = 0
    for row in history:
        version = int(table.changes.lead_version[row])
        if table.kind[row] == EventKind.CHANGE:
            # That of a change without state depends on its row, which is not read yet.
            if 0 < version < erased_version and table.changes.has_state[row]:
                superseded.append(row)
            else:
                kept.append(row)
                newest = max(newest, version)
        else:
            superseded += kept
            kept = []
            ended[row] = erased_version = newest = max(newest, version)
