"""The metrics of every service, with a sentence each.

Labels come from enums and settings; a lead id is never a label.
"""

import threading
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from leadstream.terminal import dropped_lines
from leadstream.variants import CHALLENGER, CHAMPION

# Otherwise each counter has a second series with the time of its first event.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_RETRAIN = ("retrain_requested", "Times a training was asked for, by what asked.", "trigger")
_LEARN_STEPS = (
    *("training", "trained", "trial", "proposed"),
    *("promoted", "refused", "worse", "undecided", "stopped"),
)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class ManyHistogram(Collector):
    """A histogram that takes the values of a whole batch; one by one each costs a microsecond."""

    def __init__(
        self, name: str, help_: str, buckets: tuple[float, ...], registry: CollectorRegistry
    ) -> None:
        self._name, self._help = name, help_
        self._edges = np.array(buckets)
        self._counts = np.zeros(len(buckets) + 1, np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: NDArray[np.float64]) -> None:
        """Count values (n,): each in the first bucket whose edge is not below it."""
        self._counts += np.bincount(
            np.searchsorted(self._edges, values), minlength=len(self._counts)
        )
        self._sum += float(values.sum())

    def collect(self) -> Iterator[Metric]:
        """Yield the metric that Prometheus reads."""
        edges = [*(str(edge) for edge in self._edges.tolist()), "+Inf"]
        buckets = list(zip(edges, np.cumsum(self._counts).tolist(), strict=True))
        yield HistogramMetricFamily(self._name, self._help, buckets, self._sum)


class DroppedLines(Collector):
    """The lines of the log that could not be written."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metric that Prometheus reads."""
        yield CounterMetricFamily(
            "leadstream_log_lines_dropped",
            "Lines for standard error that could not be written.",
            dropped_lines(),
        )


class _Registered:
    """A registry of one process, and its metrics under the common prefix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Held while a batch is counted and while metrics are read: every reading adds up.
        self.lock = threading.Lock()
        # Prometheus's own process metric under our prefix: it shows a restarting process.
        self._gauge(
            "start_time_seconds", "When the process began, in seconds since 1970 (UTC)."
        ).set(time.time())
        self.registry.register(DroppedLines())

    def expose(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        with self.lock:
            return generate_latest(self.registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"leadstream_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"leadstream_{name}", help_, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"leadstream_{name}", help_, labels, buckets=buckets, registry=self.registry
        )

    def _many(self, name: str, help_: str, buckets: tuple[float, ...]) -> ManyHistogram:
        return ManyHistogram(f"leadstream_{name}", help_, buckets, self.registry)


class LossMetrics(_Registered):
    """The metrics of offsets that a consumer could not read."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = self._gauge(
            "lost_records",
            "Offsets of a partition that were deleted before they were read, first to last, until "
            "they are acknowledged.",
            *("topic", "partition", "first", "last"),
        )
        self.lost_total = self._counter(
            "lost_changes",
            "Offsets of a partition that were deleted before they were read.",
            *("topic", "partition"),
        )


