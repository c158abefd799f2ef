"""The service of `leadstream learn`: its topic, its training process, and its look at the outcomes.

`learner` decides; this module gives it what it decides on, and carries it out.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from consumer.history.trial_pairs import Trial, compare_trial
from consumer.outcomes.learner import (
    Attempt,
    AttemptLog,
    Learner,
    LearnEvent,
    LearnOptions,
)
from consumer.retrain_requests import RetrainEvents
from leadstream import log
from leadstream.background import Background, Run, Worker
from leadstream.backoff import Backoff
from leadstream.budgets import POLL_SECONDS
from leadstream.errors import Poison, Transient, UserError
from leadstream.kafka.batch import Message
from leadstream.kafka.topic_follower import TopicFollower
from leadstream.process.metrics import LearnMetrics
from leadstream.process.service import Health, serving
from leadstream.process.status import Status
from leadstream.settings import Settings
from models.monitor.compare import VersionComparison
from models.monitor.ledger import read_horizon, read_learned_until
from models.registry.versions import CHAMPION, ModelRegistry, open_registry
from schemas.codec import Reader
from schemas.registry import Registry

# Between two turns of the learner.
LOOK_SECONDS = 2.0
# A training that was asked to end, and a look at the outcomes, may take so long.
END_SECONDS = 10.0
_MAX_TAIL = 4_000


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Options of the service.

    `look_seconds`: between two comparisons. `training`: further words of `leadstream retrain`.
    """

    learn: LearnOptions = field(default_factory=LearnOptions)
    look_seconds: float = 600.0
    training: Sequence[str] = ()


