"""Sending events: a record that the brokers did not acknowledge must never pass for sent."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from leadstream.errors import Poison, UserError
from leadstream.settings import Settings
from producer.publish import EventPublisher, publishing
from schemas.codec import Reader

Report = Callable[[KafkaError | None, Any], None]


class DeliveredMessage:
    def topic(self) -> str:
        return "changes"


class FakeProducer:
    """A producer with room for `room` records, which reports when it is polled."""

    def __init__(self, room: int = 1000, fails: KafkaError | None = None, stuck: int = 0) -> None:
        self.room, self.fails, self.stuck = room, fails, stuck
        self.sent: list[tuple[str, bytes | None, bytes | None]] = []
        self.full = 0
        self._waiting: list[Report] = []

    def produce(
        self, topic: str, value: bytes | None, key: bytes | None, on_delivery: Report
    ) -> None:
        if len(self._waiting) >= self.room:
            self.full += 1
            raise BufferError
        if value is not None and len(value) > 1_000_000:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self.sent.append((topic, key, value))
        self._waiting.append(on_delivery)

    def poll(self, timeout: float) -> None:
        # As librdkafka: a poll that does not wait reports nothing new here, so that the queue can
        # fill.
        if timeout:
            self._deliver()

    def flush(self, timeout: float) -> int:
        assert timeout < 60
        self._deliver()
        return self.stuck

    def _deliver(self) -> None:
        for report in self._waiting:
            report(self.fails, DeliveredMessage())
        self._waiting.clear()


def _publisher(fake: FakeProducer) -> EventPublisher:
    return EventPublisher(fake, None)  # type: ignore[arg-type]


def test_a_full_queue_is_waited_for_and_nothing_is_dropped() -> None:
    fake = FakeProducer(room=2)
    publisher = _publisher(fake)
    for number in range(7):
        publisher.send_bytes("changes", b"k", bytes([number]))
    publisher.flush()
    assert [value for _, _, value in fake.sent] == [bytes([number]) for number in range(7)]
    assert fake.full > 0
    assert publisher.delivered == 7


def test_a_record_that_was_given_up_is_an_error_not_a_count() -> None:
    publisher = _publisher(FakeProducer(fails=KafkaError(KafkaError._MSG_TIMED_OUT)))
    publisher.send_bytes("changes", b"k", b"v")
    with pytest.raises(UserError, match=r"1 records were not delivered \(0 were\): changes: "):
        publisher.flush()


def test_a_flush_that_leaves_records_behind_is_an_error() -> None:
    publisher = _publisher(FakeProducer(stuck=3))
    with pytest.raises(UserError, match="3 records were not delivered"):
        publisher.flush()


def test_after_a_failure_nothing_more_is_sent() -> None:
    fake = FakeProducer(room=1, fails=KafkaError(KafkaError._MSG_TIMED_OUT))
    publisher = _publisher(fake)
    publisher.send_bytes("changes", b"k", b"v")
    with pytest.raises(UserError, match="not delivered"):
        publisher.send_bytes("changes", b"k", b"v")


def test_a_missing_topic_is_told_with_its_mend() -> None:
    publisher = _publisher(FakeProducer(fails=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
    publisher.send_bytes("changes", b"k", b"v")
    with pytest.raises(UserError, match="does not exist; `leadstream topics create` makes it"):
        publisher.flush()


def test_a_record_that_is_too_large_is_one_sentence() -> None:
    with pytest.raises(UserError, match="changes: "):
        _publisher(FakeProducer()).send_bytes("changes", b"k", b"x" * 1_000_001)


def test_a_tombstone_has_no_value_and_a_record_its_schema() -> None:
    fake = FakeProducer()
    publisher = _publisher(fake)
    outcome = {"lead_id": "é", "converted": True, "decided_at": 1}
    publisher.send("LeadOutcome", "outcomes", "é", outcome)
    publisher.send("LeadOutcome", "outcomes", "é", None)
    (_, key, value), (_, _, nothing) = fake.sent
    assert key == "é".encode()
    assert nothing is None
    assert Reader("LeadOutcome").decode(value or b"") == outcome


def test_a_record_that_does_not_fit_its_schema_is_not_sent() -> None:
    fake = FakeProducer()
    with pytest.raises(Poison):
        _publisher(fake).send(
            "LeadOutcome", "outcomes", "L1", {"lead_id": 1, "converted": True, "decided_at": 1}
        )
    assert fake.sent == []


def test_brokers_that_do_not_answer_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.publish._CONNECT_SECONDS", 0.5)
    settings = Settings(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    with (
        pytest.raises(UserError, match=r"KAFKA_BOOTSTRAP_SERVERS: 127\.0\.0\.1:1 does not answer"),
        publishing(settings),
    ):
        pass
