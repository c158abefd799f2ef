"""Reading the dead-letter topic from its beginning to its present end."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from leadstream.errors import UserError
from leadstream.kafka import consumer_config
from leadstream.log import client_logger, configure
from leadstream.settings import Settings

TIMEOUT_SECONDS = 10.0
BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter. `headers` are all of its headers as text; `failed_at` is ms UTC, or 0."""

    partition: int
    offset: int
    key: str | None
    value: bytes | None
    headers: dict[str, str]

    @property
    def id(self) -> str:
        """Its place in the dead-letter topic."""
        return f"{self.partition}-{self.offset}"

    @property
    def reason(self) -> str:
        """Why it is here."""
        return self.headers.get("dlq.reason", "UNKNOWN")

    @property
    def fingerprint(self) -> str:
        """Equal for letters of the same cause."""
        return self.headers.get("dlq.fingerprint", "")

    @property
    def message(self) -> str:
        """What went wrong, in a sentence."""
        return self.headers.get("__connect.errors.exception.message", "")

    @property
    def failed_at(self) -> int:
        """When it was written, milliseconds UTC."""
        text = self.headers.get("dlq.failed_at", "")
        return int(text) if text.isdigit() else 0


def read_letters(settings: Settings) -> Iterator[Letter]:
    """Every letter that is in the topic now, partition by partition. Raises UserError where it cannot be read."""
    consumer = _consumer(settings)
    try:
        topic = settings.topics.dead_letters
        for partition in _partitions(consumer, topic):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS)
            if low < high:
                yield from _read(consumer, TopicPartition(topic, partition, low), high)
    except KafkaException as error:
        raise UserError(f"the dead letters cannot be read: {error.args[0].str()}") from None
    finally:
        consumer.close()


def read_letter(settings: Settings, partition: int, offset: int) -> Letter:
    """One letter by its place. Raises UserError where there is none."""
    consumer = _consumer(settings)
    topic = settings.topics.dead_letters
    try:
        if partition in _partitions(consumer, topic):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS)
            if low <= offset < high:
                for letter in _read(consumer, TopicPartition(topic, partition, offset), offset + 1):
                    if letter.offset == offset:
                        return letter
    except KafkaException as error:
        raise UserError(f"the letter cannot be read: {error.args[0].str()}") from None
    finally:
        consumer.close()
    raise UserError(f"there is no letter {partition}-{offset} in {topic}; `leadstream dead-letters list` shows them")


def _consumer(settings: Settings) -> Consumer:
    configure(settings)
    # The end of a partition is told even where its last records are transaction markers, which are no messages.
    return Consumer(consumer_config(settings) | {"enable.partition.eof": True, "logger": client_logger()})


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    metadata = consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic]
    if metadata.error is not None:
        raise UserError(f"topic {topic}: {metadata.error.str()}; `leadstream topics create` makes what is missing")
    return sorted(metadata.partitions)


def _read(consumer: Consumer, start: TopicPartition, end: int) -> Iterator[Letter]:
    consumer.assign([start])
    while True:
        messages = _some(consumer)
        if not messages:
            raise UserError(f"the brokers stopped answering while {start.topic} was read; try again")
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return
                raise KafkaException(error)
            letter = _letter(message)
            if letter.offset >= end:
                return
            yield letter
            if letter.offset == end - 1:
                return


def _some(consumer: Consumer) -> list[KafkaMessage]:
    first = consumer.poll(TIMEOUT_SECONDS)
    return [] if first is None else [first, *consumer.consume(BATCH, 0)]


def _letter(message: Any) -> Letter:
    key: bytes | None = message.key()
    text = None if key is None else key.decode("utf-8", "backslashreplace")
    headers = {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in message.headers() or []}
    return Letter(message.partition(), message.offset(), text, message.value(), headers)
