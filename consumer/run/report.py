"""The report of a batch: its metrics and its one log line; and the lag."""

import time
from collections.abc import Callable

import numpy as np

from consumer.run.commit_queue import FinishedCommit
from consumer.scoring.result import BatchResult, Disposition
from leadstream.kafka.batch import Batch
from leadstream.kafka.source import Source
from leadstream.log import Logger
from leadstream.process.metrics import Metrics

LAG_SECONDS = 1.0
FROZEN_SECONDS = 60.0


class BatchReport:
    """Counts committed batches and logs them; `hash_id` makes keys unreadable in the log.

    `see_clock` gets the newest timestamp of a batch and the time of its commit, in seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        log: Logger,
        hash_id: Callable[[bytes | None], str | None],
        see_clock: Callable[[float, float], None] = lambda _newest, _now: None,
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._hash_id = hash_id
        self._frozen_again = 0.0
        self._see_clock = see_clock

    def count(self, finished: FinishedCommit) -> None:
        """Count a batch in all metrics at once, and write its log line."""
        with self._metrics.lock:
            batch, result = finished.started.batch, finished.started.result
            self._count_changes(batch, result)
            self._count_scores(result)
            self._count_time(finished)
            self._log_batch(finished)

    def _count_changes(self, batch: Batch, result: BatchResult) -> None:
        metrics = self._metrics
        metrics.consumed.inc(result.consumed)
        for disposition in Disposition:
            metrics.changes.labels(disposition.value).inc(result.dispositions[disposition])
        metrics.late.inc(result.late)
        metrics.inherited.inc(result.inherited)
        metrics.stale_states.inc(result.stale)
        self._count_frozen(batch, result.frozen)
        metrics.requests.labels("answered").inc(result.requests_answered)
        metrics.requests.labels("dead_lettered").inc(result.requests_dead_lettered)
        for answer, count in result.request_leads.items():
            metrics.request_leads.labels(answer).inc(count)
        for index, poison in result.letters.items():
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

    def _count_frozen(self, batch: Batch, frozen: list[int]) -> None:
        """Count late changes of frozen leads, and name one of them, at most once a minute."""
        self._metrics.frozen.inc(len(frozen))
        if not frozen or time.monotonic() < self._frozen_again:
            return
        self._frozen_again = time.monotonic() + FROZEN_SECONDS
        message = batch.messages[frozen[0]]
        self._log.warning(
            "leads.frozen",
            changes=len(frozen),
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            lead=self._hash_id(message.key()),
            detail="the published version of this lead is out of reach of its changes, which stay "
            "late; see docs/how-to/recover.md, After the CRM's versions went back",
        )

    def _count_scores(self, result: BatchResult) -> None:
        metrics = self._metrics
        metrics.database_queries.inc(result.queries)
        metrics.database_leads.labels("found").inc(result.leads_found)
        metrics.database_leads.labels("missing").inc(result.leads_asked - result.leads_found)
        for feature, count in result.imputed.items():
            metrics.imputed.labels(feature).inc(count)
        metrics.coverage.observe(np.array(result.coverage))
        for labels, count in result.challenged.items():
            metrics.challenger_predictions.labels(*labels).inc(count)
        for stage, count in result.fallbacks.items():
            metrics.batch_fallbacks.labels(stage).inc(count)

    def _count_time(self, finished: FinishedCommit) -> None:
        metrics, batch = self._metrics, finished.started.batch
        seconds = {**finished.started.result.seconds, "commit": finished.committing}
        for step, each in seconds.items():
            metrics.step_seconds.labels(step).observe(each)
        metrics.batches.labels(batch.closed_by.value).inc()
        metrics.batch_records.observe(len(batch.messages))
        sent_ms = [sent[1] for message in batch.messages if (sent := message.timestamp())[0]]
        written = np.array(sent_ms) / 1000
        metrics.latency.observe(np.maximum(0.0, finished.finished_at - written))
        if len(written):
            self._see_clock(float(written.max()), finished.finished_at)

    def _log_batch(self, finished: FinishedCommit) -> None:
        batch, result = finished.started.batch, finished.started.result
        challenger = result.challenger_version
        self._log.info(
            "batch",
            records=len(batch.messages),
            closed_by=batch.closed_by.value,
            consumed=result.consumed,
            **{each.value: result.dispositions[each] for each in Disposition},
            **({"late": result.late} if result.late else {}),
            **({"stale": result.stale} if result.stale else {}),
            requests=result.requests_answered + result.requests_dead_lettered,
            process_ms=round(finished.started.processing * 1000, 1),
            commit_ms=round(finished.committing * 1000, 1),
            model_version=result.model_version,
            **({"challenger_version": challenger} if challenger else {}),
        )


class LagReport:
    """Measures the lag of each partition, at most once a second."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._measured_at = 0.0

    def measure(self, source: Source) -> None:
        """Set the lag of all assigned partitions."""
        if self._clock() - self._measured_at < LAG_SECONDS:
            return
        self._measured_at = self._clock()
        lags = source.lag()
        with self._metrics.lock:
            self._metrics.lag.clear()
            for (topic, partition), lag in lags.items():
                self._metrics.lag.labels(topic, str(partition)).set(lag)
