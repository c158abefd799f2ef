"""The traffic of the demo: one thread sends like a CRM, another reads like a subscriber."""

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from leadstream.cli.demo.accounting import (
    Parcel,
    RecordId,
    SeenLetter,
    SeenPrediction,
    SeenRecords,
    SentParcel,
)
from leadstream.errors import UserError
from leadstream.kafka.config import consumer_config
from leadstream.log import SILENT
from leadstream.settings import Settings
from producer.bad_records import BadRecord
from producer.crm import connected, write_applications
from producer.live import bad_for, paced, recorded
from producer.publish import EventPublisher, publishing
from producer.simulator import Shares, SimulatedChange, SimulatedCrm
from schemas.codec import Reader

if TYPE_CHECKING:
    from leadstream.kafka.topics import Topics

# Shares of the changes; all others are in order.
SHARES = Shares(
    late=0.01, repeated=0.01, without_state=0.05, deleted=0.002, tombstone=0.002, loop=0.005
)
_REQUEST_LEADS = 4
_UNKNOWN_LEAD = "unknown_to_the_crm"
_MAX_MESSAGES = 1_000
_END_SECONDS = 30.0


class ParcelSender:
    """A sender of the newest changes of a CRM, with bad records and requests among them.

    `total` is the number of records to send, `sent` the acknowledged ones. `began` and `ended` are
    monotonic seconds.
    """

    def __init__(
        self, settings: Settings, crm: SimulatedCrm, *, since: int, now: int, changes: int, bad: int
    ) -> None:
        """Plan `changes` records, `bad` of them bad; some bad ones go to the requests topic."""
        self.sent: dict[RecordId, SentParcel] = {}
        self.total = changes
        self.began = self.ended = 0.0
        self._settings, self._crm, self._since, self._now = settings, crm, since, now
        self._changes, self._bad = changes, bad

    def run(self, rate: float, stop: threading.Event) -> None:
        """Send everything at `rate` records a second, or until `stop`.

        Postgres has the state of each change before the change is sent.
        """
        topics, database = (
            self._settings.topics,
            self._settings.need("DATABASE_URL", "the demo's CRM"),
        )
        with connected(database) as conn, publishing(self._settings) as publisher:
            bad = list(
                itertools.islice(bad_for(publisher, topics, self._crm.seed, self._now), self._bad)
            )
            good = self._changes - sum(record.topic == "lead_changes" for record in bad)
            self.total = good + len(bad) + _requests_for(self._changes)
            deliveries = itertools.islice(
                self._crm.deliveries(SHARES, self._since, self._now), good
            )
            self.began = time.monotonic()
            for parcel in paced(
                self._mixed(publisher, recorded(deliveries, conn), good, bad), rate
            ):
                if stop.is_set():
                    return
                at = time.monotonic()
                publisher.send_bytes(
                    parcel.topic,
                    parcel.key,
                    parcel.value,
                    partial(self._acknowledged, parcel, at),
                )
            publisher.flush()
            self.ended = time.monotonic()
            write_applications(conn, self._crm.applications(self._since, self._now))

    def _acknowledged(self, parcel: Parcel, at: float, message: Any) -> None:
        self.sent[message.topic(), message.partition(), message.offset()] = SentParcel(parcel, at)

    def _mixed(
        self,
        publisher: EventPublisher,
        changes: Iterator[SimulatedChange],
        good: int,
        bad: Iterable[BadRecord],
    ) -> Iterator[Parcel]:
        """Yield changes, bad records and requests, each in their order, mixed at random."""
        topics = self._settings.topics
        recent: deque[str] = deque(maxlen=_REQUEST_LEADS)
        queues: tuple[Iterator[Parcel], ...] = (
            (_change(publisher, topics, change, recent) for change in changes),
            (_bad(topics, record) for record in bad),
            (
                _request(publisher, topics, number, [*recent, _UNKNOWN_LEAD])
                for number in itertools.count(1)
            ),
        )
        sizes = (good, self._bad, _requests_for(self._changes))
        order = np.random.default_rng([self._crm.seed, 4]).permutation(
            np.repeat(np.arange(3), sizes)
        )
        for queue in order.tolist():
            yield next(queues[queue])


