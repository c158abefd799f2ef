"""The outbox relay: rows of the outbox become lead changes and outcomes on Kafka, each once, in order by lead.

One loop in one thread: read rows, publish them and the position of the last in one Kafka transaction, read on. What is
committed to the topic of positions is the truth about what was published, whatever became of the process.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from leadstream.backoff import Backoff
from leadstream.errors import Fenced, SettingsError, Transient, UserError
from leadstream.settings import Delivery, Settings
from producer.outbox import TRIM_ROWS, Outbox, Row
from producer.outbox_records import encode_change, lead_change_record, lead_outcome_record
from producer.positions import Position, read_position
from producer.publication import OutboxRecord, Publication, transactional_id
from schemas.codec import Writer
from schemas.registry import Registry

POLL_SECONDS, UNSETTLED_SECONDS = 1.0, 0.02
TRIM_EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """Whether changes carry their state, how long published rows are kept, and after which row to begin, if told."""

    state: bool = True
    keep: timedelta = timedelta(days=7)
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """A batch that was committed: how many of each record, when its rows were written, and what is left."""

    records: Counter[str]
    occurred_at: list[datetime]
    position: int
    pending: int
    seconds: float


class Health(Protocol):
    """Who is told how the loop does."""

    def beat(self) -> None:
        """The loop has turned."""

    def held(self, trouble: Transient) -> None:
        """A dependency does not answer; nothing is lost, and it is tried again."""

    def resumed(self) -> None:
        """The loop does its work again."""


class Watcher(Protocol):
    """Who is told what the relay does."""

    def opened(self, position: int, *, first: bool) -> None:
        """This relay is the one now and goes on after this position; `first` where none was published yet."""

    def waiting(self, rows: int) -> None:
        """At most so many rows are not published yet."""

    def published(self, batch: Published) -> None:
        """A batch was committed."""

    def trimmed(self, rows: int) -> None:
        """So many published rows were deleted."""


class Relay:
    """Turns the loop until it is asked to stop; what may pass is waited out."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        *,
        outbox: Outbox,
        registry: Registry | None,
        health: Health,
        watcher: Watcher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if settings.delivery is not Delivery.EXACTLY_ONCE:
            raise SettingsError(
                "LEADSTREAM_DELIVERY=at-least-once: the relay always uses transactions; unset it"
            )
        self._settings = settings
        self._options = options
        self._outbox = outbox
        self._health = health
        self._watcher = watcher
        self._clock = clock
        self._changes = Writer("LeadChanged", registry, settings.topics.lead_changes)
        self._outcomes = Writer("LeadOutcome", registry, settings.topics.lead_outcomes)
        self._stop = threading.Event()
        self._id = str(uuid.uuid4())
        self._claimed = False
        self._publication: Publication | None = None
        self._position = Position(0, None, self._id)
        self._backoff = Backoff(clock)
        self._held = False
        self._trim_at = clock()

    def stop(self) -> None:
        """End the loop once the batch at hand is committed."""
        self._stop.set()

    def run(self) -> None:
        """Turn the loop. Returns when stopped; raises UserError where a person must act."""
        try:
            while not self._stop.is_set():
                self._health.beat()
                try:
                    idle = not self._turn()
                    self._resumed()
                    if idle:
                        self._outbox.wait(
                            UNSETTLED_SECONDS if self._outbox.unsettled else POLL_SECONDS
                        )
                except Fenced as fenced:
                    # By another relay, or by a broker that waited too long for us: the committed position tells.
                    self._close()
                    self._hold(Transient("brokers", f"the producer cannot go on: {fenced}"))
                except Transient as trouble:
                    self._hold(trouble)
        finally:
            self._close()
            self._outbox.close()

    def _turn(self) -> bool:
        """One batch, if there is one; False where there is nothing to do now."""
        connected = self._outbox.connect()
        publication = self._publication or self._open()
        if connected:
            self._outbox.check(self._position.position, self._position.event_id)
        began = self._clock()
        rows = self._outbox.rows(self._position.position, self._settings.batch_max_records)
        self._watcher.waiting(self._outbox.pending(self._position.position))
        if not rows:
            return self._trim()
        position = Position(rows[-1].position, rows[-1].event_id, self._id)
        publication.commit(self._messages(rows), position)
        self._position = position
        self._watcher.published(
            Published(
                records=Counter(row.record for row in rows),
                occurred_at=[row.occurred_at for row in rows],
                position=position.position,
                pending=self._outbox.pending(position.position),
                seconds=self._clock() - began,
            )
        )
        return True

    def _messages(self, rows: Iterable[Row]) -> Iterator[OutboxRecord]:
        topics, state = self._settings.topics, self._options.state
        for row in rows:
            key = row.lead_id.encode()
            if row.record == "LeadOutcome":
                yield OutboxRecord(
                    topics.lead_outcomes, key, self._outcomes.encode(lead_outcome_record(row))
                )
            else:
                value = encode_change(self._changes.encode, lead_change_record(row, state=state))
                yield OutboxRecord(topics.lead_changes, key, value)

    def _open(self) -> Publication:
        """Become the one relay:

        1. See that no other has taken over since this process claimed to be it; who was fenced by one ends here.
        2. Fence whoever is it now; what was begun is committed or undone.
        3. Read the committed position: up to there everything was published, and nothing after it.
        4. Claim it in a transaction, so that who was fenced finds out.
        """
        self._changes.open()
        self._outcomes.open()
        self._committed()
        publication = Publication(self._settings)
        try:
            publication.open()
            found = self._committed()
            after = self._options.after
            if after is not None and not self._claimed:
                found = Position(after, None, self._id)
            self._position = (
                Position(found.position, found.event_id, self._id) if found else self._position
            )
            self._outbox.check(self._position.position, self._position.event_id)
            publication.commit([], self._position)
        except BaseException:
            publication.close()
            raise
        self._publication, self._claimed = publication, True
        self._watcher.opened(self._position.position, first=found is None)
        return publication

    def _committed(self) -> Position | None:
        found = read_position(self._settings, transactional_id(self._settings), self._stop.is_set)
        if self._claimed and found is not None and found.relay != self._id:
            raise UserError(
                "another relay of this group has taken over: run one, or give each outbox its own LEADSTREAM_GROUP_ID"
            )
        return found

    def _trim(self) -> bool:
        """Delete published rows that are old enough, every minute; True where more of them may be there."""
        if self._clock() < self._trim_at:
            return False
        rows = self._outbox.trim(self._position.position, self._options.keep)
        if rows:
            self._watcher.trimmed(rows)
        if rows == TRIM_ROWS:
            return True
        self._trim_at = self._clock() + TRIM_EVERY_SECONDS
        return False

    def _hold(self, trouble: Transient) -> None:
        self._health.held(trouble)
        self._held = True
        for seconds in self._backoff.pauses(self._stop.is_set):
            self._stop.wait(seconds)

    def _resumed(self) -> None:
        if self._held:
            self._health.resumed()
            self._held = False
            self._backoff.reset()

    def _close(self) -> None:
        if self._publication is not None:
            self._publication.close()
            self._publication = None