class Metrics(LossMetrics):
    """The metrics of `run`."""

    def __init__(self) -> None:
        super().__init__()
        self.consumed = self._counter("changes_consumed", "Lead changes consumed and committed.")
        self.changes = self._counter(
            "changes",
            "What became of the consumed changes; over all fates this adds up to those consumed.",
            "fate",
        )
        self.late = self._counter(
            "late_changes",
            "Coalesced changes that were older than what was published of their lead before.",
        )
        self.inherited = self._counter(
            "inherited_versions",
            "Scored changes without a version, which have the version of their lead.",
        )
        self.stale_states = self._counter(
            "stale_states",
            "Changes without state whose row in Postgres was older than the change.",
        )
        self.frozen = self._counter(
            "frozen_changes",
            "Late changes of leads whose published version is out of reach of their changes.",
        )
        self.requests = self._counter(
            "requests", "Rescore requests, answered or dead-lettered.", "fate"
        )
        self.request_leads = self._counter(
            "request_leads",
            "Leads asked for in rescore requests: predicted, or the code of the error.",
            "answer",
        )
        self.dead_letters = self._counter(
            "dead_letters", "Dead letters published.", "topic", "reason"
        )
        self.batches = self._counter(
            "batches", "Batches committed, by what closed them.", "closed_by"
        )
        self.batch_fallbacks = self._counter(
            "batch_fallbacks",
            "Steps of large batches that left the columns for the codec: decode or encode.",
            "stage",
        )
        self.batch_records = self._histogram("batch_records", "Records in a batch.", _RECORDS)
        self.step_seconds = self._histogram(
            "step_seconds",
            "Seconds that the loop spent on each step of a batch; "
            "a commit in the background is in none.",
            _SECONDS,
            "step",
        )
        self.latency = self._many(
            "change_latency_seconds",
            "Seconds from a record's Kafka timestamp to the commit of its outcome.",
            _SECONDS,
        )
        self.coverage = self._many(
            "feature_coverage", "Share of the model's inputs that a scored lead had.", _SHARES
        )
        self.imputed = self._counter(
            "imputed", "Inputs of scored leads that were replaced by the median.", "feature"
        )
        self.lag = self._gauge(
            "lag_records", "Records of a partition not yet committed.", "topic", "partition"
        )
        self.open_transaction = self._gauge(
            "open_transaction_seconds",
            "How long a transaction of a producer has held back a partition of the input.",
            *("topic", "partition"),
        )
        self.partitions = self._gauge("assigned_partitions", "Partitions assigned to this process.")
        self.rebalances = self._counter(
            "rebalances", "Rebalances: assigned, revoked or lost.", "kind"
        )
        self.held = self._counter(
            "held_batches",
            "Batches held back because a dependency did not answer, to be tried again.",
            "dependency",
        )
        self.unavailable = self._gauge(
            "unavailable", "1 while a dependency holds the loop back.", "dependency"
        )
        self.rejoins = self._counter(
            "rejoins", "Times the process was fenced, or refused, and joined the group again."
        )
        self.database_queries = self._counter("database_queries", "Queries for lead state.")
        self.database_leads = self._counter(
            "database_leads", "Leads asked of Postgres: found or missing.", "answer"
        )
        self.settings = self._gauge(
            "settings_info",
            "1 for the settings in force: all processes of a group should have one fingerprint.",
            *("group_id", "fingerprint"),
        )
        self.model = self._gauge(
            "model_info",
            "1 for the model in service, and for its challenger.",
            *("variant", "version", "sha256", "model_used"),
        )
        self.model_loads = self._counter(
            "model_loads",
            "Times a model was loaded, or refused, or its store did not answer.",
            "variant",
            "result",
        )
        self.challenger_predictions = self._counter(
            "challenger_predictions",
            "Leads given to the challenger, in the shadow or as its share of a split: "
            "scored, or failed in it alone.",
            *("mode", "result"),
        )
        self.drift_psi = self._gauge(
            "drift_psi",
            "Population stability index of the last full window against training, "
            "by input, and of the probability.",
            "feature",
        )
        self.drift_missing = self._gauge(
            "drift_missing_share",
            "Share of the last full window in which an input was missing or invalid.",
            "feature",
        )
        self.drift_unseen = self._gauge(
            "drift_unseen_share",
            "Share of the last full window in which a category had a value "
            "that the model does not know.",
            "feature",
        )
        self.drift_windows = self._counter(
            "drift_windows", "Full windows of leads that were compared with training."
        )
        self.drift_alarm = self._gauge(
            "drift_alarm", "1 while the last full window of an input alarmed.", "feature"
        )
        self.ready = self._gauge("ready", "1 while assigned, loaded and every dependency answers.")
        self.loop_idle = self._gauge("loop_idle_seconds", "Seconds since the loop last turned.")
        self.retrain = self._counter(*_RETRAIN)
        # A counter that starts at its first event has no increase that an alert could see.
        for variant in (CHAMPION, CHALLENGER):
            for result in ("loaded", "refused", "unanswered"):
                self.model_loads.labels(variant, result)
        for stage in ("decode", "encode"):
            self.batch_fallbacks.labels(stage)


class FollowMetrics(_Registered):
    """The metrics of `follow`."""

    def __init__(self) -> None:
        super().__init__()
        of = ("model_version", "variant")
        self.live = {
            "judged": self._gauge(
                "live_judged", "Judged predictions in the window, at most the newest 2,000.", *of
            ),
            "brier": self._gauge("live_brier", "Brier score of the window.", *of),
            "ece": self._gauge("live_ece", "Expected calibration error of the window.", *of),
            "roc_auc": self._gauge(
                "live_roc_auc",
                "ROC-AUC of the window; absent while only one outcome is in it.",
                *of,
            ),
            "log_loss": self._gauge("live_log_loss", "Log loss of the window, in nats.", *of),
            "base_rate": self._gauge("live_base_rate", "Share of the window that converted.", *of),
            "mean_probability": self._gauge(
                "live_mean_probability", "Mean stated probability of the window.", *of
            ),
        }
        self.outcomes = self._counter("outcomes_read", "Outcomes read, and erasures among them.")
        self.predictions = self._counter(
            "predictions_read", "Predictions read, and erasures among them."
        )
        self.skipped = self._counter(
            "records_skipped", "Records that could not be read and were skipped.", "reason"
        )
        self.pending = self._gauge(
            "pending_predictions", "Predictions whose outcome is waited for."
        )
        self.dropped = self._counter(
            "pending_dropped",
            "Predictions that are not judged, because their lead is not in the sample.",
        )
        self.sampled = self._gauge(
            "sampled_share",
            "Share of the leads whose predictions are judged; below 1 if too many wait.",
        )
        self.retrain = self._counter(*_RETRAIN)


