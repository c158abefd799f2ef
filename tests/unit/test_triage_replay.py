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
    """A broker, a desk, and a clock that pausing moves; `meanwhile` happens while somebody pauses."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.broker = MemoryBroker()
        self.executor = MemoryDecisionExecutor(self.broker, GROUP, Topics())
        self.executor.acquire()
        self.now = 0.0
        self._meanwhile = meanwhile

    def run(self, **facts: object) -> DecisionRun:
        return DecisionRun(self.executor, pause=self._pause, clock=lambda: self.now, **facts)  # type: ignore[arg-type]

    def consume(self) -> None:
        self.broker.committed[GROUP, CHANGES] = len(self.broker.records[CHANGES])

    def backlog(self, count: int) -> None:
        for i in range(count):
            self.broker.append(Output(CHANGES, b"other_%d" % i, b""))

    def _pause(self, seconds: float) -> None:
        self.now += seconds
        self._meanwhile()


def test_a_rate_that_is_not_kept_would_flood_the_consumers() -> None:
    world = ReplayHarness()
    progress = replay(world.run(rate=100, max_lag=10_000), found(1000), PLANNER)
    assert progress.decided == {Action.REPLAYED: 1000}
    assert 9.4 < world.now < 10.1


def test_while_the_consumers_lag_nothing_is_sent() -> None:
    seen: list[int] = []

    def meanwhile() -> None:
        seen.append(len(world.broker.records[CHANGES]))
        if world.now > 5:
            world.consume()

    world = ReplayHarness(meanwhile)
    world.backlog(50)
    progress = replay(world.run(max_lag=20), found(10), PLANNER)
    assert set(seen[:-1]) == {50}
    assert progress.decided == {Action.REPLAYED: 10}


def test_consumers_that_stand_still_are_not_waited_for_without_end_and_nothing_is_decided() -> None:
    world = ReplayHarness()
    world.backlog(50)
    progress = replay(world.run(max_lag=20), found(10), PLANNER)
    assert progress.skipped == {"the consumers are behind and make no progress": 10}
    assert world.now == pytest.approx(loop.PATIENCE_SECONDS, abs=1)
    assert not world.broker.records[Topics().dead_letter_audit]


def test_consumers_that_get_on_are_waited_for_however_long_it_takes() -> None:
    def one() -> None:
        world.broker.committed[GROUP, CHANGES] = world.broker.committed.get((GROUP, CHANGES), 0) + 1

    world = ReplayHarness(one)
    world.backlog(1000)
    progress = replay(world.run(max_lag=20), found(10), PLANNER)
    assert progress.decided == {Action.REPLAYED: 10}
    assert world.now > 3 * loop.PATIENCE_SECONDS


def test_a_lead_whose_change_is_never_processed_keeps_only_its_own_letters_open() -> None:
    world = ReplayHarness()
    world.broker.append(Output(CHANGES, b"lead_3", b""))
    progress = replay(world.run(), found(10), PLANNER)
    assert progress.decided == {Action.REPLAYED: 9}
    assert progress.skipped == {"another change of the lead is not processed yet": 1}


def test_stopping_ends_it_between_two_transactions_and_the_rest_stays_open() -> None:
    world, stop = ReplayHarness(), threading.Event()
    run = world.run(stop=stop, report=lambda progress: stop.set() if progress.finished else None)
    progress = replay(run, found(1000), PLANNER)
    assert progress.stopped
    assert progress.decided == {Action.REPLAYED: 250}
    assert len(world.broker.records[Topics().dead_letter_audit]) == 250
    again = replay(world.run(), found(1000), PLANNER)
    assert (again.elsewhere, again.decided) == (250, {Action.REPLAYED: 750})


class Contested(MemoryDecisionExecutor):
    """Somebody else takes the desk before every settling, and decides the first letter himself."""

    times = 3

    def execute(self, planned: Sequence[PlannedAction]) -> ExecutionResult:
        if self.times:
            self.times -= 1
            other = MemoryDecisionExecutor(self._broker, GROUP, Topics())
            other.acquire()
            other.execute([PlannedAction(planned[0].letter, Action.DISCARDED, "not this one")])
        return super().execute(planned)


def contested(times: int) -> ReplayHarness:
    world = ReplayHarness()
    world.executor = Contested(world.broker, GROUP, Topics())
    world.executor.times = times
    world.executor.acquire()
    return world


def test_two_who_decide_at_once_decide_each_letter_once() -> None:
    world = contested(3)
    progress = replay(world.run(), found(10), PLANNER)
    assert (progress.elsewhere, progress.decided) == (3, {Action.REPLAYED: 7})
    assert len(world.broker.records[Topics().dead_letter_audit]) == 10
    world = contested(3)
    progress = discard(world.run(), found(10), "a test")
    assert (progress.elsewhere, progress.decided) == (3, {Action.DISCARDED: 7})


def test_a_desk_that_is_always_taken_away_is_given_up_in_a_sentence() -> None:
    world = contested(1000)
    with pytest.raises(UserError, match="others decide letters at the same time"):
        replay(world.run(), found(100), PLANNER)


def test_a_letter_that_no_broker_takes_stays_open_and_its_neighbours_go() -> None:
    class RefusingExecutor(MemoryDecisionExecutor):
        def execute(self, planned: Sequence[PlannedAction]) -> ExecutionResult:
            large = {each.letter.id: "too large" for each in planned if each.letter.id.offset == 4}
            return ExecutionResult(refused=large) if large else super().execute(planned)

    world = ReplayHarness()
    world.executor = RefusingExecutor(world.broker, GROUP, Topics())
    world.executor.acquire()
    progress = replay(world.run(), found(10), PLANNER)
    assert progress.decided == {Action.REPLAYED: 9}
    assert progress.skipped == {"the brokers refuse it: too large": 1}


def test_a_desk_that_was_not_taken_decides_nothing() -> None:
    executor = MemoryDecisionExecutor(MemoryBroker(), GROUP, Topics())
    with pytest.raises(Fenced):
        executor.execute([PlannedAction(found(1)[0], Action.DISCARDED, "a test")])
