"""Exactly once, and at least once, as subscribers of the predictions see it, whatever happens to the processes."""

import random
import signal
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from local.broker import Broker
from tests.integration.conftest import Crm
from tests.integration.running import QUICK, Running, Stage, until

pytestmark = pytest.mark.broker
EACH = {"LEADSTREAM_COALESCE": "false"}
# Records that go out one by one make a transaction of many records long enough to be met in its middle.
SLOW = {"LEADSTREAM_KAFKA_BATCH_NUM_MESSAGES": "1", "LEADSTREAM_KAFKA_MAX_IN_FLIGHT_REQUESTS_PER_CONNECTION": "1"}


@pytest.fixture
def stage(kafka: Broker, tmp_path: Path, model_store: str) -> Stage:
    return Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=4)


class Load:
    """Sends 40 changes of new leads again and again until it is stopped."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.leads: Counter[str] = Counter()

    def _send(self) -> None:
        while not self._done.wait(0.02):
            changes = [self._stage.change(f"lead_{len(self.leads) + i}") for i in range(40)]
            self._stage.send(changes)
            self.leads.update(f"lead_{len(self.leads) + i}" for i in range(40))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def scored(stage: Stage, count: int) -> Counter[str]:
    """How many predictions each lead has, once there are `count`."""
    return Counter(prediction["lead_id"] for prediction in stage.predictions(count))


def stop_in_mid_batch(stage: Stage, process: Running) -> None:
    """Stop a slow process where outputs of its first batch are on the broker and nothing is committed, and kill it."""
    stage.read(stage.topics.lead_predictions, 1, committed=False)
    process.signal(signal.SIGSTOP)
    assert stage.committed() == 0
    assert process.events("batch") == []
    process.kill()


def test_a_process_killed_between_produce_and_commit_must_not_leave_half_a_batch_behind(stage: Stage) -> None:
    leads = Counter(f"lead_{i}" for i in range(1500))
    stage.send(map(stage.change, leads))
    with stage.running(**QUICK, **SLOW) as killed:
        stop_in_mid_batch(stage, killed)
    assert stage.predictions(0) == []
    with stage.running(**QUICK):
        assert scored(stage, 1500) == leads
    visible = stage.read(stage.topics.lead_predictions, 1500, committed=False)
    assert len(visible) > 1500, "nothing had been produced before the kill"


@pytest.mark.postgres
def test_a_request_whose_process_is_killed_has_no_prediction_without_its_result(stage: Stage, crm: Crm) -> None:
    leads = [f"{stage.topics.lead_changes} {i}" for i in range(800)]
    crm.add(*leads)
    stage.environment["DATABASE_URL"] = crm.url
    stage.send([stage.request("request", leads)])
    with stage.running(**QUICK, **SLOW) as killed:
        stop_in_mid_batch(stage, killed)
    assert stage.predictions(0) == []
    assert stage.results(0) == []
    with stage.running(**QUICK):
        [result] = stage.results(1)
        assert scored(stage, 800) == Counter(leads)
    assert [prediction["lead_id"] for prediction in result["predictions"]] == leads


def test_processes_killed_at_any_moment_under_load_neither_lose_nor_repeat_a_change(stage: Stage) -> None:
    chance = random.Random(7)
    with ExitStack() as stack:
        processes = [stack.enter_context(stage.running(**QUICK, **EACH)) for _ in range(4)]
        for process in processes:
            process.until_ready()
        load = stack.enter_context(Load(stage))
        for victim in processes[:-1]:
            batches = len(victim.events("batch")) + chance.randrange(1, 15)
            until(lambda p=victim, n=batches: len(p.events("batch")) >= n, "it works")  # type: ignore[misc]
            victim.kill()
        survivor = processes[-1]
        until(lambda: survivor.metric("assigned_partitions") == 5, "the last one has taken over")
        load.__exit__()
        assert scored(stage, load.leads.total()) == load.leads
        assert survivor.stop() == 0
    assert scored(stage, load.leads.total()) == load.leads


def test_a_process_that_is_stopped_hands_over_without_a_gap_or_a_repeat(stage: Stage) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(stage.running(**EACH)) for _ in range(2))
        for process in (first, second):
            until(lambda p=process: p.until_ready().metric("assigned_partitions") >= 2, "they share")  # type: ignore[misc]
        with Load(stage) as load:
            for process in (first, second):
                process.event("batch")
            assert first.stop() == 0
            until(lambda: second.metric("assigned_partitions") == 5, "the other takes over")
            taken = len(second.events("batch"))
            until(lambda: len(second.events("batch")) > taken, "it goes on")
        assert scored(stage, load.leads.total()) == load.leads
        assert second.stop() == 0
        assert {line["event"] for line in first.events()} <= {
            "started",
            "model.loaded",
            "rebalance",
            "batch",
            "stopped",
        }
    assert scored(stage, load.leads.total()) == load.leads


def test_at_least_once_a_kill_may_repeat_a_prediction_under_its_old_id_but_loses_none(stage: Stage) -> None:
    stage.environment["LEADSTREAM_DELIVERY"] = "at-least-once"
    leads = {f"lead_{i}" for i in range(1500)}
    stage.send(map(stage.change, leads))
    with stage.running(**QUICK, **SLOW) as killed:
        stop_in_mid_batch(stage, killed)
    begun = stage.predictions(1)
    with stage.running(**QUICK) as process:
        everything = stage.predictions(len(begun) + 1500)
        assert process.stop() == 0
    assert {prediction["lead_id"] for prediction in everything} == leads
    assert len({prediction["prediction_id"] for prediction in everything}) == 1500
    assert stage.committed() == 1500


def test_at_least_once_works_on_a_broker_without_transactions_and_exactly_once_refuses_it(
    mock_broker: Broker, tmp_path: Path, model_store: str
) -> None:
    stage = Stage.on(mock_broker.bootstrap, tmp_path, model_store, create=False)
    stage.send(stage.changes("lead", 200))
    with (
        stage.running() as refused,
        stage.running(LEADSTREAM_DELIVERY="at-least-once", LEADSTREAM_GROUP_ID="other") as process,
    ):
        assert refused.exit_code() == 1
        assert refused.sentences() == [
            "leadstream: this broker has no transactions (it is librdkafka's mock cluster): "
            "set LEADSTREAM_DELIVERY=at-least-once, or use a real Kafka"
        ]
        assert scored(stage, 200) == Counter(f"lead_{i}" for i in range(200))
        assert process.stop() == 0
