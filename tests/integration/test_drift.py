"""Drift as an operator meets it: a process, a real broker, and more than two thousand leads."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from producer.simulator import DAY_MS, SimulatedCrm
from tests.integration.running import Running, Stage, until
from tests.trained_models import START_MS, trained

pytestmark = pytest.mark.broker


def changes(stage: Stage, seed: int, count: int, **drifted: Any) -> Iterator[Output]:
    """Changes of another year's leads, from when some of them are old and some are new, but for
    `drifted` fields.
    """
    crm = SimulatedCrm(seed, start=START_MS, leads=20_000)
    for change, _ in zip(crm.changes(since=START_MS + 120 * DAY_MS), range(count), strict=False):
        yield stage.change(
            change.lead_id,
            (change.state or {}) | drifted,
            occurred_at=(change.record or {})["occurred_at"],
        )


def window(process: Running, number: int) -> None:
    until(lambda: process.metric("drift_windows_total") >= number, f"window {number}", 120)


def warnings(process: Running) -> dict[str, str]:
    status, body = process.get("/readyz")
    assert status == 200
    found: dict[str, str] = json.loads(body)["warnings"]
    return found


def test_drifted_changes_alarm_by_name_and_changes_like_training_do_not(
    kafka: Broker, tmp_path: Any, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    # As in live traffic, hardly any change waits long enough to be coalesced into the next one of
    # its lead.
    inputs = tuple(trained().manifest["drift"]["inputs"])
    with stage.running(LEADSTREAM_BATCH_MAX_RECORDS="200") as process:
        process.until_ready()
        stage.send(changes(stage, 2, 5_000))
        window(process, 1)
        psi = {name: process.metric("drift_psi", feature=name) for name in inputs}
        assert 0 < max(psi.values()) < 0.2, psi
        assert [name for name in inputs if process.metric("drift_alarm", feature=name)] == []
        assert process.metric("drift_missing_share", feature="campus_name") == pytest.approx(
            0.12, abs=0.03
        )
        assert process.metric("drift_psi", feature="probability") > 0
        assert warnings(process) == {}

        done = process.metric("drift_windows_total")
        for number in (1, 2):
            time.sleep(1.1)  # after a window nothing is collected for a second
            stage.send(
                changes(stage, 2 + number, 5_000, source="a new network", engagement_score=None)
            )
            window(process, int(done) + number)
        assert process.metric("drift_alarm", feature="source") == 1
        assert process.metric("drift_unseen_share", feature="source") == 1
        assert process.metric("drift_missing_share", feature="engagement_score") == 1
        assert process.metric("drift_psi", feature="source") > 1
        assert "source (PSI " in warnings(process)["drift"]
        alarms = [
            (line["feature"], line["model_version"]) for line in process.events("drift.alarm")
        ]
        assert {feature for feature, _ in alarms} == {"source", "engagement_score"}
        assert len(alarms) == 2
        until(
            lambda: process.metric("retrain_requested_total", trigger="DRIFT") == 1,
            "a request for training",
            30,
        )
        (asked,) = process.events("retrain.requested")
        assert "source (PSI " in asked["detail"]
        (event,) = stage.read(stage.topics.retrain_requests, 1)
        assert event.key() == b"1.0.0:DRIFT"
        assert process.missing() == {}
        process.accounting()
