"""`leadstream follow` on a real broker: the figures it prints and exposes, against scikit-learn's
on the same data.
"""

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# not in its __all__
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from consumer.outcomes.reader import read_evaluated
from consumer.retrain_requests import RetrainRequests
from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from leadstream.local.kafka import KafkaProcess
from leadstream.log import get_logger
from leadstream.process.metrics import FollowMetrics
from leadstream.settings import load_settings
from models.monitor.ledger import DAY_MS
from models.monitor.triggers import InService, Trigger
from models.registry.versions import ModelRegistry
from models.train.training import TrainOptions
from producer.simulator import SimulatedCrm
from schemas.codec import Reader, Writer
from tests.integration.running import Running, Stage, until
from tests.trained_models import START_MS, TRUST, promoted_store
from tests.unit.test_consumer_follow import PREDICTION_RECORD

_PREDICTION, _OUTCOME, _REQUESTED = (
    Writer("LeadPrediction"),
    Writer("LeadOutcome"),
    Reader("RetrainRequested"),
)
# The shared model's version and horizon.
VERSION, HORIZON_DAYS = "1.0.0", TrainOptions().horizon_days or 0
START = time.time_ns() // 1_000_000 - 300 * DAY_MS


def prediction(
    stage: Stage,
    lead_id: str,
    day: float,
    probability: float,
    *,
    shadow: bool = False,
    **fields: Any,
) -> Output:
    record = PREDICTION_RECORD | {
        "lead_id": lead_id,
        "probability": probability,
        "raw_score": probability,
        "model_version": VERSION,
        "variant": "challenger" if shadow else "champion",
        "event_id": f"event of {lead_id} {day}",
        "occurred_at": START + round(day * DAY_MS),
    }
    topic = stage.topics.shadow_predictions if shadow else stage.topics.lead_predictions
    return Output(topic, lead_id.encode(), _PREDICTION.encode(record | fields))


def outcome(stage: Stage, lead_id: str, converted: bool, day: float) -> Output:
    record = {"lead_id": lead_id, "converted": converted, "decided_at": START + round(day * DAY_MS)}
    return Output(stage.topics.lead_outcomes, lead_id.encode(), _OUTCOME.encode(record))


def simulated(
    stage: Stage, count: int
) -> tuple[list[Output], list[Output], np.ndarray, np.ndarray]:
    """Predictions, outcomes in the order of time, and the stated probabilities and labels of all of
    the predictions.

    A third of the leads that convert do so after the horizon; half of the others are given up at
    some time, the rest are never heard of. The last outcome is two days after all horizons.
    """
    rng = np.random.default_rng(0)
    predictions, outcomes = [], {-1.0: ("long ago", True), HORIZON_DAYS + 122: ("yesterday", False)}
    stated, labels = [], []
    for number in range(count):
        lead_id, day, probability = f"lead {number}", rng.uniform(0, 120), rng.uniform(0.02, 0.6)
        predictions.append(prediction(stage, lead_id, day, probability))
        converted = bool(rng.random() < probability)
        late = converted and rng.random() < 1 / 3
        if converted or rng.random() < 0.5:
            wait = (
                HORIZON_DAYS + rng.uniform(0.1, 1) if late else rng.uniform(0.1, HORIZON_DAYS - 0.1)
            )
            outcomes[day + wait] = (lead_id, converted)
        stated.append(probability)
        labels.append(converted and not late)
    in_time = [
        outcome(stage, *lead_and_label, day) for day, lead_and_label in sorted(outcomes.items())
    ]
    return predictions, in_time, np.array(stated), np.array(labels)


def expected(stated: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "judged": len(labels),
        "base_rate": labels.mean(),
        "mean_probability": stated.mean(),
        "brier": brier_score_loss(labels, stated),
        "roc_auc": roc_auc_score(labels, stated),
        "log_loss": log_loss(labels, stated),
    }


@pytest.fixture
def stage(kafka: Broker, tmp_path: Path, model_store: str) -> Stage:
    return Stage.on(kafka.bootstrap, tmp_path, model_store)


def once(stage: Stage, *words: str) -> dict[str, Any]:
    with stage.running("follow", "--once", "--json", *words) as process:
        assert process.exit_code() == 0, process.lines()
        found: dict[str, Any] = json.loads(
            "\n".join(line for line in process.lines() if not line.startswith('{"'))
        )
        return found


