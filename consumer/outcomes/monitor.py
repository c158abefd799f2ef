"""The loop of `leadstream follow`: reads on, judges what has matured, shows the live figures, and acts on them."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from consumer.outcomes.reader import Intake, horizons, open_follower
from consumer.retrain_requests import RetrainRequests
from leadstream import __version__, log
from leadstream.backoff import Backoff
from leadstream.budgets import POLL_SECONDS
from leadstream.errors import Poison, Transient, UserError
from leadstream.kafka.batch import Message
from leadstream.kafka.topic_follower import TopicFollower
from leadstream.process.http import Endpoints
from leadstream.process.metrics import FollowMetrics
from leadstream.process.signals import stop_on_signals
from leadstream.process.status import Status
from leadstream.settings import Settings, unknown_variables
from models.monitor import recalibrate
from models.monitor.ledger import Judged
from models.monitor.live import Live, Quality
from models.monitor.triggers import InService, Triggers, due, in_service
from models.registry.versions import ModelRegistry, open_registry
from schemas.registry import Registry

LOOK_SECONDS = 2.0  # at the champion, and between two refreshes of the live figures
SETTLE_SECONDS = 15.0  # longer than a new partition takes to be found
CHAMPION_VARIANT = "champion"


class Recalibrate(StrEnum):
    """What to do when the champion's outcomes ask for another calibration."""

    NEVER = "never"
    PROPOSE = "propose"
    PROMOTE = "promote"


@dataclass(frozen=True, slots=True)
class Options:
    """`every`: evaluate after so many newly judged predictions."""

    recalibrate: Recalibrate = Recalibrate.NEVER
    every: int = 200
    triggers: Triggers = field(default_factory=Triggers)


