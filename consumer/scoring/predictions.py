"""Scored rows as records of a predictions topic: in columns, or one by one with the same bytes."""

from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.reason_columns import reason_columns, warm_up
from consumer.scoring.rows import Rows
from leadstream.dictionary import DictionaryColumn
from leadstream.errors import Poison, Reason
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import Record
from leadstream.kafka.topic_config import RECORD_OVERHEAD, RecordLimits
from leadstream.variants import CHAMPION
from models.serve.scorer import Model, Scores
from schemas.codec import Writer
from schemas.columns import (
    ColumnWriter,
    OptionalMoments,
    TextColumn,
    UnsupportedColumns,
    to_records,
    use_columns,
)

Ints = NDArray[np.intp]

# What a broker accepts by default is 1,048,588 bytes with all overhead.
MAX_OUTPUT_BYTES = 1_000_000
_ID_BYTES = 16
# A prediction may carry the trace of its change.
_HEADER_BYTES = 100
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
    "reasons.value",
    "reasons.percentile",
    "reasons.given_rate",
    "base_probability",
    "target",
    "horizon_days",
    "valid_until",
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


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPredictions:
    """The records of n rows, and by row why some could not be written.

    `records` has a place for each row; that of a failed row has no meaning. `fallback` is True if
    the columns were refused and the codec wrote the rows one by one.
    """

    records: list[Record]
    failed: dict[int, Poison]
    fallback: bool = False


class PredictionWriter:
    """Writes scores of rows as LeadPrediction records of one topic, which are within `limits`."""

    def __init__(self, writer: Writer, topic: str, limits: RecordLimits | None = None) -> None:
        self._limits = limits or RecordLimits()
        self._writer = writer
        self._columns = ColumnWriter(writer, PREDICTION_COLUMNS)
        self._topic = topic
        warm_up()

    def encode(
        self,
        rows: Rows,
        scores: Scores,
        places: Ints,
        *,
        model: Model,
        variant: str,
        batch: Batch,
        now_ms: int,
    ) -> EncodedPredictions:
        """Return the prediction of each row, whose scores are at `places` (n,) of `scores`."""
        if not len(rows):
            return EncodedPredictions([], {})
        columns = _columns(rows, scores, places, batch) | {
            "prediction_id": _prediction_ids(rows, model.sha256, variant),
            "threshold": float(scores.threshold),
            "base_probability": scores.base_probability,
            "target": model.target,
            "horizon_days": model.horizon_days,
            "model_used": model.name,
            "model_version": model.version,
            "model_sha256": model.sha256,
            "variant": variant,
            "scored_at": now_ms,
        }
        values, failed, fallback = self._values(columns, len(rows))
        sizes = list(map(add, map(len, rows.keys), map(len, values)))
        if max(sizes) > (limit := output_limit(self._limits, self._topic)):
            failed |= {
                row: oversized(size, limit) for row, size in enumerate(sizes) if size > limit
            }
        written: list[Record] = list(
            zip(repeat(self._topic), rows.keys, values, repeat(None), repeat(None))
        )
        return EncodedPredictions(written, failed, fallback)

    def _values(
        self, columns: dict[str, Any], n: int
    ) -> tuple[list[bytes], dict[int, Poison], bool]:
        """Return n encoded records, empty where one cannot be written, why, and a fallback."""
        fallback = False
        if use_columns(n):
            try:
                return self._columns.encode(columns, n), {}, fallback
            except UnsupportedColumns:
                fallback = True  # one row is at fault, and only that one must fail
        values, failed = [], {}
        for row, record in enumerate(to_records(columns, n)):
            try:
                values.append(self._writer.encode(record))
            except Poison as poison:
                values.append(b"")
                failed[row] = poison
        return values, failed, fallback


def _columns(rows: Rows, scores: Scores, places: Ints, batch: Batch) -> dict[str, Any]:
    """Return the fields that differ from row to row."""
    all_rows = len(places) == len(scores.raw)
    chosen: Any = slice(None) if all_rows else places  # a slice copies nothing
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
        "reasons": reason_columns(scores, chosen),
        "valid_until": OptionalMoments(scores.valid_until[chosen]),
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
    digests = [
        blake2b(b"%b\0%b%b" % each, digest_size=_ID_BYTES).digest()
        for each in zip(events, rows.keys, repeat(model))
    ]
    size = 2 * _ID_BYTES
    begins = np.arange(0, size * len(digests), size)
    return TextColumn(
        np.frombuffer(b"".join(digests).hex().encode(), np.uint8),
        begins,
        np.full_like(begins, size),
    )


def prediction_id(event_id: str, lead_id: str, model_sha256: str, variant: str = CHAMPION) -> str:
    """Return the id of a prediction: 128 bits of BLAKE2b in hex.

    The same change scored by the same model has the same id, so that repeats can be dropped.
    """
    identity = _encoded("\0".join((event_id, lead_id, model_sha256, variant)))
    return blake2b(identity, digest_size=_ID_BYTES).hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def output_limit(limits: RecordLimits, topic: str) -> int:
    """Return the most bytes of a key and a value that are published to a topic."""
    return min(MAX_OUTPUT_BYTES, limits.max_bytes(topic) - RECORD_OVERHEAD - _HEADER_BYTES)


def oversized(size: int, limit: int) -> Poison:
    """Return the poison of a record that is too large to be published."""
    return Poison(
        Reason.OVERSIZED,
        "encode",
        f"the record has {size} bytes; at most {limit} are published",
    )
