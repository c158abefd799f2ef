"""The loop that decides letters in bulk."""

import threading
from collections.abc import Callable, Sequence

import pytest

from consumer.dead_letters import replay as loop
from consumer.dead_letters.audit import Action
from consumer.dead_letters.executor import ExecutionResult
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.planner import PlannedAction, Planner
from consumer.dead_letters.replay import DecisionRun, discard, replay
from leadstream.errors import Fenced, UserError
from leadstream.kafka.batch import Output
from leadstream.kafka.topics import Topics
from leadstream.settings import load_settings
from schemas.codec import Writer
from tests.fakes import MemoryBroker, MemoryDecisionExecutor
from tests.letters import letter
from tests.unit.pipelines import CHANGES, event

PLANNER = Planner(load_settings({}, None), None)
CHANGE = Writer("LeadChanged")
GROUP = "leadstream"


def found(count: int) -> list[Letter]:
    return [letter(i, b"lead_%d" % i, CHANGE.encode(event(f"lead_{i}"))) for i in range(count)]


class ReplayHarness:
    """A broker, an executor, and a clock that a pause moves.

    `meanwhile` runs during each pause.
    """

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.broker = MemoryBroker()
        self.executor = MemoryDecisionExecutor(self.broker, GROUP, Topics())
        self.executor.acquire()
        self.now = 0.0
        self._meanwhile = meanwhile

    def run(self, **options: object) -> DecisionRun:
        return DecisionRun(self.executor, pause=self._pause, clock=lambda: self.now, **options)  # type: ignore[arg-type]

    def consume(self) -> None:
        self.broker.committed[GROUP, CHANGES] = len(self.broker.records[CHANGES])

    def backlog(self, count: int) -> None:
        for i in range(count):
            self.broker.append(Output(CHANGES, b"other_%d" % i, b""))

    def _pause(self, seconds: float) -> None:
        self.now += seconds
        self._meanwhile()


def test_a_rate_that_is_not_kept_would_flood_the_consumers() -> None:
    harness = ReplayHarness()
    progress = replay(harness.run(rate=100, max_lag=10_000), found(1000), PLANNER)
    assert progress.decided == {Action.REPLAYED: 1000}
    assert 9.4 < harness.now < 10.1


def test_while_the_consumers_lag_nothing_is_sent() -> None:
    seen: list[int] = []

    def meanwhile() -> None:
        seen.append(len(harness.broker.records[CHANGES]))
        if harness.now > 5:
            harness.consume()

    harness = ReplayHarness(meanwhile)
    harness.backlog(50)
    progress = replay(harness.run(max_lag=20), found(10), PLANNER)
    assert set(seen[:-1]) == {50}
    assert progress.decided == {Action.REPLAYED: 10}


def test_consumers_that_stand_still_are_not_waited_for_without_end_and_nothing_is_decided() -> None:
    harness = ReplayHarness()
    harness.backlog(50)
    progress = replay(harness.run(max_lag=20), found(10), PLANNER)
    assert progress.skipped == {"the consumers are behind and make no progress": 10}
    assert harness.now == pytest.approx(loop.PATIENCE_SECONDS, abs=1)
    assert not harness.broker.records[Topics().dead_letter_audit]


def test_consumers_that_get_on_are_waited_for_however_long_it_takes() -> None:
    def one() -> None:
        harness.broker.committed[GROUP, CHANGES] = (
            harness.broker.committed.get((GROUP, CHANGES), 0) + 1
        )

    harness = ReplayHarness(one)
    harness.backlog(1000)
    progress = replay(harness.run(max_lag=20), found(10), PLANNER)
    assert progress.decided == {Action.REPLAYED: 10}
    assert harness.now > 3 * loop.PATIENCE_SECONDS


def test_a_lead_whose_change_is_never_processed_keeps_only_its_own_letters_open() -> None:
    harness = ReplayHarness()
    harness.broker.append(Output(CHANGES, b"lead_3", b""))
    progress = replay(harness.run(), found(10), PLANNER)
    assert progress.decided == {Action.REPLAYED: 9}
    assert progress.skipped == {"another change of the lead is not processed yet": 1}


def test_stopping_ends_it_between_two_transactions_and_the_rest_stays_open() -> None:
    harness, stop = ReplayHarness(), threading.Event()
    run = harness.run(stop=stop, report=lambda progress: stop.set() if progress.finished else None)
    progress = replay(run, found(1000), PLANNER)
    assert progress.stopped
    assert progress.decided == {Action.REPLAYED: 250}
    assert len(harness.broker.records[Topics().dead_letter_audit]) == 250
    again = replay(harness.run(), found(1000), PLANNER)
    assert (again.elsewhere, again.decided) == (250, {Action.REPLAYED: 750})


class Contested(MemoryDecisionExecutor):
    """An executor that another one fences before each execution, with a decision of its own."""

    times = 3

    def execute(self, planned: Sequence[PlannedAction]) -> ExecutionResult:
        if self.times:
            self.times -= 1
            other = MemoryDecisionExecutor(self._broker, GROUP, Topics())
            other.acquire()
            other.execute([PlannedAction(planned[0].letter, Action.DISCARDED, "not this one")])
        return super().execute(planned)


def contested(times: int) -> ReplayHarness:
    harness = ReplayHarness()
    harness.executor = Contested(harness.broker, GROUP, Topics())
    harness.executor.times = times
    harness.executor.acquire()
    return harness


def test_two_who_decide_at_once_decide_each_letter_once() -> None:
    harness = contested(3)
    progress = replay(harness.run(), found(10), PLANNER)
    assert (progress.elsewhere, progress.decided) == (3, {Action.REPLAYED: 7})
    assert len(harness.broker.records[Topics().dead_letter_audit]) == 10
    harness = contested(3)
    progress = discard(harness.run(), found(10), "a test")
    assert (progress.elsewhere, progress.decided) == (3, {Action.DISCARDED: 7})


def test_an_executor_that_is_always_fenced_is_given_up_in_a_sentence() -> None:
    harness = contested(1000)
    with pytest.raises(UserError, match="others decide letters at the same time"):
        replay(harness.run(), found(100), PLANNER)


def test_a_letter_that_no_broker_takes_stays_open_and_its_neighbours_go() -> None:
    class RefusingExecutor(MemoryDecisionExecutor):
        def execute(self, planned: Sequence[PlannedAction]) -> ExecutionResult:
            large = {each.letter.id: "too large" for each in planned if each.letter.id.offset == 4}
            return ExecutionResult(refused=large) if large else super().execute(planned)

    harness = ReplayHarness()
    harness.executor = RefusingExecutor(harness.broker, GROUP, Topics())
    harness.executor.acquire()
    progress = replay(harness.run(), found(10), PLANNER)
    assert progress.decided == {Action.REPLAYED: 9}
    assert progress.skipped == {"the brokers refuse it: too large": 1}


def test_an_executor_that_was_not_acquired_decides_nothing() -> None:
    executor = MemoryDecisionExecutor(MemoryBroker(), GROUP, Topics())
    with pytest.raises(Fenced):
        executor.execute([PlannedAction(found(1)[0], Action.DISCARDED, "a test")])
