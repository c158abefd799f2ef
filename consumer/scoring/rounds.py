"""The scored changes of a batch: the latest of each lead, or an older one if that fails."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.events import EventTable
from consumer.scoring.latest import LatestPerLead
from consumer.scoring.rows import Rows, rows_from_table
from consumer.scoring.score import BatchContext, BatchScorer, Predicted
from consumer.scoring.states import LeadStates
from consumer.scoring.versions import Versions
from leadstream.errors import Poison

Ints = NDArray[np.intp]
# A counter does not skip so many versions, and no clock doubles: the published version was wrong.
FROZEN_GAP = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRounds:
    """The predictions of all rounds, and the messages without one.

    `failed` says by message why a change could not be scored. `coalesced` are messages that a
    scored or late change of their lead stands for. `frozen` are the late messages of leads whose
    published version is out of reach. `inherited` counts scored changes without a version, which
    have that of their lead. `context` is that after the last round.
    """

    predicted: list[Predicted]
    failed: dict[int, Poison]
    late: Ints
    frozen: Ints
    coalesced: Ints
    inherited: int
    context: BatchContext


def score_changes(
    table: EventTable,
    latest: LatestPerLead,
    states: LeadStates,
    versions: Versions | None,
    *,
    scorer: BatchScorer,
    context: BatchContext,
) -> ScoredRounds:
    """Score the latest change of each lead; where one fails, score the one before it."""
    predicted: list[Predicted] = []
    failed: dict[int, Poison] = {}
    late, frozen, coalesced = ([np.empty(0, np.intp)] for _ in range(3))
    # The places in latest.order of each lead's first change, and of the one to score.
    starts, places = latest.starts, latest.ends - 1
    while len(places):
        index = latest.order[places]
        unscored = _among(index, states.failed)
        good = _without(index, unscored)
        rows = rows_from_table(table, states, index[good], (places - starts)[good])
        rows = _with_known_versions(rows, versions)
        timely, late_index, frozen_index = _without_late(rows, versions)
        late.append(late_index)
        frozen.append(frozen_index)
        if len(timely):
            found = scorer.predict(timely, context)
            predicted.append(found)
            context = context.after(found)
            unscored |= {int(timely.index[row]): why for row, why in found.failed.items()}
        failed |= unscored
        done = _without(index, unscored)
        coalesced.append(_before(latest.order, starts[done], places[done]))
        more = ~done & (places > starts)
        starts, places = starts[more], places[more] - 1
    return ScoredRounds(
        predicted,
        failed,
        np.concatenate(late),
        np.concatenate(frozen),
        np.concatenate(coalesced),
        sum(_count_inherited(each, table) for each in predicted),
        context,
    )


def _among(index: Ints, failed: dict[int, Poison]) -> dict[int, Poison]:
    """Return what failed of these messages."""
    return {row: failed[row] for row in index.tolist() if row in failed} if failed else {}


def _without(index: Ints, rows: dict[int, Poison]) -> NDArray[np.bool_]:
    """Return which of the messages are not among `rows`."""
    if not rows:
        return np.ones(len(index), np.bool_)
    return ~np.isin(index, np.fromiter(rows, np.intp, len(rows)))


def _with_known_versions(rows: Rows, versions: Versions | None) -> Rows:
    """Return the rows where one without a version has the version published of its lead."""
    if versions is None or not len(rows) or (rows.lead_version > 0).all():
        return rows
    newest = versions.newest(rows.keys)
    taken = (rows.lead_version <= 0) & (newest > 0)
    if not taken.any():
        return rows
    return replace(rows, lead_version=np.where(taken, newest, rows.lead_version))


def _count_inherited(predicted: Predicted, table: EventTable) -> int:
    """Return how many predictions have a version that their change has not."""
    rows = predicted.rows
    at = predicted.indices
    return int(
        ((rows.lead_version[at] > 0) & (table.changes.lead_version[rows.index[at]] <= 0)).sum()
    )


def _without_late(rows: Rows, versions: Versions | None) -> tuple[Rows, Ints, Ints]:
    """Return the rows that are not older than what was published of their lead.

    Then the messages of the others, and those among them whose lead is frozen.
    """
    nothing = np.empty(0, np.intp)
    if versions is None or not len(rows):
        return rows, nothing, nothing
    newest = versions.newest(rows.keys)
    late = (rows.lead_version > 0) & (rows.lead_version < newest)
    if not late.any():
        return rows, nothing, nothing
    version = rows.lead_version
    frozen = late & (newest - version > FROZEN_GAP) & (newest // 2 > version)
    return rows.take(np.flatnonzero(~late)), rows.index[late], rows.index[frozen]


def _before(order: Ints, starts: Ints, places: Ints) -> Ints:
    """Return the messages of all the ranges order[start:place], which do not overlap."""
    if np.array_equal(starts, places):
        return order[:0]
    steps = np.zeros(len(order) + 1, np.intp)
    steps[starts] += 1
    steps[places] -= 1
    return order[np.cumsum(steps[:-1]) > 0]
