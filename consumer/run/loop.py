"""The loop: consume, process, publish; while one batch is committed in a thread beside it, the next is processed."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from consumer.run.drift import DriftAlarm, OnDrift
from consumer.scoring.pipeline import Pipeline
from consumer.scoring.result import BatchResult, Disposition
from leadstream.background import Background, Run, inline
from leadstream.backoff import Backoff
from leadstream.errors import Transient
from leadstream.kafka.batch import Batch, ClosedBy, Partition
from leadstream.kafka.dead_letter import Limit
from leadstream.kafka.publisher import Publisher
from leadstream.kafka.source import Source
from leadstream.log import Logger
from leadstream.process.metrics import Metrics
from leadstream.process.status import Status
from leadstream.variants import CHALLENGER, CHAMPION
from models.monitor.drift import WINDOW
from models.serve.scorer import Model
from models.serve.slot import ChallengerSlot, ModelSlot

# Given a batch and its result: the same, its records with the traces of their changes.
Trace = Callable[[Batch, BatchResult], BatchResult]


def untraced(_batch: Batch, result: BatchResult) -> BatchResult:
    """Return the result as it is."""
    return result


# Python runs signal handlers only between calls into the client: each call stays short.
POLL_SECONDS = 0.25
LAG_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    """A batch that is being committed, and the seconds that the loop has spent on it so far."""

    batch: Batch
    outcome: BatchResult
    processing: float
    publishing: float


@dataclass(frozen=True, slots=True, eq=False)
class _Ended:
    """A batch that was committed: the seconds that the loop spent on that, and when it ended, in seconds since 1970."""

    begun: _Begun
    committing: float
    at: float


class Service:
    """Turns the loop until it is asked to stop. Every trouble that may pass holds the offsets and is tried again.

    Before a batch `recall` fills in what others published of its leads. `run_in_background` does what ends a batch; where that
    is in another thread, the next batch is processed meanwhile, and nothing of it leaves before that end.
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
        recall: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        on_drift: OnDrift = lambda _model, _sentence: None,
        drift_window: int = WINDOW,
        run_in_background: Run = inline,
        trace: Trace = untraced,
    ) -> None:
        self._pipeline = pipeline
        self._slot = slot
        self._challenger = challenger
        self._limit = limit
        self._metrics = metrics
        self._status = status
        self._log = log
        self._hash_id = hash_id
        self._recall = recall
        self._trace = trace
        self._clock = clock
        self._drift = DriftAlarm(metrics, status, log, on_drift, window=drift_window, clock=clock)
        self._stop = threading.Event()
        self._backoff = Backoff(clock)
        self._lag_told = 0.0
        self._held: Transient | None = None
        self._owed: set[Partition] = set()
        # Batches that were polled and do not count yet, the older one first: the second one while the first is ended.
        self._polled: list[Batch] = []
        self._begun: _Begun | None = None
        self._end = Background[float]()
        self._run_in_background = run_in_background
        self._model: Model | None = None
        self._troubles: dict[str, str | None] = {}
        # Its version and no more: a challenger that leaves is freed.
        self._challenging: str | None = None

    def stop(self) -> None:
        """End the loop once the batch at hand is committed; one that was processed beside a commit others do again."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether the loop was asked to end."""
        return self._stop.is_set()

    def wait(self) -> None:
        """Wait until nothing is being committed any more; what became of it the loop finds when it comes there."""
        self._end.wait()

    def run(self, source: Source, publisher: Publisher) -> None:
        """Turn the loop. Returns when stopped; raises Fenced, DeadLetterLimit, or whatever a bug raises."""
        self._forget()
        while not self._stop.is_set():
            self._status.beat()
            try:
                publisher.open()
                model = self._load_model()
                self._load_challenger(model, publisher)
                if self._begun and self._begun.batch.closed_by is not ClosedBy.SIZE:
                    # Nothing is behind: what comes until the end of this commit goes into one batch, and not into two.
                    self._settle()
                batch = source.poll(0 if self._begun else POLL_SECONDS)
                self._tell_lag(source)
                if batch is not None:
                    self._polled.append(batch)
                    self._recall()
                    self._turn(batch, publisher)
                elif self._begun:
                    self._settle()
                elif self._owed.isdisjoint(source.assigned()):
                    self._resumed()
            except Transient as trouble:
                self._hold(source, trouble)
        try:
            self._settle()
        except Transient as trouble:
            self._hold(source, trouble)

    def _forget(self) -> None:
        """A new membership: what was being committed in the one before, the topics tell."""
        self._end, self._begun = Background(), None
        self._polled.clear()
        self._pipeline.commit_finished(committed=False)

    def _turn(self, batch: Batch, publisher: Publisher) -> None:
        """One batch, from its messages to the begin of its commit; nothing of it counts before that has ended."""
        started = self._clock()
        outcome = self._trace(batch, self._pipeline.process(batch))
        processing = self._clock() - started
        before = self._joined()
        try:
            if before is not None and self.stopping:
                return  # whoever stops the process waits for one commit, not for two: this batch is the next owner's
            self._limit.check(map(outcome.letters.get, range(len(batch.messages))))
            self._begin(batch, outcome, processing, publisher)
        finally:
            if before is not None:
                self._count(before)

    def _begin(
        self, batch: Batch, outcome: BatchResult, processing: float, publisher: Publisher
    ) -> None:
        started = self._clock()
        try:
            end = publisher.begin(outcome.records, batch)
        except Transient as trouble:
            self._suspect(outcome, trouble)
            raise
        if outcome.challenger_error:
            self._challenger.withdraw(outcome.challenger_error)
        self._pipeline.commit_started(outcome)
        self._begun = _Begun(batch, outcome, processing, self._clock() - started)

        def ended() -> float:
            end()
            return time.time()

        self._end.start(ended, self._run_in_background)

    def _joined(self) -> _Ended | None:
        """Wait for the end of the batch that is being committed, if there is one: only then it happened."""
        if self._begun is None:
            return None
        begun, self._begun = self._begun, None
        started = self._clock()
        try:
            ended_at = self._end.result()
        except Transient as trouble:
            self._pipeline.commit_finished(committed=False)
            self._suspect(begun.outcome, trouble)
            raise
        self._pipeline.commit_finished(committed=True)
        self._polled.pop(0)
        return _Ended(begun, begun.publishing + self._clock() - started, ended_at)

    def _settle(self) -> None:
        """Wait for the batch that is being committed, if there is one, and count it."""
        ended = self._joined()
        if ended is not None:
            self._count(ended)

    def _count(self, ended: _Ended) -> None:
        with self._metrics.lock:
            self._account(ended)
        outcome = ended.begun.outcome
        if self._model and outcome.model_version == self._model.version:
            self._drift.see(outcome.scored)
        self._resumed()

    def _suspect(self, outcome: BatchResult, trouble: Transient) -> None:
        """It may be the shadow topic alone that takes nothing: the next try is without the challenger."""
        if outcome.shadowed:
            self._challenger.suspend(
                f"a batch with its predictions was not committed ({trouble.detail})"
            )

    def _load_model(self) -> Model:
        """The model for the next batch: between batches is the only time at which it changes."""
        self._slot.refresh()
        model = self._slot.get()
        if model is not self._model:
            self._model = model
            self._tell_models()
            self._metrics.model_loads.labels(CHAMPION, "loaded").inc()
            self._log.info("model.loaded", version=model.version, sha256=model.sha256)
            self._drift.serve(model)
        self._tell_trouble(CHAMPION, "model", self._slot, model.version)
        return model

    def _load_challenger(self, champion: Model, publisher: Publisher) -> None:
        """The challenger for the next batch; what is wrong with one is told and counted, and holds nothing back."""
        slot = self._challenger
        challenger = slot.follow(
            champion.version, lambda: self._pipeline.obstacle(publisher.topic_problem)
        )
        version = challenger.version if challenger else None
        if version != self._challenging:
            self._tell_models()
            if challenger:
                self._metrics.model_loads.labels(CHALLENGER, "loaded").inc()
                self._log.info("challenger.loaded", version=version, sha256=challenger.sha256)
            else:
                self._log.info("challenger.left", version=self._challenging)
            self._challenging = version
        self._tell_trouble(CHALLENGER, "challenger", slot, version)

    def _tell_trouble(
        self, variant: str, name: str, slot: ModelSlot | ChallengerSlot, in_service: str | None
    ) -> None:
        """Count and log once what is wrong with the version that an alias points to; the warning stays while it is."""
        trouble = slot.refused or slot.unanswered
        if trouble == self._troubles.get(variant):
            return
        self._troubles[variant] = trouble
        if trouble:
            result = "refused" if slot.refused else "unanswered"
            self._metrics.model_loads.labels(variant, result).inc()
            self._log.warning(f"{name}.{result}", detail=trouble, in_service=in_service)
        self._status.warn(name, trouble)

    def _tell_models(self) -> None:
        self._metrics.model.clear()
        for variant, model in (
            (CHAMPION, self._slot.loaded),
            (CHALLENGER, self._challenger.loaded),
        ):
            if model is not None:
                self._metrics.model.labels(variant, model.version, model.sha256, model.name).set(1)

    def _hold(self, source: Source, trouble: Transient) -> None:
        """Stand where the oldest batch began that does not count, stay in the group, and wait longer each time."""
        try:
            self._settle()
        except Transient as older:
            trouble = older
        self._metrics.held.labels(trouble.dependency).inc()
        self._metrics.unavailable.labels(trouble.dependency).set(1)
        self._metrics.ready.set(0)
        self._status.trouble(trouble.dependency, trouble.detail)
        if self._held is None or self._held.dependency != trouble.dependency:
            self._log.warning("batch.held", dependency=trouble.dependency, detail=trouble.detail)
        self._held = trouble
        for batch in reversed(self._polled):
            self._owed |= batch.next.keys()
            source.rewind(batch)
        self._polled.clear()
        for seconds in self._backoff.pauses(self._stop.is_set):
            self._status.beat()
            source.idle(seconds)

    def _resumed(self) -> None:
        self._owed.clear()
        self._status.well()
        if self._held is not None:
            self._log.info("batch.resumed", dependency=self._held.dependency)
            self._metrics.unavailable.clear()
            self._held = None
        self._metrics.ready.set(not self._status.missing())
        self._backoff.reset()

    def _tell_lag(self, source: Source) -> None:
        if self._clock() - self._lag_told < LAG_SECONDS:
            return
        self._lag_told = self._clock()
        self._metrics.lag.clear()
        for (topic, partition), lag in source.lag().items():
            self._metrics.lag.labels(topic, str(partition)).set(lag)

    def _account(self, ended: _Ended) -> None:
        """Count a batch, and write its one log line."""
        metrics, batch, outcome = self._metrics, ended.begun.batch, ended.begun.outcome
        metrics.consumed.inc(outcome.consumed)
        for fate in Disposition:
            metrics.changes.labels(fate.value).inc(outcome.dispositions[fate])
        metrics.late.inc(outcome.late)
        metrics.requests.labels("answered").inc(outcome.requests_answered)
        metrics.requests.labels("dead_lettered").inc(outcome.requests_dead_lettered)
        for answer, count in outcome.request_leads.items():
            metrics.request_leads.labels(answer).inc(count)
        for index, poison in outcome.letters.items():
            message = batch.messages[index]
            metrics.dead_letters.labels(message.topic(), poison.reason.value).inc()
            self._log.debug(
                "dead_letter",
                reason=poison.reason.value,
                topic=message.topic(),
                partition=message.partition(),
                offset=message.offset(),
                lead=self._hash_id(message.key()),
            )
        for stage, count in outcome.fallbacks.items():
            metrics.batch_fallbacks.labels(stage).inc(count)
        metrics.database_queries.inc(outcome.queries)
        metrics.database_leads.labels("found").inc(outcome.leads_found)
        metrics.database_leads.labels("missing").inc(outcome.leads_asked - outcome.leads_found)
        for feature, count in outcome.imputed.items():
            metrics.imputed.labels(feature).inc(count)
        metrics.coverage.observe(np.array(outcome.coverage))
        for labels, count in outcome.challenged.items():
            metrics.challenger_predictions.labels(*labels).inc(count)
        for step, seconds in {**outcome.seconds, "commit": ended.committing}.items():
            metrics.step_seconds.labels(step).observe(seconds)
        metrics.batches.labels(batch.closed_by.value).inc()
        metrics.batch_records.observe(len(batch.messages))
        sent_ms = [sent[1] for message in batch.messages if (sent := message.timestamp())[0]]
        metrics.latency.observe(np.maximum(0.0, ended.at - np.array(sent_ms) / 1000))
        self._log.info(
            "batch",
            records=len(batch.messages),
            closed_by=batch.closed_by.value,
            consumed=outcome.consumed,
            **{fate.value: outcome.dispositions[fate] for fate in Disposition},
            **({"late": outcome.late} if outcome.late else {}),
            requests=outcome.requests_answered + outcome.requests_dead_lettered,
            process_ms=round(ended.begun.processing * 1000, 1),
            commit_ms=round(ended.committing * 1000, 1),
            model_version=outcome.model_version,
            **(
                {"challenger_version": outcome.challenger_version}
                if outcome.challenger_version
                else {}
            ),
        )
