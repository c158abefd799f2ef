"""What takes longer than a page: looks at what a decision would do, and decisions, each in a thread of its own."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from consumer.dead_letters.dry_run_summary import DryRunGroup
from consumer.dead_letters.groups import LetterGroup
from consumer.dead_letters.patch import parse_assignments
from consumer.dead_letters.replay import RATE, DecisionProgress
from consumer.dead_letters.selection import Filter, Selection
from consumer.dead_letters.service import TriageService
from leadstream.errors import Fenced, Poison, SettingsError, Transient, UserError

KEPT = 50
BUG = "it ended by a bug; the terminal of the console has the trace"


class Kind(StrEnum):
    """The first two only look; the others carry out what one of them has shown."""

    REHEARSAL = "rehearsal"
    COUNT = "count"
    REPLAY = "replay"
    DISCARD = "discard"


@dataclass(slots=True)
class Job:
    """`words` say which letters are meant, `mend` has an assignment for each field; `trouble` is why it failed."""

    number: int
    kind: Kind
    words: dict[str, str]
    wanted: Filter
    mend: tuple[str, ...] = ()
    because: str | None = None
    survey: Selection | None = None
    groups: list[LetterGroup] = field(default_factory=list)
    forecasts: list[DryRunGroup] = field(default_factory=list)
    tally: DecisionProgress = field(default_factory=DecisionProgress)
    trouble: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.done.is_set()

    @property
    def decides(self) -> bool:
        """Whether it changes anything."""
        return self.kind in (Kind.REPLAY, Kind.DISCARD)

    def tell(self, tally: DecisionProgress) -> None:
        """Keep a copy of how far it is, for pages are made while it goes on."""
        self.tally = replace(tally, decided=Counter(tally.decided), skipped=Counter(tally.skipped))


class Jobs:
    """The newest jobs of one console; one decides at a time."""

    def __init__(self, triage: TriageService, decided_by: str) -> None:
        self._triage = triage
        self.decided_by = decided_by
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._rehearsing = threading.Lock()  # each has the model in memory

    def get(self, number: int) -> Job:
        """Raises UserError where there is none."""
        try:
            return self._jobs[number]
        except KeyError:
            raise UserError(
                f"there is no job {number}: the console keeps the last {KEPT} since its start"
            ) from None

    def deciding(self) -> Job | None:
        """The job that decides just now."""
        return next(
            (job for job in list(self._jobs.values()) if job.decides and not job.over), None
        )

    def look(
        self, kind: Kind, words: dict[str, str], wanted: Filter, mend: tuple[str, ...] = ()
    ) -> Job:
        """Begin a rehearsal or a count. Raises SettingsError where the mend cannot be read."""
        patch = parse_assignments(mend)

        def work(job: Job) -> None:
            job.survey = survey = self._triage.select(wanted)
            if kind is Kind.COUNT:
                job.groups = self._triage.groups_of(survey)
            elif survey.count:
                with self._rehearsing:
                    job.forecasts = self._triage.dry_run(survey, patch)

        return self._start(Job(next(self._numbers), kind, words, wanted, mend), work)

    def decide(self, shown: Job, because: str, rate: int = RATE) -> Job:
        """Carry out what a look has shown, on the letters that it has shown. Raises UserError."""
        survey = shown.survey
        if survey is None or shown.decides:
            raise UserError("only what was shown can be decided: rehearse it first")
        because = because.strip()
        if shown.kind is Kind.COUNT and not because:
            raise SettingsError("say why the letters are given up")
        kind = Kind.DISCARD if shown.kind is Kind.COUNT else Kind.REPLAY
        patch = parse_assignments(shown.mend)

        def work(job: Job) -> None:
            who, tell, stop = self.decided_by, job.tell, job.stop
            if kind is Kind.DISCARD:
                tally = self._triage.discard(
                    survey, decided_by=who, comment=because, report=tell, stop=stop
                )
            else:
                tally = self._triage.replay(
                    survey,
                    decided_by=who,
                    patch=patch,
                    comment=because or None,
                    rate=rate,
                    report=tell,
                    stop=stop,
                )
            job.tell(tally)

        job = Job(
            next(self._numbers),
            kind,
            shown.words,
            shown.wanted,
            shown.mend,
            because or None,
            survey,
        )
        return self._start(job, work)

    def close(self) -> None:
        """End what is being decided after the transaction at hand."""
        if job := self.deciding():
            job.stop.set()
            job.done.wait()

    def _start(self, job: Job, work: Callable[[Job], None]) -> Job:
        def run() -> None:
            job.trouble = BUG
            try:
                work(job)
                job.trouble = None
            except (UserError, Transient, Poison, Fenced) as error:
                job.trouble = str(error)
            finally:
                job.done.set()

        with self._lock:
            if job.decides and (other := self.deciding()):
                raise UserError(f"job {other.number} decides just now: wait for it, or stop it")
            self._jobs[job.number] = job
            for number in [number for number, old in self._jobs.items() if old.over][
                : max(0, len(self._jobs) - KEPT)
            ]:
                del self._jobs[number]
        threading.Thread(target=run, name=f"job {job.number}", daemon=True).start()
        return job
