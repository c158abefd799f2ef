"""The models in service: loads, refusals and warnings of champion and challenger."""

from collections.abc import Callable

from consumer.run.drift import DriftAlarm
from consumer.run.input_watch import InputWatch
from consumer.scoring.result import BatchResult
from leadstream.errors import Transient
from leadstream.log import Logger
from leadstream.process.metrics import Metrics
from leadstream.process.status import Status
from leadstream.variants import CHALLENGER, CHAMPION
from models.registry.slot import ChallengerSlot, ModelSlot
from models.serve.scorer import Model


class ModelFollower:
    """Follows both aliases and reports what changes; a challenger never holds a batch back."""

    def __init__(
        self,
        slot: ModelSlot,
        challenger: ChallengerSlot,
        drift: DriftAlarm,
        *,
        metrics: Metrics,
        status: Status,
        log: Logger,
    ) -> None:
        self._slot = slot
        self._challenger = challenger
        self._drift = drift
        self._inputs = InputWatch(status, log)
        self._metrics = metrics
        self._status = status
        self._log = log
        self._model: Model | None = None
        self._troubles: dict[str, str | None] = {}
        # A version and no more: a challenger that leaves is freed.
        self._challenging: str | None = None

    def follow(self, obstacle: Callable[[], str | None]) -> None:
        """Put the models of the next batch into service; between batches nothing else does.

        `obstacle` says why the predictions of a challenger could not be published, or None.
        Raises Transient or UserError if there is no champion yet.
        """
        self._slot.refresh()
        champion = self._slot.get()
        if champion is not self._model:
            self._model = champion
            self._measure_models()
            self._metrics.model_loads.labels(CHAMPION, "loaded").inc()
            self._log.info("model.loaded", version=champion.version, sha256=champion.sha256)
            self._drift.serve(champion)
            self._inputs.serve(champion)
        self._report_trouble(CHAMPION, "model", self._slot, champion.version)
        self._follow_challenger(champion, obstacle)

    def watch(self, result: BatchResult) -> None:
        """Watch the inputs of a committed batch, if the present champion scored it."""
        if self._model and result.model_version == self._model.version:
            self._drift.see(result.scored)
            self._inputs.see(result.scored)

    def withdraw(self, result: BatchResult) -> None:
        """Take a challenger that could not score this batch out of service."""
        if result.challenger_error:
            self._challenger.withdraw(result.challenger_error)

    def blame(self, result: BatchResult, trouble: Transient) -> None:
        """Suspend the challenger after a failed commit: the shadow topic alone may be at fault."""
        if result.shadowed:
            self._challenger.suspend(
                f"a batch with its predictions was not committed ({trouble.detail})"
            )

    def _follow_challenger(self, champion: Model, obstacle: Callable[[], str | None]) -> None:
        challenger = self._challenger.follow(champion.version, obstacle)
        version = challenger.version if challenger else None
        if version != self._challenging:
            self._measure_models()
            if challenger:
                self._metrics.model_loads.labels(CHALLENGER, "loaded").inc()
                self._log.info("challenger.loaded", version=version, sha256=challenger.sha256)
            else:
                self._log.info("challenger.left", version=self._challenging)
            self._challenging = version
        self._report_trouble(CHALLENGER, "challenger", self._challenger, version)

    def _report_trouble(
        self, variant: str, name: str, slot: ModelSlot | ChallengerSlot, in_service: str | None
    ) -> None:
        """Count and log a trouble once; its warning stays as long as the trouble does."""
        trouble = slot.refused or slot.unanswered
        if trouble == self._troubles.get(variant):
            return
        self._troubles[variant] = trouble
        if trouble:
            result = "refused" if slot.refused else "unanswered"
            self._metrics.model_loads.labels(variant, result).inc()
            self._log.warning(f"{name}.{result}", detail=trouble, in_service=in_service)
        self._status.warn(name, trouble)

    def _measure_models(self) -> None:
        self._metrics.model.clear()
        for variant, model in (
            (CHAMPION, self._slot.loaded),
            (CHALLENGER, self._challenger.loaded),
        ):
            if model is not None:
                self._metrics.model.labels(variant, model.version, model.sha256, model.name).set(1)
