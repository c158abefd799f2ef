"""What every peer does with events, one at a time or many: fastavro, the features, scikit-learn,
fastavro.

The straightforward way, without the checks that a service needs: who decodes garbage here has an
exception.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from benchmarks.straightforward import FITTED
from consumer.scoring.predictions import prediction_id
from features import columns_of
from leadstream.settings import Settings
from models.serve.scorer import GRADES
from schemas import schema_files

FRAME = (
    b"\xc3\x01"  # Avro's single-object encoding, followed by the schema's fingerprint of 8 bytes
)
FRAME_BYTES = 10


@dataclass(frozen=True, slots=True)
class Arrived:
    """An event's bytes, and where they were read."""

    value: bytes
    topic: str
    partition: int
    offset: int


class Scorer:
    """The first model of the ground, as scikit-learn fitted it, and the two schemas."""

    def __init__(self, settings: Settings) -> None:
        store = Path(settings.need("MODEL_STORE", "benchmarks.environment sets it"))
        artifact, self._manifest = joblib.load(store.with_name(FITTED))
        self._features, self._calibrator = artifact["features"], artifact["calibrator"]
        self._base = float(self._calibrator.probability(np.array([artifact["explain_base"]]))[0])
        self._scaler, self._selector, self._forest = (
            artifact[key] for key in ("scaler", "feature_selector", "model")
        )
        self._threshold = float(artifact["threshold"])
        self._cuts = [artifact["grades"][grade] for grade in ("C", "B", "A")]
        self._reader = parse_schema(
            _without_logical_types(schema_files.current_schema("LeadChanged"))
        )
        self._writer = parse_schema(
            _without_logical_types(schema_files.current_schema("LeadPrediction"))
        )
        self._frame = FRAME + schema_files.fingerprint_bytes(
            schema_files.current_schema("LeadPrediction")
        )

    def score(self, arrived: Sequence[Arrived]) -> list[tuple[bytes, bytes]]:
        """Key and value of the prediction for each event, in their order; all of them scored
        together.
        """
        events: list[Any] = [
            schemaless_reader(BytesIO(one.value[FRAME_BYTES:]), self._reader, None)
            for one in arrived
        ]
        as_of = np.array([event["occurred_at"] for event in events], dtype=np.int64)
        matrix = self._features.transform(columns_of([event["lead"] for event in events]), as_of)
        inputs = self._selector.transform(self._scaler.transform(matrix.values))
        raw = self._forest.predict_proba(inputs)[:, 1]
        probability, low, high = self._calibrator.interval(raw, matrix.missing)
        confidence = np.clip(
            (1.0 - (high - low)) * matrix.coverage * (1.0 - matrix.unusual), 0.0, 1.0
        )
        grades = np.searchsorted(self._cuts, probability, side="right").tolist()
        numbers = zip(
            *(
                column.tolist()
                for column in (raw, probability, low, high, confidence, matrix.coverage)
            ),
            strict=True,
        )
        return [
            self._prediction(*row)
            for row in zip(events, arrived, numbers, grades, matrix.imputed, strict=True)
        ]

    def _prediction(
        self,
        event: Any,
        one: Arrived,
        numbers: tuple[float, ...],
        grade: int,
        imputed: tuple[str, ...],
    ) -> tuple[bytes, bytes]:
        raw, probability, low, high, confidence, coverage = numbers
        sha256 = self._manifest["artifact"]["sha256"]
        record = {
            "prediction_id": prediction_id(event["event_id"], event["lead_id"], sha256),
            "lead_id": event["lead_id"],
            "prediction": probability >= self._threshold,
            "probability": probability,
            "probability_low": low,
            "probability_high": high,
            "confidence": confidence,
            "grade": GRADES[3 - grade],
            "raw_score": raw,
            "threshold": self._threshold,
            "reasons": [],
            "base_probability": self._base,
            "target": "has_application",
            "horizon_days": self._manifest["label"]["horizon_days"],
            "valid_until": None,
            "feature_coverage": coverage,
            "imputed": list(imputed),
            "model_used": self._manifest["name"],
            "model_version": self._manifest["version"],
            "model_sha256": sha256,
            "variant": "champion",
            "event_id": event["event_id"],
            "change_type": event["change_type"],
            "lead_version": event["lead_version"],
            "coalesced_changes": 0,
            "occurred_at": event["occurred_at"],
            "scored_at": time.time_ns() // 1_000_000,
            "source_topic": one.topic,
            "source_partition": one.partition,
            "source_offset": one.offset,
        }
        stream = BytesIO(self._frame)
        stream.seek(FRAME_BYTES)
        schemaless_writer(stream, self._writer, record)
        return event["lead_id"].encode(), stream.getvalue()


def _without_logical_types(schema: Any) -> Any:
    """Return the schema without logical types: times stay integers of milliseconds."""
    if isinstance(schema, dict):
        return {
            key: _without_logical_types(part)
            for key, part in schema.items()
            if key != "logicalType"
        }
    return [_without_logical_types(part) for part in schema] if isinstance(schema, list) else schema
