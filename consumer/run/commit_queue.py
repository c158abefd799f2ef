"""Batches that are polled but not committed: at most one commit is in flight."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from consumer.scoring.pipeline import Pipeline
from consumer.scoring.result import BatchResult
from leadstream.background import Background, Run
from leadstream.errors import Transient
from leadstream.kafka.batch import Batch, Partition
from leadstream.kafka.publisher import Publisher
from leadstream.kafka.source import Source


@dataclass(frozen=True, slots=True, eq=False)
class StartedCommit:
    """A batch whose commit started, and the seconds that the loop has spent on it so far."""

    batch: Batch
    result: BatchResult
    processing: float
    publishing: float


@dataclass(frozen=True, slots=True, eq=False)
class FinishedCommit:
    """A committed batch: the seconds of the loop on its commit, and when that finished.

    `finished_at` is seconds since 1970.
    """

    started: StartedCommit
    committing: float
    finished_at: float


class CommitQueue:
    """Starts and awaits commits, one at a time, and rewinds the source where one failed.

    `run` runs a commit, in another thread or inline. `on_failure` gets the result of a batch
    whose commit failed.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        run: Run,
        clock: Callable[[], float],
        on_failure: Callable[[BatchResult, Transient], None],
    ) -> None:
        self._pipeline = pipeline
        self._run = run
        self._clock = clock
        self._on_failure = on_failure
        # Not committed yet, the older one first: the second one while the first is in flight.
        self._polled: list[Batch] = []
        self._replaying: set[Partition] = set()
        self._in_flight: StartedCommit | None = None
        self._commit = Background[float]()

    @property
    def in_flight(self) -> Batch | None:
        """Return the batch that is being committed."""
        return self._in_flight.batch if self._in_flight else None

    def polled(self, batch: Batch) -> None:
        """Remember a batch until it is committed or rewound."""
        self._polled.append(batch)

    def start(
        self, batch: Batch, result: BatchResult, processing: float, publisher: Publisher
    ) -> None:
        """Publish a result, and start its commit. Raises Transient."""
        began = self._clock()
        try:
            end = publisher.begin(result.records, batch, result.sources)
        except Transient as trouble:
            self._on_failure(result, trouble)
            raise
        self._pipeline.commit_started(result)
        self._in_flight = StartedCommit(batch, result, processing, self._clock() - began)

        def commit() -> float:
            end()
            return time.time()

        self._commit.start(commit, self._run)

    def await_commit(self) -> FinishedCommit | None:
        """Wait for the commit in flight, and return it; None without one. Raises Transient."""
        if self._in_flight is None:
            return None
        started, self._in_flight = self._in_flight, None
        began = self._clock()
        try:
            finished_at = self._commit.result()
        except Transient as trouble:
            self._pipeline.commit_finished(committed=False)
            self._on_failure(started.result, trouble)
            raise
        self._pipeline.commit_finished(committed=True)
        self._polled.pop(0)
        return FinishedCommit(started, started.publishing + self._clock() - began, finished_at)

    def rewind(self, source: Source) -> None:
        """Let the source replay all batches that are not committed."""
        for batch in reversed(self._polled):
            self._replaying |= batch.next.keys()
            source.rewind(batch)
        self._polled.clear()

    def replaying(self, partitions: Collection[Partition]) -> bool:
        """Return whether records of these partitions are still to be replayed."""
        return not self._replaying.isdisjoint(partitions)

    def replayed(self) -> None:
        """Forget which partitions are to be replayed: a batch was committed, or none is left."""
        self._replaying.clear()

    def forget(self) -> None:
        """Forget the batches of an earlier membership of the group; the topics know their end."""
        self._commit, self._in_flight = Background(), None
        self._polled.clear()
        self._pipeline.commit_finished(committed=False)

    def wait(self) -> None:
        """Wait until no commit runs any more, and keep what it returned for `await_commit`."""
        self._commit.wait()
