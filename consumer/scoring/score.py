"""Rows to predictions: the champion's score, the challenger's, and the records of both."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.predictions import EncodedPredictions, PredictionWriter
from consumer.scoring.reason_columns import reason_columns
from consumer.scoring.result import ScoredChanges
from consumer.scoring.rows import Rows
from features.spec import FeatureSpec
from leadstream.errors import Poison
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import Record
from leadstream.variants import CHALLENGER, CHAMPION, challenged
from models.serve.artifact import WRONG
from models.serve.scorer import Model, Scores
from schemas.columns import OptionalMoments, to_records

RESCORE = "RESCORE"
SHADOW_MODE, SPLIT_MODE = "shadow", "split"
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class BatchContext:
    """The common part of all rows of a batch: its messages, its models, and when it began.

    `began_ms` is milliseconds UTC, and the `scored_at` of all predictions.
    """

    batch: Batch
    champion: Model
    challenger: Model | None
    began_ms: int

    @classmethod
    def from_models(
        cls, batch: Batch, champion: Model, challenger: Model | None, began_ms: int
    ) -> "BatchContext":
        """Return the context, without a challenger whose version has just become the champion's."""
        if challenger is not None and challenger.version == champion.version:
            challenger = None
        return cls(batch, champion, challenger, began_ms)

    def after(self, predicted: "Predicted") -> "BatchContext":
        """Return the context for the next rows: without a challenger that could not score."""
        return self if predicted.challenge.error is None else replace(self, challenger=None)

    def inputs(self) -> list[FeatureSpec]:
        """Return what either model reads of a state, each input once."""
        models = [model for model in (self.champion, self.challenger) if model is not None]
        specs = [spec for model in models for spec in model.specification.inputs]
        return list({spec.name: spec for spec in specs}.values())


