"""The bookkeeping of one batch: what its messages lead to, and what became of each."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from consumer.batch import Batch, Fate, Outcome, Output, Scored
from consumer.dead_letters import dead_letter
from consumer.predictions import Predicted
from leadstream.errors import Poison
from leadstream.settings import Settings
from models.scorer import Model


class Work:
    """Outputs and fates by message, so that both come out in the order of the offsets."""

    def __init__(self, batch: Batch, model: Model, challenger: Model | None, now_ms: int, settings: Settings) -> None:
        self.batch = batch
        self.model = model
        # The champion may have just been moved to the challenger's version.
        self.challenger = None if challenger is None or challenger.version == model.version else challenger
        self.challenger_error: str | None = None
        self.challenged: Counter[tuple[str, str]] = Counter()
        self.now_ms = now_ms
        self.fates: dict[int, Fate] = {}
        self.request_indices: set[int] = set()
        self.imputed: Counter[str] = Counter()
        self.coverage: list[float] = []
        self.scored: list[Scored] = []
        self.leads_asked = self.leads_found = 0
        self._settings = settings
        self._outputs: dict[int, list[Output]] = {}
        self._buried: dict[int, Poison] = {}
        self._answers: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the step's seconds."""
        started = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def count(self, predicted: Predicted) -> None:
        """What the lead had of the inputs of the model that answers for it."""
        scores, row = predicted.scores, predicted.row
        if scores.imputed[row]:
            self.imputed.update(scores.imputed[row])
        self.coverage.append(float(scores.coverage[row]))

    def publish(self, index: int, outputs: list[Output]) -> None:
        """What message `index` leads to."""
        self._outputs[index] = outputs

    def answer(self, index: int, outputs: list[Output], answers: Counter[str]) -> None:
        """What a request leads to, and how each of its leads was answered."""
        self._outputs[index] = outputs
        self._answers += answers

    def bury(self, index: int, poison: Poison) -> None:
        """Message `index` becomes a dead letter."""
        self._buried[index] = poison
        letter = dead_letter(
            self._settings.topics.dead_letters,
            self.batch.messages[index],
            poison,
            failed_at=self.now_ms,
            group_id=self._settings.group_id,
            model_version=self.model.version,
        )
        self._outputs[index] = [letter]
        if index not in self.request_indices:
            self.fates[index] = Fate.DEAD_LETTERED

    def outcome(self) -> Outcome:
        """Everything that came of the batch; raises AssertionError where a change has no fate, which is a bug."""
        outputs = [output for index in sorted(self._outputs) for output in self._outputs[index]]
        outcome = Outcome(
            outputs=outputs,
            consumed=len(self.batch.messages) - len(self.request_indices),
            fates=Counter(self.fates.values()),
            requests_answered=len(self.request_indices - self._buried.keys()),
            requests_dead_lettered=len(self.request_indices & self._buried.keys()),
            request_leads=self._answers,
            letters=[self._buried.get(index) for index in range(len(self.batch.messages))],
            leads_asked=self.leads_asked,
            leads_found=self.leads_found,
            model_version=self.model.version,
            challenger_version=self.challenger.version if self.challenger else None,
            challenged=self.challenged,
            challenger_error=self.challenger_error,
            shadowed=any(output.topic == self._settings.topics.shadow_predictions for output in outputs),
            imputed=self.imputed,
            coverage=self.coverage,
            seconds=self._seconds,
            scored=self.scored,
        )
        if not outcome.balances():
            raise AssertionError(f"{outcome.consumed} changes consumed, {outcome.fates.total()} fates")
        return outcome
