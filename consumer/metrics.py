"""Every metric of the service, with a sentence each. Labels come from enums and settings; a lead id is never one."""

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

# Otherwise each counter has a twin that tells when it was first counted.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Held while a batch is counted and while the metrics are read: the books balance in every reading.
        self.lock = threading.Lock()
        self.consumed = self._counter("changes_consumed", "Lead changes consumed and committed.")
        self.changes = self._counter(
            "changes", "What became of the consumed changes; over all fates this adds up to those consumed.", "fate"
        )
        self.requests = self._counter("requests", "Rescore requests, answered or dead-lettered.", "fate")
        self.request_leads = self._counter(
            "request_leads", "Leads asked for in rescore requests: predicted, or the code of the error.", "answer"
        )
        self.dead_letters = self._counter("dead_letters", "Dead letters published.", "topic", "reason")
        self.batches = self._counter("batches", "Batches committed, by what closed them.", "closed_by")
        self.batch_records = self._histogram("batch_records", "Records in a batch.", _RECORDS)
        self.step_seconds = self._histogram("step_seconds", "Seconds a batch spent in each step.", _SECONDS, "step")
        self.latency = self._histogram(
            "change_latency_seconds", "Seconds from a record's Kafka timestamp to the commit of its outcome.", _SECONDS
        )
        self.coverage = self._histogram(
            "feature_coverage", "Share of the model's inputs that a scored lead had.", _SHARES
        )
        self.imputed = self._counter("imputed", "Inputs of scored leads that were replaced by the median.", "feature")
        self.lag = self._gauge("lag_records", "Records of a partition not yet committed.", "topic", "partition")
        self.partitions = self._gauge("assigned_partitions", "Partitions assigned to this process.")
        self.rebalances = self._counter("rebalances", "Rebalances: assigned, revoked or lost.", "kind")
        self.held = self._counter(
            "held_batches", "Batches held back because a dependency did not answer, to be tried again.", "dependency"
        )
        self.unavailable = self._gauge("unavailable", "1 while a dependency holds the loop back.", "dependency")
        self.rejoins = self._counter("rejoins", "Times the process was fenced and joined the group anew.")
        self.database_queries = self._counter("database_queries", "Queries for lead state.")
        self.database_leads = self._counter("database_leads", "Leads asked of Postgres: found or missing.", "answer")
        self.model = self._gauge(
            "model_info",
            "1 for the model in service, and for its challenger.",
            *("variant", "version", "sha256", "model_used"),
        )
        self.model_loads = self._counter(
            "model_loads", "Times a model was loaded, or refused, or its store did not answer.", "variant", "result"
        )
        self.challenger_predictions = self._counter(
            "challenger_predictions",
            "Leads given to the challenger, in the shadow or as its share of a split: scored, or failed in it alone.",
            *("mode", "result"),
        )
        self.ready = self._gauge("ready", "1 while assigned, loaded and every dependency answers.")

    def expose(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        with self.lock:
            return generate_latest(self.registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"leadstream_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"leadstream_{name}", help_, labels, registry=self.registry)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"leadstream_{name}", help_, labels, buckets=buckets, registry=self.registry)
