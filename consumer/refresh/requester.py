"""The refresh service: leads whose score has stopped to hold are scored again, each once.

It reads the current scores from the compacted predictions topic. A request is a RESCORE change. In
the same transaction goes a mark: the id of the request under the id of the lead. A process that
starts fences the one before, reads scores and marks, and requests only what has no mark.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from confluent_kafka import KafkaException

from consumer.refresh.schedule import DueLead, RefreshSchedule
from leadstream.budgets import COMMIT_SECONDS, OPEN_SECONDS, POLL_SECONDS
from leadstream.deadline import Deadline
from leadstream.errors import Fenced, Poison, SettingsError, Transient, error_text
from leadstream.kafka.batch import Message
from leadstream.kafka.config import Record, producer_config
from leadstream.kafka.health import CREATE_TOPICS, cluster_metadata, denied_topic
from leadstream.kafka.topic_follower import TopicFollower
from leadstream.kafka.transaction import TransactionalProducer
from leadstream.log import client_logger
from leadstream.process.service import Health
from leadstream.process.status import Status
from leadstream.settings import Delivery, Settings
from models.registry.versions import ModelRegistry
from schemas.codec import Reader, Writer
from schemas.registry import Registry

# Between two looks at the champion.
LOOK_SECONDS = 5.0


class RefreshObserver(Protocol):
    """An observer of what was requested."""

    def ready(self, leads: int) -> None:
        """Note that all scores and marks were read: this process is the refresh service now."""

    def requested(self, causes: Counter[str], seconds: float) -> None:
        """Note a committed transaction, by the cause of its requests."""

    def progress(self, *, overdue_seconds: float, outdated: int, leads: int) -> None:
        """Note how long the first lead has been due, and how many a former model has scored."""


def transactional_id(settings: Settings) -> str:
    """Return the transactional id of a group's refresh service: a second one fences the first."""
    return f"{settings.group_id}-refresh"


