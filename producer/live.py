"""A simulated CRM at work: each change first in Postgres, then on Kafka.

Changes come at a chosen pace, with bad records in between.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from leadstream.kafka.topics import Topics
from producer.bad_records import BadRecord, bad_records
from producer.crm import Connection, write_changes
from producer.publish import EventPublisher
from producer.simulator import SimulatedChange

Paced = TypeVar("Paced")

_PORTION = 100


@dataclass(frozen=True, slots=True)
class SentCounts:
    """The number of changes sent, by kind, and of bad records, by reason."""

    kinds: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)


def bad_for(publisher: EventPublisher, topics: Topics, seed: int, now: int) -> Iterator[BadRecord]:
    """Yield bad records without end, in the framing of the publisher; `now` is in ms UTC."""
    return bad_records(
        seed,
        now=now,
        encode_event=lambda record: publisher.encode("LeadChanged", topics.lead_changes, record),
        encode_request=lambda record: publisher.encode(
            "RescoreRequest", topics.rescore_requests, record
        ),
    )


def send_bad(publisher: EventPublisher, topics: Topics, record: BadRecord) -> None:
    """Send a bad record to the topic it is meant for."""
    topic = topics.lead_changes if record.topic == "lead_changes" else topics.rescore_requests
    publisher.send_bytes(topic, record.key, record.value)


def send_changes(
    publisher: EventPublisher,
    topics: Topics,
    changes: Iterable[SimulatedChange],
    *,
    bad: Iterator[BadRecord],
    bad_share: float,
    seed: int,
    advance: Callable[[int], None],
) -> SentCounts:
    """Send the changes in order, with `bad_share` bad records (0 to 1) for each on average."""
    rng = np.random.default_rng([seed, 3])
    sent = SentCounts()
    for change in changes:
        publisher.send("LeadChanged", topics.lead_changes, change.lead_id, change.record)
        sent.kinds[change.kind] += 1
        if rng.random() < bad_share:
            record = next(bad)
            send_bad(publisher, topics, record)
            sent.bad[record.reason] += 1
        advance(1)
    return sent


def recorded(changes: Iterator[SimulatedChange], conn: Connection) -> Iterator[SimulatedChange]:
    """Yield the same changes, each after it was written to the CRM in Postgres."""
    while portion := list(itertools.islice(changes, _PORTION)):
        write_changes(conn, portion)
        yield from portion


def paced(
    changes: Iterable[Paced],
    rate: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Paced]:
    """Yield the same changes at `rate` a second, counted from the first; 0 means no limit."""
    began = clock()
    for number, change in enumerate(changes):
        if rate and (wait := began + number / rate - clock()) > 0:
            sleep(wait)
        yield change
