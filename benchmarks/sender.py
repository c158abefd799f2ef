"""An open loop: events that are sent when they are due, however far behind the consumer is.

    python -m benchmarks.sender TOPIC FIRST COUNT PER_SECOND BEGIN      with the settings of a stage

Event i of `COUNT` is due at BEGIN (time.monotonic, which processes of a machine share) + i /
PER_SECOND.
"""

import sys
import time

from confluent_kafka import Producer

from benchmarks.leads import events
from leadstream.kafka.config import client_config
from leadstream.settings import load_settings

TICK_SECONDS = 0.001
BUSY = 1_000.0  # events a second from which on a producer may wait a moment for company


def send(topic: str, first: int, count: int, per_second: float, begin: float) -> None:
    """Send each event once it is due; RuntimeError where the first is due already, or one is not
    acknowledged.
    """
    linger = {
        "linger.ms": 2 if per_second >= BUSY else 0,
        "compression.type": "lz4" if per_second >= BUSY else "none",
    }
    own = {
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 1_000_000,
    }
    producer = Producer({**client_config(load_settings(env_file=None)), **own, **linger})
    producer.list_topics(topic, timeout=10)
    coming = events(count, first)
    key, value = next(coming)  # which makes them all ready
    if time.monotonic() > begin:
        raise RuntimeError("the sender was not ready in time")
    time.sleep(begin - time.monotonic())
    producer.produce(topic, value, key)
    sent = 1
    while sent < count:
        due = min(count, int((time.monotonic() - begin) * per_second) + 1)
        for _ in range(sent, due):
            key, value = next(coming)
            producer.produce(topic, value, key)
        sent = max(sent, due)
        producer.poll(0)
        time.sleep(max(TICK_SECONDS, begin + sent / per_second - time.monotonic()))
    if left := producer.flush(60):
        raise RuntimeError(f"{left} events were not acknowledged")


if __name__ == "__main__":
    send(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
