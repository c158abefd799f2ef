"""FastStream on confluent-kafka:

`rows`, a subscriber and a publisher, or `batches`, both with `batch=True`.

Its documentation: batch subscribers and publishers, a key for each message with
KafkaPublishMessage, custom decoders for what is not JSON. It has no transactions; offsets are
committed in the background. Its own log of two lines for each message is off.
"""

import asyncio
import sys
from typing import Any

from faststream import FastStream
from faststream.confluent import KafkaBroker, KafkaMessage, KafkaPublishMessage, KafkaResponse

from benchmarks.peers.scoring import Arrived, Scorer
from leadstream.settings import Settings, load_settings

EVENTS_A_BATCH = 5_000


def app(settings: Settings, scorer: Scorer, *, batch: bool) -> FastStream:
    """The application, row by row or in batches."""
    broker = KafkaBroker(settings.kafka_bootstrap_servers or "", logger=None)
    publisher = broker.publisher(settings.topics.lead_predictions, batch=batch)
    subscription: dict[str, Any] = {"group_id": settings.group_id, "auto_offset_reset": "earliest"}
    if batch:
        subscription |= {"batch": True, "max_records": EVENTS_A_BATCH}
    subscriber = broker.subscriber(settings.topics.lead_changes, decoder=_arrived, **subscription)

    async def score_row(arrived: list[Any]) -> Any:
        [(key, value)] = scorer.score(arrived)
        return KafkaResponse(value, key=key)

    async def score_batch(arrived: list[Any]) -> Any:
        return tuple(KafkaPublishMessage(value, key=key) for key, value in scorer.score(arrived))

    publisher(subscriber(score_batch if batch else score_row))
    return FastStream(broker, logger=None)


async def _arrived(message: KafkaMessage) -> list[Arrived]:
    raw = message.raw_message if isinstance(message.raw_message, tuple) else (message.raw_message,)
    return [Arrived(one.value(), one.topic(), one.partition(), one.offset()) for one in raw]


if __name__ == "__main__":
    found = load_settings(env_file=None)
    asyncio.run(app(found, Scorer(found), batch=sys.argv[1] == "batches").run())
