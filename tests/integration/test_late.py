"""Changes that come late, after a newer one of their lead: in another batch, process or transaction
than that.
"""

from pathlib import Path

import pytest
from confluent_kafka import Producer

from leadstream.local.broker import Broker
from schemas.codec import Reader, Writer
from tests.integration.running import QUICK, Stage, until

pytestmark = pytest.mark.broker
_PREDICTION = Reader("LeadPrediction")


@pytest.fixture
def stage(kafka: Broker, tmp_path: Path, model_store: str) -> Stage:
    return Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=3)


def table(stage: Stage, count: int) -> dict[str, int | None]:
    """What a subscriber has of each lead, once there are `count` records: its version, None where
    it is erased.
    """
    found: dict[str, int | None] = {}
    for message in stage.read(stage.topics.lead_predictions, count):
        value = message.value()
        version = None if value is None else _PREDICTION.decode(value)["lead_version"]
        found[(message.key() or b"").decode()] = version
    return found


@pytest.mark.parametrize("compiled", [True, False], ids=["in columns", "one by one"])
def test_a_process_that_knew_only_its_own_output_would_bring_back_old_scores_after_a_restart(
    stage: Stage, compiled: bool
) -> None:
    few = 40 if compiled else 3  # from ten records on they are read in columns
    leads = [f"lead_{i}" for i in range(few)]
    with stage.running(**QUICK) as process:
        stage.send([stage.change(lead, lead_version=6) for lead in leads])
        stage.send([stage.change("lead_0", change_type="DELETED", lead_version=7)])
        until(lambda: sum(process.accounting().values()) == few + 1, "all are committed")
        assert process.accounting()["erased"] == 1
        assert process.stop() == 0
    before = table(stage, few)
    assert before == dict.fromkeys(leads, 6) | {"lead_0": None}
    with stage.running(**QUICK) as process:
        stage.send([stage.change(lead, lead_version=5) for lead in leads])
        stage.send([stage.change("new", lead_version=1)])
        until(lambda: process.accounting()["scored"] == 1, "the new lead is scored")
        until(lambda: process.accounting()["coalesced"] == few, "the others are late")
        assert process.metric("late_changes_total") == few
        assert sum(line.get("late", 0) for line in process.events("batch")) == few
        assert process.stop() == 0
    assert table(stage, few + 1) == before | {"new": 1}


def test_a_crm_whose_versions_went_back_has_a_way_out(stage: Stage) -> None:
    with stage.running(**QUICK) as process:
        stage.send([stage.change("lead_0", lead_version=900)])
        until(lambda: process.accounting()["scored"] == 1, "it is scored")
        assert process.stop() == 0
    with stage.running(**QUICK, LEADSTREAM_LATE="score") as process:
        stage.send([stage.change("lead_0", lead_version=500)])
        until(lambda: process.accounting()["scored"] == 1, "it is scored although it is older")
        assert process.metric("late_changes_total") == 0
        assert process.stop() == 0
    with stage.running(**QUICK) as process:
        stage.send([stage.change("lead_0", lead_version=501)])
        until(
            lambda: process.accounting()["scored"] == 1,
            "it is newer than what stands in the topic last",
        )
        stage.send([stage.change("lead_0", lead_version=499)])
        until(lambda: process.accounting()["coalesced"] == 1, "and this one is late")
        assert process.stop() == 0


def test_predictions_of_a_transaction_that_is_still_open_are_waited_for(stage: Stage) -> None:
    other = Producer(
        {"bootstrap.servers": stage.bootstrap, "transactional.id": stage.topics.lead_predictions}
    )
    other.init_transactions(30)
    with stage.running(**QUICK) as process:
        stage.send([stage.change("lead_0", lead_version=6)])
        [newer] = stage.read(stage.topics.lead_predictions, 1)
        assert process.stop() == 0
    record = stage.predictions(1)[0] | {"lead_version": 8}
    other.begin_transaction()
    other.produce(
        stage.topics.lead_predictions,
        Writer("LeadPrediction").encode(record),
        newer.key(),
        newer.partition(),
    )
    other.flush(30)
    with stage.running(**QUICK) as process:
        stage.send([stage.change("lead_0", lead_version=7)])
        reported = until(lambda: process.missing().get("brokers"), "it waits")
        assert stage.topics.lead_predictions in reported
        assert process.metric("changes_consumed_total") == 0
        other.commit_transaction(30)
        until(
            lambda: process.accounting()["coalesced"] == 1, "what was committed meanwhile is newer"
        )
        process.until_ready()
        assert process.stop() == 0
