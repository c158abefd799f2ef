"""Training rows from the history: the states of then, with the outcomes that came later.

A row is a change with the state of the lead at `occurred_at`. Its label is whether the first
conversion of the lead came within the horizon after it. What is left out, the rule for repeats, and
how rows are sampled, is in docs/how-to/train-from-history.md, and in the SQL of `training_query`.

The tables are read twice: first the columns that decide which rows there are, then all columns of
those rows. DuckDB puts on disk what does not fit into its memory.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from consumer.history import training_query as query
from consumer.history.coverage import (
    DAY_MS,
    CoverageGap,
    find_gaps,
    format_day,
    refuse_gaps,
)
from consumer.history.summary import offsets_of
from consumer.history.table_schemas import CHANGES, OUTCOMES
from consumer.history.writer import HistoryTables
from leadstream.addresses import masked_url
from leadstream.errors import UserError
from leadstream.kafka.topics import Topics
from models.train.sampling import KeptShares

MAX_ROWS = 1_000_000
MEMORY = "1GB"

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class RowOptions:
    """Options of the rows: the horizon in days, how many rows at most, from when on (ms UTC)."""

    horizon_days: float
    max_rows: int = MAX_ROWS
    since_ms: int = 0
    allow_gaps: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows:
    """The rows, ordered by time and lead, and their source for the manifest.

    `table` has lead_id, as_of (ms UTC), the fields of the state (created_at in ms UTC), converted.
    """

    table: pa.Table
    kept: KeptShares | None
    source: Mapping[str, Any]


def read_training_rows(
    root: str, topics: Topics, options: RowOptions, progress: Progress = lambda _stage, _share: None
) -> TrainingRows:
    """Return the training rows of a history, as of its newest versions.

    Raises UserError without a history, without outcomes, or if outcomes or states have a gap.
    """
    tables = HistoryTables(root)
    if not all(tables.stored[each].exists() for each in (CHANGES, OUTCOMES)):
        raise UserError(
            f"no history of changes and outcomes at {masked_url(root)}: `leadstream history write` "
            "makes one"
        )
    with (
        tempfile.TemporaryDirectory(prefix="leadstream-train-") as folder,
        query.answering(root),
        closing(query.TrainingQuery(tables, Path(folder), MEMORY)) as found,
    ):
        return _read(found, tables, topics, options, progress)


def _read(
    found: query.TrainingQuery,
    tables: HistoryTables,
    topics: Topics,
    options: RowOptions,
    progress: Progress,
) -> TrainingRows:
    progress("reading outcomes", 0.0)
    found.find_conversions()
    ends = found.outcome_ends()
    if ends is None:
        raise UserError(
            f"the history at {masked_url(tables.root)} has no outcomes: send them to "
            f"{topics.lead_outcomes}, or import them, and `leadstream history write` keeps them"
        )
    horizon = round(options.horizon_days * DAY_MS)
    first, end = ends
    known_until = end - horizon
    progress("reading changes", 0.01)
    found.find_changes(options.since_ms)
    gaps = _gaps(found, first, end, known_until, options.since_ms)
    if not options.allow_gaps:
        refuse_gaps("outcome", gaps["outcomes"])
        refuse_gaps("change with a state", gaps["states"])
    progress("labeling changes", 0.03)
    found.label(first, known_until, horizon)
    totals = found.totals()
    kept = _sample(found, totals, options.max_rows)
    progress("reading states", 0.05)
    table = found.rows()
    source = {
        "tables": _versions(found.versions, tables, topics),
        "horizon_days": options.horizon_days,
        "since": format_day(options.since_ms // DAY_MS) if options.since_ms else None,
        "left_out": found.left_out(),
        "outcomes": found.coverage() | {"gaps": [each.as_json() for each in gaps["outcomes"]]},
        "states": {"gaps": [each.as_json() for each in gaps["states"]]},
        "state_source": found.state_sources(),
        "sampling": _sampling(totals, found.chosen(), options.max_rows) if kept else None,
    }
    return TrainingRows(table, kept, source)


def _gaps(
    found: query.TrainingQuery, first: int, end: int, known_until: int, since: int
) -> dict[str, list[CoverageGap]]:
    """Return the gaps of the time that labels and rows come from."""
    outcomes, states = found.daily_outcomes(), found.daily_states()
    start = max(first, since) // DAY_MS
    gaps = {"outcomes": find_gaps(outcomes, start, end // DAY_MS), "states": []}
    last = min(known_until, found.newest_change()) // DAY_MS
    days = [day for each in states for day in each.counts]
    if days and last >= start:
        gaps["states"] = find_gaps(states, max(start, min(days)), last)
    return gaps


def _sample(
    found: query.TrainingQuery, totals: Mapping[bool, int], max_rows: int
) -> KeptShares | None:
    """Choose the rows, all of them if they are not too many; return the shares of a sample."""
    if sum(totals.values()) <= max_rows:
        found.choose(query.BUCKETS, query.BUCKETS)
        return None
    # Conversions go first; where they are many, half of the rows remain for the others.
    room = max(max_rows // 2, max_rows - totals[False])
    conversions = found.bucket_limit(converted=True, rows=room)
    # Each outcome has its own limit, so the first choice only counts the conversions.
    found.choose(conversions, 0)
    room = max_rows - found.chosen()[True]
    found.choose(conversions, found.bucket_limit(converted=False, rows=room))
    chosen = found.chosen()
    return KeptShares(*(chosen[each] / max(totals[each], 1) for each in (True, False)))


def _sampling(
    totals: Mapping[bool, int], chosen: Mapping[bool, int], max_rows: int
) -> dict[str, Any]:
    """Return the sample for the manifest: rows, shares and weights by outcome."""
    return {
        "max_rows": max_rows,
        "by": "the SHA-256 of the lead",
        **{
            name: {
                "rows": totals[won],
                "kept": chosen[won],
                "share": chosen[won] / max(totals[won], 1),
                "weight": totals[won] / max(chosen[won], 1),
            }
            for name, won in (("conversions", True), ("others", False))
        },
    }


def _versions(
    versions: Mapping[str, int | None], tables: HistoryTables, topics: Topics
) -> dict[str, Any]:
    """Return the version of each table, with the offsets that it has."""
    offsets = {
        table.name: {"offsets": offsets_of(table, tables.stored[table], topics)}
        for table in (CHANGES, OUTCOMES)
    }
    return {
        name: {"version": version, **offsets.get(name, {})} for name, version in versions.items()
    }
