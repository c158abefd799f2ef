"""The loop: consume, process, publish, commit; one batch at a time, in one thread."""

import random
import threading
import time
from collections.abc import Callable

import numpy as np

from consumer.batch import Batch, Fate, Outcome
from consumer.dead_letters import Limit
from consumer.drift import DriftAlarm, OnDrift
from consumer.metrics import Metrics
from consumer.pipeline import Pipeline
from consumer.publisher import Publisher
from consumer.source import Source
from consumer.status import Status
from leadstream.errors import Transient
from leadstream.log import Logger
from models.drift import WINDOW
from models.scorer import Model
from models.slot import ChallengerSlot, ModelSlot
from models.variants import CHALLENGER, CHAMPION

# Python runs signal handlers only between calls into the client: each call stays short.
POLL_SECONDS = 0.25
LAG_SECONDS = 1.0
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.2, 5.0


class Service:
    """Turns the loop until it is asked to stop. Every trouble that may pass holds the offsets and is tried again.

    Before a batch `recall` fills in what others published of its leads.
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
        self._clock = clock
        self._drift = DriftAlarm(metrics, status, log, on_drift, window=drift_window, clock=clock)
        self._stop = threading.Event()
        self._backoff = FIRST_BACKOFF_SECONDS
        self._lag_told = 0.0
        self._held: Transient | None = None
        self._held_batch: Batch | None = None
        self._model: Model | None = None
        self._troubles: dict[str, str | None] = {}
        # Its version and no more: a challenger that leaves is freed.
        self._challenging: str | None = None

    def stop(self) -> None:
        """End the loop once the batch at hand is committed."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether the loop was asked to end."""
        return self._stop.is_set()

    def run(self, source: Source, publisher: Publisher) -> None:
        """Turn the loop. Returns when stopped; raises Fenced, DeadLetterLimit, or whatever a bug raises."""
        while not self._stop.is_set():
            self._status.beat()
            batch = None
            try:
                publisher.open()
                model = self._load_model()
                self._load_challenger(model, publisher)
                batch = source.poll(POLL_SECONDS)
                self._tell_lag(source)
                if batch is not None:
                    self._recall()
                    self._turn(batch, publisher)
                if batch is not None or not self._owes(source):
                    self._resumed()
            except Transient as trouble:
                self._hold(source, batch, trouble)

    def _turn(self, batch: Batch, publisher: Publisher) -> None:
        """One batch, from its messages to its commit; nothing of it counts before the last line returns."""
        started = self._clock()
        outcome = self._pipeline.process(batch)
        self._limit.check(map(outcome.letters.get, range(len(batch.messages))))
        processed = self._clock()
        try:
            publisher.commit(outcome.records, batch)
        except Transient as trouble:
            # It may be the shadow topic alone that takes nothing: the next try is without the challenger.
            if outcome.shadowed:
                self._challenger.suspend(f"a batch with its predictions was not committed ({trouble.detail})")
            raise
        self._pipeline.committed(outcome)
        if outcome.challenger_error:
            self._challenger.withdraw(outcome.challenger_error)
        with self._metrics.lock:
            self._account(batch, outcome, processed - started, self._clock() - processed)
        self._drift.see(outcome.scored)

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
        challenger = slot.follow(champion.version, lambda: self._pipeline.obstacle(publisher.lacks))
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

    def _tell_trouble(self, variant: str, name: str, slot: ModelSlot | ChallengerSlot, in_service: str | None) -> None:
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
        for variant, model in ((CHAMPION, self._slot.loaded), (CHALLENGER, self._challenger.loaded)):
            if model is not None:
                self._metrics.model.labels(variant, model.version, model.sha256, model.name).set(1)

    def _hold(self, source: Source, batch: Batch | None, trouble: Transient) -> None:
        """Stand where the batch began, stay in the group, and wait a little longer each time."""
        self._metrics.held.labels(trouble.dependency).inc()
        self._metrics.unavailable.labels(trouble.dependency).set(1)
        self._metrics.ready.set(0)
        self._status.trouble(trouble.dependency, trouble.detail)
        if self._held is None or self._held.dependency != trouble.dependency:
            self._log.warning("batch.held", dependency=trouble.dependency, detail=trouble.detail)
        self._held = trouble
        wake = self._clock() + self._backoff * random.uniform(0.8, 1.2)  # noqa: S311  # jitter, not a secret
        self._backoff = min(self._backoff * 2, MAX_BACKOFF_SECONDS)
        if batch is not None:
            self._held_batch = batch
            source.rewind(batch)
        while not self._stop.is_set() and (left := wake - self._clock()) > 0:
            self._status.beat()
            source.idle(min(left, POLL_SECONDS))

    def _owes(self, source: Source) -> bool:
        """Whether a batch is held that has not come back yet: an empty poll does not tell that its trouble is over."""
        return self._held_batch is not None and not source.assigned().isdisjoint(self._held_batch.next)

    def _resumed(self) -> None:
        self._held_batch = None
        self._status.well()
        if self._held is not None:
            self._log.info("batch.resumed", dependency=self._held.dependency)
            self._metrics.unavailable.clear()
            self._held = None
        self._metrics.ready.set(not self._status.missing())
        self._backoff = FIRST_BACKOFF_SECONDS

    def _tell_lag(self, source: Source) -> None:
        if self._clock() - self._lag_told < LAG_SECONDS:
            return
        self._lag_told = self._clock()
        self._metrics.lag.clear()
        for (topic, partition), lag in source.lag().items():
            self._metrics.lag.labels(topic, str(partition)).set(lag)

    def _account(self, batch: Batch, outcome: Outcome, processing: float, committing: float) -> None:
        """Count a committed batch, and write its one log line."""
        metrics = self._metrics
        metrics.consumed.inc(outcome.consumed)
        for fate in Fate:
            metrics.changes.labels(fate.value).inc(outcome.fates[fate])
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
        metrics.database_queries.inc(outcome.queries)
        metrics.database_leads.labels("found").inc(outcome.leads_found)
        metrics.database_leads.labels("missing").inc(outcome.leads_asked - outcome.leads_found)
        for feature, count in outcome.imputed.items():
            metrics.imputed.labels(feature).inc(count)
        metrics.coverage.observe(np.array(outcome.coverage))
        for labels, count in outcome.challenged.items():
            metrics.challenger_predictions.labels(*labels).inc(count)
        for step, seconds in {**outcome.seconds, "commit": committing}.items():
            metrics.step_seconds.labels(step).observe(seconds)
        metrics.batches.labels(batch.closed_by.value).inc()
        metrics.batch_records.observe(len(batch.messages))
        sent_ms = [sent for kind, sent in (message.timestamp() for message in batch.messages) if kind]
        metrics.latency.observe(np.maximum(0.0, time.time() - np.array(sent_ms) / 1000))
        self._log.info(
            "batch",
            records=len(batch.messages),
            closed_by=batch.closed_by.value,
            consumed=outcome.consumed,
            **{fate.value: outcome.fates[fate] for fate in Fate},
            **({"late": outcome.late} if outcome.late else {}),
            requests=outcome.requests_answered + outcome.requests_dead_lettered,
            process_ms=round(processing * 1000, 1),
            commit_ms=round(committing * 1000, 1),
            model_version=outcome.model_version,
            **({"challenger_version": outcome.challenger_version} if outcome.challenger_version else {}),
        )