class Watch:
    """Turns the loop until it is asked to stop. Every trouble that may pass is waited for, and nothing is skipped."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        *,
        models: ModelRegistry,
        intake: Intake,
        live: Live,
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
        self._intake = intake
        self._live = live
        self._requests = requests
        self._metrics = metrics
        self._status = status
        self._logger = logger
        self._clock = clock
        self._clock_ms = clock_ms
        self._stop = threading.Event()
        self._untaken: deque[Message] = deque()
        self._backoff = Backoff(clock)
        self._held: str | None = None
        self._look_at = 0.0
        self._champion: InService | None = None
        self._manifest: dict[str, Any] | None = None
        self._new = 0
        self._evaluated = False
        self._decided: dict[str, int] = {}  # when, by lead; since the champion was made
        self._all_until: int | None = None
        self._settled_at = 0.0
        self._dropped = 0
        self._caught_up = False

    def stop(self) -> None:
        """End the loop."""
        self._stop.set()

    def model(self) -> dict[str, Any] | None:
        """What `/model` shows: the champion, and how it was judged; None where there is none."""
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
        """Turn the loop. Returns when stopped, and raises whatever a bug raises."""
        while not self._stop.is_set():
            self._status.beat()
            try:
                self._untaken = self._untaken or deque(follower.poll(POLL_SECONDS))
                self._take()
                self._status.absent(follower.absent)
                self._status.assigned(follower.partitions)
                self._resumed(follower)
                if self._caught_up and self._clock() >= self._look_at:
                    self._look(follower)
                    self._look_at = self._clock() + LOOK_SECONDS
            except Transient as trouble:
                self._hold(trouble)

    def _take(self) -> None:
        """Take what was polled; a record at which a dependency does not answer stays, and is taken again."""
        topics = self._settings.topics
        while self._untaken:
            message = self._untaken[0]
            try:
                self._judged(self._intake.take(message))
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
                self._logger.warning(
                    "record.skipped",
                    reason=poison.reason.value,
                    detail=poison.detail,
                    topic=message.topic(),
                    partition=message.partition(),
                    offset=message.offset(),
                )
            self._untaken.popleft()

    def _judged(self, judged: list[Judged]) -> None:
        self._live.add(judged)
        self._new += len(judged)
        for one in judged:
            self._decided[one.made.lead_id] = one.decided_at

    def _look(self, follower: TopicFollower) -> None:
        """Judge the silent, refresh the figures, and act where it is time."""
        self._judge_silent(follower)
        self._find_champion()
        qualities = self._live.qualities()
        self._show(qualities)
        if self._new >= self._options.every or not self._evaluated:
            self._evaluate(qualities)
            self._new, self._evaluated = 0, True
        self._ask_for_training(follower)

    def _judge_silent(self, follower: TopicFollower) -> None:
        """By the outcomes of some seconds ago: what was sent with them to other partitions has been read by now."""
        # Where predictions come without pause, not all of the partitions are ever at their end in the same moment.
        if (
            not follower.topic_at_end(self._settings.topics.lead_outcomes)
            or self._clock() < self._settled_at
        ):
            return
        until = self._intake.ledger.decided_until
        self._judged(
            self._intake.ledger.overdue(until if self._all_until is None else self._all_until)
        )
        self._all_until, self._settled_at = until, self._clock() + SETTLE_SECONDS

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

    def _show(self, qualities: list[Quality]) -> None:
        with self._metrics.lock:
            for name, gauge in self._metrics.live.items():
                gauge.clear()
                for quality in qualities:
                    if (value := getattr(quality, name)) is not None:
                        gauge.labels(quality.model_version, quality.variant).set(value)
            ledger = self._intake.ledger
            self._metrics.pending.set(ledger.pending)
            self._metrics.dropped.inc(ledger.dropped - self._dropped)
            self._dropped = ledger.dropped

    def _evaluate(self, qualities: list[Quality]) -> None:
        """One line for all models, and another calibration of the champion where it is wanted and asked for."""
        champion = self._champion
        self._logger.info(
            "evaluation",
            newly_judged=self._new,
            pending=self._intake.ledger.pending,
            champion=champion.version if champion else None,
            models=[asdict(quality) for quality in qualities],
        )
        window = self._live.of_trees(champion.version, CHAMPION_VARIANT) if champion else []
        if self._options.recalibrate is Recalibrate.NEVER or not window:
            return
        promote = self._options.recalibrate is Recalibrate.PROMOTE
        try:
            done = recalibrate.follow_outcomes(
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

    def _resumed(self, follower: TopicFollower) -> None:
        caught_up = self._caught_up or follower.at_end
        if self._held is not None or caught_up != self._caught_up:
            self._status.well()
        if self._held is not None:
            self._logger.info("follow.resumed", dependency=self._held)
        if not caught_up:
            self._status.trouble("history", "the topics are still being read from their beginning")
        self._caught_up, self._held = caught_up, None
        self._backoff.reset()

    def _hold(self, trouble: Transient) -> None:
        """Say why, and wait a little longer each time."""
        self._status.trouble(trouble.dependency, trouble.detail)
        if self._held != trouble.dependency:
            self._logger.warning(
                "follow.held", dependency=trouble.dependency, detail=trouble.detail
            )
        self._held = trouble.dependency
        for seconds in self._backoff.pauses(self._stop.is_set):
            self._status.beat()
            self._stop.wait(seconds)


def follow(settings: Settings, options: Options) -> None:
    """Follow the outcomes. Returns when stopped by SIGTERM or SIGINT; raises UserError where a person must act."""
    log.configure(settings)
    logger = log.get_logger()
    for sentence in unknown_variables():
        logger.warning("settings.unknown", detail=sentence)
    signs = options.recalibrate is not Recalibrate.NEVER
    models = open_registry(
        settings, signs=signs, say=lambda sentence: logger.info("key", detail=sentence)
    )
    horizon_days_of = horizons(
        models, lambda version: logger.warning("model.unknown", version=version)
    )
    registry = Registry(settings.schema_registry_url) if settings.schema_registry_url else None
    metrics, status = FollowMetrics(), Status()
    watch = Watch(
        settings,
        options,
        models=models,
        intake=Intake(settings.topics, horizon_days_of, registry),
        live=Live(horizon_days_of),
        requests=RetrainRequests(
            settings, registry, verb="follow", counter=metrics.retrain, logger=logger
        ),
        metrics=metrics,
        status=status,
        logger=logger,
    )
    endpoints = Endpoints(
        settings.http_host,
        settings.http_port,
        status=status,
        exposed=metrics.expose,
        model=watch.model,
    )
    stop_on_signals(watch, logger)
    try:
        follower = open_follower(settings)
        logger.info(
            "started", version=__version__, http=f"http://{settings.http_host}:{endpoints.port}"
        )
        try:
            watch.run(follower)
        finally:
            follower.close()
    finally:
        endpoints.close()
        if registry:
            registry.close()
    logger.info("stopped")
