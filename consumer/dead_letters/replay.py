"""Letters decided in bulk: in their order, in small transactions, at a bounded rate, and again where it was stopped."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from consumer.dead_letters.audit import Action
from consumer.dead_letters.executor import Desk
from consumer.dead_letters.letters import Letter, LetterId
from consumer.dead_letters.planner import Judge, Open, Verdict
from leadstream.errors import Fenced, UserError

RATE = 500
BATCH = 250
DISCARD_BATCH = 1_000
LOOK_AGAIN_SECONDS = 0.2
# A lead that changes all the time, or consumers that stand still, are not waited for without end.
PATIENCE_SECONDS = 30.0
FENCED_IN_A_ROW = 20


@dataclass(slots=True)
class Tally:
    """How far it is. `elsewhere` are letters that were decided meanwhile by somebody else, or by a commit whose answer
    was lost; `left` is why letters stay open, by reason; `waits` is what is waited for just now, or None.
    """

    decided: Counter[Action] = field(default_factory=Counter)
    elsewhere: int = 0
    left: Counter[str] = field(default_factory=Counter)
    waits: str | None = None
    stopped: bool = False

    @property
    def seen(self) -> int:
        """How many letters are done with."""
        return self.decided.total() + self.elsewhere + self.left.total()


@dataclass(slots=True)
class Run:
    """What a bulk decision runs with. `stop` ends it after the transaction at hand; `tell` hears of each step.

    `most_behind` is how many changes the consumers may have before them; while there are more, nothing is sent.
    `pause` waits for so many seconds; without one, `stop` ends a wait.
    """

    desk: Desk
    tell: Callable[[Tally], None] = lambda _tally: None
    stop: threading.Event = field(default_factory=threading.Event)
    rate: int = RATE
    most_behind: int = 2_000
    patience: float = PATIENCE_SECONDS
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], object] | None = None
    tally: Tally = field(default_factory=Tally)
    fenced: int = 0

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""
        (self.pause or self.stop.wait)(seconds)


def replay(run: Run, letters: Iterable[Letter], judge: Judge) -> Tally:
    """Send letters back, each once. The desk must be taken, and watch the leads of the letters.

    A letter whose lead has a change waiting comes again with the next ones, in its order. Raises UserError, Transient.
    """
    fresh, pending = iter(letters), list[Letter]()
    size = max(1, min(BATCH, run.rate // 2))
    moved, committed = run.clock(), -1
    while not run.stop.is_set():
        pending = _filled(run, pending, fresh, size)
        if not pending:
            return run.tally
        began, fenced = run.clock(), run.fenced
        outlook = run.desk.look(run.most_behind)
        if outlook.behind > run.most_behind:
            moved, committed = (
                (began, outlook.committed) if outlook.committed != committed else (moved, committed)
            )
            if not _waits(
                run, f"the consumers are more than {run.most_behind:,} changes behind", moved
            ):
                return _left(run, pending, fresh, "the consumers are behind and do not get on")
            continue
        free = [letter for letter in pending if letter.key not in outlook.waiting]
        judged = [judge.judge(letter, run.desk.scores) for letter in free]
        verdicts = [each for each in judged if isinstance(each, Verdict)]
        unfit = [each for each in judged if isinstance(each, Open)]
        run.tally.left.update(each.why for each in unfit)
        gone = {each.letter.id for each in unfit} | _settled(run, verdicts)
        pending = [letter for letter in pending if letter.id not in gone]
        if gone or run.fenced > fenced:
            moved = run.clock()
            _told(run)
            sent = sum(each.output is not None for each in verdicts if each.letter.id in gone)
            run.wait(max(0.0, sent / run.rate - (run.clock() - began)))
        elif not _waits(run, "a change of the same lead is not processed yet", moved):
            return _left(run, pending, fresh, "another change of the lead is not processed yet")
    run.tally.stopped = True
    return run.tally


def discard(run: Run, letters: Iterable[Letter], because: str) -> Tally:
    """Give letters up, each once, and say why. The desk must be taken. Raises UserError, Transient."""
    fresh, pending = iter(letters), list[Letter]()
    while not run.stop.is_set():
        pending = _filled(run, pending, fresh, DISCARD_BATCH)
        if not pending:
            return run.tally
        gone = _settled(run, [Verdict(letter, Action.DISCARDED, because) for letter in pending])
        pending = [letter for letter in pending if letter.id not in gone]
        _told(run)
    run.tally.stopped = True
    return run.tally


def _filled(
    run: Run, pending: Sequence[Letter], fresh: Iterator[Letter], size: int
) -> list[Letter]:
    """Open letters, as many as `size` if there are so many: those that are pending come first."""
    filled = _open(run, pending)
    while len(filled) < size and (more := list(islice(fresh, size - len(filled)))):
        filled += _open(run, more)
    return filled


def _open(run: Run, letters: Sequence[Letter]) -> list[Letter]:
    """Those that nobody has decided on since they were chosen."""
    found = [letter for letter in letters if run.desk.decided.get(letter.id) is None]
    run.tally.elsewhere += len(letters) - len(found)
    return found


def _settled(run: Run, verdicts: Sequence[Verdict]) -> set[LetterId]:
    """Carry verdicts out; the letters that are done with, none of them where the transaction was given up."""
    gone = set[LetterId]()
    while rest := [each for each in verdicts if each.letter.id not in gone]:
        try:
            settled = run.desk.settle(rest)
        except Fenced as error:
            _take_again(run, error)
            return gone
        run.fenced = 0
        for why in settled.refused.values():
            run.tally.left[f"no broker takes it: {why}"] += 1
        gone |= settled.refused.keys()
        if settled.crossed:
            return gone
        if settled.done:
            run.tally.decided.update(each.action for each in rest)
            return gone | {each.letter.id for each in rest}
    return gone


def _take_again(run: Run, fenced: Fenced) -> None:
    """Somebody else took the desk, or a commit was not answered: take it anew, and see what is decided by now."""
    run.fenced += 1
    if run.fenced > FENCED_IN_A_ROW:
        raise UserError(
            f"others decide letters at the same time and get in the way ({fenced}): run it again"
        )
    run.tally.waits = "somebody else decides letters, too"
    run.tell(run.tally)
    # Two who take the desk from each other at once would both get nowhere.
    run.wait(random.uniform(0.1, 0.5) * run.fenced)  # noqa: S311  # jitter, not a secret
    run.desk.take()


def _told(run: Run) -> None:
    run.tally.waits = None
    run.tell(run.tally)


def _waits(run: Run, why: str, since: float) -> bool:
    """Wait a little; False once it took too long since anything moved."""
    run.tally.waits = why
    run.tell(run.tally)
    run.wait(LOOK_AGAIN_SECONDS)
    return run.clock() - since < run.patience


def _left(run: Run, pending: Sequence[Letter], fresh: Iterator[Letter], why: str) -> Tally:
    run.tally.left[why] += len(pending) + sum(1 for _ in fresh)
    return run.tally
