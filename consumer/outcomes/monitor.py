"""The outcome monitor: the loop of `leadstream follow`.

It joins outcomes to predictions, evaluates those whose horizon has passed, exposes the live figures
of each model, recalibrates the champion, and requests trainings.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from consumer.outcomes.reader import (
    OutcomeReader,
    horizon_lookup,
    learned_until_lookup,
    open_follower,
)
from consumer.retrain_requests import RetrainRequests
from leadstream import log
from leadstream.backoff import Backoff
from leadstream.budgets import POLL_SECONDS
from leadstream.errors import Poison, Transient, UserError
from leadstream.kafka.batch import Message
from leadstream.kafka.topic_follower import TopicFollower
from leadstream.process.metrics import FollowMetrics
from leadstream.process.service import Health, serving
from leadstream.process.status import Status
from leadstream.settings import Settings
from models.monitor.ledger import LabeledPrediction
from models.monitor.live import LiveWindows, Quality
from models.monitor.triggers import InService, Triggers, due, in_service
from models.registry.versions import ModelRegistry, open_registry
from models.train import recalibrate
from schemas.registry import Registry

# Between two looks at the champion, and two refreshes of the live figures.
LOOK_SECONDS = 2.0
# A new partition is found in less time.
LATE_PARTITION_SECONDS = 15.0
CHAMPION_VARIANT = "champion"


class Recalibrate(StrEnum):
    """The action when the champion's outcomes ask for another calibration."""

    NEVER = "never"
    PROPOSE = "propose"
    PROMOTE = "promote"


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """Options of the monitor. `every`: write figures after that many new evaluations."""

    recalibrate: Recalibrate = Recalibrate.NEVER
    every: int = 200
    triggers: Triggers = field(default_factory=Triggers)


