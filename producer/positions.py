"""How far an outbox was published: a compacted topic, written in the same transactions as what was published.

The value is JSON: `position` and `event_id` of the last row (null before the first), and `relay`, who says so.
"""

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in its __all__

from leadstream.errors import Transient, UserError
from leadstream.kafka.config import client_config
from leadstream.kafka.permission import told
from leadstream.log import client_logger
from leadstream.settings import Settings

ASK_SECONDS = 5.0
# Every record is followed by the mark of its transaction, so this many offsets hold at least a few records.
FIRST_LOOK = 64


@dataclass(frozen=True, slots=True)
class Position:
    """The last row that was published, by the relay of this id."""

    position: int
    event_id: str | None
    relay: str

    def encode(self) -> bytes:
        """The value of its record."""
        return json.dumps(asdict(self)).encode()


def read_position(
    settings: Settings, key: str, stopped: Callable[[], bool] = lambda: False
) -> Position | None:
    """The newest committed position under a key, None where there is none. Raises Transient, UserError.

    All that was begun before is waited for: a transaction of a neighbour may hide a position for a while.
    """
    topic, client = (
        settings.topics.relay_positions,
        {**client_config(settings), "logger": client_logger()},
    )
    try:
        ends = _ends(AdminClient(client), topic)
        consumer = Consumer(
            client
            | {
                "group.id": f"position-{uuid.uuid4()}",  # never joined
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
            }
        )
        try:
            newest = [_newest(consumer, place, key, stopped) for place in ends]
        finally:
            consumer.close()
    except KafkaException as error:
        raise Transient("brokers", f"{topic}: {error.args[0].str()}") from error
    return next((found for found in newest if found is not None), None)


def _ends(admin: AdminClient, topic: str) -> list[TopicPartition]:
    """Each partition with its end, open transactions included."""
    there = admin.list_topics(topic, timeout=ASK_SECONDS).topics[topic]
    if there.error is not None and there.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise Transient("brokers", told(there.error, "Read", topic))
    if there.error is not None:
        raise Transient(
            "brokers", f"no topic {topic}; `leadstream topics create` makes what is missing"
        )
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    places = {TopicPartition(topic, number): latest for number in there.partitions}
    asked = admin.list_offsets(
        places, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=ASK_SECONDS
    )
    return [
        TopicPartition(topic, place.partition, future.result().offset)
        for place, future in asked.items()
    ]


def _newest(
    consumer: Consumer, end: TopicPartition, key: str, stopped: Callable[[], bool]
) -> Position | None:
    """Look back from the end, further each time, until the key is found or the beginning is reached."""
    first, _ = consumer.get_watermark_offsets(end, timeout=ASK_SECONDS)
    look = FIRST_LOOK
    while first < end.offset:
        start = max(first, end.offset - look)
        found = _last(
            consumer, TopicPartition(end.topic, end.partition, start), end.offset, key, stopped
        )
        if found is not None or start == first:
            return found
        look *= 16
    return None


def _last(
    consumer: Consumer, start: TopicPartition, end: int, key: str, stopped: Callable[[], bool]
) -> Position | None:
    consumer.assign([start])
    found = None
    while not stopped():
        for message in consumer.consume(1000, 0.2):
            error = message.error()
            if error is None:
                if message.key() == key.encode():
                    found = _decode(message.value(), start.topic)
            elif error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            # The end of what is committed is told there, marks of transactions included.
            if (message.offset() or 0) >= end - (error is None):
                return found
    raise Transient("brokers", "stopped while reading the position")


def _decode(value: bytes | None, topic: str) -> Position | None:
    if value is None:
        return None
    try:
        fields: Any = json.loads(value)
        return Position(int(fields["position"]), fields["event_id"], fields["relay"])
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{topic} holds a record that is no position: it belongs to `leadstream relay` alone"
        ) from None
