"""Change events of another system into lead changes: each under its lead's id, as LeadChanged, or a dead letter."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from leadstream.errors import Poison
from leadstream.kafka.batch import Batch, Message, Output
from leadstream.kafka.dead_letter import Limit, dead_letter
from leadstream.kafka.publisher import Publisher
from leadstream.kafka.topics import Topics
from schemas.codec import Writer
from schemas.foreign_formats import (
    CONVERTERS,
    ConversionOptions,
    ForeignFormat,
    ForeignMessage,
    headers_by_name,
)


class Watcher(Protocol):
    """Who is told what was translated."""

    def translated(self, batch: Batch, fates: Counter[str], seconds: float) -> None:
        """A batch was committed."""


class Translator:
    """What is done to a batch of foreign changes; all of it and its offsets are committed together."""

    def __init__(
        self,
        kind: ForeignFormat,
        how: ConversionOptions,
        *,
        writer: Writer,
        limit: Limit,
        topics: Topics,
        group_id: str,
        watcher: Watcher,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._read = CONVERTERS[kind]
        self._how = how
        self._writer = writer
        self._limit = limit
        self._topics = topics
        self._group_id = group_id
        self._watcher = watcher
        self._clock = clock
        self._clock_ms = clock_ms

    def translate(self, batch: Batch, publisher: Publisher) -> None:
        """Publish what a batch means. Raises Transient, Fenced, DeadLetterLimit: then nothing of it counts."""
        began = self._clock()
        outputs: list[Output] = []
        letters: list[Poison | None] = []
        fates: Counter[str] = Counter()
        for message in batch.messages:
            letter = None
            try:
                output = self._output(message)
                fates["unchanged" if output is None else "translated"] += 1
            except Poison as poison:
                letter, output = poison, self._letter(message, poison)
                fates["dead_lettered"] += 1
            letters.append(letter)
            if output is not None:
                outputs.append(output)
        self._limit.check(letters)
        publisher.begin(outputs, batch)()
        self._watcher.translated(batch, fates, self._clock() - began)

    def _output(self, message: Message) -> Output | None:
        """The lead change, None where nothing changed that a score depends on. Raises Poison, Transient."""
        position = f"{message.topic()}-{message.partition()}-{message.offset()}"
        kind, timestamp = message.timestamp()
        at = timestamp if kind else self._clock_ms()
        foreign = ForeignMessage(
            message.key(), message.value(), headers_by_name(message.headers()), at, position
        )
        record = self._read(foreign, self._how)
        if record is None:
            return None
        return Output(
            self._topics.lead_changes, record["lead_id"].encode(), self._writer.encode(record)
        )

    def _letter(self, message: Message, poison: Poison) -> Output:
        return dead_letter(
            self._topics.dead_letters,
            message,
            poison,
            failed_at=self._clock_ms(),
            group_id=self._group_id,
            model_version="",
        )
