"""The loop of bulk decisions: ordered, in small transactions, at a bounded rate, and resumable."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from consumer.dead_letters.audit import Action
from consumer.dead_letters.executor import DecisionExecutor
from consumer.dead_letters.letters import Letter, LetterId
from consumer.dead_letters.planner import PlannedAction, Planner, SkippedLetter
from leadstream.errors import Fenced, UserError

RATE = 500
BATCH = 250
DISCARD_BATCH = 1_000
POLL_SECONDS = 0.2
# The limit of a wait, for a lead that always changes or consumers that do not progress.
PATIENCE_SECONDS = 30.0
FENCED_IN_A_ROW = 20


@dataclass(slots=True)
class DecisionProgress:
    """The progress of a bulk decision.

    `elsewhere` counts letters that another process decided, or a commit whose answer was lost.
    `skipped` counts letters that stay open, by cause. `retimed` counts letters that were sent back
    with the present time. `waiting_for` names what the loop waits for, or None.
    """

    decided: Counter[Action] = field(default_factory=Counter)
    elsewhere: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    retimed: int = 0
    waiting_for: str | None = None
    stopped: bool = False

    @property
    def finished(self) -> int:
        """Return how many letters are done."""
        return self.decided.total() + self.elsewhere + self.skipped.total()


@dataclass(slots=True)
class DecisionRun:
    """The parameters and the state of a bulk decision.

    `stop` ends it after the current transaction, and `report` gets the progress after each step.
    While the consumers have more than `max_lag` changes to process, nothing is sent. `pause` waits
    for some seconds; without it, `stop` ends a wait early.
    """

    executor: DecisionExecutor
    report: Callable[[DecisionProgress], None] = lambda _progress: None
    stop: threading.Event = field(default_factory=threading.Event)
    rate: int = RATE
    max_lag: int = 2_000
    patience: float = PATIENCE_SECONDS
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], object] | None = None
    progress: DecisionProgress = field(default_factory=DecisionProgress)
    fenced: int = 0

    def wait(self, seconds: float) -> None:
        """Wait for some seconds."""
        (self.pause or self.stop.wait)(seconds)


def replay(run: DecisionRun, letters: Iterable[Letter], planner: Planner) -> DecisionProgress:
    """Replay letters, each once, with an acquired executor that tracks their leads.

    A letter waits while a change of its lead is pending. It keeps its place in the order. Raises
    UserError, Transient.
    """
    fresh, pending = iter(letters), list[Letter]()
    size = max(1, min(BATCH, run.rate // 2))
    moved, committed = run.clock(), -1
    while not run.stop.is_set():
        pending = _fill(run, pending, fresh, size)
        if not pending:
            return run.progress
        began, fenced = run.clock(), run.fenced
        snapshot = run.executor.refresh(run.max_lag)
        if snapshot.lag > run.max_lag:
            moved, committed = (
                (began, snapshot.committed)
                if snapshot.committed != committed
                else (moved, committed)
            )
            if not _wait_or_give_up(
                run, f"the consumers are more than {run.max_lag:,} changes behind", moved
            ):
                return _give_up(
                    run, pending, fresh, "the consumers are behind and make no progress"
                )
            continue
        free = [letter for letter in pending if letter.key not in snapshot.waiting]
        plans = [planner.plan(letter, run.executor.scores) for letter in free]
        planned = [each for each in plans if isinstance(each, PlannedAction)]
        skipped_letters = [each for each in plans if isinstance(each, SkippedLetter)]
        run.progress.skipped.update(each.why for each in skipped_letters)
        finished_ids = {each.letter.id for each in skipped_letters} | _execute(run, planned)
        pending = [letter for letter in pending if letter.id not in finished_ids]
        if finished_ids or run.fenced > fenced:
            moved = run.clock()
            _report(run)
            sent = sum(
                each.output is not None for each in planned if each.letter.id in finished_ids
            )
            run.wait(max(0.0, sent / run.rate - (run.clock() - began)))
        elif not _wait_or_give_up(run, "a change of the same lead is not processed yet", moved):
            return _give_up(run, pending, fresh, "another change of the lead is not processed yet")
    run.progress.stopped = True
    return run.progress


def discard(run: DecisionRun, letters: Iterable[Letter], comment: str) -> DecisionProgress:
    """Discard letters, each once, with an acquired executor. Raises UserError, Transient."""
    fresh, pending = iter(letters), list[Letter]()
    while not run.stop.is_set():
        pending = _fill(run, pending, fresh, DISCARD_BATCH)
        if not pending:
            return run.progress
        finished_ids = _execute(
            run, [PlannedAction(letter, Action.DISCARDED, comment) for letter in pending]
        )
        pending = [letter for letter in pending if letter.id not in finished_ids]
        _report(run)
    run.progress.stopped = True
    return run.progress


def _fill(
    run: DecisionRun, pending: Sequence[Letter], fresh: Iterator[Letter], size: int
) -> list[Letter]:
    """Return up to `size` open letters, the pending ones first."""
    filled = _still_open(run, pending)
    while len(filled) < size and (more := list(islice(fresh, size - len(filled)))):
        filled += _still_open(run, more)
    return filled


def _still_open(run: DecisionRun, letters: Sequence[Letter]) -> list[Letter]:
    """Return the letters without a decision, and count the others."""
    found = [letter for letter in letters if run.executor.decided.get(letter.id) is None]
    run.progress.elsewhere += len(letters) - len(found)
    return found


def _execute(run: DecisionRun, planned: Sequence[PlannedAction]) -> set[LetterId]:
    """Execute planned actions; return the finished letters, none after a fence."""
    finished_ids = set[LetterId]()
    while rest := [each for each in planned if each.letter.id not in finished_ids]:
        try:
            result = run.executor.execute(rest)
        except Fenced as error:
            _acquire_again(run, error)
            return finished_ids
        run.fenced = 0
        for why in result.refused.values():
            run.progress.skipped[f"the brokers refuse it: {why}"] += 1
        finished_ids |= result.refused.keys()
        if result.overtaken:
            return finished_ids
        if result.committed:
            run.progress.decided.update(each.action for each in rest)
            run.progress.retimed += sum(each.retimed for each in rest)
            return finished_ids | {each.letter.id for each in rest}
    return finished_ids


def _acquire_again(run: DecisionRun, fenced: Fenced) -> None:
    """Acquire the executor again after a fence or a lost answer, with the newest decisions."""
    run.fenced += 1
    if run.fenced > FENCED_IN_A_ROW:
        raise UserError(
            f"others decide letters at the same time and interfere ({fenced}): run it again"
        )
    run.progress.waiting_for = "another process decides letters, too"
    run.report(run.progress)
    # Jitter: two processes that fence each other at once would both make no progress.
    run.wait(random.uniform(0.1, 0.5) * run.fenced)  # noqa: S311  # jitter, not a secret
    run.executor.acquire()


def _report(run: DecisionRun) -> None:
    run.progress.waiting_for = None
    run.report(run.progress)


def _wait_or_give_up(run: DecisionRun, why: str, since: float) -> bool:
    """Wait a little; return False if nothing moved for too long."""
    run.progress.waiting_for = why
    run.report(run.progress)
    run.wait(POLL_SECONDS)
    return run.clock() - since < run.patience


def _give_up(
    run: DecisionRun, pending: Sequence[Letter], fresh: Iterator[Letter], why: str
) -> DecisionProgress:
    run.progress.skipped[why] += len(pending) + sum(1 for _ in fresh)
    return run.progress
