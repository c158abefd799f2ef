"""Refresh as its users meet it: a request for each lead that is due, whatever is killed."""

import json
import time
from pathlib import Path

import pytest

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from models.registry.versions import ModelRegistry
from schemas.codec import Reader, Writer
from tests.integration.forked import run_verb
from tests.integration.running import QUICK, Running, Stage, until
from tests.subscriber import prediction
from tests.trained_models import TRUST, promoted_store, trained

pytestmark = pytest.mark.broker
_CHANGE, _PREDICTION = Reader("LeadChanged"), Writer("LeadPrediction")
LEADS = 40
OWN = {**QUICK, "DATABASE_URL": "postgresql://localhost/not-asked"}


def scores(stage: Stage, count: int, until_ms: int, **fields: object) -> list[Output]:
    return [
        Output(
            stage.topics.lead_predictions,
            f"lead_{i}".encode(),
            _PREDICTION.encode(prediction(f"lead_{i}", valid_until=until_ms, **fields)),
        )
        for i in range(count)
    ]


def warnings(process: Running) -> dict[str, str]:
    """The warnings of /readyz."""
    found: dict[str, str] = json.loads(process.get("/readyz")[1])["warnings"]
    return found


def test_a_kill_neither_loses_nor_repeats_a_request_and_a_promotion_sweeps_all_leads(
    kafka: Broker, tmp_path: Path
) -> None:
    store = promoted_store(tmp_path / "store")
    stage = Stage.on(kafka.bootstrap, tmp_path, store)
    stage.environment |= OWN
    now = time.time_ns() // 1_000_000
    stage.send(scores(stage, LEADS, now - 60_000))
    requests = stage.topics.lead_changes
    for _ in range(2):
        with stage.running("refresh", "--rate", "8") as process:
            process.event("batch")
            process.kill()
    killed = len(stage.read(requests, 1))
    assert killed < LEADS
    with stage.running("refresh") as process:
        found = [_CHANGE.decode(each.value() or b"") for each in stage.read(requests, LEADS)]
        assert {change["change_type"] for change in found} == {"RESCORE"}
        assert all(change["occurred_at"] >= now for change in found)
        # What is scored holds now; then another model is promoted.
        stage.send(scores(stage, LEADS, now + 10**9, scored_at=now))
        registry = ModelRegistry(store, TRUST)
        version = registry.publish(trained(2))
        registry.promote(version, force=True)
        swept = stage.read(requests, 2 * LEADS)
        assert "sweep" in until(lambda: warnings(process), "the warning of the sweep")
        stage.send(scores(stage, LEADS, now + 10**9, scored_at=now + 1, model_version=version))
        until(lambda: "sweep" not in warnings(process), "the sweep is over")
        assert process.metric("refresh_requests_total", cause="model") == LEADS
        assert process.stop() == 0
    changes = [_CHANGE.decode(each.value() or b"") for each in swept]
    assert len({change["event_id"] for change in changes}) == len(changes) == 2 * LEADS
    leads = sorted(change["lead_id"] for change in changes)
    assert leads == sorted([f"lead_{i}" for i in range(LEADS)] * 2)


def test_scores_that_are_as_of_long_ago_are_asked_for_by_their_age(
    kafka: Broker, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused")
    now = time.time_ns() // 1_000_000
    stage.send(scores(stage, 5, now, occurred_at=now - 3 * 86_400_000))
    stage.send(scores(stage, 2, now, occurred_at=now))
    sent = run_verb(
        "rescore", "--older-than", "1d", folder=tmp_path, environ=stage.environment | OWN
    )
    assert (sent.returncode, sent.stdout) == (0, "3 leads sent to be scored again\n"), sent.stderr
    asked = {message.key() for message in stage.read(stage.topics.lead_changes, 3)}
    assert asked == {b"lead_2", b"lead_3", b"lead_4"}
    none = run_verb(
        "rescore", "--older-than", "9d", folder=tmp_path, environ=stage.environment | OWN
    )
    assert (none.returncode, none.stdout) == (0, "0 leads sent\n")
