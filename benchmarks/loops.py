"""What the consumer is measured against, each as one process: the same clients, batch size and
transaction.

    python -m benchmarks.loops copy|floor|straightforward       with the settings of a stage

`copy` produces the bytes that it consumed: the limit of the broker and the client. `floor` decodes
with fastavro, fills in a prediction and encodes it. `straightforward` decodes with fastavro, makes
features in pandas and asks scikit-learn's predict_proba a batch at a time.
"""

import io
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fastavro
from confluent_kafka import Consumer, Message, Producer

from benchmarks.straightforward import PlainModel
from leadstream.kafka.config import consumer_config, producer_config
from leadstream.settings import Settings, load_settings
from schemas import schema_files

Output = tuple[bytes | None, bytes | None]  # key, value
Work = Callable[[Sequence[Message]], list[Output]]

_HEADER = 10  # C3 01 and the fingerprint
# Without logical types: times stay the numbers that they are.
_READ, _WRITE = (
    fastavro.parse_schema(
        json.loads(schema_files.canonical_form(schema_files.current_schema(name)))
    )
    for name in ("LeadChanged", "LeadPrediction")
)
_FRAME = b"\xc3\x01" + schema_files.fingerprint_bytes(schema_files.current_schema("LeadPrediction"))
_TYPICAL: dict[str, Any] = {
    "prediction": True,
    "probability": 0.42,
    "probability_low": 0.4,
    "probability_high": 0.44,
    "confidence": 0.9,
    "grade": "B",
    "raw_score": 0.5,
    "threshold": 0.4,
    "reasons": [
        {"feature": "engagement_score", "contribution": 0.05, "value": "64", "percentile": 0.7}
        for _ in range(3)
    ],
    "base_probability": 0.27,
    "target": "has_application",
    "horizon_days": 60.0,
    "feature_coverage": 1.0,
    "imputed": [],
    "model_used": "random_forest",
    "model_version": "1.0.0",
    "model_sha256": "0" * 64,
    "variant": "champion",
    "coalesced_changes": 0,
}


def copy(_settings: Settings) -> Work:
    """The same bytes again."""
    return lambda messages: [(message.key(), message.value()) for message in messages]


def floor(_settings: Settings) -> Work:
    """Decode, fill in a typical prediction with three reasons, encode."""

    def work(messages: Sequence[Message]) -> list[Output]:
        outputs = []
        for message in messages:
            event = _decode(message)
            prediction = _TYPICAL | {
                "prediction_id": event["event_id"],
                "lead_id": event["lead_id"],
                "event_id": event["event_id"],
                "change_type": event["change_type"],
                "lead_version": event["lead_version"],
                "occurred_at": event["occurred_at"],
            }
            outputs.append(_encode(message, prediction))
        return outputs

    return work


def straightforward(settings: Settings) -> Work:
    """Decode, features in pandas, predict_proba, calibrate, encode; no reasons."""
    model = PlainModel.open(settings)

    def work(messages: Sequence[Message]) -> list[Output]:
        predictions = model.predictions([_decode(message) for message in messages])
        return [
            _encode(message, prediction)
            for message, prediction in zip(messages, predictions, strict=True)
        ]

    return work


WORK: dict[str, Callable[[Settings], Work]] = {
    "copy": copy,
    "floor": floor,
    "straightforward": straightforward,
}


def run(settings: Settings, work: Work) -> None:
    """Consume a batch, work on it, publish what came of it and its offsets in one transaction, for
    ever.
    """
    consumer, producer = (
        Consumer(consumer_config(settings)),
        Producer(producer_config(settings, transactional=True)),
    )
    producer.init_transactions()
    consumer.subscribe([settings.topics.lead_changes])
    while True:
        messages = consumer.consume(settings.batch_max_records, 0.1)
        if not messages:
            continue
        for message in messages:
            if error := message.error():
                raise RuntimeError(error.str())
        producer.begin_transaction()
        for key, value in work(messages):
            producer.produce(settings.topics.lead_predictions, value, key)
        # Nothing is in flight here, so what was consumed is what was worked on.
        offsets = consumer.position(consumer.assignment())
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
        producer.commit_transaction()


def _decode(message: Message) -> dict[str, Any]:
    event: Any = fastavro.schemaless_reader(
        io.BytesIO((message.value() or b"")[_HEADER:]), _READ, None
    )
    return dict(event)


def _encode(message: Message, prediction: dict[str, Any]) -> Output:
    stream = io.BytesIO()
    stream.write(_FRAME)
    fastavro.schemaless_writer(
        stream,
        _WRITE,
        prediction
        | {
            "scored_at": message.timestamp()[1],
            "source_topic": message.topic(),
            "source_partition": message.partition(),
            "source_offset": message.offset(),
        },
    )
    return message.key(), stream.getvalue()


if __name__ == "__main__":
    loaded = load_settings(env_file=None)
    run(loaded, WORK[sys.argv[1]](loaded))