class RetrainProcess:
    """A training as a process of its own: its memory is free afterwards, and it ends with us."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._words = words
        self._attempt: Attempt | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def train(self, attempt: Attempt) -> str | None:
        """Start the training of an attempt; return None while it runs, "" or why it failed."""
        if self._attempt != attempt:
            self.close()
            self._start(attempt)
        code = self._process.poll() if self._process else None
        if code is None:
            return None
        why = "" if code == 0 else self._failure(code)
        self.close()
        return why

    def close(self) -> None:
        """End the training, if one runs; nothing of it is published then."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdin:
                self._process.stdin.close()
        if self._errors is not None:
            self._errors.close()
        self._process = self._errors = self._attempt = None

    def _start(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        learn = json.dumps(attempt.as_json())
        words = ["retrain", "--history", "--json", "--learn", learn, *self._words]
        if attempt.since:
            words.append(f"--since={datetime.fromtimestamp(attempt.since / 1000, UTC).date()}")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "leadstream.cli.main", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def _failure(self, code: int) -> str:
        """Return the last sentence of a training that failed."""
        lines: list[str] = []
        if self._errors is not None:
            self._errors.seek(0, 2)
            self._errors.seek(max(0, self._errors.tell() - _MAX_TAIL))
            lines = self._errors.read().decode("utf-8", "replace").split("\n")
        lines = [line.removeprefix("leadstream: ") for line in lines if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return lines[-1] if lines and code > 0 else f"the training ended with {how}"


class TrialComparer:
    """Compares a trial in the background, at most once in `look_seconds`."""

    def __init__(
        self,
        compared: Callable[[str, str, int], VersionComparison],
        metrics: LearnMetrics,
        run: Run,
        *,
        look_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compared = compared
        self._metrics = metrics
        self._run = run
        self._look_seconds = look_seconds
        self._clock = clock
        self._background: Background[VersionComparison] = Background()
        self._trial: tuple[str, str, int] | None = None
        self._look_at = 0.0
        self._failure: UserError | None = None

    def compare(self, champion: str, challenger: str, since: int) -> VersionComparison | None:
        """Return a comparison once, when it is there.

        Raises UserError if the newest one could not be made, until there is another.
        """
        trial = (champion, challenger, since)
        if trial != self._trial:
            self._look_at, self._failure = 0.0, None
        if self._background.idle and self._clock() >= self._look_at:
            self._trial, self._look_at = trial, self._clock() + self._look_seconds
            self._background.start(lambda: self._compared(*trial), self._run)
        try:
            found = self._background.poll()
        except UserError as error:
            found, self._failure = None, error
        if found is None or trial != self._trial:
            if self._failure is not None:
                raise self._failure
            return None
        self._failure = None
        self._metrics.trial_leads.set(found.n)
        self._metrics.trial_difference.set(found.difference)
        return found


def comparison_in(
    settings: Settings, models: ModelRegistry, root: str
) -> Callable[[str, str, int], VersionComparison]:
    """Return a function that compares a trial by the history at `root`."""

    def compared(champion: str, challenger: str, since: int) -> VersionComparison:
        manifests = [models.show(version) for version in (champion, challenger)]
        learned = [read_learned_until(manifest) or 0 for manifest in manifests]
        trial = Trial(champion, challenger, read_horizon(manifests[0]), since, max(learned))
        return compare_trial(root, settings.topics, trial)

    return compared


class StepReport:
    """The event, the log line and the metric of each step."""

    def __init__(
        self, events: RetrainEvents, metrics: LearnMetrics, status: Status, logger: log.Logger
    ) -> None:
        self._events = events
        self._metrics = metrics
        self._status = status
        self._logger = logger

    def step(self, event: LearnEvent, sha256: str) -> None:
        """Report a step. Raises Transient if the event is not acknowledged: report it again."""
        self._events.send(
            f"{event.version}:{event.trigger.value}:{event.step.value}",
            {
                "model_version": event.version,
                "model_sha256": sha256,
                "trigger": event.trigger.value,
                "detail": event.detail,
                "requested_at": event.at,
                "step": event.step.value,
                "candidate": event.candidate,
            },
        )
        self._metrics.steps.labels(event.step.value).inc()
        self._logger.info(
            "learn.step",
            step=event.step.value,
            champion=event.version,
            candidate=event.candidate or None,
            trigger=event.trigger.value,
            detail=event.detail,
        )

    def waiting(self, why: str | None) -> None:
        """Show in /readyz what a person has to do."""
        self._status.warn("learn", why)


class LearnLoop:
    """The loop: it reads the topic, and lets the learner take its turns."""

    def __init__(
        self,
        topic: AttemptLog,
        learner: Learner,
        reader: Reader,
        *,
        metrics: LearnMetrics,
        status: Status,
        logger: log.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._learner = learner
        self._reader = reader
        self._metrics = metrics
        self._status = status
        self._logger = logger
        self._clock = clock
        self._stop = threading.Event()
        self._untaken: deque[Message] = deque()
        backoff = Backoff(clock)
        self._health = Health("learn", status, logger, counter=metrics.held, backoff=backoff)
        self._look_at = 0.0
        self._failure: str | None = None

    def stop(self) -> None:
        """End the loop."""
        self._stop.set()

    def run(self, follower: TopicFollower) -> None:
        """Run the loop. Returns when stopped."""
        while not self._stop.is_set():
            self._health.beat()
            try:
                self._untaken = self._untaken or deque(follower.poll(POLL_SECONDS))
                self._take()
                self._status.absent(follower.absent)
                self._status.assigned(follower.partitions)
                # Only all events together say where an attempt is.
                if follower.at_end and self._clock() >= self._look_at:
                    self._advance()
                    self._look_at = self._clock() + LOOK_SECONDS
                    self._health.resumed()
            except Transient as trouble:
                self._health.pause(trouble, self._stop.is_set, self._stop.wait)

    def _advance(self) -> None:
        failure = None
        try:
            self._learner.advance()
        except UserError as error:
            failure = str(error)
        if failure is not None and failure != self._failure:
            self._logger.warning("learn.failed", detail=failure)
        self._failure = failure
        self._status.warn("failure", failure)

    def _take(self) -> None:
        """Take what was polled; a record that raises Transient stays, and is taken again."""
        while self._untaken:
            message = self._untaken[0]
            value = message.value()
            try:
                if value is not None:
                    self._topic.take(self._reader.decode(value))
            except Poison as poison:
                self._metrics.skipped.labels(poison.reason.value).inc()
                log.warn_skipped(self._logger, message, poison)
            self._untaken.popleft()


def learn(settings: Settings, options: ServiceOptions, root: str) -> None:
    """Learn until SIGTERM or SIGINT. Raises UserError if a person must act."""
    with serving(settings, "learn") as context:
        logger, metrics = context.logger, LearnMetrics()
        models = open_registry(
            settings, signs=True, say=lambda sentence: logger.info("key", detail=sentence)
        )
        url = settings.schema_registry_url
        registry = context.open(Registry(url)) if url else None
        worker = Worker("trial")
        context.resources.callback(worker.close, END_SECONDS)
        comparer = TrialComparer(
            comparison_in(settings, models, root),
            metrics,
            worker,
            look_seconds=options.look_seconds,
        )
        events = context.open(RetrainEvents(settings, registry, "learn"))
        topic = AttemptLog()
        learner = Learner(
            models,
            options.learn,
            topic,
            trainer=context.open(RetrainProcess(options.training)),
            comparer=comparer,
            report=StepReport(events, metrics, context.status, logger),
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )
        loop = LearnLoop(
            topic,
            learner,
            Reader("RetrainRequested", registry),
            metrics=metrics,
            status=context.status,
            logger=logger,
        )
        context.listen(metrics.expose, lambda: _served(models))
        context.stop_by_signals(loop)
        follower = context.open(TopicFollower(settings, [settings.topics.retrain_requests]))
        context.started()
        loop.run(follower)


def _served(models: ModelRegistry) -> dict[str, Any] | None:
    """Return what `/model` shows: the champion of the store; None without one."""
    try:
        version = models.resolve(CHAMPION)
        if version is None:
            return None
        manifest = models.show(version)
    except (UserError, Transient):
        return None
    return {
        "version": version,
        "sha256": manifest["artifact"]["sha256"],
        "model_used": manifest.get("name"),
        "metrics": manifest.get("metrics"),
    }
