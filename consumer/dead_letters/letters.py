"""The letters of the dead-letter topic, up to its present end."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from consumer.dead_letters.headers import ParsedHeaders, parse_headers
from leadstream.errors import SettingsError, UserError
from leadstream.kafka.batch import Message, read_headers
from leadstream.kafka.config import Headers
from leadstream.kafka.topic_reader import TopicReader
from leadstream.settings import Settings


@dataclass(frozen=True, slots=True)
class LetterId:
    """The place of a letter in the dead-letter topic: `partition-offset`."""

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> "LetterId":
        """Parse a letter id. Raises SettingsError."""
        partition, _, offset = text.partition("-")
        if not (partition.isdecimal() and offset.isdecimal()):
            raise SettingsError(
                f"{text} is not a letter id: write partition-offset, for example 0-17"
            )
        return cls(int(partition), int(offset))

    def __str__(self) -> str:
        return f"{self.partition}-{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: the raw record and its parsed headers; `timestamp` is in ms UTC, or None.

    Of a letter that was cut, `restored` says that key and value are those of the original, whose
    headers are `original_headers`, and `lost` that the original is no longer there.
    """

    id: LetterId
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int | None
    parsed: ParsedHeaders = field(repr=False)
    original_headers: Headers | None = None
    restored: bool = False
    lost: bool = False

    @property
    def failed_at(self) -> int:
        """Return when the record failed, milliseconds UTC; without a header, its own timestamp."""
        return self.parsed.failed_at if self.parsed.failed_at is not None else self.timestamp or 0

    @property
    def original_timestamp(self) -> int | None:
        """Return the timestamp of the original; letters of Leadstream 0.2 have it themselves."""
        own = self.parsed.original_timestamp
        return self.timestamp if own is None else own

    def content_headers(self) -> Headers:
        """Return the headers in which those of the original are."""
        return self.original_headers or self.headers

    @property
    def lead(self) -> str | None:
        """Return the key as text, which is the lead id of a change."""
        return None if self.key is None else self.key.decode("utf-8", "backslashreplace")

    @classmethod
    def from_message(cls, message: Message) -> "Letter":
        """Return the letter of a record of the topic."""
        kind, timestamp = message.timestamp()
        headers = read_headers(message)
        parsed = parse_headers(headers)
        return cls(
            LetterId(message.partition(), message.offset()),
            None if parsed.keyless else message.key(),
            message.value(),
            headers,
            timestamp if kind else None,
            parsed,
        )


def end_offsets(settings: Settings) -> dict[int, int]:
    """Return one past the last letter of each partition. Raises UserError, Transient."""
    log = TopicReader(settings, settings.topics.dead_letters)
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
    """Yield the letters before `ends`, of all partitions or one, from all offsets or one.

    Only one record is in memory at a time, in addition to what the client has fetched. Raises
    UserError, Transient.
    """
    log = TopicReader(settings, settings.topics.dead_letters)
    try:
        for each, last in ends.items():
            if partition not in (None, each):
                continue
            low = log.bounds(each)[0]
            start, end = (
                (low, last) if offset is None else (max(low, offset), min(last, offset + 1))
            )
            for message in log.read({each: start}, {each: end}):
                yield Letter.from_message(message)
    finally:
        log.close()


def read_letter(settings: Settings, letter_id: LetterId) -> Letter:
    """Return one letter. Raises UserError if it does not exist."""
    for letter in read_letters(
        settings, end_offsets(settings), letter_id.partition, letter_id.offset
    ):
        return letter
    topic = settings.topics.dead_letters
    raise UserError(
        f"there is no letter {letter_id} in {topic}; `leadstream dead-letters list` shows them"
    )
