"""The last step of the demo: a model of the history that it wrote, next to one of today's leads."""

import signal
import time
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table
from sklearn.metrics import roc_auc_score

from leadstream.cli.demo.display import Screen
from leadstream.local.process import Child, start_error
from leadstream.settings import Settings
from models.registry.versions import open_registry
from models.serve.scorer import Model
from models.train.training import TrainOptions, train
from producer.simulator import DAY_MS, SimulatedCrm
from producer.table import training_frame

if TYPE_CHECKING:
    import pandas as pd

    from models.serve.artifact import Trained

MIN_CHANGES = 10_000
_WRITE_SECONDS = 60.0
_TICK_SECONDS = 0.25
_STOP_SECONDS = 30.0
_EXTRA = ("deltalake", "duckdb", "pyarrow")


def why_no_lesson(changes: int) -> str | None:
    """Return why this demo writes no history; None if it does."""
    if changes < MIN_CHANGES:
        return f"With fewer than {MIN_CHANGES:,} changes there is no history to train on."
    if not all(map(find_spec, _EXTRA)):
        return "No history: it needs `pip install 'leadstream[history]'`."
    return None


def await_written(writer: Child, port: int, expected: Mapping[str, int]) -> None:
    """Wait until the writer has so many records of each topic, and end it.

    Raises StartError if it ends before, or takes too long.
    """
    deadline = time.monotonic() + _WRITE_SECONDS
    while any(_written(port, topic) < count for topic, count in expected.items()):
        if not writer.alive() or time.monotonic() > deadline:
            raise start_error("The writer of the history did not write everything", writer.log)
        time.sleep(_TICK_SECONDS)
    writer.end(signal.SIGTERM, _STOP_SECONDS)


def _written(port: int, topic: str) -> float:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            page = answer.read().decode()
    except OSError:
        return 0.0
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "leadstream_history_records_total" and sample.labels["topic"] == topic
    )


def show_lesson(
    screen: Screen,
    settings: Settings,
    crm: SimulatedCrm,
    *,
    since: int,
    now: int,
    horizon_days: int,
    seed: int,
) -> None:
    """Train on the history and on today's leads, and judge both by the hidden truth."""
    from consumer.history.training_rows import (  # the extra may be absent
        RowOptions,
        read_training_rows,
    )
    from leadstream.cli.training_history import history_frame

    started = time.monotonic()
    root = settings.need("LEADSTREAM_HISTORY", "the demo writes it")
    options = TrainOptions(horizon_days=horizon_days, seed=seed, recipe="additive")
    with screen.progress("training on the history") as update:
        found = read_training_rows(root, settings.topics, RowOptions(horizon_days, since_ms=since))
        table = history_frame(found.table)
        trained = train(table, options, update)
        registry = open_registry(settings, signs=True)
        version = registry.publish(trained)
        update("training on today's leads", 0.0)
        today = _todays_leads(crm, since, now, horizon_days * DAY_MS)
        other = train(today, options, update)
    table_of_two = Table(box=None, pad_edge=False)
    for heading in ("trained on", "rows", "log loss", "ROC-AUC"):
        table_of_two.add_column(heading, justify="left" if heading == "trained on" else "right")
    for name, rows, made in (
        (f"the history ({version})", len(table), trained),
        ("today's leads", len(today), other),
    ):
        loss, auc = _evaluated(made, crm, now - horizon_days * DAY_MS, now)
        table_of_two.add_row(name, f"{rows:,}", f"{loss:.3f}", f"{auc:.3f}")
    screen.show(table_of_two)
    screen.say(
        f"Both learned from the leads of the demo, in {time.monotonic() - started:.1f} s, and are "
        f"judged by the hidden truth of the newest {horizon_days} days, whose outcomes nobody "
        "knows yet. The history has leads as they were; today's leads have seen their outcome."
    )


def _todays_leads(crm: SimulatedCrm, since: int, now: int, horizon: int) -> "pd.DataFrame":
    """Return what an export of today holds: each lead as it is now, and what became of it."""
    first: dict[str, int] = {}
    for application in crm.applications(until=now):
        first.setdefault(application.lead_id, application.submitted_at)
    newest = {each.lead_id: each.state or {} for each in crm.changes(since=since, until=now)}
    rows = [
        (lead_id, state, first.get(lead_id))
        for lead_id, state in newest.items()
        if since <= state["created_at"] <= now - horizon
    ]
    return training_frame(
        [lead_id for lead_id, _, _ in rows],
        [state["created_at"] for _, state, _ in rows],
        [state for _, state, _ in rows],
        [at is not None and at <= state["created_at"] + horizon for _, state, at in rows],
    )


def _evaluated(
    trained: "Trained", crm: SimulatedCrm, since: int, until: int
) -> tuple[float, float]:
    """Return log loss and ROC-AUC on changes of leads that have not applied."""
    changes = [
        (each.state, each.record["occurred_at"], each.truth)
        for each in crm.changes(since=since, until=until)
        if each.state and each.record and each.truth and not each.truth.applied
    ]
    manifest = {**trained.manifest, "version": "0.0.0", "artifact": {"sha256": ""}}
    states = [state for state, _, _ in changes]
    columns = {name: [state.get(name) for state in states] for name in states[0]}
    as_of = np.array([at for _, at, _ in changes], dtype=np.int64)
    stated = np.clip(
        Model(trained.artifact, manifest).score(columns, as_of).probability, 1e-6, 1 - 1e-6
    )
    true = np.array([truth.probability for _, _, truth in changes])
    loss = -(true * np.log(stated) + (1 - true) * np.log(1 - stated)).mean()
    return float(loss), float(roc_auc_score([truth.converts for _, _, truth in changes], stated))
