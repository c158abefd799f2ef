"""Translation of another system's change events into lead changes or dead letters."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from leadstream.errors import Fenced, Poison, Reason, Transient, UserError
from leadstream.kafka.batch import Batch, Message, Output, read_headers
from leadstream.kafka.dead_letter import Limit, dead_letter
from leadstream.kafka.publisher import Publisher
from leadstream.kafka.topic_config import RecordLimits, record_size
from leadstream.kafka.topics import Topics
from schemas.codec import Writer, confluent_id
from schemas.foreign_converters import CONVERTERS
from schemas.foreign_formats import (
    ConversionOptions,
    ForeignFormat,
    ForeignMessage,
    headers_by_name,
)


class TranslationObserver(Protocol):
    """An observer of what was translated."""

    def dead_lettered(self, message: Message, poison: Poison) -> None:
        """Note an event that becomes a dead letter, before its batch is committed."""

    def translated(self, batch: Batch, dispositions: Counter[str], seconds: float) -> None:
        """Note a batch that was committed."""


class Translator:
    """A translator of batches; the outputs and offsets of a batch are committed together."""

    def __init__(
        self,
        kind: ForeignFormat,
        how: ConversionOptions,
        *,
        writer: Writer,
        limit: Limit,
        topics: Topics,
        group_id: str,
        observer: TranslationObserver,
        limits: RecordLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._read = CONVERTERS[kind]
        self._how = how
        self._writer = writer
        self._limit = limit
        self._topics = topics
        self._group_id = group_id
        self._observer = observer
        self._limits = limits or RecordLimits()
        self._clock = clock
        self._clock_ms = clock_ms

    def translate(self, batch: Batch, publisher: Publisher) -> None:
        """Publish the translation of a batch.

        Raises Transient, Fenced and DeadLetterLimit; then nothing of the batch counts.
        """
        began = self._clock()
        if self._how.registry is not None:
            self._how.registry.learn(confluent_id(message.value()) for message in batch.messages)
        outputs: list[Output] = []
        sources: list[int] = []
        letters: list[Poison | None] = []
        dispositions: Counter[str] = Counter()
        for index, message in enumerate(batch.messages):
            letter = None
            try:
                made = self._outputs(message)
                dispositions["translated" if made else "unchanged"] += 1
            except Poison as poison:
                letter, made = poison, [self._letter(message, poison)]
                dispositions["dead_lettered"] += 1
                self._observer.dead_lettered(message, poison)
            letters.append(letter)
            outputs += made
            sources += [index] * len(made)
        self._limit.check(letters, batch.messages)
        publisher.begin(outputs, batch, sources)()
        self._observer.translated(batch, dispositions, self._clock() - began)

    def _outputs(self, message: Message) -> list[Output]:
        """Return the lead changes, none if nothing changed that a score depends on.

        Raises Poison, whatever is wrong with the event, and Transient, Fenced and UserError.
        """
        try:
            return self._translated(message)
        except (Poison, Transient, Fenced, UserError):
            raise
        except Exception as error:
            # Its own text may show a value.
            detail = f"The event cannot be read: it causes a {type(error).__name__}."
            raise Poison(Reason.INVALID_EVENT, "decode", detail) from error

    def _translated(self, message: Message) -> list[Output]:
        position = f"{message.topic()}-{message.partition()}-{message.offset()}"
        kind, timestamp = message.timestamp()
        at = timestamp if kind else self._clock_ms()
        foreign = ForeignMessage(
            message.key(), message.value(), headers_by_name(read_headers(message)), at, position
        )
        return [self._change(record) for record in self._read(foreign, self._how)]

    def _change(self, record: Mapping[str, Any]) -> Output:
        topic = self._topics.lead_changes
        key, value = record["lead_id"].encode(), self._writer.encode(record)
        size, limit = record_size(key, value, None), self._limits.max_bytes(topic)
        if size > limit:
            detail = f"the change has {size} bytes; {topic} accepts {limit}"
            raise Poison(Reason.OVERSIZED, "encode", detail)
        return Output(topic, key, value)

    def _letter(self, message: Message, poison: Poison) -> Output:
        return dead_letter(
            self._topics.dead_letters,
            message,
            poison,
            failed_at=self._clock_ms(),
            group_id=self._group_id,
            model_version="",
            limits=self._limits,
        )
