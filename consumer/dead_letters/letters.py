"""The letters of the dead-letter topic, from its beginning or from one place to its present end."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from consumer.dead_letters.headers import Facts, facts_of
from leadstream.errors import SettingsError, UserError
from leadstream.kafka.batch import Message
from leadstream.kafka.config import Headers
from leadstream.kafka.topic_reader import Log
from leadstream.settings import Settings


@dataclass(frozen=True, slots=True)
class LetterId:
    """Its place in the dead-letter topic: `partition-offset`."""

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> "LetterId":
        """Raises SettingsError where it is none."""
        partition, _, offset = text.partition("-")
        if not (partition.isdecimal() and offset.isdecimal()):
            raise SettingsError(f"{text} is no letter id: it is partition-offset, for example 0-17")
        return cls(int(partition), int(offset))

    def __str__(self) -> str:
        return f"{self.partition}-{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it stands in the topic, and what its headers say. `timestamp` is milliseconds UTC, or None."""

    id: LetterId
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int | None
    facts: Facts = field(repr=False)

    @property
    def failed_at(self) -> int:
        """When it became a letter, milliseconds UTC; of others' letters the record's own time is all there is."""
        return self.facts.failed_at if self.facts.failed_at is not None else self.timestamp or 0

    @property
    def lead(self) -> str | None:
        """The key as text: of a change, the lead's id."""
        return None if self.key is None else self.key.decode("utf-8", "backslashreplace")

    @classmethod
    def of(cls, message: Message) -> "Letter":
        """The letter that a record of the topic is."""
        kind, timestamp = message.timestamp()
        headers = message.headers() or []
        return cls(
            LetterId(message.partition(), message.offset()),
            message.key(),
            message.value(),
            headers,
            timestamp if kind else None,
            facts_of(headers),
        )


def ends_of(settings: Settings) -> dict[int, int]:
    """One past the last letter of each partition, now. Raises UserError, Transient."""
    log = Log(settings, settings.topics.dead_letters)
    try:
        return {partition: log.bounds(partition)[1] for partition in log.partitions()}
    finally:
        log.close()


def read_letters(
    settings: Settings,
    ends: Mapping[int, int],
    partition: int | None = None,
    offset: int | None = None,
) -> Iterator[Letter]:
    """Every letter before `ends`, partition by partition, or those of one partition, or those at one offset.

    One record is in memory at a time, beside what the client has fetched. Raises UserError, Transient.
    """
    log = Log(settings, settings.topics.dead_letters)
    try:
        for each, last in ends.items():
            if partition not in (None, each):
                continue
            low = log.bounds(each)[0]
            start, end = (
                (low, last) if offset is None else (max(low, offset), min(last, offset + 1))
            )
            for message in log.read({each: start}, {each: end}):
                yield Letter.of(message)
    finally:
        log.close()


def read_letter(settings: Settings, letter_id: LetterId) -> Letter:
    """One letter by its place. Raises UserError where there is none."""
    for letter in read_letters(settings, ends_of(settings), letter_id.partition, letter_id.offset):
        return letter
    topic = settings.topics.dead_letters
    raise UserError(
        f"there is no letter {letter_id} in {topic}; `leadstream dead-letters list` shows them"
    )
