"""The outbox relay: publish each row of the outbox once, in the order of its lead.

One loop in one thread reads rows and publishes them in one Kafka transaction with the position of
the last row. After a crash, the committed position shows what was published.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from leadstream.errors import Fenced, Poison, Reason, SettingsError, Transient, UserError
from leadstream.process.service import Health
from leadstream.settings import Delivery, Settings
from producer.outbox import TRIM_ROWS, Outbox, OutboxRow, SkippedRow
from producer.outbox_records import encode_change, lead_change_record, lead_outcome_record
from producer.positions import Position, read_position
from producer.publication import OutboxRecord, Publication, transactional_id
from schemas.codec import Writer
from schemas.crm_description import CrmDescription
from schemas.registry import Registry

# Waits for a notification of Postgres; shorter while a writer may end without one.
WAIT_SECONDS, OPEN_WRITERS_WAIT_SECONDS = 1.0, 0.02
TRIM_EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Options of the relay.

    `state`: whether changes carry the lead's state. `keep`: how long published rows are kept.
    `after`: begin after this row, whatever was published.
    """

    state: bool = True
    keep: timedelta = timedelta(days=7)
    after: int | None = None


@dataclass(frozen=True, slots=True)
class PublishedBatch:
    """A committed batch: its records by type, the times of its rows, and how many rows are left."""

    records: Counter[str]
    occurred_at: list[datetime]
    position: int
    pending: int
    seconds: float


class RelayObserver(Protocol):
    """An observer of what the relay does."""

    def opened(self, position: int, *, first: bool) -> None:
        """Note that this process is the relay now, and the position that it continues after.

        `first` means that nothing was published before.
        """

    def waiting(self, rows: int) -> None:
        """Note that at most this many rows are unpublished."""

    def published(self, batch: PublishedBatch) -> None:
        """Note a batch that was committed."""

    def skipped(self, row: SkippedRow) -> None:
        """Note a row that cannot be published; the position behind it is committed."""

    def trimmed(self, rows: int) -> None:
        """Note how many published rows were deleted."""


class Relay:
    """The loop of the relay. It ends when it is stopped, and retries after a Transient."""

    def __init__(
        self,
        settings: Settings,
        options: RelayOptions,
        *,
        outbox: Outbox,
        registry: Registry | None,
        health: Health,
        observer: RelayObserver,
        description: CrmDescription | None = None,
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
        self._observer = observer
        self._description = description
        self._clock = clock
        self._changes = Writer("LeadChanged", registry, settings.topics.lead_changes)
        self._outcomes = Writer("LeadOutcome", registry, settings.topics.lead_outcomes)
        self._stop = threading.Event()
        self._id = str(uuid.uuid4())
        self._claimed = False
        self._publication: Publication | None = None
        self._position = Position(0, None, self._id)
        self._trim_at = clock()

    def stop(self) -> None:
        """End the loop once the batch at hand is committed."""
        self._stop.set()

    def run(self) -> None:
        """Run the loop. Returns when stopped; raises UserError if a person must act."""
        try:
            while not self._stop.is_set():
                self._health.beat()
                try:
                    idle = not self._process_batch()
                    self._health.resumed()
                    if idle:
                        writers = self._outbox.has_open_writers
                        self._outbox.wait(OPEN_WRITERS_WAIT_SECONDS if writers else WAIT_SECONDS)
                except Fenced as fenced:
                    # Another relay, or a broker's time-out: the committed position shows which.
                    self._close()
                    self._pause(Transient("brokers", f"the producer cannot go on: {fenced}"))
                except Transient as trouble:
                    self._pause(trouble)
        finally:
            self._close()
            self._outbox.close()

    def _process_batch(self) -> bool:
        """Publish one batch, or trim; return whether there is more to do now."""
        connected = self._outbox.connect()
        publication = self._publication or self._open()
        if connected:
            self._outbox.check(self._position.position, self._position.event_id)
        began = self._clock()
        rows = self._outbox.rows(self._position.position, self._settings.batch_max_records)
        self._observer.waiting(self._outbox.pending(self._position.position))
        if not rows:
            return self._trim()
        position = Position(rows[-1].position, rows[-1].event_id, self._id)
        good, records, skipped = self._encoded(rows, publication)
        publication.commit(records, position)
        self._position = position
        for each in skipped:
            self._observer.skipped(each)
        if not good:
            return True
        self._observer.published(
            PublishedBatch(
                records=Counter(row.record for row in good),
                occurred_at=[row.occurred_at for row in good],
                position=position.position,
                pending=self._outbox.pending(position.position),
                seconds=self._clock() - began,
            )
        )
        return True

    def _encoded(
        self, rows: Iterable[OutboxRow], publication: Publication
    ) -> tuple[list[OutboxRow], list[OutboxRecord], list[SkippedRow]]:
        """Return the rows that can be published, their records, and the other rows."""
        good, records, skipped = list[OutboxRow](), list[OutboxRecord](), list[SkippedRow]()
        for row in rows:
            if row.unreadable is not None:
                skipped.append(SkippedRow(row.position, row.event_id, row.unreadable))
                continue
            try:
                records.append(self._record(row, publication.max_bytes))
            except (Transient, Fenced, UserError):
                raise
            except Exception as error:  # noqa: BLE001  # of this row; its text may show a value
                why = error.reason.value if isinstance(error, Poison) else type(error).__name__
                skipped.append(SkippedRow(row.position, row.event_id, why))
            else:
                good.append(row)
        return good, records, skipped

    def _record(self, row: OutboxRow, max_bytes: Callable[[str], int]) -> OutboxRecord:
        """Return the record of a row. Raises Poison, and whatever an odd row causes."""
        topics, key = self._settings.topics, row.lead_id.encode()
        if row.record == "LeadOutcome":
            topic = topics.lead_outcomes
            value = self._outcomes.encode(lead_outcome_record(row, self._description))
        else:
            topic = topics.lead_changes
            change = lead_change_record(row, self._description, state=self._options.state)
            value = encode_change(self._changes.encode, change, max_bytes(topic) - len(key))
        if len(key) + len(value) > max_bytes(topic):
            raise Poison(Reason.OVERSIZED, "encode", f"{topic} accepts {max_bytes(topic)} bytes")
        return OutboxRecord(topic, key, value)

    def _open(self) -> Publication:
        """Become the only relay of the group:

        1. Check that no other relay took over since this process was the relay; end if one did.
        2. Fence the relay before; its open transaction is committed or aborted.
        3. Read the committed position: everything up to it was published, and nothing after it.
        4. Commit the position under this process's id, so that a fenced relay finds it in step 1.
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
        self._observer.opened(self._position.position, first=found is None)
        return publication

    def _committed(self) -> Position | None:
        found = read_position(self._settings, transactional_id(self._settings), self._stop.is_set)
        if self._claimed and found is not None and found.relay != self._id:
            raise UserError(
                "another relay of this group has taken over: run one, or give each outbox its own "
                "LEADSTREAM_GROUP_ID"
            )
        return found

    def _trim(self) -> bool:
        """Delete old published rows once a minute; return whether there may be more of them."""
        if self._clock() < self._trim_at:
            return False
        rows = self._outbox.trim(self._position.position, self._options.keep)
        if rows:
            self._observer.trimmed(rows)
        if rows == TRIM_ROWS:
            return True
        self._trim_at = self._clock() + TRIM_EVERY_SECONDS
        return False

    def _pause(self, trouble: Transient) -> None:
        self._health.pause(trouble, self._stop.is_set, self._stop.wait)

    def _close(self) -> None:
        if self._publication is not None:
            self._publication.close()
            self._publication = None
