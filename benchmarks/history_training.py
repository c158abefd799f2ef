"""Training from the history: next to a snapshot of the same CRM, and from many changes.

    python -m benchmarks.history_training snapshot [--leads 6000]
    python -m benchmarks.history_training large [--changes 20000000] [--train]

`snapshot` trains on a simulated year as it was, and on the leads as they are at its end; then it
scores the changes of the following months. `large` writes copies of a simulated year and builds the
rows of a training, and trains with `--train`. Exit code 1 where a bar is missed.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from benchmarks.figures import WIDTH
from consumer.history.arrow_rows import from_records, months
from consumer.history.table_schemas import CHANGES, MOMENT, OUTCOMES, HistoryTable, table_schema
from consumer.history.training_rows import RowOptions, TrainingRows, read_training_rows
from consumer.history.writer import HistoryTables
from leadstream.cli.training_history import history_frame
from leadstream.errors import UserError
from leadstream.kafka.topics import Topics
from models.evaluate import log_losses
from models.serve.scorer import Model
from models.train.training import TrainOptions, train
from producer.simulator import DAY_MS, SimulatedChange, SimulatedCrm
from producer.table import training_frame

START_MS = 1_704_067_200_000  # 2024-01-01
YEAR_MS = 365 * DAY_MS
HORIZON = 30.0
TOPICS = Topics()
MAX_SECONDS, MAX_BYTES = 600.0, 4e9
COPY_LEADS = 100_000


def main() -> int:
    """Run a benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("snapshot", "large"))
    parser.add_argument("--leads", type=int, default=6_000)
    parser.add_argument("--changes", type=int, default=20_000_000)
    parser.add_argument("--train", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-history-") as name:
        if arguments.what == "snapshot":
            return snapshot(Path(name), arguments.leads)
        return large(Path(name), arguments.changes, trains=arguments.train)


def snapshot(folder: Path, leads: int) -> int:
    """Compare the history with two snapshots on the later leads; 1 if a snapshot is as good."""
    crm = SimulatedCrm(7, start=START_MS, leads=leads, days=480, horizon_days=HORIZON)
    today = START_MS + YEAR_MS
    write(folder, *records_of(crm, today))
    found = read_training_rows(str(folder), TOPICS, RowOptions(HORIZON))
    later = frame_of(
        [
            (each, each.truth.converts)
            for each in crm.changes(since=today, until=today + 60 * DAY_MS)
            if each.truth is not None and not each.truth.applied
        ]
    )
    tables = {
        "the history": history_frame(found.table),
        "today's leads": todays_leads(crm, today, marked=False),
        "today's leads, status set on conversion": todays_leads(crm, today, marked=True),
    }
    rendered = Table(title=f"On {len(later):,} changes of the 60 days after", title_justify="left")
    for heading in ("trained on", "rows", "log loss", "ROC-AUC"):
        rendered.add_column(heading, justify="left" if heading == "trained on" else "right")
    losses, refusals = {}, {}
    for name, table in tables.items():
        loss, auc, refused = evaluated(table, later)
        losses[name] = loss
        rendered.add_row(name, f"{len(table):,}", f"{loss:.4f}", f"{auc:.3f}")
        if refused:
            refusals[name] = refused
    console = Console(width=WIDTH)
    console.print(rendered)
    for name, refused in refusals.items():
        console.print(f"{name}: {refused}", highlight=False)
    best, *others = losses.values()
    return int(min(others) <= best)


def evaluated(table: pd.DataFrame, later: pd.DataFrame) -> tuple[float, float, str]:
    """Return log loss and ROC-AUC on later rows, and why the training was refused at first."""
    options, refused = TrainOptions(horizon_days=HORIZON, recipe="boosting"), ""
    try:
        trained = train(table, options)
    except UserError as error:
        refused = str(error)
        trained = train(
            table,
            TrainOptions(
                horizon_days=HORIZON,
                recipe="boosting",
                allow_leaks=("status", "lifecycle_state", "touchpoint_count", "lead_score"),
            ),
        )
    manifest = {**trained.manifest, "version": "0.0.0", "artifact": {"sha256": ""}}
    columns = {name: later[name].tolist() for name in later.columns}
    stated = Model(trained.artifact, manifest).score(columns, later["as_of"].to_numpy()).probability
    labels = later["converted"].to_numpy()
    return float(log_losses(stated, labels).mean()), float(roc_auc_score(labels, stated)), refused


def todays_leads(crm: SimulatedCrm, today: int, *, marked: bool) -> pd.DataFrame:
    """Return what an export of today holds: each lead as it is now, with its outcome.

    `marked`: the CRM sets the status of a lead that converts, as most do.
    """
    horizon = round(HORIZON * DAY_MS)
    newest = {each.lead_id: each for each in crm.changes(until=today)}
    first: dict[str, int] = {}
    for application in crm.applications(until=today):
        first.setdefault(application.lead_id, application.submitted_at)
    rows = []
    for lead_id, change in newest.items():
        state = change.state or {}
        if state["created_at"] > today - horizon:
            continue
        at = first.get(lead_id)
        if marked and at is not None:
            state = state | {"status": "applied"}
        won = at is not None and at <= state["created_at"] + horizon
        rows.append((lead_id, state["created_at"], state, won))
    lead_ids, created, states, converted = zip(*rows, strict=True)
    return training_frame(lead_ids, created, states, converted)


def frame_of(rows: Sequence[tuple[SimulatedChange, bool]]) -> pd.DataFrame:
    """Return changes with their labels as a training table."""
    return training_frame(
        [change.lead_id for change, _ in rows],
        [(change.record or {})["occurred_at"] for change, _ in rows],
        [change.state or {} for change, _ in rows],
        [won for _, won in rows],
    )


def records_of(
    crm: SimulatedCrm, until: int | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the changes and outcomes of a CRM as rows of the tables."""
    changes = []
    for number, change in enumerate(crm.changes(until=until)):
        record = dict(change.record or {})
        state = record.pop("lead")
        place = {"topic": TOPICS.lead_changes, "partition": 0, "offset": number}
        changes.append(record | state | place | {"state_source": "event"})
    outcomes = [
        {
            "lead_id": each.lead_id,
            "converted": True,
            "decided_at": each.submitted_at,
            "topic": TOPICS.lead_outcomes,
            "partition": 0,
            "offset": number,
        }
        for number, each in enumerate(crm.applications(until=until))
    ]
    return changes, outcomes


def write(
    folder: Path, changes: Sequence[dict[str, Any]], outcomes: Sequence[dict[str, Any]]
) -> None:
    """Write rows into the tables of a history, without Kafka."""
    tables = HistoryTables(str(folder))
    tables.open()
    for table, records in ((CHANGES, changes), (OUTCOMES, outcomes)):
        append(tables, table, rows_of(table, records))


def rows_of(table: HistoryTable, records: Sequence[dict[str, Any]]) -> pa.Table:
    """Return records as rows of a table; they are written when the year is over."""
    stamped = [record | {"written_at": START_MS + 3 * YEAR_MS} for record in records]
    rows = from_records(table_schema(table), stamped)
    month = months(rows[table.time].combine_chunks())
    return rows.set_column(rows.schema.get_field_index("month"), "month", month)


def append(tables: HistoryTables, table: HistoryTable, rows: pa.Table) -> None:
    """Append rows to a table, and set its offset."""
    topic = TOPICS.lead_changes if table is CHANGES else TOPICS.lead_outcomes
    stored = tables.stored[table]
    stored.reload()
    stored.append(rows, {(topic, 0): (stored.offset((topic, 0)) or 0) + len(rows)})


def large(folder: Path, changes: int, *, trains: bool) -> int:
    """Build the rows of many changes, and train on them; 1 if it takes too long or too much."""
    began = time.monotonic()
    crm = SimulatedCrm(7, start=START_MS, leads=COPY_LEADS, horizon_days=HORIZON)
    base = dict(zip((CHANGES, OUTCOMES), records_of(crm), strict=True))
    year = {table: rows_of(table, records) for table, records in base.items()}
    del base
    tables = HistoryTables(str(folder))
    tables.open()
    copies = -(-changes // len(year[CHANGES]))
    for copy in range(copies):
        for table, rows in year.items():
            append(tables, table, copied(rows, copy))
    print(f"{copies * len(year[CHANGES]):,} changes written in {time.monotonic() - began:.0f} s")
    del year, crm
    found, *took = timed(lambda: read_training_rows(str(folder), TOPICS, RowOptions(HORIZON)))
    report("rows", took, f"{len(found.table):,} rows, {found.source['sampling']}")
    if trains:
        _, *more = timed(lambda: train(history_frame(found.table), options_of(found)))
        took = [took[0] + more[0], took[1] + more[1]]
        report("training", more, "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak of memory, with the writing of the benchmark: {peak / 1e9:.2f} GB")
    return int(took[0] > MAX_SECONDS or peak > MAX_BYTES)


def options_of(found: TrainingRows) -> TrainOptions:
    """Return the options that the verb would train with."""
    return TrainOptions(horizon_days=HORIZON, kept=found.kept, source={"history": found.source})


def copied(rows: pa.Table, copy: int) -> pa.Table:
    """Return the rows of other leads with the same lives."""
    names = rows.schema.names
    ids = pa.array([f"{copy}_{each}" for each in rows["lead_id"].to_pylist()])
    places = pa.array(np.arange(len(rows), dtype=np.int64) + copy * len(rows))
    written = rows["written_at"].cast(MOMENT)
    changed = {"lead_id": ids, "offset": places, "written_at": written}
    return pa.table({name: changed.get(name, rows[name]) for name in names}, schema=rows.schema)


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result of some work, its seconds, and its seconds of processors."""
    began, busy = time.monotonic(), time.process_time()
    return work(), time.monotonic() - began, time.process_time() - busy


def report(what: str, took: Sequence[float], detail: str) -> None:
    """Print how long something took."""
    print(f"{what}: {took[0]:.0f} s, {took[1]:.0f} s of processors; {detail}")


if __name__ == "__main__":
    sys.exit(main())
