"""The CRM of a run, in a process of its own: writes its rows and sends their changes without pause
until SIGTERM.

Arguments as one JSON object: see `main`. It speaks to Kafka, Postgres and the registry itself, past
the proxies.
"""

import contextlib
import json
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from confluent_kafka import KafkaException, Producer

from schemas.codec import Writer
from schemas.registry import Registry
from tests.faults.traffic import PeopleRow, Shipment, Traffic

TICK_SECONDS = 0.05
_UPSERT = """
insert into people (id, created_at, lead_score, lead_version)
values (%s, now() - interval '30 days', %s, %s)
on conflict (id) do update
set lead_score = excluded.lead_score, lead_version = excluded.lead_version
where people.lead_version < excluded.lead_version
"""


class PeopleTable:
    """The table of people; while it does not answer, what depends on it waits."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self._asked_at = 0.0

    def write(self, rows: Sequence[PeopleRow]) -> bool:
        """Write rows; False where that was not possible."""
        if self._connection is None and time.monotonic() < self._asked_at:
            return False
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=2)
            with self._connection.cursor() as cursor:
                cursor.executemany(
                    _UPSERT, [(row.lead_id, row.lead_score, row.version) for row in rows]
                )
        except psycopg.OperationalError:
            self._connection, self._asked_at = None, time.monotonic() + 0.5
            return False
        return True


class ShipmentSender:
    """Sends shipments in their order; those with a row wait until it is written."""

    def __init__(self, bootstrap: str, topics: Mapping[str, str], crm: PeopleTable) -> None:
        self._bootstrap, self._topics, self._crm = bootstrap, topics, crm
        self._waiting: deque[Shipment] = deque()
        self._producer = self._connected()

    def send(self, shipments: Sequence[Shipment]) -> None:
        for shipment in shipments:
            (self._waiting.append if shipment.row else self._produce)(shipment)
        rows = [shipment.row for shipment in self._waiting if shipment.row]
        if rows and self._crm.write(rows):
            while self._waiting:
                self._produce(self._waiting.popleft())

    def finish(self) -> int:
        """Wait until everything is acknowledged; how many are not."""
        return int(self._producer.flush(60))

    def _connected(self) -> Producer:
        config = {
            "bootstrap.servers": self._bootstrap,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "message.timeout.ms": 120_000,
            "topic.metadata.refresh.interval.ms": 5_000,
        }
        return Producer(config)

    def _produce(self, shipment: Shipment) -> None:
        topic = self._topics[shipment.topic]
        while True:
            try:
                self._producer.produce(
                    topic,
                    shipment.value,
                    shipment.key,
                    headers=list(shipment.headers),
                    timestamp=shipment.timestamp or 0,
                )
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                if not error.args[0].fatal():
                    raise
                self._producer = self._connected()
            else:
                self._producer.poll(0)
                return


def main(options: dict[str, Any]) -> None:
    """`bootstrap`, `topics` (by field), `database`, `registry`, `seed`, `rate` (a second)."""
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    plain, request = Writer("LeadChanged"), Writer("RescoreRequest")
    framed = Writer("LeadChanged", Registry(options["registry"]), options["topics"]["lead_changes"])
    rng = np.random.default_rng([options["seed"], 7])

    def encode(event: Mapping[str, Any]) -> bytes:
        return (framed if rng.random() < 0.5 else plain).encode(event)

    traffic = Traffic(options["seed"], plain.encode, request.encode, now=_now(), odd=True)
    traffic.encode_change = encode
    crm = PeopleTable(options["database"])
    sender = ShipmentSender(options["bootstrap"], options["topics"], crm)
    assert crm.write(traffic.people())
    shipments = traffic.shipments()
    print("sending", flush=True)
    while not done.wait(TICK_SECONDS):
        traffic.now = _now()
        # Sometimes much at once, as after a CRM's own batch job.
        much = 10 if rng.random() < 0.02 else 1
        count = int(rng.poisson(options["rate"] * TICK_SECONDS)) * much
        sender.send([next(shipments) for _ in range(count)])
    if left := sender.finish():
        print(f"{left} records were not acknowledged", flush=True)


def _now() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(json.loads(sys.argv[1]))