def test_the_figures_are_those_of_the_same_predictions_and_outcomes_counted_elsewhere(
    stage: Stage,
) -> None:
    predictions, outcomes, stated, labels = simulated(stage, 1500)
    records = [
        *predictions,
        *outcomes,
        *predictions[:300],
        *outcomes[:300],
        Output(stage.topics.lead_outcomes, b"x", b"not Avro"),
        prediction(stage, "ahead", 10_000, 0.5),
        outcome(stage, "erased", False, 1),
        Output(stage.topics.lead_predictions, b"erased", None),
        prediction(stage, "lead 0", 299, 0.5),  # too young
        prediction(stage, "challenged", 0, 0.3, shadow=True),
        outcome(stage, "challenged", True, 59),
        prediction(stage, "challenged", 60, 0.3, shadow=True),  # after the decision
    ]
    random.Random(0).shuffle(records)
    stage.send([prediction(stage, "erased", 0, 0.99), *records])
    found = once(stage)
    champion, challenger = sorted(
        found["models"], key=lambda model: model["variant"] == "challenger"
    )
    for name, value in expected(stated, labels).items():
        assert champion[name] == pytest.approx(value, abs=1e-12), name
    assert (champion["model_version"], champion["variant"]) == (VERSION, "champion")
    assert (challenger["judged"], challenger["base_rate"], challenger["roc_auc"]) == (1, 1.0, None)
    assert found["skipped"] == {"UNKNOWN_FRAMING": 1, "INVALID_EVENT": 1}
    assert found["champion"] == VERSION
    assert set(found["retrain"]) == {
        "AGE",
        "CALIBRATION",
    }  # those after the horizon are no conversions
    joined = read_evaluated(load_settings(stage.environment, None), lambda _version: HORIZON_DAYS)
    assert len(joined) == len(labels) + 1
    assert {one.prediction.lead_id for one in joined if one.prediction.shadow} == {"challenged"}


def live(process: Running, name: str) -> float:
    return process.metric(f"live_{name}", model_version=VERSION, variant="champion")


def test_a_running_process_shows_the_live_figures_asks_once_for_a_training_and_ends_on_sigterm(
    stage: Stage,
) -> None:
    predictions, outcomes, stated, labels = simulated(stage, 600)
    with stage.running("follow", "--every", "50") as process:
        process.until_ready()
        assert process.events("evaluation")[0]["models"] == []
        stage.send([*predictions, *outcomes])
        until(lambda: live(process, "judged") == len(labels), "all are judged", 120)
        for name, value in expected(stated, labels).items():
            assert live(process, name) == pytest.approx(value, abs=1e-12), name
        assert process.metric("predictions_read_total") == len(labels)
        assert len(process.events("evaluation")) > 1
        assert json.loads(process.get("/model")[1])["version"] == VERSION
        process.event("retrain.requested", trigger="CALIBRATION")
        for trigger in ("AGE", "CALIBRATION"):
            assert process.metric("retrain_requested_total", trigger=trigger) == 1
        assert process.stop() == 0
        assert process.events("stopped")
        requests = process.events("retrain.requested")
    asked = stage.read(stage.topics.retrain_requests, 2)
    assert {message.key() for message in asked} == {
        f"{VERSION}:{line['trigger']}".encode() for line in requests
    }
    assert len(asked) == len(requests) == 2
    records = [_REQUESTED.decode(message.value() or b"") for message in asked]
    assert {record["detail"] for record in records} == {line["detail"] for line in requests}
    assert {record["model_version"] for record in records} == {VERSION}


def test_what_was_asked_for_is_not_asked_for_again_by_the_same_process(stage: Stage) -> None:
    counter = FollowMetrics().retrain
    settings = load_settings(stage.environment, None)
    requests = RetrainRequests(settings, None, verb="follow", counter=counter, logger=get_logger())
    for due in (
        {Trigger.AGE: "old"},
        {Trigger.AGE: "older"},
        {Trigger.AGE: "older", Trigger.DRIFT: "drifted"},
    ):
        requests.request(InService(VERSION, "ab", None, None), due)
    asked = [
        _REQUESTED.decode(m.value() or b"") for m in stage.read(stage.topics.retrain_requests, 2)
    ]
    assert {(record["trigger"], record["detail"]) for record in asked} == {
        ("AGE", "old"),
        ("DRIFT", "drifted"),
    }
    assert len(asked) == 2


def test_what_is_not_there_yet_is_waited_for_by_name(
    tmp_path: Path, kafka: Broker, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, create=False)
    with stage.running("follow") as process:
        until(lambda: "topics" in process.missing(), "the topics are missed")
        missed = process.missing()["topics"]
        assert stage.topics.lead_outcomes in missed
        assert stage.topics.shadow_predictions not in missed
        stage.create_topics(2)
        process.until_ready()
        predictions, outcomes, _, labels = simulated(stage, 100)
        stage.send([*predictions, *outcomes[:50]])
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        [created] = admin.create_partitions([NewPartitions(stage.topics.lead_outcomes, 4)]).values()
        created.result(30)
        until(
            lambda: (
                len(admin.list_topics(stage.topics.lead_outcomes).topics.popitem()[1].partitions)
                == 4
            ),
            "grown",
        )
        stage.send(outcomes[50:])
        sent = stage.read(stage.topics.lead_outcomes, len(outcomes))
        assert {message.partition() for message in sent} == {0, 1, 2, 3}
        until(lambda: live(process, "judged") == len(labels), "all are judged", 120)
        assert live(process, "base_rate") == pytest.approx(labels.mean())
        assert process.stop() == 0