class Refresh:
    """The loop of the service. It ends when it is stopped, and retries after a Transient."""

    def __init__(
        self,
        settings: Settings,
        rate: int,
        *,
        models: ModelRegistry,
        registry: Registry | None,
        status: Status,
        health: Health,
        observer: RefreshObserver,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        if settings.delivery is not Delivery.EXACTLY_ONCE:
            raise SettingsError(
                "LEADSTREAM_DELIVERY=at-least-once: refresh always uses transactions; unset it"
            )
        self._settings = settings
        self._rate = rate
        self._models = models
        self._status = status
        self._health = health
        self._observer = observer
        self._clock = clock
        self._clock_ms = clock_ms
        topics = settings.topics
        self._topics = (topics.lead_changes, topics.refresh_marks)
        self._reader = Reader("LeadPrediction", registry)
        self._changes = Writer("LeadChanged", registry, topics.lead_changes)
        self._stop = threading.Event()
        self._producer: TransactionalProducer | None = None
        self._follower: TopicFollower | None = None
        self._schedule = RefreshSchedule()
        self._ready = False
        self._look_at = self._sent_at = 0.0

    def stop(self) -> None:
        """End the loop after the transaction at hand."""
        self._stop.set()

    def run(self) -> None:
        """Run the loop. Returns when stopped; raises UserError if a person must act."""
        try:
            while not self._stop.is_set():
                self._health.beat()
                try:
                    self._process()
                    self._health.resumed()
                except Fenced as fenced:
                    # Another service, or a broker's time-out: the marks show what counts.
                    self._close()
                    self._pause(Transient("brokers", f"the producer cannot go on: {fenced}"))
                except Transient as trouble:
                    self._pause(trouble)
        finally:
            self._close()

    def _process(self) -> None:
        """Read what there is, and request what is due."""
        follower = self._follower or self._open()
        for message in follower.poll(POLL_SECONDS):
            self._take(message)
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_SECONDS
            self._look_at_champion()
        if not follower.at_end:
            return
        if not self._ready:
            self._ready = True
            self._sent_at = self._clock()
            self._status.assigned(1)
            self._observer.ready(self._schedule.leads)
        self._request()

    def _open(self) -> TopicFollower:
        """Become the only refresh service of the group:

        1. Fence the one before; its open transaction is committed or aborted.
        2. Read scores and marks from their beginning: they hold all that it requested.
        """
        self._changes.open()
        id_ = transactional_id(self._settings)
        config = producer_config(self._settings, transactional=True) | {
            "transactional.id": id_,
            "logger": client_logger(),
        }
        producer = TransactionalProducer(config, granted_id=id_)
        self._check_topics(producer)
        producer.open("refresh needs them; use a real Kafka")
        self._producer = producer
        self._schedule, self._ready, self._look_at = RefreshSchedule(), False, 0.0
        topics = self._settings.topics
        self._follower = TopicFollower(
            self._settings, [topics.lead_predictions, topics.refresh_marks]
        )
        return self._follower

    def _check_topics(self, producer: TransactionalProducer) -> None:
        """Raise Transient if a topic that the service writes to does not exist."""
        there = cluster_metadata(producer.client, OPEN_SECONDS).topics
        if absent := [topic for topic in self._topics if topic not in there]:
            try:
                why = denied_topic(producer.client, absent, "Write")
            except KafkaException as error:
                raise Transient("brokers", error_text(error)) from error
            raise Transient("brokers", why or f"no {', '.join(absent)}; {CREATE_TOPICS}")

    def _take(self, message: Message) -> None:
        key, value = message.key(), message.value()
        if key is None:
            return
        if message.topic() == self._settings.topics.refresh_marks:
            self._schedule.add_request(key, (value or b"").decode("utf-8", "replace"))
            return
        with suppress(Poison, UnicodeDecodeError):  # another producer's record is no score
            key.decode()
            self._schedule.add_prediction(
                key, None if value is None else self._reader.decode(value)
            )

    def _look_at_champion(self) -> None:
        """Sweep after a promotion; keep the champion while the store does not answer."""
        alias = self._models.alias()
        if alias is not None and alias.version != self._schedule.champion:
            self._schedule.promote(alias.version)
        outdated, leads, now = self._schedule.outdated, self._schedule.leads, self._clock_ms()
        detail = (
            f"{outdated:,} of {leads:,} leads have the score of an earlier model; at most "
            f"{self._rate:,} a second are scored again"
        )
        self._status.warn("sweep", detail if outdated else None)
        late = (now - self._schedule.overdue(now)) / 1000
        self._observer.progress(overdue_seconds=late, outdated=outdated, leads=leads)

    def _request(self) -> None:
        """Publish requests and marks in one transaction, at most at the stated rate."""
        began = self._clock()
        room = min(int((began - self._sent_at) * self._rate), self._rate)
        room = min(room, self._settings.batch_max_records)
        if room < 1:
            return
        leads = self._schedule.take(self._clock_ms(), room)
        self._sent_at = began
        if not leads:
            return
        try:
            self._commit([record for lead in leads for record in self._records(lead)])
        except Transient:
            self._schedule.give_back(leads)
            raise
        for lead in leads:
            self._schedule.add_request(lead.key, lead.event_id)
        causes = Counter(lead.cause.value for lead in leads)
        self._observer.requested(causes, self._clock() - began)

    def _records(self, lead: DueLead) -> list[Record]:
        """Return the request of a lead, and its mark."""
        changes, marks = self._topics
        change = {
            "event_id": lead.event_id,
            "lead_id": lead.key.decode(),
            "change_type": "RESCORE",
            "occurred_at": self._clock_ms(),
            "lead_version": lead.lead_version,
            "origin": "crm",
            "lead": None,
        }
        return [
            (changes, lead.key, self._changes.encode(change), None, None),
            (marks, lead.key, lead.event_id.encode(), None, None),
        ]

    def _commit(self, records: list[Record]) -> None:
        """Commit records. Raises Transient if nothing of it counts, Fenced if it may count."""
        producer: Any = self._producer
        deadline = Deadline.after(COMMIT_SECONDS)
        with producer.failures(lambda: self._topics):
            producer.begin()
            producer.produce(records, deadline)
            producer.commit(deadline)

    def _pause(self, trouble: Transient) -> None:
        self._health.pause(trouble, self._stop.is_set, self._stop.wait)

    def _close(self) -> None:
        if self._producer is not None:
            self._producer.close()
        if self._follower is not None:
            self._follower.close()
        self._producer = self._follower = None
        self._status.left()
