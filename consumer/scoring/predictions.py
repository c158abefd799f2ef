"""Scored rows as records of a predictions topic: many in columns, few one by one, the same bytes either way."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.result import Published
from features import Columns, columns_of
from leadstream.dictionary import DictionaryColumn
from leadstream.errors import Poison, Reason
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import Record
from leadstream.variants import CHAMPION
from models.serve.scorer import Model, Scores
from schemas.codec import Writer
from schemas.columns import (
    ColumnWriter,
    ListColumn,
    TextColumn,
    UnsupportedColumns,
    to_records,
    use_columns,
)

Ints = NDArray[np.intp]

# What a broker accepts by default is 1,048,588 bytes with all overhead.
MAX_OUTPUT_BYTES = 1_000_000
_ID_BYTES = 16
# Every field of LeadPrediction; checked against the schema at start.
PREDICTION_COLUMNS = (
    "prediction_id",
    "lead_id",
    "prediction",
    "probability",
    "probability_low",
    "probability_high",
    "confidence",
    "grade",
    "threshold",
    "raw_score",
    "reasons.feature",
    "reasons.contribution",
    "feature_coverage",
    "imputed",
    "model_used",
    "model_version",
    "model_sha256",
    "variant",
    "event_id",
    "change_type",
    "lead_version",
    "coalesced_changes",
    "occurred_at",
    "scored_at",
    "source_topic",
    "source_partition",
    "source_offset",
)


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


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """n leads to score in columns: what `Row` says of each; `keys` are the lead ids in UTF-8, `states` their states."""

    index: Ints
    keys: list[bytes]
    event_id: TextColumn | list[str]
    change_type: DictionaryColumn
    occurred_at: NDArray[np.int64]
    lead_version: NDArray[np.int64]
    coalesced: Ints
    states: Columns

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Rows":
        """The columns of these rows."""
        types = {
            name: code for code, name in enumerate(dict.fromkeys(row.change_type for row in rows))
        }
        return cls(
            np.array([row.index for row in rows], np.intp),
            [row.lead_id.encode() for row in rows],
            [row.event_id for row in rows],
            DictionaryColumn(
                np.array([types[row.change_type] for row in rows], np.intp), list(types)
            ),
            np.array([row.occurred_at for row in rows], np.int64),
            np.array([row.lead_version for row in rows], np.int64),
            np.array([row.coalesced for row in rows], np.intp),
            columns_of([row.state for row in rows]),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, places: Ints) -> "Rows":
        """The rows at these places."""
        if len(places) == len(self):
            return self
        return Rows(
            self.index[places],
            _at(self.keys, places),
            _at(self.event_id, places),
            self.change_type.take(places),
            self.occurred_at[places],
            self.lead_version[places],
            self.coalesced[places],
            {name: _at(column, places) for name, column in self.states.items()},
        )

    def published(self, places: Ints) -> Published:
        """The versions of the leads at these places, in any order."""
        if len(places) == len(self):
            return Published(self.index, self.keys, self.lead_version)
        return Published(self.index[places], _at(self.keys, places), self.lead_version[places])


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """What came of n rows. `outputs` are the predictions of the rows at `places`; `failed` says why others have none.

    `shadows` is what the challenger says of a row, for the shadow topic; `scores` are the champion's, and `challenged`
    names the challenger's and the place in them for rows that it answers for.
    """

    places: Ints
    outputs: list[Record]
    shadows: dict[int, Record]
    failed: dict[int, Poison]
    scores: Scores
    challenged: dict[int, tuple[Scores, int]]

    def answer(self, row: int) -> dict[str, Any]:
        """What a RescoreResult says of a row that has a prediction, beside the lead id."""
        scores, place = self.challenged.get(row, (self.scores, row))
        return {
            "prediction": bool(scores.prediction[place]),
            "probability": float(scores.probability[place]),
            "confidence": float(scores.confidence[place]),
        }


class Predictions:
    """Writes what a model says of rows as LeadPrediction records of one topic."""

    def __init__(self, writer: Writer, topic: str) -> None:
        self._writer = writer
        self._columns = ColumnWriter(writer, PREDICTION_COLUMNS)
        self._topic = topic

    def of(
        self,
        rows: Rows,
        scores: Scores,
        places: Ints,
        *,
        model: Model,
        variant: str,
        batch: Batch,
        now_ms: int,
    ) -> tuple[list[Record], dict[int, Poison]]:
        """The prediction of each row, whose scores stand at `places`; and why those of some rows cannot be written."""
        columns = _columns(rows, scores, places, batch) | {
            "prediction_id": _prediction_ids(rows, model.sha256, variant),
            "threshold": float(scores.threshold),
            "model_used": model.name,
            "model_version": model.version,
            "model_sha256": model.sha256,
            "variant": variant,
            "scored_at": now_ms,
        }
        values, failed = self._values(columns, len(rows))
        sizes = list(map(add, map(len, rows.keys), map(len, values)))
        if max(sizes, default=0) > MAX_OUTPUT_BYTES:
            failed |= {
                row: oversized(size) for row, size in enumerate(sizes) if size > MAX_OUTPUT_BYTES
            }
        return list(zip(repeat(self._topic), rows.keys, values, repeat(None), repeat(None))), failed

    def _values(self, columns: dict[str, Any], n: int) -> tuple[list[bytes], dict[int, Poison]]:
        """n encoded records, those that cannot be written empty; and why they cannot."""
        if use_columns(n):
            try:
                return self._columns.encode(columns, n), {}
            except UnsupportedColumns:
                pass  # one of them is at fault, and only it shall pay for that
        values, failed = [], {}
        for row, record in enumerate(to_records(columns, n)):
            try:
                values.append(self._writer.encode(record))
            except Poison as poison:
                values.append(b"")
                failed[row] = poison
        return values, failed


def _columns(rows: Rows, scores: Scores, places: Ints, batch: Batch) -> dict[str, Any]:
    """What differs from row to row, by field."""
    all_rows = len(places) == len(scores.raw)
    chosen: Any = slice(None) if all_rows else places  # a slice copies nothing
    points = scores.strongest.points[chosen]
    strongest = points != 0
    sources = batch.places.take(rows.index)
    topics, partitions = zip(*batch.places.values, strict=True)
    return {
        "lead_id": TextColumn.from_bytes(rows.keys),
        "prediction": scores.prediction[chosen],
        "probability": scores.probability[chosen],
        "probability_low": scores.low[chosen],
        "probability_high": scores.high[chosen],
        "confidence": scores.confidence[chosen],
        "grade": scores.grade.take(chosen),
        "raw_score": scores.raw[chosen],
        "reasons": ListColumn(
            strongest.sum(axis=1),
            {
                "feature": DictionaryColumn(
                    scores.strongest.places[chosen][strongest], scores.features
                ),
                "contribution": points[strongest],
            },
        ),
        "feature_coverage": scores.coverage[chosen],
        "imputed": scores.imputed.take(chosen),
        "event_id": rows.event_id,
        "change_type": rows.change_type,
        "lead_version": rows.lead_version,
        "coalesced_changes": rows.coalesced,
        "occurred_at": rows.occurred_at,
        "source_topic": topics[0]
        if len(set(topics)) == 1
        else DictionaryColumn(sources.codes, topics),
        "source_partition": np.array(partitions, np.int64)[sources.codes],
        "source_offset": batch.offsets[rows.index],
    }


def _prediction_ids(rows: Rows, model_sha256: str, variant: str) -> TextColumn:
    events = (
        rows.event_id.to_list()
        if isinstance(rows.event_id, TextColumn)
        else map(_encoded, rows.event_id)
    )
    model = b"\0%b\0%b" % (model_sha256.encode(), variant.encode())
    ids = [_hashed(b"%b\0%b%b" % each) for each in zip(events, rows.keys, repeat(model))]
    size = 2 * _ID_BYTES
    begins = np.arange(0, size * len(ids), size)
    return TextColumn(
        np.frombuffer("".join(ids).encode(), np.uint8), begins, np.full_like(begins, size)
    )


def prediction_id(event_id: str, lead_id: str, model_sha256: str, variant: str = CHAMPION) -> str:
    """The same for the same change and model, whenever and wherever it is scored: 128 bits of BLAKE2b, in hex."""
    return _hashed(_encoded("\0".join((event_id, lead_id, model_sha256, variant))))


def _hashed(identity: bytes) -> str:
    return blake2b(identity, digest_size=_ID_BYTES).hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def oversized(size: int) -> Poison:
    """Why a record of so many bytes is not published."""
    return Poison(
        Reason.OVERSIZED,
        "encode",
        f"the record has {size} bytes; at most {MAX_OUTPUT_BYTES} are published",
    )


def _at(column: Any, places: Ints) -> Any:
    if isinstance(column, DictionaryColumn | TextColumn):
        return column.take(places)
    return (
        column[places]
        if isinstance(column, np.ndarray)
        else [column[place] for place in places.tolist()]
    )