class RelayMetrics(_Registered):
    """The metrics of `relay`."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = self._counter(
            "relay_rows", "Rows of the outbox by record, or skipped if odd.", "record"
        )
        self.delay = self._many(
            "relay_delay_seconds",
            "Seconds from a change in the CRM to the commit that published it.",
            _SECONDS,
        )
        self.pending = self._gauge(
            "relay_pending", "Positions of the outbox not yet published, at most so many rows."
        )
        self.trimmed = self._counter(
            "relay_trimmed", "Published rows that were deleted from the outbox."
        )
        self.held = self._counter(
            "relay_held", "Times a dependency did not answer the relay.", "dependency"
        )


class RefreshMetrics(_Registered):
    """The metrics of `refresh`."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = self._counter(
            "refresh_requests", "Leads to be scored again, by cause: time or model.", "cause"
        )
        for cause in ("time", "model"):
            self.requests.labels(cause)
        self.overdue = self._gauge(
            "refresh_overdue_seconds", "How long ago the first lead was due that is not requested."
        )
        self.outdated = self._gauge(
            "refresh_outdated_leads", "Leads whose score is of another model than the champion."
        )
        self.leads = self._gauge("refresh_leads", "Leads with a score.")
        self.held = self._counter(
            "refresh_held", "Times a dependency did not answer the refresh service.", "dependency"
        )


class SinkMetrics(LossMetrics):
    """The metrics of `sink`."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = self._counter(
            "sink_records", "Predictions that came to the sink: scored, erased or skipped.", "fate"
        )
        self.held = self._counter(
            "sink_held", "Times a dependency did not answer the sink.", "dependency"
        )


class TranslateMetrics(LossMetrics):
    """The metrics of `translate`."""

    def __init__(self) -> None:
        super().__init__()
        self.records = self._counter(
            "translate_records",
            "Foreign change events: translated, unchanged or dead-lettered.",
            "fate",
        )
        self.held = self._counter(
            "translate_held", "Times a dependency did not answer the translator.", "dependency"
        )


class HistoryMetrics(_Registered):
    """The metrics of `history write`."""

    def __init__(self) -> None:
        super().__init__()
        self.records = self._counter(
            "history_records",
            "Records that came to the history by topic: written, erased, skipped, or late, "
            "which are of an erased lead.",
            *("topic", "fate"),
        )
        self.states = self._counter(
            "history_states",
            "Changes by where their state is from: event, database, or missing.",
            "source",
        )
        self.commits = self._counter("history_commits", "Commits to a table.", "table")
        self.conflicts = self._counter(
            "history_conflicts",
            "Commits that started again, because another process committed first.",
            "table",
        )
        self.commit_seconds = self._histogram(
            "history_commit_seconds", "Seconds that a commit to a table took.", _SECONDS, "table"
        )
        self.held = self._counter(
            "history_held", "Times a dependency did not answer the history.", "dependency"
        )
        self.erased_rows = self._counter(
            "history_erased_rows", "Rows of erased leads that were deleted.", "table"
        )
        self.upkeep = self._counter(
            "history_upkeep",
            "Times that files were joined, erased or deleted: done, or failed and tried again.",
            *("table", "result"),
        )
        for table in ("changes", "predictions", "outcomes"):
            for result in ("done", "failed"):
                self.upkeep.labels(table, result)
        for source in ("event", "database", "missing"):
            self.states.labels(source)


class LearnMetrics(_Registered):
    """The metrics of `learn`."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = self._counter(
            "learn_steps", "Steps from a request for training to the end of its trial.", "step"
        )
        self.trial_leads = self._gauge(
            "learn_trial_leads", "Leads of the newest comparison: both models scored them."
        )
        self.trial_difference = self._gauge(
            "learn_trial_difference",
            "Brier score of the newest comparison, challenger minus champion.",
        )
        self.skipped = self._counter(
            "learn_records_skipped",
            "Events about trainings that could not be read and were skipped.",
            "reason",
        )
        self.held = self._counter(
            "learn_held", "Times a dependency did not answer the learner.", "dependency"
        )
        # A counter that starts at its first event has no increase that an alert could see.
        for step in _LEARN_STEPS:
            self.steps.labels(step)
