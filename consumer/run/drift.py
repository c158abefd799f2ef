"""Drift alarms for operators: metrics of the last full window, log lines, and a warning."""

import time
from collections.abc import Callable, Iterable

from consumer.scoring.result import ScoredChanges
from leadstream.log import Logger
from leadstream.process.metrics import Metrics
from leadstream.process.status import Status
from models.monitor.drift import PROBABILITY, WINDOW, DriftCollector, DriftReference, DriftWindow
from models.serve.artifact import WRONG
from models.serve.scorer import Model

OnDrift = Callable[[Model, str], None]
# The pause after a full window. Under full load, one window a second says as much as fifty, and
# the rate of false alarms is per window.
REST_SECONDS = 1.0


class DriftAlarm:
    """Watches committed changes with the drift reference of the model that scored them.

    `on_drift` gets the model and a sentence when an alarm begins. `clock` is a monotonic clock in
    seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        status: Status,
        log: Logger,
        on_drift: OnDrift,
        *,
        window: int = WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._status = status
        self._log = log
        self._on_drift = on_drift
        self._size = window
        self._clock = clock
        self._rests_until = 0.0
        self._model: Model | None = None
        self._watch: DriftCollector | None = None
        self._alarms: set[str] = set()

    def serve(self, model: Model) -> None:
        """Start a new window for another model, and end the alarms of the model before."""
        self._model, self._watch, self._rests_until = model, None, 0.0
        try:
            self._watch = DriftCollector(
                DriftReference(model.manifest["drift"], model.specification.outputs), self._size
            )
        except WRONG:
            self._warn_unwatched(model, "its manifest has no drift reference")
        for feature in sorted(self._alarms):
            self._log.info("drift.over", feature=feature, detail="another model serves")
        self._alarms = set()
        self._status.warn("drift", None)
        with self._metrics.lock:
            self._clear()

    def see(self, scored: Iterable[ScoredChanges]) -> None:
        """Add the scored changes of a committed batch."""
        if self._model is None or self._watch is None or self._clock() < self._rests_until:
            return
        try:
            for part in scored:
                self._watch.add(part.keys, part.rows, part.scores)
            window = self._watch.close_if_full()
        except WRONG:
            self._watch = None
            self._warn_unwatched(self._model, "its drift reference does not fit its features")
            return
        if window is not None:
            self._rests_until = self._clock() + REST_SECONDS
            with self._metrics.lock:
                self._measure(window)
            self._report(self._model, window)

    def _warn_unwatched(self, model: Model, why: str) -> None:
        detail = f"{why}: nobody watches its inputs"
        self._log.warning("drift.unwatched", model_version=model.version, detail=detail)

    def _clear(self) -> None:
        metrics = self._metrics
        for gauge in (
            metrics.drift_psi,
            metrics.drift_missing,
            metrics.drift_unseen,
            metrics.drift_alarm,
        ):
            gauge.clear()

    def _measure(self, window: DriftWindow) -> None:
        metrics = self._metrics
        metrics.drift_windows.inc()
        for feature, found in window.drift.items():
            metrics.drift_psi.labels(feature).set(found.psi)
            if found.missing is not None:
                metrics.drift_missing.labels(feature).set(found.missing)
            if found.unseen is not None:
                metrics.drift_unseen.labels(feature).set(found.unseen)
            if feature != PROBABILITY:
                metrics.drift_alarm.labels(feature).set(found.alarm)

    def _report(self, model: Model, window: DriftWindow) -> None:
        alarms = {feature: found for feature, found in window.drift.items() if found.alarm}
        started = alarms.keys() - self._alarms
        for feature in sorted(started):
            self._log.warning(
                "drift.alarm",
                feature=feature,
                **alarms[feature].rounded(),
                model_version=model.version,
            )
        for feature in sorted(self._alarms - alarms.keys()):
            self._log.info("drift.over", feature=feature, psi=round(window.drift[feature].psi, 3))
        self._alarms = set(alarms)
        sentence = _sentence(
            model, window, {feature: found.psi for feature, found in alarms.items()}
        )
        self._status.warn("drift", sentence if alarms else None)
        if started:
            self._on_drift(model, sentence)


def _sentence(model: Model, window: DriftWindow, drifted: dict[str, float]) -> str:
    named = ", ".join(
        f"{feature} (PSI {drifted[feature]:.2f})"
        for feature in sorted(drifted, key=lambda f: -drifted[f])
    )
    what = (
        f"the last {window.changes:,} changes of {window.leads:,} leads "
        f"are not like the training of {model.version}"
    )
    return f"{what}: {named}"
