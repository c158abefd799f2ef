"""The bookkeeping of one batch: what its messages lead to, and what became of each."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, compress

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.predictions import Predicted, Rows
from consumer.scoring.result import BatchResult, Disposition, Published, Scored
from consumer.scoring.versions import VERSION
from leadstream.errors import Poison
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import Record
from leadstream.kafka.dead_letter import dead_letter
from leadstream.settings import Settings
from models.serve.scorer import Model, Scores

Ints = NDArray[np.intp]
_FATES = tuple(Disposition)
_NONE = len(_FATES)


class Work:
    """Outputs and fates by message, so that both come out in the order of the offsets."""

    def __init__(
        self, batch: Batch, model: Model, challenger: Model | None, now_ms: int, settings: Settings
    ) -> None:
        self.batch = batch
        self.model = model
        # The champion may have just been moved to the challenger's version.
        self.challenger = (
            None if challenger is None or challenger.version == model.version else challenger
        )
        self.challenger_error: str | None = None
        self.challenged: Counter[tuple[str, str]] = Counter()
        self.now_ms = now_ms
        self.request_indices: set[int] = set()
        self.imputed: Counter[str] = Counter()
        self.coverage: list[float] = []
        self.scored: list[Scored] = []
        self.queries = self.leads_asked = self.leads_found = self.late = 0
        self._settings = settings
        self._fates = np.full(len(batch.messages), _NONE, np.uint8)
        self._indices: list[int] = []
        self._outputs: list[Record] = []
        self._buried: dict[int, Poison] = {}
        self._answers: Counter[str] = Counter()
        self._published: list[Published] = []
        self._seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the step's seconds."""
        started = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def count(self, scores: Scores, rows: Ints) -> None:
        """What leads had of the inputs of the model that answers for them, by their rows in its scores."""
        imputed = scores.imputed.take(rows)
        for names, count in zip(imputed.values, imputed.counts().tolist(), strict=True):
            if count:
                self.imputed.update(dict.fromkeys(names, count))
        self.coverage += scores.coverage[rows].tolist()

    def meet(self, indices: int | list[int] | Ints, fate: Disposition) -> None:
        """What became of these messages."""
        self._fates[indices] = _FATES.index(fate)

    def publish(self, indices: Sequence[int], outputs: Sequence[Record]) -> None:
        """What messages lead to: outputs, and the message of each; those of one message keep the order given."""
        self._indices += indices
        self._outputs += outputs

    def score(self, rows: Rows, predicted: Predicted) -> None:
        """Changes were scored: their predictions, and the challenger's in its shadow."""
        indices = rows.index[predicted.places].tolist()
        self.meet(indices, Disposition.SCORED)
        self.publish(indices, predicted.outputs)
        self._published.append(rows.published(predicted.places))
        for row, output in predicted.shadows.items():
            self.publish([int(rows.index[row])], [output])

    def erase(self, index: int, key: bytes, version: int, outputs: Sequence[Record]) -> None:
        """A lead is forgotten: the nulls that say so, and the version that they end, 0 where none is known."""
        self.meet(index, Disposition.ERASED)
        self.publish([index] * len(outputs), outputs)
        self._published.append(Published(np.array([index]), [key], np.array([version], np.int64)))

    def come_late(self, indices: Ints) -> None:
        """These messages are older than what was published of their leads: it is as if they had come before that."""
        self.meet(indices, Disposition.COALESCED)
        self.late += len(indices)

    def put_in_order(self) -> None:
        """Where each change was scored for itself: take out what is older than what stands before it of its lead, and
        let nulls say what they end.
        """
        newest: dict[bytes, int] = {}
        late, ended = set[int](), dict[int, int]()
        entries = [
            zip(p.index.tolist(), p.keys, p.versions.tolist(), strict=True) for p in self._published
        ]
        for index, key, version in sorted(chain.from_iterable(entries)):
            if 0 < version < newest.get(key, 0):
                late.add(index)
            elif version:
                newest[key] = version
            elif key in newest:
                ended[index] = newest[key]
        if ended:
            self._outputs = [
                null(record[0], record[1], ended[index])
                if record[2] is None and index in ended
                else record
                for index, record in zip(self._indices, self._outputs, strict=True)
            ]
        if late:
            self.come_late(np.array(sorted(late)))
            kept = [index not in late for index in self._indices]
            self._indices, self._outputs = (
                list(compress(self._indices, kept)),
                list(compress(self._outputs, kept)),
            )
        self._published = [
            Published(np.empty(0, np.intp), list(newest), np.array(list(newest.values()), np.int64))
        ]

    def answer(self, index: int, outputs: list[Record], answers: Counter[str]) -> None:
        """What a request leads to, and how each of its leads was answered."""
        self.publish([index] * len(outputs), outputs)
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
        self.publish([index], [letter])
        if index not in self.request_indices:
            self.meet(index, Disposition.DEAD_LETTERED)

    def outcome(self) -> BatchResult:
        """Everything that came of the batch; raises AssertionError where a change has no fate, which is a bug."""
        indices = np.array(self._indices, np.intp)
        order = np.argsort(indices, kind="stable")
        outputs = [self._outputs[place] for place in order.tolist()]
        counts = np.bincount(self._fates, minlength=_NONE + 1).tolist()
        outcome = BatchResult(
            records=outputs,
            consumed=len(self.batch.messages) - len(self.request_indices),
            fates=Counter(
                {fate: count for fate, count in zip(_FATES, counts, strict=False) if count}
            ),
            requests_answered=len(self.request_indices - self._buried.keys()),
            requests_dead_lettered=len(self.request_indices & self._buried.keys()),
            request_leads=self._answers,
            letters=self._buried,
            queries=self.queries,
            leads_asked=self.leads_asked,
            leads_found=self.leads_found,
            model_version=self.model.version,
            challenger_version=self.challenger.version if self.challenger else None,
            challenged=self.challenged,
            challenger_error=self.challenger_error,
            shadowed=self.challenger is not None
            and any(topic == self._settings.topics.shadow_predictions for topic, *_ in outputs),
            imputed=self.imputed,
            coverage=self.coverage,
            seconds=self._seconds,
            scored=self.scored,
            sources=indices[order],
            late=self.late,
            published=self._published,
        )
        if not outcome.balances():
            raise AssertionError(
                f"{outcome.consumed} changes consumed, {outcome.fates.total()} fates"
            )
        return outcome


def null(topic: str, key: bytes | None, ends: int) -> Record:
    """What erases a lead from a table of scores, and the version that it ends, 0 where none is known."""
    return topic, key, None, [(VERSION, str(ends).encode())] if ends else None, None