def test_once_without_its_topics_or_its_brokers_is_one_sentence(
    tmp_path: Path, kafka: Broker, model_store: str
) -> None:
    for bootstrap, sentence in (
        (kafka.bootstrap, "leadstream topics create"),
        ("127.0.0.1:1", "brokers"),
    ):
        stage = Stage.on(bootstrap, tmp_path, model_store, create=False)
        with stage.running("follow", "--once") as process:
            assert process.exit_code() == 1
            [printed] = process.sentences()
            assert sentence in printed


def test_brokers_that_go_away_are_waited_for_and_what_came_meanwhile_is_read(
    tmp_path: Path, fresh_kafka: KafkaProcess, model_store: str
) -> None:
    stage = Stage.on(fresh_kafka.bootstrap, tmp_path, model_store)
    predictions, outcomes, stated, labels = simulated(stage, 300)
    stage.send([*predictions, *outcomes[:50]])
    with stage.running("follow") as process:
        process.until_ready()
        fresh_kafka.stop()
        process.event("follow.held", dependency="brokers")
        assert "brokers" in process.missing()
        fresh_kafka.start()
        process.until_ready()
        stage.send(outcomes[50:])
        until(lambda: live(process, "judged") == len(labels), "all are judged", 120)
        assert live(process, "brier") == pytest.approx(expected(stated, labels)["brier"], abs=1e-12)
        assert process.stop() == 0


def test_outcomes_that_do_not_bear_the_champion_out_become_a_patch_version_where_it_is_wanted(
    tmp_path: Path, kafka: Broker
) -> None:
    """Two thirds convert of what was said: the next judged predictions of the same trees are said
    lower.
    """
    (tmp_path / "models").mkdir()
    store = promoted_store(tmp_path / "models")
    stage = Stage.on(kafka.bootstrap, tmp_path, store)
    stage.environment["LEADSTREAM_MODEL_SIGNING_KEY"] = f"{store}.pem"
    predictions, outcomes, _, _ = simulated(stage, 1500)
    stage.send([*predictions, *outcomes])
    assert once(stage)["recalibrated"] is None
    proposed = once(stage, "--recalibrate", "propose")
    assert proposed["recalibrated"]["version"] == "1.0.1"
    assert proposed["recalibrated"]["promoted"] is False
    registry = ModelRegistry(store, TRUST)
    assert registry.resolve() == VERSION
    assert registry.show("1.0.1")["recalibrated"]["from"] == VERSION


def test_a_base_rate_that_rose_ends_in_higher_probabilities_of_the_running_consumer(
    kafka: Broker, tmp_path: Path
) -> None:
    store = promoted_store(tmp_path / "models")
    stage = Stage.on(kafka.bootstrap, tmp_path, store)
    crm = SimulatedCrm(5, start=START_MS, leads=1500)
    states = {change.lead_id: change.state for change in crm.changes() if change.state is not None}
    with stage.running() as consumer:
        consumer.until_ready()
        stage.send(
            stage.change(lead_id, state, occurred_at=START + 100 * DAY_MS)
            for lead_id, state in states.items()
        )
        made = {
            record["lead_id"]: record["probability"] for record in stage.predictions(len(states))
        }
        # Twice as many convert as was stated, all of them within the horizon; a last word is past
        # all horizons.
        rng = np.random.default_rng(0)
        decided = [
            outcome(stage, lead_id, bool(rng.random() < 2 * p), 110) for lead_id, p in made.items()
        ]
        stage.send([*decided, outcome(stage, "nobody", False, 105 + HORIZON_DAYS)])
        with stage.running(
            "follow", "--recalibrate", "promote", LEADSTREAM_MODEL_SIGNING_KEY=f"{store}.pem"
        ) as follower:
            done = follower.event("recalibrated")
        assert (done["version"], done["promoted"], done["objections"]) == ("1.0.1", True, [])
        assert done["shift"] > 0.4
        consumer.event("model.loaded", version="1.0.1")
        lead_id, state = next(iter(states.items()))
        stage.send(
            [stage.change(lead_id, state, occurred_at=START + 100 * DAY_MS, event_id="again")]
        )
        # By its event: the order of two partitions is not that of time.
        [last] = [
            each for each in stage.predictions(len(states) + 1) if each["event_id"] == "again"
        ]
        assert (last["model_version"], last["lead_id"]) == ("1.0.1", lead_id)
        assert last["probability"] > 1.2 * made[lead_id]
