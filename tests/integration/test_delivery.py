"""Exactly once, and at least once, as subscribers of the predictions see it, whatever happens to
the processes.
"""

import random
import signal
import threading
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from leadstream.local.broker import Broker
from tests.integration.conftest import CrmTables
from tests.integration.running import QUICK, Running, Stage, until

pytestmark = pytest.mark.broker
EACH = {"LEADSTREAM_COALESCE": "false"}
# Large batches whose records go out one by one: a transaction stays open for a second.
SLOW = {
    "LEADSTREAM_BATCH_MAX_RECORDS": "6000",
    "LEADSTREAM_KAFKA_BATCH_NUM_MESSAGES": "1",
    "LEADSTREAM_KAFKA_MAX_IN_FLIGHT_REQUESTS_PER_CONNECTION": "1",
}


@pytest.fixture
def stage(kafka: Broker, tmp_path: Path, model_store: str) -> Stage:
    return Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=4)


class ConstantLoad:
    """Sends 40 changes of new leads again and again until it is stopped."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.leads: Counter[str] = Counter()

    def _send(self) -> None:
        while not self._done.wait(0.02):
            leads = [f"lead_{len(self.leads) + i}" for i in range(40)]
            self._stage.send(map(self._stage.change, leads))
            self.leads.update(leads)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def __enter__(self) -> "ConstantLoad":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def scored(stage: Stage, count: int) -> Counter[str]:
    """How many predictions each lead has, once there are `count`."""
    return Counter(prediction["lead_id"] for prediction in stage.predictions(count))


def kill_in_mid_batch(stage: Stage, process: Running, topic: str, outputs: int) -> None:
    """Kill a process of which the broker has more outputs than belong to the offsets that it has
    committed.

    `outputs` is how many there are for each record of `topic`.
    """

    def caught() -> bool:
        stage.grows(stage.topics.lead_predictions)
        process.signal(signal.SIGSTOP)
        visible = len(stage.read(stage.topics.lead_predictions, 0, committed=False))
        # Each transaction leaves a marker in the topic, which is no record and is not counted here.
        if visible > outputs * stage.committed(topic):
            return True
        process.signal(signal.SIGCONT)
        return False

    until(caught, "it was stopped in the middle of a batch")
    process.kill()


def test_a_process_killed_between_produce_and_commit_must_not_leave_half_a_batch_behind(
    stage: Stage,
) -> None:
    leads = Counter(f"lead_{i}" for i in range(6000))
    stage.send(map(stage.change, leads))
    with stage.running(**QUICK, **SLOW) as killed:
        kill_in_mid_batch(stage, killed, stage.topics.lead_changes, 1)
    before = len(stage.predictions(0))
    assert before == stage.committed(stage.topics.lead_changes) < 6000
    with stage.running(**QUICK):
        assert scored(stage, 6000) == leads
    visible = stage.read(stage.topics.lead_predictions, 6000, committed=False)
    assert len(visible) > 6000, "nothing had been produced before the kill"


@pytest.mark.postgres
def test_a_request_whose_process_is_killed_has_no_prediction_without_its_result(
    stage: Stage, crm: CrmTables
) -> None:
    leads = [f"{stage.topics.lead_changes} {i}" for i in range(3000)]
    crm.add(*leads)
    stage.environment["DATABASE_URL"] = crm.url
    stage.send([stage.request(f"request {i}", leads) for i in range(2)])
    with stage.running(**QUICK, **SLOW) as killed:
        kill_in_mid_batch(stage, killed, stage.topics.rescore_requests, 3000)
    before = len(stage.results(0))
    assert len(stage.predictions(0)) == 3000 * before < 6000
    with stage.running(**QUICK):
        results = stage.results(2)
        assert scored(stage, 6000) == Counter(leads * 2)
    assert sorted(result["request_id"] for result in results) == [f"request {i}" for i in range(2)]
    assert all(
        [prediction["lead_id"] for prediction in result["predictions"]] == leads
        for result in results
    )


def test_processes_killed_at_any_moment_under_load_neither_lose_nor_repeat_a_change(
    stage: Stage,
) -> None:
    chance = random.Random(7)
    with ExitStack() as stack:
        processes = [stack.enter_context(stage.running(**QUICK, **EACH)) for _ in range(4)]
        for process in processes:
            process.until_ready()
        load = stack.enter_context(ConstantLoad(stage))
        for victim in processes[:-1]:
            batches = len(victim.events("batch")) + chance.randrange(1, 15)
            until(lambda p=victim, n=batches: len(p.events("batch")) >= n, "it works")  # type: ignore[misc]
            victim.kill()
        survivor = processes[-1]
        until(lambda: survivor.metric("assigned_partitions") == 5, "the last one has taken over")
        load.stop()
        assert scored(stage, load.leads.total()) == load.leads
        assert survivor.stop() == 0
    assert scored(stage, load.leads.total()) == load.leads


def test_a_process_that_is_stopped_hands_over_without_a_gap_or_a_repeat(stage: Stage) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(stage.running(**EACH)) for _ in range(2))
        for process in (first, second):
            owned = partial(process.metric, "assigned_partitions")
            process.until_ready()
            until(lambda read=owned: read() >= 2, "they share")  # type: ignore[misc]
        with ConstantLoad(stage) as load:
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
            "compiling",
            "model.loaded",
            "rebalance",
            "batch",
            "stopped",
        }
    assert scored(stage, load.leads.total()) == load.leads


def test_at_least_once_a_kill_may_repeat_a_prediction_under_its_old_id_but_loses_none(
    stage: Stage,
) -> None:
    stage.environment["LEADSTREAM_DELIVERY"] = "at-least-once"
    leads = {f"lead_{i}" for i in range(6000)}
    stage.send(map(stage.change, leads))
    with stage.running(**QUICK, **SLOW) as killed:
        kill_in_mid_batch(stage, killed, stage.topics.lead_changes, 1)
    before, committed = len(stage.predictions(1)), stage.committed(stage.topics.lead_changes)
    with stage.running(**QUICK) as process:
        everything = stage.predictions(before - committed + 6000)
        assert process.stop() == 0
    assert {prediction["lead_id"] for prediction in everything} == leads
    assert len({prediction["prediction_id"] for prediction in everything}) == 6000 < len(everything)
    assert stage.committed(stage.topics.lead_changes) == 6000


def test_at_least_once_works_on_a_broker_without_transactions_and_exactly_once_refuses_it(
    mock_broker: Broker, tmp_path: Path, model_store: str
) -> None:
    stage = Stage.on(mock_broker.bootstrap, tmp_path, model_store, create=False)
    stage.ask_for_topics()
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
