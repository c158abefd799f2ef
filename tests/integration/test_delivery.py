"""Exactly once, and at least once, as subscribers of the predictions see it, whatever happens to the processes."""

import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from local.broker import Broker
from tests.integration.running import QUICK, Running, Stage, until

pytestmark = pytest.mark.broker
EACH = {"LEADSTREAM_COALESCE": "false"}


@pytest.fixture
def stage(kafka: Broker, tmp_path: Path, model_store: str) -> Stage:
    return Stage.on(kafka.bootstrap, tmp_path, model_store)


def leads(count: int, *prefixes: str) -> Counter[str]:
    return Counter(f"{prefix}_{i}" for prefix in prefixes for i in range(count))


def scored(stage: Stage, count: int) -> Counter[str]:
    """How many predictions each lead has, once there are `count`."""
    return Counter(prediction["lead_id"] for prediction in stage.predictions(count))


def test_a_process_killed_between_produce_and_commit_must_not_leave_half_a_batch_behind(stage: Stage) -> None:
    """Records that go out one by one make the transaction long: it is stopped in its middle, looked at, and killed."""
    stage.send(stage.changes("lead", 1500))
    slow = {"LEADSTREAM_KAFKA_BATCH_NUM_MESSAGES": "1", "LEADSTREAM_KAFKA_MAX_IN_FLIGHT_REQUESTS_PER_CONNECTION": "1"}
    with stage.running(**QUICK, **slow) as killed:
        produced = stage.read(stage.topics.lead_predictions, 1, committed=False)
        killed.signal(signal.SIGSTOP)
        assert produced
        assert stage.committed() == 0
        assert killed.events("batch") == []
        killed.kill()
    assert stage.read(stage.topics.lead_predictions, 0) == []
    with stage.running(**QUICK):
        assert scored(stage, 1500) == leads(1500, "lead")
    everything = stage.read(stage.topics.lead_predictions, 1500, committed=False)
    assert len(everything) > 1500, "nothing had been produced before the kill"


def test_processes_killed_at_any_moment_under_load_neither_lose_nor_repeat_a_change(stage: Stage) -> None:
    chance = random.Random(7)
    done = threading.Event()
    sent: list[str] = []

    def load() -> None:
        while not done.wait(0.02):
            prefix = f"lead{len(sent)}"
            stage.send(stage.changes(prefix, 40))
            sent.append(prefix)

    feeder = threading.Thread(target=load)
    with ExitStack() as stack:
        start: Callable[[], Running] = lambda: stack.enter_context(stage.running(**QUICK, **EACH))  # noqa: E731
        stack.callback(feeder.join)
        stack.callback(done.set)
        feeder.start()
        processes = [start(), start()]
        for _ in range(3):
            for process in processes:
                batches = chance.randrange(1, 12)
                until(lambda p=process, n=batches: len(p.events("batch")) >= n, "the process works")
                process.kill()
            processes = [start(), start()]
        for process in processes:
            process.event("batch")
        done.set()
        feeder.join()
        expected = leads(40, *sent)
        assert scored(stage, expected.total()) == expected
        assert [process.stop() for process in processes] == [0, 0]
    assert scored(stage, expected.total()) == expected
