"""The translator: whatever one event causes is the end of that event alone."""

import json
from collections import Counter
from typing import Any

import pytest

from leadstream.errors import Fenced, Poison, Reason, SettingsError, Transient
from leadstream.kafka.batch import Batch, Message
from leadstream.kafka.dead_letter import Limit
from leadstream.kafka.topics import Topics
from producer.translate import Translator
from schemas.codec import Reader, Writer
from schemas.foreign_formats import ConversionOptions, ForeignFormat
from schemas.foreign_rows import parse_columns
from tests.fakes import FakeMessage, MemoryBroker, MemoryPublisher, MemorySource

FOREIGN = "foreign"
SECRET = "ada@example.com"
ROW = {"id": "ada", "created_at": "2026-01-31T08:15:00Z"}


class RecordingObserver:
    """What was translated, and which events were not."""

    def __init__(self) -> None:
        self.dispositions: Counter[str] = Counter()
        self.letters: list[tuple[int, Poison]] = []

    def dead_lettered(self, message: Message, poison: Poison) -> None:
        self.letters.append((message.offset(), poison))

    def translated(self, batch: Batch, dispositions: Counter[str], seconds: float) -> None:
        self.dispositions += dispositions


class Translation:
    """A translator of one topic in memory."""

    def __init__(self, error: Exception | None = None) -> None:
        self.broker, self.topics, self.observer = MemoryBroker(), Topics(), RecordingObserver()
        self.source = MemorySource(self.broker, "group", [FOREIGN])
        self._translator = Translator(
            ForeignFormat.DEBEZIUM,
            ConversionOptions(parse_columns(""), True, Reader("LeadChanged"), None),
            writer=Writer("LeadChanged"),
            limit=Limit(1, 0),
            topics=self.topics,
            group_id="group",
            observer=self.observer,
        )
        if error is not None:
            read = self._translator._read
            self._translator._read = lambda event, how: (
                read(event, how) if event.key != b"bad" else self._raised(error)
            )

    @staticmethod
    def _raised(error: Exception) -> Any:
        raise error

    def process(self, *messages: tuple[bytes | None, bytes | None]) -> None:
        self.broker.records[FOREIGN] += [
            FakeMessage(FOREIGN, 0, offset, key, value)
            for offset, (key, value) in enumerate(messages)
        ]
        batch = self.source.poll(0)
        assert batch is not None
        self._translator.translate(batch, MemoryPublisher(self.broker, self.source))

    def letters(self) -> list[FakeMessage]:
        return self.broker.records[self.topics.dead_letters]


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        RecursionError(SECRET),
        UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
        MemoryError(SECRET),
        ZeroDivisionError(SECRET),
        AssertionError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_is_not_foreseen_costs_one_event_and_shows_no_value(error: Exception) -> None:
    translation = Translation(error)
    good = json.dumps(ROW).encode()
    translation.process((b"good", good), (b"bad", good), (b"good", good))
    assert translation.observer.dispositions == {"translated": 2, "dead_lettered": 1}
    [(offset, poison)] = translation.observer.letters
    assert (offset, poison.reason) == (1, Reason.INVALID_EVENT)
    [letter] = translation.letters()
    headers = dict(letter.headers_ or [])
    assert type(error).__name__ in str(headers["__connect.errors.exception.class.name"])
    assert SECRET.encode() not in b"".join(value or b"" for value in headers.values())


@pytest.mark.parametrize(
    "error", [Transient("registry", "no"), Fenced("no"), SettingsError("no")], ids=str
)
def test_an_error_of_a_server_or_a_setting_costs_no_event(error: Exception) -> None:
    translation = Translation(error)
    with pytest.raises(type(error)):
        translation.process((b"bad", b"{}"))
    assert translation.letters() == []


ODD = [
    b"[]",
    b"7",
    b'"text"',
    b"true",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"op": [], "source": {}}',
    b'{"op": {}, "source": []}',
    b'{"op": "c", "source": 7, "before": [], "after": 7}',
    b'{"op": "c", "source": {"ts_ms": [7]}, "after": {"id": "a"}}',
    b'{"op": "u", "source": {}, "before": {"created_at": 1}, "after": []}',
    b'{"schema": [], "payload": []}',
    b'{"schema": {"type": "struct", "fields": 7}, "payload": {"id": 1.5}}',
    b'{"schema": {"name": []}, "payload": {"id": []}}',
    b'{"id": "\\ud800"}',
    b'{"id": "a", "status": "\\ud800", "created_at": "2026-01-31"}',
    b'{"id": "a", "created_at": {"scale": [], "value": {}}}',
    b'{"id": "a", "created_at": {"scale": 1e400, "value": "AA=="}}',
    b'{"id": "a", "created_at": 1' + b"0" * 1_000_000 + b"}",
    b"\xff\xfe\x00\x00",
    b"\x00",
    b"\x00\x00\x00\x00\x01body",
]


def test_json_of_any_shape_costs_its_own_event() -> None:
    translation = Translation()
    good = (b"{}", json.dumps(ROW).encode())
    translation.process(good, *((b"{}", value) for value in ODD), good)
    assert translation.observer.dispositions == {"translated": 2, "dead_lettered": len(ODD)}
    assert [offset for offset, _ in translation.observer.letters] == list(range(1, len(ODD) + 1))