@dataclass(frozen=True, slots=True, eq=False)
class Challenge:
    """The challenger's predictions by row, each with its place in the challenger's `scores`.

    A row that fails in the challenger is missing. `error` says why the challenger cannot stay.
    """

    records: dict[int, Record] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    scores: Scores | None = None
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    error: str | None = None
    fallback: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """The predictions of n rows, and the reasons of rows without one.

    `outputs` are the predictions of the rows at `indices`; `failed` says by row why the others
    have none. `shadows` has the records for the shadow topic by row. `scores` are the
    champion's; `split` names the challenger's scores and the place in them for each row that
    the challenger answers. `seconds` are by step.
    """

    rows: Rows
    indices: Ints
    outputs: list[Record]
    shadows: dict[int, Record]
    failed: dict[int, Poison]
    scores: Scores
    split: dict[int, tuple[Scores, int]]
    challenge: Challenge
    seconds: dict[str, float]
    fallbacks: int

    def result_entries(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return what a RescoreResult says of rows that have a prediction, but for the lead ids."""
        found: dict[int, dict[str, Any]] = {}
        for scores, places, mine in self._by_scores(rows):
            columns = {
                "prediction": scores.prediction[places],
                "probability": scores.probability[places],
                "confidence": scores.confidence[places],
                "grade": scores.grade.take(places),
                "probability_low": scores.low[places],
                "probability_high": scores.high[places],
                "reasons": reason_columns(scores, places),
                "valid_until": OptionalMoments(scores.valid_until[places]),
            }
            found |= zip(mine, to_records(columns, len(mine)), strict=True)
        return [found[row] for row in rows]

    def _by_scores(self, rows: Sequence[int]) -> Iterator[tuple[Scores, Ints, list[int]]]:
        """Yield scores, places in them, and the rows that they answer."""
        own = [row for row in rows if row not in self.split]
        theirs = [row for row in rows if row in self.split]
        yield self.scores, np.array(own, np.intp), own
        if theirs:
            places = np.array([self.split[row][1] for row in theirs], np.intp)
            yield self.split[theirs[0]][0], places, theirs

    def imputed(self) -> Counter[str]:
        """Count the imputed inputs, each row by the model that answers for it."""
        counted: Counter[str] = Counter()
        for scores, rows in self._answering():
            names = scores.imputed.take(rows)
            for each, count in zip(names.values, names.counts().tolist(), strict=True):
                if count:
                    counted.update(dict.fromkeys(each, count))
        return counted

    def coverage(self) -> list[float]:
        """Return the feature coverage of each prediction, by the model that answers for it."""
        parts = [scores.coverage[rows] for scores, rows in self._answering()]
        return np.concatenate(parts).tolist()  # type: ignore[no-any-return]

    def scored_changes(self) -> ScoredChanges | None:
        """Return the changes to watch for drift: scored by the champion, and not on request."""
        rows = self.rows
        asked = np.array([name == RESCORE for name in rows.change_type.values], np.bool_)[
            rows.change_type.codes
        ]
        asked[list(self.scores.failed)] = True
        changed = np.flatnonzero(~asked)
        if not len(changed):
            return None
        every = len(changed) == len(rows)
        keys = rows.keys if every else [rows.keys[row] for row in changed.tolist()]
        return ScoredChanges(keys, changed, self.scores)

    def _answering(self) -> list[tuple[Scores, Ints]]:
        """Return the scores that were published, and the rows of each."""
        own = self.indices
        if not self.split:
            return [(self.scores, own)]
        own = np.array([row for row in own.tolist() if row not in self.split], np.intp)
        theirs = np.array([place for _, place in self.split.values()], np.intp)
        scores = next(iter(self.split.values()))[0]
        return [(scores, theirs), (self.scores, own)]


class BatchScorer:
    """Scores rows with the champion, challenges them, and encodes the predictions."""

    def __init__(
        self,
        predictions: PredictionWriter,
        shadow: PredictionWriter,
        *,
        share: float,
        reasons: int,
        valid_change: float = 0.0,
    ) -> None:
        """Take the writers of both topics; a `share` above 0 is a split, 0 is the shadow mode.

        A `valid_change` of 0 finds no `valid_until`.
        """
        self._predictions = predictions
        self._shadow = shadow
        self._share = share
        self._reasons = reasons
        self._valid_change = valid_change or None

    def predict(self, rows: Rows, context: BatchContext) -> Predicted:
        """Return the predictions of n rows, n > 0."""
        began = time.perf_counter()
        scores = self._score(context.champion, rows)
        scored = time.perf_counter()
        challenge = self._challenge(rows, scores, context)
        answered = time.perf_counter()
        split = challenge.records if self._share > 0 else {}
        failed = {row: poison for row, poison in scores.failed.items() if row not in split}
        own = np.arange(len(rows))
        if failed or split:
            own = np.array([r for r in own.tolist() if r not in failed and r not in split], np.intp)
        encoded = self._encode(rows.take(own), scores, own, context.champion, context)
        outputs = encoded.records
        if encoded.failed:
            failed |= {int(own[i]): poison for i, poison in encoded.failed.items()}
            outputs = [record for i, record in enumerate(outputs) if i not in encoded.failed]
            own = np.delete(own, list(encoded.failed))
        seconds = {"score": scored - began, "encode": time.perf_counter() - answered}
        if challenge.counts:
            seconds[self._mode] = answered - scored
        return Predicted(
            rows=rows,
            indices=np.concatenate([own, np.array(list(split), np.intp)]),
            outputs=outputs + list(split.values()),
            shadows={
                row: record
                for row, record in ({} if split else challenge.records).items()
                if row not in failed
            },
            failed=failed,
            scores=scores,
            split={
                row: (challenge.scores, challenge.places[row])
                for row in split
                if challenge.scores is not None
            },
            challenge=challenge,
            seconds=seconds,
            fallbacks=encoded.fallback + challenge.fallback,
        )

    @property
    def _mode(self) -> str:
        return SPLIT_MODE if self._share > 0 else SHADOW_MODE

    def _challenge(self, rows: Rows, scores: Scores, context: BatchContext) -> Challenge:
        """Return the challenger's predictions: of its share, or of all that the champion scored."""
        model = context.challenger
        if model is None:
            return Challenge()
        if self._share > 0:
            wanted = [
                row for row, key in enumerate(rows.keys) if challenged(key.decode(), self._share)
            ]
        else:
            wanted = [row for row in range(len(rows)) if row not in scores.failed]
        if not wanted:
            return Challenge()
        theirs = rows.take(np.array(wanted, np.intp))
        try:
            found = self._score(model, theirs)
        except WRONG as error:
            # In the champion this is a bug that ends the process; a challenger only leaves.
            return Challenge(
                counts=Counter({(self._mode, "scored"): 0, (self._mode, "failed"): len(wanted)}),
                error=f"version {model.version} cannot score ({error!r})",
            )
        good = np.array([p for p in range(len(wanted)) if p not in found.failed], np.intp)
        encoded = self._encode(theirs.take(good), found, good, model, context)
        written = [i for i in range(len(good)) if i not in encoded.failed]
        scored, failed = len(written), len(wanted) - len(written)
        return Challenge(
            {wanted[good[i]]: encoded.records[i] for i in written},
            {wanted[good[i]]: int(good[i]) for i in written},
            found,
            Counter({(self._mode, "scored"): scored, (self._mode, "failed"): failed}),
            fallback=encoded.fallback,
        )

    def _score(self, model: Model, rows: Rows) -> Scores:
        return model.score(rows.states, rows.occurred_at, self._reasons, self._valid_change)

    def _encode(
        self, rows: Rows, scores: Scores, places: Ints, model: Model, context: BatchContext
    ) -> EncodedPredictions:
        variant = CHAMPION if model is context.champion else CHALLENGER
        shadow = variant == CHALLENGER and self._share == 0
        return (self._shadow if shadow else self._predictions).encode(
            rows,
            scores,
            places,
            model=model,
            variant=variant,
            batch=context.batch,
            now_ms=context.began_ms,
        )
