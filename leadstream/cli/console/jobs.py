"""Jobs that take longer than a page: dry runs and decisions, each in a thread of its own."""

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
BUG = "a bug ended this job; the terminal of the console has the trace"


class JobKind(StrEnum):
    """The kind of a job. The first two only preview; the others execute a previewed."""

    DRY_RUN = "dry run"
    COUNT = "count"
    REPLAY = "replay"
    DISCARD = "discard"


@dataclass(slots=True)
class Job:
    """A preview or a decision.

    `query` has the parameters that select the letters, `assignments` one patched field each.
    `error` is the sentence of a failed job.
    """

    number: int
    kind: JobKind
    query: dict[str, str]
    wanted: Filter
    assignments: tuple[str, ...] = ()
    comment: str | None = None
    selection: Selection | None = None
    groups: list[LetterGroup] = field(default_factory=list)
    dry_run_groups: list[DryRunGroup] = field(default_factory=list)
    progress: DecisionProgress = field(default_factory=DecisionProgress)
    error: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def finished(self) -> bool:
        """Return whether the job has ended."""
        return self.done.is_set()

    @property
    def decides(self) -> bool:
        """Return whether the job changes anything."""
        return self.kind in (JobKind.REPLAY, JobKind.DISCARD)

    def report(self, progress: DecisionProgress) -> None:
        """Keep a copy of the progress, because pages render while the job goes on."""
        self.progress = replace(
            progress, decided=Counter(progress.decided), skipped=Counter(progress.skipped)
        )


class Jobs:
    """The newest jobs of one console; only one decides at a time."""

    def __init__(self, triage: TriageService, decided_by: str) -> None:
        self._triage = triage
        self.decided_by = decided_by
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._dry_running = threading.Lock()  # each dry run has the model in memory

    def get(self, number: int) -> Job:
        """Return a job. Raises UserError if it does not exist."""
        try:
            return self._jobs[number]
        except KeyError:
            raise UserError(
                f"there is no job {number}: the console keeps its last {KEPT} jobs"
            ) from None

    def deciding(self) -> Job | None:
        """Return the job that decides now."""
        return next(
            (job for job in list(self._jobs.values()) if job.decides and not job.finished), None
        )

    def preview(
        self,
        kind: JobKind,
        query: dict[str, str],
        wanted: Filter,
        assignments: tuple[str, ...] = (),
    ) -> Job:
        """Start a dry run or a count. Raises SettingsError for a bad assignment."""
        patch = parse_assignments(assignments)

        def work(job: Job) -> None:
            job.selection = selection = self._triage.select(wanted)
            if kind is JobKind.COUNT:
                job.groups = self._triage.groups_of(selection)
            elif selection.count:
                with self._dry_running:
                    job.dry_run_groups = self._triage.dry_run(selection, patch)

        return self._start(Job(next(self._numbers), kind, query, wanted, assignments), work)

    def decide(self, previewed: Job, comment: str, rate: int = RATE) -> Job:
        """Execute a preview, on exactly its letters. Raises UserError."""
        selection = previewed.selection
        if previewed.decides:
            raise UserError("only a preview can be decided: start with a dry run")
        if not previewed.finished:
            raise UserError("the preview has not ended: wait for it, and read what it shows")
        if selection is None or previewed.error:
            raise UserError("the preview failed, so it shows nothing to decide: start it again")
        comment = comment.strip()
        if previewed.kind is JobKind.COUNT and not comment:
            raise SettingsError("say why the letters are discarded")
        kind = JobKind.DISCARD if previewed.kind is JobKind.COUNT else JobKind.REPLAY
        patch = parse_assignments(previewed.assignments)

        def work(job: Job) -> None:
            decided_by, report, stop = self.decided_by, job.report, job.stop
            if kind is JobKind.DISCARD:
                progress = self._triage.discard(
                    selection, decided_by=decided_by, comment=comment, report=report, stop=stop
                )
            else:
                progress = self._triage.replay(
                    selection,
                    decided_by=decided_by,
                    patch=patch,
                    comment=comment or None,
                    rate=rate,
                    report=report,
                    stop=stop,
                )
            job.report(progress)

        job = Job(
            next(self._numbers),
            kind,
            previewed.query,
            previewed.wanted,
            previewed.assignments,
            comment or None,
            selection,
        )
        return self._start(job, work)

    def close(self) -> None:
        """Stop the deciding job after its current transaction."""
        if job := self.deciding():
            job.stop.set()
            job.done.wait()

    def _start(self, job: Job, work: Callable[[Job], None]) -> Job:
        def run() -> None:
            job.error = BUG
            try:
                work(job)
                job.error = None
            except (UserError, Transient, Poison, Fenced) as error:
                job.error = str(error)
            finally:
                job.done.set()

        with self._lock:
            if job.decides and (other := self.deciding()):
                raise UserError(f"job {other.number} decides now: wait for it, or stop it")
            self._jobs[job.number] = job
            for number in [number for number, old in self._jobs.items() if old.finished][
                : max(0, len(self._jobs) - KEPT)
            ]:
                del self._jobs[number]
        threading.Thread(target=run, name=f"job {job.number}", daemon=True).start()
        return job
