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

from leadstream.cli.demo.accounting import (
    Parcel,
    RecordId,
    SeenLetter,
    SeenPrediction,
    SeenRecords,
    SentParcel,
)
from leadstream.deadline import Deadline
from leadstream.errors import Transient, UserError
from leadstream.kafka.batch import Message, Partition, read_headers
from leadstream.kafka.topic_follower import TopicFollower
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
_POLL_SECONDS, _ASK_SECONDS = 0.1, 10.0
_END_SECONDS = 30.0


class ParcelSender:
    """A sender of the newest changes of a CRM, with bad records and requests among them.

    `total` is the number of records to send, `sent` the acknowledged ones. `began` and `ended` are
    monotonic seconds. `outcomes` are sent in the end.
    """

    def __init__(
        self, settings: Settings, crm: SimulatedCrm, *, since: int, now: int, changes: int, bad: int
    ) -> None:
        """Plan `changes` records, `bad` of them bad; some bad ones go to the requests topic."""
        self.sent: dict[RecordId, SentParcel] = {}
        self.total = changes
        self.began = self.ended = 0.0
        self.outcomes = 0
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
            self._send_outcomes(publisher, topics.lead_outcomes)

    def _send_outcomes(self, publisher: EventPublisher, topic: str) -> None:
        """Send every application up to now, as a CRM does that begins to send its outcomes."""
        for application in self._crm.applications(until=self._now):
            outcome = {
                "lead_id": application.lead_id,
                "converted": True,
                "decided_at": application.submitted_at,
            }
            publisher.send("LeadOutcome", topic, application.lead_id, outcome)
            self.outcomes += 1
        publisher.flush()

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
        self._settings = settings
        self._to_the_end = threading.Event()

    def finish(self) -> None:
        """Read up to the present ends of the topics, then return from `run`."""
        self._to_the_end.set()

    def run(self, stop: threading.Event) -> None:
        """Read until stopped or finished. Raises UserError if the brokers refuse."""
        follower = TopicFollower(self._settings, list(self._take), properties={"logger": SILENT})
        with closing(follower):
            try:
                self._read(follower, stop)
            except Transient as trouble:
                raise UserError(f"the subscriber cannot read: {trouble.detail}") from None

    def _read(self, follower: TopicFollower, stop: threading.Event) -> None:
        ends: dict[Partition, int] | None = None
        deadline = Deadline.after(_END_SECONDS)
        while not stop.is_set():
            for message in self._poll(follower):
                self._take[message.topic()](message, time.monotonic())
            if ends is None and self._to_the_end.is_set():
                ends, deadline = follower.ends(_ASK_SECONDS), Deadline.after(_END_SECONDS)
            if ends is not None and all(
                follower.position[partition] >= end for partition, end in ends.items()
            ):
                return
            if ends is not None and deadline.expired:
                raise UserError(
                    f"the subscriber did not reach the ends of the topics in {_END_SECONDS:g} s"
                )

    def _poll(self, follower: TopicFollower) -> list[Message]:
        """Return what arrived; brokers that answered once and are silent now are asked again."""
        try:
            return follower.poll(_POLL_SECONDS)
        except Transient:
            if not follower.partitions:
                raise
            return []

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
        headers = {name: (value or b"").decode() for name, value in read_headers(message)}
        topic, partition, offset = (
            headers[f"__connect.errors.{name}"] for name in ("topic", "partition", "offset")
        )
        record_id = (topic, int(partition), int(offset))
        self.seen.letters.append(
            SeenLetter(record_id, message.key(), message.value(), headers["dlq.reason"])
        )

    def _take_result(self, message: Any, _at: float) -> None:
        self.seen.results.append(self._results.decode(message.value() or b""))