def _requests_for(changes: int) -> int:
    """Return the number of good requests among so many changes."""
    return max(2, changes // 1000)


def _change(
    publisher: EventPublisher, topics: "Topics", change: SimulatedChange, recent: deque[str]
) -> Parcel:
    if change.lead_id not in recent:
        recent.append(change.lead_id)
    value = (
        None
        if change.record is None
        else publisher.encode("LeadChanged", topics.lead_changes, change.record)
    )
    return Parcel(
        topics.lead_changes, change.lead_id.encode(), value, change.kind, truth=change.truth
    )


def _bad(topics: "Topics", record: BadRecord) -> Parcel:
    topic = topics.lead_changes if record.topic == "lead_changes" else topics.rescore_requests
    return Parcel(topic, record.key, record.value, reason=record.reason)


def _request(
    publisher: EventPublisher, topics: "Topics", number: int, lead_ids: list[str]
) -> Parcel:
    """Return a request, in turn as Avro and as the older JSON; the key is the id of the request."""
    request_id = f"demo-request-{number}"
    if number % 2:
        request = {
            "request_id": request_id,
            "lead_ids": lead_ids,
            "requested_by": "leadstream demo",
        }
        value = publisher.encode("RescoreRequest", topics.rescore_requests, request)
    else:
        value = json.dumps(lead_ids).encode()
    return Parcel(topics.rescore_requests, request_id.encode(), value, asks=len(lead_ids))


class DemoSubscriber:
    """A reader of committed predictions, results and dead letters from the start; `seen` grows."""

    def __init__(self, settings: Settings) -> None:
        topics = settings.topics
        self.seen = SeenRecords()
        self._take = {
            topics.lead_predictions: self._take_prediction,
            topics.dead_letters: self._take_letter,
            topics.rescore_results: self._take_result,
        }
        self._predictions, self._results = Reader("LeadPrediction"), Reader("RescoreResult")
        # Events for the ends of partitions: transaction markers are not messages.
        self._config: dict[str, Any] = consumer_config(settings) | {
            "enable.partition.eof": True,
            "logger": SILENT,
        }
        self._to_the_end = threading.Event()

    def finish(self) -> None:
        """Read up to the present ends of the topics, then return from `run`."""
        self._to_the_end.set()

    def run(self, stop: threading.Event) -> None:
        """Read until stopped or finished. Raises UserError if the brokers refuse."""
        with closing(Consumer(self._config)) as consumer:
            try:
                partitions = [
                    TopicPartition(topic, partition, OFFSET_BEGINNING)
                    for topic in self._take
                    for partition in consumer.list_topics(topic, timeout=10)
                    .topics[topic]
                    .partitions
                ]
                consumer.assign(partitions)
                self._read(consumer, partitions, stop)
            except KafkaException as error:
                raise UserError(f"the subscriber cannot read: {error.args[0].str()}") from None

    def _read(
        self, consumer: Consumer, partitions: list[TopicPartition], stop: threading.Event
    ) -> None:
        position: dict[tuple[str, int], int] = {}
        ends: dict[tuple[str, int], int] | None = None
        deadline = 0.0
        while not stop.is_set():
            for message in _some(consumer):
                error = message.error()
                if error is None:
                    position[message.topic(), message.partition()] = message.offset() + 1
                    self._take[message.topic()](message, time.monotonic())
                elif error.code() == KafkaError._PARTITION_EOF:
                    position[message.topic(), message.partition()] = message.offset()
                elif error.fatal():
                    raise KafkaException(error)
            if ends is None and self._to_the_end.is_set():
                ends = {
                    (p.topic, p.partition): consumer.get_watermark_offsets(p, timeout=10)[1]
                    for p in partitions
                }
                deadline = time.monotonic() + _END_SECONDS
            if ends is not None and all(
                position.get(partition, 0) >= end for partition, end in ends.items()
            ):
                return
            if ends is not None and time.monotonic() > deadline:
                raise UserError(
                    f"the subscriber did not reach the ends of the topics in {_END_SECONDS:g} s"
                )

    def _take_prediction(self, message: Any, at: float) -> None:
        value = message.value()
        if value is None:
            self.seen.erasures.append((message.key() or b"").decode())
            return
        record = self._predictions.decode(value)
        record_id = (record["source_topic"], record["source_partition"], record["source_offset"])
        self.seen.predictions.append(
            SeenPrediction(record_id, record["lead_id"], record["probability"], at)
        )

    def _take_letter(self, message: Any, _at: float) -> None:
        headers = {name: (value or b"").decode() for name, value in message.headers() or []}
        topic, partition, offset = (
            headers[f"__connect.errors.{name}"] for name in ("topic", "partition", "offset")
        )
        record_id = (topic, int(partition), int(offset))
        self.seen.letters.append(
            SeenLetter(record_id, message.key(), message.value(), headers["dlq.reason"])
        )

    def _take_result(self, message: Any, _at: float) -> None:
        self.seen.results.append(self._results.decode(message.value() or b""))


def _some(consumer: Consumer) -> list[Any]:
    """Return the available messages at once; `consume` alone would wait for a full batch."""
    first = consumer.poll(0.1)
    return [] if first is None else [first, *consumer.consume(_MAX_MESSAGES, 0)]
