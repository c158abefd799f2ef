"""Letters of four writers, as each of them really writes its headers."""

import struct

import pytest

from consumer.dead_letters.headers import own_headers, parse_headers
from consumer.dead_letters.inspection import inspect
from consumer.dead_letters.letters import Letter
from leadstream.kafka.config import Headers
from leadstream.kafka.topics import Topics
from tests.fakes import FakeMessage
from tests.letters import letter_output

OWN: Headers = [("trace", b"\x00"), ("trace", b"again"), ("empty", None)]
# Kafka Connect, DeadLetterQueueReporter: all text.
CONNECT: Headers = [
    ("__connect.errors.topic", b"crm.lead-changes"),
    ("__connect.errors.partition", b"3"),
    ("__connect.errors.offset", b"4711"),
    ("__connect.errors.connector.name", b"leads-sink"),
    ("__connect.errors.task.id", b"0"),
    ("__connect.errors.stage", b"VALUE_CONVERTER"),
    ("__connect.errors.class.name", b"io.confluent.connect.avro.AvroConverter"),
    ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    (
        "__connect.errors.exception.message",
        b"Failed to deserialize data for topic crm.lead-changes to Avro",
    ),
    ("__connect.errors.exception.stacktrace", b"org.apache.kafka...\n\tat ..."),
]
# Spring Kafka, DeadLetterPublishingRecoverer: numbers are big-endian, and the first origin is the
# real one.
SPRING: Headers = [
    ("kafka_dlt-original-topic", b"crm.lead-changes"),
    ("kafka_dlt-original-partition", struct.pack(">i", 3)),
    ("kafka_dlt-original-offset", struct.pack(">q", 4711)),
    ("kafka_dlt-original-timestamp", struct.pack(">q", 1_700_000_000_000)),
    ("kafka_dlt-original-timestamp-type", b"CreateTime"),
    ("kafka_dlt-original-consumer-group", b"scoring"),
    (
        "kafka_dlt-exception-fqcn",
        b"org.springframework.kafka.listener.ListenerExecutionFailedException",
    ),
    ("kafka_dlt-exception-cause-fqcn", b"com.example.Leads$UnknownLeadException"),
    ("kafka_dlt-exception-message", b"Listener failed; lead 4711 is unknown"),
    ("kafka_dlt-exception-stacktrace", b"..."),
    ("kafka_dlt-original-topic", b"crm.lead-changes-retry-0"),
    ("kafka_dlt-original-offset", struct.pack(">q", 1)),
]
# Kafka Streams 4.2, ExceptionHandlerUtils (KIP-1034): all text.
STREAMS: Headers = [
    ("__streams.errors.exception", b"org.apache.kafka.common.errors.SerializationException"),
    ("__streams.errors.message", b"Size of data received is not 8"),
    ("__streams.errors.stacktrace", b"..."),
    ("__streams.errors.topic", b"crm.lead-changes"),
    ("__streams.errors.partition", b"3"),
    ("__streams.errors.offset", b"4711"),
]


@pytest.mark.parametrize(
    ("headers", "writer", "reason", "stage"),
    [
        (CONNECT, "Kafka Connect", "DataException", "VALUE_CONVERTER"),
        (SPRING, "Spring Kafka", "UnknownLeadException", ""),
        (STREAMS, "Kafka Streams", "SerializationException", ""),
    ],
)
def test_a_letter_of_another_writer_without_origin_and_reason_could_only_be_looked_at(
    headers: Headers, writer: str, reason: str, stage: str
) -> None:
    fields = parse_headers([*OWN, *headers])
    assert (fields.topic, fields.partition, fields.offset) == ("crm.lead-changes", 3, 4711)
    assert (fields.writer, fields.reason, fields.stage) == (writer, reason, stage)
    assert fields.message
    assert fields.failed_at is None
    assert own_headers([*OWN, *headers], fields.writer) == OWN


def test_headers_that_another_system_left_on_the_original_are_the_originals() -> None:
    left = ("kafka_dlt-original-topic", b"crm.lead-changes-retry-0")
    headers = letter_output(7, b"lead", b"", headers=[left, ("dlq.replays", b"1")]).headers or []
    assert own_headers(headers, parse_headers(headers).writer) == [left]


def test_our_own_letter_says_all_of_it() -> None:
    fields = parse_headers(
        letter_output(7, b"lead", b"", failed_at=1_750_000_000_123).headers or []
    )
    assert (fields.writer, fields.topic, fields.partition, fields.offset) == (
        "Leadstream",
        "crm.lead-changes",
        3,
        7,
    )
    assert (fields.reason, fields.stage, fields.failed_at) == (
        "LEAD_NOT_FOUND",
        "state",
        1_750_000_000_123,
    )
    assert (fields.group, fields.model_version, fields.replays) == ("leadstream", "1.0.0", 0)


def test_letters_of_one_foreign_cause_must_share_a_fingerprint_and_those_of_two_must_not() -> None:
    def print_of(message: bytes, exception: bytes = b"java.lang.IllegalStateException") -> str:
        return parse_headers(
            [("__streams.errors.exception", exception), ("__streams.errors.message", message)]
        ).fingerprint

    assert print_of(b"lead 12 is unknown") == print_of(b"lead 4711 is unknown")
    assert print_of(b"lead 12 is unknown") != print_of(b"lead 12 is erased")
    assert print_of(b"it failed") != print_of(b"it failed", b"java.lang.ArithmeticException")


@pytest.mark.parametrize("value", [b"1234", struct.pack(">i", 1234), struct.pack(">q", 1234)])
def test_a_number_is_understood_as_digits_and_as_bytes(value: bytes) -> None:
    assert parse_headers([("kafka_dlt-original-partition", value)]).partition == 1234


@pytest.mark.parametrize("value", [b"", b"\xff", b"12x", None, b"9" * 5000])
def test_a_number_that_is_none_is_no_crash(value: bytes | None) -> None:
    assert (
        parse_headers([("__connect.errors.partition", value), ("dlq.replays", value)]).partition
        is None
    )


def test_a_record_that_says_nothing_is_a_letter_all_the_same() -> None:
    fields = parse_headers([("trace", b"\xff")])
    assert (fields.writer, fields.reason, fields.topic) == ("unknown", "UNKNOWN", None)


def test_a_letter_with_a_number_of_too_many_digits_is_shown_with_the_reason() -> None:
    topics = Topics()
    headers: Headers = [("__connect.errors.topic", topics.rescore_requests.encode())]
    message = FakeMessage("letters", 0, 5, None, b"[" + b"9" * 5_000 + b"]", headers)
    inspection = inspect(Letter.from_message(message), topics, None)
    assert inspection.failure is not None
    assert inspection.failure.why == "a number has too many digits"
