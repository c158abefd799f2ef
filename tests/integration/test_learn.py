"""`leadstream learn` on a real broker: from a request, over a trial, to the champion."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from consumer.outcomes.learner import Attempt
from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from leadstream.variants import CHALLENGER
from models.monitor.ledger import DAY_MS
from models.registry.versions import ModelRegistry
from models.serve.artifact import Trained
from producer.simulator import SimulatedCrm
from schemas.codec import Reader, Writer
from tests.integration.running import Running, Stage, until
from tests.integration.test_follow import HORIZON_DAYS, START, outcome
from tests.trained_models import START_MS, TRUST, promoted_store, trained
from tests.unit.test_history_training import decided, sent, written

pytest.importorskip("duckdb")
pytestmark = pytest.mark.broker

CHAMPION, CANDIDATE = "1.0.0", "1.1.0"
_EVENT, _EVENTS = Writer("RetrainRequested"), Reader("RetrainRequested")
_PREDICTION = Reader("LeadPrediction")
LEADS = 1_200


def staged(kafka: Broker, folder: Path) -> tuple[Stage, ModelRegistry]:
    store = promoted_store(folder / "models")
    stage = Stage.on(kafka.bootstrap, folder, store)
    stage.environment |= {
        "LEADSTREAM_HISTORY": str(folder / "history"),
        "LEADSTREAM_HISTORY_COMMIT_SECONDS": "0.2",
        "LEADSTREAM_MODEL_SIGNING_KEY": f"{store}.pem",
    }
    return stage, ModelRegistry(store, TRUST)


def event_record(stage: Stage, step: str, at: int) -> Output:
    """A request, or the event of a step, for the champion."""
    record = {
        "model_version": CHAMPION,
        "model_sha256": "0" * 64,
        "trigger": "OUTCOMES",
        "detail": "5,000 outcomes",
        "requested_at": at,
        "requested_by": "a test",
        "step": step,
    }
    key = f"{CHAMPION}:OUTCOMES{'' if step == 'requested' else f':{step}'}"
    return Output(stage.topics.retrain_requests, key.encode(), _EVENT.encode(record))


def steps(stage: Stage, count: int) -> list[dict[str, Any]]:
    records = [
        _EVENTS.decode(message.value() or b"")
        for message in stage.read(stage.topics.retrain_requests, count)
    ]
    return sorted(records, key=lambda record: int(record["requested_at"]))


def probabilities(stage: Stage, topic: str) -> dict[str, float]:
    records = (_PREDICTION.decode(m.value() or b"") for m in stage.read(topic, LEADS))
    return {record["lead_id"]: record["probability"] for record in records}


def send_outcomes_that_favor_the_challenger(stage: Stage, consumer: Running) -> None:
    """Score leads with both versions, and let those convert that the challenger rates higher."""
    crm = SimulatedCrm(5, start=START_MS, leads=LEADS)
    states = {change.lead_id: change.state for change in crm.changes() if change.state is not None}
    consumer.event("challenger.loaded", version=CANDIDATE)
    moment = START + 100 * DAY_MS
    stage.send(
        stage.change(lead_id, state, occurred_at=moment, origin="crm")
        for lead_id, state in states.items()
    )
    ours = probabilities(stage, stage.topics.lead_predictions)
    theirs = probabilities(stage, stage.topics.shadow_predictions)
    outcomes = [outcome(stage, lead, theirs[lead] > ours[lead], 110) for lead in ours]
    # A last word is past all horizons.
    stage.send([*outcomes, outcome(stage, "nobody", False, 103 + HORIZON_DAYS)])


def test_a_candidate_goes_from_its_training_to_the_champion_over_a_kill_in_the_middle(
    kafka: Broker, tmp_path: Path
) -> None:
    stage, models = staged(kafka, tmp_path)
    # A learner that was killed after its training published the candidate.
    attempt = Attempt(CHAMPION, "OUTCOMES", START + 200 * DAY_MS)
    made = trained(2)
    data = {**made.manifest["data"], "learn": attempt.as_json()}
    models.publish(Trained(made.artifact, {**made.manifest, "data": data}))
    stage.send(
        [
            event_record(stage, "requested", attempt.started_at - 1),
            event_record(stage, "training", attempt.started_at),
            Output(stage.topics.retrain_requests, b"junk", b"junk"),
        ]
    )
    learn = ("learn", "--look", "1", "--rest", "0")
    with (
        stage.running() as consumer,
        stage.running("history", "write"),
    ):
        consumer.until_ready()
        with stage.running(*learn) as first:
            first.event("learn.step", step="trial")
            assert models.resolve(CHALLENGER) == CANDIDATE
            until(lambda: first.metric("learn_records_skipped_total", reason="UNKNOWN_FRAMING"), "")
            first.signal(signal.SIGKILL)
        send_outcomes_that_favor_the_challenger(stage, consumer)
        with stage.running(*learn) as second:
            promoted = second.event("learn.step", step="promoted")
            consumer.event("model.loaded", version=CANDIDATE)
            until(lambda: models.aliases() == {"champion": CANDIDATE}, "the trial is over")
            assert second.metric("learn_steps_total", step="promoted") == 1
            assert 1_000 < second.metric("learn_trial_leads") <= LEADS
            assert second.metric("learn_trial_difference") < 0
            assert json.loads(second.get("/model")[1])["version"] == CANDIDATE
            assert second.stop() == 0
            assert {line["step"] for line in second.events("learn.step")} == {"promoted"}
    *_, trial, last = steps_without_junk(stage, 6)
    assert (trial["step"], last["step"]) == ("trial", "promoted")
    assert last["detail"] == promoted["detail"]
    assert (last["model_version"], last["candidate"]) == (CHAMPION, CANDIDATE)
    assert last["requested_by"].startswith("leadstream learn on ")


def steps_without_junk(stage: Stage, count: int) -> list[dict[str, Any]]:
    found = [m for m in stage.read(stage.topics.retrain_requests, count) if m.key() != b"junk"]
    records = [_EVENTS.decode(m.value() or b"") for m in found]
    return sorted(records, key=lambda record: int(record["requested_at"]))


@pytest.mark.slow
def test_a_request_trains_from_the_history_and_a_person_ends_the_trial(
    kafka: Broker, tmp_path: Path
) -> None:
    stage, models = staged(kafka, tmp_path)
    crm = SimulatedCrm(3, start=START, leads=1_500, days=250, horizon_days=60)
    outcomes = [decided(each.lead_id, each.submitted_at) for each in crm.applications()]
    written(tmp_path / "history", [*map(sent, crm.changes()), *outcomes])
    few = ("--least-leads", "500", "--least-conversions", "20", "--allow-gaps")
    stage.send([event_record(stage, "requested", START)])
    with stage.running("learn", "--rest", "0", "--propose", *few) as learner:
        trained_line = learner.event("learn.step", step="trained", seconds=240)
        learner.event("learn.step", step="trial")
        manifest = models.show(trained_line["candidate"])
        assert manifest["data"]["learn"]["trigger"] == "OUTCOMES"
        assert manifest["data"]["history"]["tables"]["changes"]["version"] is not None
        models.retire(CHALLENGER)
        learner.event("learn.step", step="stopped")
        assert learner.stop() == 0
    assert [each["step"] for each in steps(stage, 5)] == [
        *("requested", "training", "trained", "trial", "stopped")
    ]
    assert models.resolve() == CHAMPION


@pytest.mark.slow
def test_a_training_that_cannot_be_is_refused_in_its_own_words(
    kafka: Broker, tmp_path: Path
) -> None:
    stage, models = staged(kafka, tmp_path)
    stage.send([event_record(stage, "requested", START)])
    with stage.running("learn", "--rest", "0.5") as learner:
        learner.until_ready()
        refused = learner.event("learn.step", step="refused", seconds=120)
        assert "no history of changes and outcomes" in refused["detail"]
        assert learner.stop() == 0
    assert models.versions() == [CHAMPION]