class OutcomeMonitor:
    """The loop of `follow`. After a Transient it retries the same record.

    `clock` is a monotonic clock in seconds, `clock_ms` the wall clock in milliseconds UTC.
    """

    def __init__(
        self,
        settings: Settings,
        options: MonitorOptions,
        *,
        models: ModelRegistry,
        reader: OutcomeReader,
        live: LiveWindows,
        requests: RetrainRequests,
        metrics: FollowMetrics,
        status: Status,
        logger: log.Logger,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._settings = settings
        self._options = options
        self._models = models
        self._reader = reader
        self._live = live
        self._requests = requests
        self._metrics = metrics
        self._status = status
        self._logger = logger
        self._clock = clock
        self._clock_ms = clock_ms
        self._stop = threading.Event()
        self._untaken: deque[Message] = deque()
        self._health = Health("follow", status, logger, backoff=Backoff(clock))
        self._look_at = 0.0
        self._champion: InService | None = None
        self._manifest: dict[str, Any] | None = None
        self._new = 0
        self._evaluated = False
        # The time of each lead's outcome since the champion was made.
        self._decided: dict[str, int] = {}
        self._complete_until: int | None = None
        self._next_overdue_at = 0.0
        self._dropped = 0
        self._share = 1.0
        self._caught_up = False

    def stop(self) -> None:
        """End the loop."""
        self._stop.set()

    def model(self) -> dict[str, Any] | None:
        """Return what `/model` shows: the champion and its metrics; None without a champion."""
        champion, manifest = self._champion, self._manifest
        if champion is None or manifest is None:
            return None
        return {
            "version": champion.version,
            "sha256": champion.sha256,
            "model_used": manifest.get("name"),
            "metrics": manifest.get("metrics"),
        }

    def run(self, follower: TopicFollower) -> None:
        """Run the loop. Returns when stopped."""
        while not self._stop.is_set():
            self._health.beat()
            try:
                self._untaken = self._untaken or deque(follower.poll(POLL_SECONDS))
                self._take()
                self._status.absent(follower.absent)
                self._status.assigned(follower.partitions)
                self._report_progress(follower)
                if self._caught_up and self._clock() >= self._look_at:
                    self._look(follower)
                    self._look_at = self._clock() + LOOK_SECONDS
            except Transient as trouble:
                self._health.pause(trouble, self._stop.is_set, self._stop.wait)

    def _take(self) -> None:
        """Take what was polled; a record that raises Transient stays, and is taken again."""
        topics = self._settings.topics
        self._reader.prepare(self._untaken)
        while self._untaken:
            message = self._untaken[0]
            try:
                self._add(self._reader.take(message))
                if message.value() is None:
                    self._live.forget((message.key() or b"").decode())
                read = (
                    self._metrics.outcomes
                    if message.topic() == topics.lead_outcomes
                    else self._metrics.predictions
                )
                read.inc()
            except Poison as poison:
                self._metrics.skipped.labels(poison.reason.value).inc()
                log.warn_skipped(self._logger, message, poison)
            self._untaken.popleft()

    def _add(self, evaluated: list[LabeledPrediction]) -> None:
        self._live.add(evaluated)
        self._new += len(evaluated)
        for one in evaluated:
            self._decided[one.prediction.lead_id] = one.decided_at

    def _look(self, follower: TopicFollower) -> None:
        """Evaluate leads without an outcome, refresh the figures, and act when it is time."""
        self._evaluate_overdue(follower)
        self._find_champion()
        qualities = self._live.qualities()
        self._expose(qualities)
        if self._new >= self._options.every or not self._evaluated:
            self._evaluate(qualities)
            self._new, self._evaluated = 0, True
        self._ask_for_training(follower)

    def _evaluate_overdue(self, follower: TopicFollower) -> None:
        """Evaluate predictions whose horizon passed without an outcome.

        The time is that of the outcomes some seconds ago: records that were sent with them to other
        partitions have been read since.
        """
        # Under constant load the partitions of predictions are never all at their end at once.
        if (
            not follower.topic_at_end(self._settings.topics.lead_outcomes)
            or self._clock() < self._next_overdue_at
        ):
            return
        until = self._reader.ledger.decided_until
        complete = until if self._complete_until is None else self._complete_until
        self._add(self._reader.ledger.overdue(complete))
        self._complete_until, self._next_overdue_at = (
            until,
            self._clock() + LATE_PARTITION_SECONDS,
        )

    def _find_champion(self) -> None:
        try:
            version = self._models.resolve()
            if version is None:
                self._champion = self._manifest = None
            elif self._champion is None or self._champion.version != version:
                self._champion, self._manifest = in_service(self._models, version)
        except UserError as error:
            self._champion = self._manifest = None
            self._status.warn("champion", str(error))
        else:
            self._status.warn("champion", None)

    def _expose(self, qualities: list[Quality]) -> None:
        with self._metrics.lock:
            for name, gauge in self._metrics.live.items():
                gauge.clear()
                for quality in qualities:
                    if (value := getattr(quality, name)) is not None:
                        gauge.labels(quality.model_version, quality.variant).set(value)
            ledger = self._reader.ledger
            self._metrics.pending.set(ledger.pending)
            self._metrics.sampled.set(ledger.share)
            self._metrics.dropped.inc(ledger.dropped - self._dropped)
            self._dropped = ledger.dropped
        if ledger.share < self._share:
            self._share = ledger.share
            self._logger.warning(
                "sample.reduced",
                share=ledger.share,
                detail="more predictions wait for their outcomes than fit in memory: "
                "the figures are those of this share of the leads",
            )

    def _evaluate(self, qualities: list[Quality]) -> None:
        """Write one line for all models, and recalibrate the champion if outcomes ask for it."""
        champion = self._champion
        self._logger.info(
            "evaluation",
            newly_judged=self._new,
            pending=self._reader.ledger.pending,
            trained_on=self._live.trained_on,
            sampled_share=self._reader.ledger.share,
            champion=champion.version if champion else None,
            models=[asdict(quality) for quality in qualities],
        )
        window = self._live.window_of_trees(champion.version, CHAMPION_VARIANT) if champion else []
        if self._options.recalibrate is Recalibrate.NEVER or not window:
            return
        promote = self._options.recalibrate is Recalibrate.PROMOTE
        try:
            done = recalibrate.recalibrate_champion(
                self._models, window, promote=promote, now_ms=self._clock_ms()
            )
        except UserError as error:
            self._status.warn("recalibration", str(error))
            self._logger.warning("recalibration.failed", detail=str(error))
            return
        self._status.warn("recalibration", None)
        if done is not None:
            self._logger.info("recalibrated", **asdict(done))

    def _ask_for_training(self, follower: TopicFollower) -> None:
        champion, topic = self._champion, self._settings.topics.retrain_requests
        if champion is None:
            return
        window, since = (
            self._live.window(champion.version, CHAMPION_VARIANT),
            champion.created_at or 0,
        )
        self._decided = {lead_id: at for lead_id, at in self._decided.items() if at > since}
        found = due(
            champion,
            window,
            new_outcomes=len(self._decided),
            now_ms=self._clock_ms(),
            triggers=self._options.triggers,
        )
        there = topic in follower.known
        absent = (
            None
            if there or not found
            else f"no {topic}; `leadstream topics create` makes what is missing"
        )
        self._status.warn("retrain requests", absent)
        self._requests.request(champion, found, publish=there)

    def _report_progress(self, follower: TopicFollower) -> None:
        caught_up = self._caught_up or follower.at_end
        if caught_up != self._caught_up:
            self._status.well()
        self._health.resumed()
        if not caught_up:
            self._status.trouble("history", "the topics are still being read from their beginning")
        self._caught_up = caught_up


def follow(settings: Settings, options: MonitorOptions) -> None:
    """Follow the outcomes until SIGTERM or SIGINT. Raises UserError if a person must act."""
    with serving(settings, "follow") as context:
        logger = context.logger
        signs = options.recalibrate is not Recalibrate.NEVER
        models = open_registry(
            settings, signs=signs, say=lambda sentence: logger.info("key", detail=sentence)
        )
        horizon_days_of = horizon_lookup(
            models, lambda version: logger.warning("model.unknown", version=version)
        )
        url = settings.schema_registry_url
        registry = context.open(Registry(url)) if url else None
        metrics = FollowMetrics()
        monitor = OutcomeMonitor(
            settings,
            options,
            models=models,
            reader=OutcomeReader(settings.topics, horizon_days_of, registry),
            live=LiveWindows(horizon_days_of, learned_until_of=learned_until_lookup(models)),
            requests=RetrainRequests(
                settings, registry, verb="follow", counter=metrics.retrain, logger=logger
            ),
            metrics=metrics,
            status=context.status,
            logger=logger,
        )
        context.listen(metrics.expose, monitor.model)
        context.stop_by_signals(monitor)
        follower = context.open(open_follower(settings))
        context.started()
        monitor.run(follower)
