"""Headers that confluent-kafka cannot read: a client of another language may name them in any
bytes.
"""

import uuid
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from leadstream.errors import Poison, Reason
from leadstream.kafka.batch import UNREADABLE_NAME, Message, read_headers
from leadstream.kafka.dead_letter import cause_print, dead_letter
from leadstream.local.broker import Broker
from tests.raw_records import send_raw

NAMES = [(b"\xff\xfe", b"a"), (b"good", b"b"), (b"\x80", b""), ("Zürich".encode(), b"c")]
READ = [(UNREADABLE_NAME, b"a"), ("good", b"b"), (UNREADABLE_NAME, b""), ("Zürich", b"c")]


def received(broker: Broker, headers: list[tuple[bytes, bytes]]) -> Message:
    """A record with these headers, as the client presents it."""
    topic = f"headers.{uuid.uuid4().hex[:8]}"
    send_raw(broker.bootstrap, topic, b"key", b"value", headers)
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": topic, "fetch.wait.max.ms": 10}
    )
    try:
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(4)])
        message: Any = None
        while message is None or message.error() is not None:
            message = consumer.poll(1)
        found: Message = message
        return found
    finally:
        consumer.close()


def test_a_name_that_is_not_utf_8_costs_no_process_and_no_other_header(mock_broker: Broker) -> None:
    message = received(mock_broker, NAMES)
    assert read_headers(message) == READ
    assert read_headers(message) == READ, "read again, as by a second reader of the batch"
    assert read_headers(received(mock_broker, NAMES[1:2])) == READ[1:2]


def test_a_dead_letter_keeps_the_headers_that_can_be_read(mock_broker: Broker) -> None:
    poison = Poison(Reason.DECODE_FAILED, "decode", "No.")
    letter = dead_letter(
        "letters",
        received(mock_broker, NAMES),
        poison,
        failed_at=1,
        group_id="group",
        model_version="1",
    )
    assert (letter.headers or [])[: len(READ)] == READ


def test_a_fingerprint_of_a_long_message_costs_no_minutes() -> None:
    long = "1" * 1_000_000 + "g"
    assert cause_print("R", "s", long) == cause_print("R", "s", long[:1_000])
    same = [cause_print("R", "s", f"at byte {n} of 'x{n}' in 0x{n:x}, id ab{n}cd") for n in (7, 99)]
    assert same[0] == same[1] != cause_print("R", "s", "at byte of in, id abcd")
