"""Scored rows as records of a predictions topic: many in columns, few one by one, the same bytes either way."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.batch import Message, Output
from leadstream.errors import Poison, Reason
from models.scorer import GRADES, Model, Scores
from models.variants import CHAMPION
from schemas.codec import Writer
from schemas.columns import Choice, ColumnWriter, Items, NotColumns, records

# What a broker accepts by default is 1,048,588 bytes with all overhead.
MAX_OUTPUT_BYTES = 1_000_000
# From so many rows on columns are faster.
MANY = 32
_GRADE = {grade: place for place, grade in enumerate(GRADES)}


@dataclass(frozen=True, slots=True)
class Row:
    """One lead to score: its state as of `occurred_at` (ms UTC), and the message that asks for it."""

    index: int
    lead_id: str
    event_id: str
    change_type: str
    occurred_at: int
    lead_version: int
    coalesced: int
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Predicted:
    """A row's prediction: the row of the scores that it is, and its encoded form for its topic.

    `shadow` is what the challenger says of the same row, for the shadow topic.
    """

    scores: Scores
    row: int
    output: Output
    shadow: Output | None = None

    @property
    def answer(self) -> dict[str, Any]:
        """What a RescoreResult says of it, beside the lead id."""
        scores, row = self.scores, self.row
        return {
            "prediction": bool(scores.prediction[row]),
            "probability": float(scores.probability[row]),
            "confidence": float(scores.confidence[row]),
        }

    @property
    def outputs(self) -> list[Output]:
        """All that is to be published for the row."""
        return [self.output, self.shadow] if self.shadow else [self.output]


class Predictions:
    """Writes what a model says of rows as LeadPrediction records of one topic."""

    def __init__(self, writer: Writer, topic: str) -> None:
        self._writer = writer
        self._columns = ColumnWriter(writer)
        self._topic = topic

    def of(
        self,
        rows: Sequence[Row],
        scores: Scores,
        places: Sequence[int],
        *,
        model: Model,
        variant: str,
        messages: Sequence[Message],
        now_ms: int,
    ) -> list[Predicted | Poison]:
        """The prediction of each row, whose scores stand at `places`, or the reason why it cannot be written."""
        columns = _columns(rows, scores, np.array(places, dtype=np.intp), messages) | {
            "prediction_id": [prediction_id(row.event_id, row.lead_id, model.sha256, variant) for row in rows],
            "threshold": float(scores.threshold),
            "model_used": model.name,
            "model_version": model.version,
            "model_sha256": model.sha256,
            "variant": variant,
            "scored_at": now_ms,
        }
        found = zip(rows, places, self._values(columns, len(rows)), strict=True)
        return [self._predicted(row, scores, place, value) for row, place, value in found]

    def _values(self, columns: dict[str, Any], n: int) -> Sequence[bytes | Poison]:
        if n >= MANY:
            try:
                return self._columns.encode(columns, n)
            except NotColumns:
                pass  # one of them is at fault, and only it shall pay for that
        return [self._value(record) for record in records(columns, n)]

    def _value(self, record: dict[str, Any]) -> bytes | Poison:
        try:
            return self._writer.encode(record)
        except Poison as poison:
            return poison

    def _predicted(self, row: Row, scores: Scores, place: int, value: bytes | Poison) -> Predicted | Poison:
        if isinstance(value, Poison):
            return value
        key = row.lead_id.encode()
        return oversized(key, value) or Predicted(scores, place, Output(self._topic, key, value))


def _columns(
    rows: Sequence[Row], scores: Scores, places: NDArray[np.intp], messages: Sequence[Message]
) -> dict[str, Any]:
    """What differs from row to row, by field."""
    asked = [messages[row.index] for row in rows]
    topics = [message.topic() for message in asked]
    strongest = scores.strongest.points[places] != 0
    imputed = [scores.imputed[place] for place in places.tolist()]
    inputs = {name: code for code, name in enumerate(dict.fromkeys(chain.from_iterable(imputed)))}
    return {
        "lead_id": [row.lead_id for row in rows],
        "prediction": scores.prediction[places],
        "probability": scores.probability[places],
        "probability_low": scores.low[places],
        "probability_high": scores.high[places],
        "confidence": scores.confidence[places],
        "grade": Choice(np.array([_GRADE[scores.grade[place]] for place in places.tolist()], np.intp), GRADES),
        "raw_score": scores.raw[places],
        "reasons": Items(
            strongest.sum(axis=1),
            {
                "feature": Choice(scores.strongest.places[places][strongest], scores.features),
                "contribution": scores.strongest.points[places][strongest],
            },
        ),
        "feature_coverage": scores.coverage[places],
        "imputed": Items(
            np.fromiter(map(len, imputed), np.int64, len(rows)),
            Choice(np.array([inputs[name] for name in chain.from_iterable(imputed)], np.intp), list(inputs)),
        ),
        "event_id": [row.event_id for row in rows],
        "change_type": [row.change_type for row in rows],
        "lead_version": np.fromiter((row.lead_version for row in rows), np.int64, len(rows)),
        "coalesced_changes": np.fromiter((row.coalesced for row in rows), np.int64, len(rows)),
        "occurred_at": np.fromiter((row.occurred_at for row in rows), np.int64, len(rows)),
        "source_topic": topics[0] if topics.count(topics[0]) == len(topics) else topics,
        "source_partition": np.fromiter((message.partition() for message in asked), np.int64, len(rows)),
        "source_offset": np.fromiter((message.offset() for message in asked), np.int64, len(rows)),
    }


def prediction_id(event_id: str, lead_id: str, model_sha256: str, variant: str = CHAMPION) -> str:
    """The same for the same change and model, whenever and wherever it is scored: 128 bits of BLAKE2b, in hex."""
    identity = "\0".join((event_id, lead_id, model_sha256, variant))
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def oversized(key: bytes, value: bytes) -> Poison | None:
    """The reason why a record is too large to be published, None where it is not."""
    size = len(key) + len(value)
    if size <= MAX_OUTPUT_BYTES:
        return None
    return Poison(Reason.OVERSIZED, "encode", f"the record has {size} bytes; at most {MAX_OUTPUT_BYTES} are published")
