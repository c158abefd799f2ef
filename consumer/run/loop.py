"""The loop: poll, process, publish. While one batch is committed, the next is processed."""

import threading
import time
from collections.abc import Callable, Collection

from consumer.run.commit_queue import CommitQueue, FinishedCommit
from consumer.run.drift import DriftAlarm, OnDrift
from consumer.run.model_follower import ModelFollower
from consumer.run.report import BatchReport, LagReport
from consumer.scoring.pipeline import Pipeline
from consumer.scoring.result import BatchResult
from leadstream.background import Run, inline
from leadstream.backoff import Backoff
from leadstream.errors import RecordRefused, Transient
from leadstream.kafka.batch import Batch, ClosedBy, Partition
from leadstream.kafka.dead_letter import Limit
from leadstream.kafka.publisher import Publisher
from leadstream.kafka.source import Source
from leadstream.log import Logger
from leadstream.process.metrics import Metrics
from leadstream.process.status import Status
from models.monitor.drift import WINDOW
from models.registry.slot import ChallengerSlot, ModelSlot

# Python runs signal handlers only between calls into the client: each call stays short.
POLL_SECONDS = 0.25
# A refusal teaches a limit, and each halves what is sent. So many in a row are no records' fault.
REFUSALS = 20

# Adds the traces of the changes to the records of a result.
Trace = Callable[[Batch, BatchResult], BatchResult]


def untraced(_batch: Batch, result: BatchResult) -> BatchResult:
    """Return the result as it is."""
    return result


class Service:
    """Runs the loop until it is stopped. Trouble that may pass rewinds the source, and is retried.

    `watch` gets the partitions that the process owns, as often as the loop turns.
    Before a batch, `recall` reads what others published of its leads. `run_in_background` runs
    commits. In another thread, the next batch is processed meanwhile, and published afterwards.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        slot: ModelSlot,
        challenger: ChallengerSlot,
        limit: Limit,
        metrics: Metrics,
        status: Status,
        log: Logger,
        hash_id: Callable[[bytes | None], str | None],
        recall: Callable[[Collection[Partition]], None] = lambda _places: None,
        clock: Callable[[], float] = time.monotonic,
        on_drift: OnDrift = lambda _model, _sentence: None,
        drift_window: int = WINDOW,
        run_in_background: Run = inline,
        trace: Trace = untraced,
        watch: Callable[[Collection[Partition]], None] = lambda _places: None,
        see_clock: Callable[[float, float], None] = lambda _newest, _now: None,
    ) -> None:
        self._pipeline = pipeline
        self._limit = limit
        self._metrics = metrics
        self._status = status
        self._log = log
        self._recall = recall
        self._trace = trace
        self._watch = watch
        self._clock = clock
        self._drift = DriftAlarm(metrics, status, log, on_drift, window=drift_window, clock=clock)
        self._models = ModelFollower(
            slot, challenger, self._drift, metrics=metrics, status=status, log=log
        )
        self._commits = CommitQueue(pipeline, run_in_background, clock, self._models.blame)
        self._report = BatchReport(metrics, log, hash_id, see_clock)
        self._lag = LagReport(metrics, clock)
        self._stop = threading.Event()
        self._backoff = Backoff(clock)
        self._held: Transient | None = None
        metrics.ready.set_function(lambda: not status.missing())
        self._refusals = 0

    def stop(self) -> None:
        """End the loop after the commit in flight; the next owner replays what came after it."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Return whether the loop was asked to end."""
        return self._stop.is_set()

    def wait(self) -> None:
        """Wait until no commit is in flight any more."""
        self._commits.wait()

    def run(self, source: Source, publisher: Publisher) -> None:
        """Run the loop until it is stopped.

        Raises Fenced, DeadLetterLimit, UserError, or whatever a bug raises.
        """
        self._commits.forget()
        while not self.stopping:
            self._status.beat()
            try:
                self._run_once(source, publisher)
            except Transient as trouble:
                self._pause_and_rewind(source, trouble)
        try:
            self._await_commit()
        except Transient as trouble:
            self._pause_and_rewind(source, trouble)

    def _run_once(self, source: Source, publisher: Publisher) -> None:
        publisher.open()
        self._models.follow(lambda: self._pipeline.obstacle(publisher.topic_problem))
        in_flight = self._commits.in_flight
        if in_flight and in_flight.closed_by is not ClosedBy.SIZE:
            # No backlog: what arrives until this commit ends makes one batch, and not two.
            self._await_commit()
        batch = source.poll(0 if self._commits.in_flight else POLL_SECONDS)
        self._look(source)
        if batch is not None:
            self._commits.polled(batch)
            self._recall(batch.next)
            self._process(batch, publisher)
        elif self._commits.in_flight:
            self._await_commit()
        elif not self._commits.replaying(source.assigned()):
            self._resume()

    def _process(self, batch: Batch, publisher: Publisher) -> None:
        """Process a batch, and start its commit once the one before has finished."""
        began = self._clock()
        result = self._trace(batch, self._pipeline.process(batch))
        processing = self._clock() - began
        before = self._commits.await_commit()
        try:
            if before is not None and self.stopping:
                return  # stopping waits for one commit, not for two: the next owner replays this
            letters = map(result.letters.get, range(len(batch.messages)))
            self._limit.check(letters, batch.messages)
            self._commits.start(batch, result, processing, publisher)
            self._models.withdraw(result)
        finally:
            if before is not None:
                self._count(before)

    def _await_commit(self) -> None:
        finished = self._commits.await_commit()
        if finished is not None:
            self._count(finished)

    def _count(self, finished: FinishedCommit) -> None:
        self._report.count(finished)
        self._models.watch(finished.started.result)
        self._resume()

    def _pause_and_rewind(self, source: Source, trouble: Transient) -> None:
        """Rewind to the oldest uncommitted batch, stay in the group, and wait longer each time."""
        try:
            self._await_commit()
        except Transient as older:
            trouble = older
        if isinstance(trouble, RecordRefused) and self._refusals < REFUSALS:
            self._refusals += 1
            self._log.warning("batch.refused", detail=trouble.detail)
            self._commits.rewind(source)
            return
        self._metrics.held.labels(trouble.dependency).inc()
        self._metrics.unavailable.labels(trouble.dependency).set(1)
        self._status.trouble(trouble.dependency, trouble.detail)
        if self._held is None or self._held.dependency != trouble.dependency:
            self._log.warning("batch.held", dependency=trouble.dependency, detail=trouble.detail)
        self._held = trouble
        self._commits.rewind(source)
        for seconds in self._backoff.pauses(self._stop.is_set):
            self._status.beat()
            source.idle(seconds)
            self._look(source)

    def _look(self, source: Source) -> None:
        """Measure the lag, and follow what others do to the topics."""
        self._lag.measure(source)
        self._watch(source.assigned())

    def _resume(self) -> None:
        self._commits.replayed()
        self._refusals = 0
        self._status.well()
        if self._held is not None:
            self._log.info("batch.resumed", dependency=self._held.dependency)
            self._metrics.unavailable.clear()
            self._held = None
        self._backoff.reset()
