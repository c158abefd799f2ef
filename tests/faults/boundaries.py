"""The boundaries that `make fuzz` tries, apart from the changes themselves.

Each is a function from a generator of random numbers to how one odd input ended: a value, a
sentence about this input, or an outage of the server that it came from. Anything else is raised,
and is a failure.
"""

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Any, cast

from fastavro import parse_schema, schemaless_writer
from rich.console import Console

from consumer.dead_letters.inspection import inspect
from consumer.dead_letters.letters import Letter
from leadstream.cli.dead_letters.full import render_letter
from leadstream.cli.dead_letters.view import letter_as_json
from leadstream.errors import LeadstreamError, Poison, Reason, Transient, UserError
from leadstream.kafka.batch import Batch, Message
from leadstream.kafka.dead_letter import Limit, dead_letter
from leadstream.kafka.topics import Topics
from models.registry.signing import Trust
from models.registry.versions import ModelRegistry
from models.serve import artifact
from producer.translate import Translator
from schemas import schema_files
from schemas.codec import Reader, Writer
from schemas.foreign_formats import ConversionOptions, ForeignFormat
from schemas.foreign_rows import parse_columns
from schemas.json_records import decode_json
from schemas.registry import Registry
from schemas.registry_http import RegistryHttp
from tests.fakes import FakeMessage, MemoryBroker, MemoryPublisher, MemorySource
from tests.faults.log_boundary import log_boundary
from tests.faults.odd_values import (
    CANARY,
    as_bytes,
    odd_bytes,
    odd_headers,
    odd_json,
    odd_schema,
    replace_part,
)
from tests.unit.pipelines import event

Boundary = Callable[[Random], str]
NOW_MS = 1_769_900_000_000
_ROW = {
    "id": "ada",
    "created_at": "2026-01-31T08:15:00Z",
    "lead_score": 60.25,
    "touchpoint_count": 3,
    "status": CANARY,
    "source": "web",
    "programme_id": 7,
    "lead_version": 4,
}
_SOURCE = {"ts_ms": NOW_MS, "schema": "public", "table": "people", "lsn": 17}
_COLUMN_TYPES = (
    "io.debezium.time.MicroTimestamp",
    "io.debezium.time.Date",
    "io.debezium.time.Time",
    "org.apache.kafka.connect.data.Timestamp",
    "org.apache.kafka.connect.data.Decimal",
)
_EVENT_HEADERS = (
    "id",
    "change_type",
    "occurred_at",
    "origin",
    "content-type",
    *(f"ce_{name}" for name in ("specversion", "id", "source", "type", "time", "subject")),
)


class LeakError(AssertionError):
    """A value of a lead in a text that people read."""


def check_text(text: str) -> None:
    """Raise LeakError if a text that goes into a log or a trace shows a value of a lead."""
    if CANARY in text:
        raise LeakError(f"a value of a lead is in {text!r}")


def sentence(error: LeadstreamError) -> str:
    """Return how an input ended that an error refused."""
    check_text(str(error))
    return _kind(error)


def _kind(error: LeadstreamError) -> str:
    if len(str(error)) > 2_000:
        raise LeakError(f"an error has {len(str(error)):,} characters")
    return "an outage" if isinstance(error, Transient) else "a sentence"


class EventBoundary:
    """Events of other systems, through the translator of each format."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        self._broker = MemoryBroker()
        schemas = SchemaShelf()
        reader = Reader("LeadChanged", cast(Any, schemas))
        how = ConversionOptions(parse_columns(""), True, reader, cast(Any, schemas))
        self._schemas, self._decoders = schemas, how.decoders
        self._translators = {
            kind: Translator(
                kind,
                how,
                writer=Writer("LeadChanged"),
                limit=Limit(1, 0),
                topics=Topics(),
                group_id="fuzz",
                observer=self,
                clock_ms=lambda: NOW_MS,
            )
            for kind in ForeignFormat
        }

    def dead_lettered(self, message: Message, poison: Poison) -> None:
        check_text(poison.detail)
        self.letters.append(poison.reason.value)

    def translated(self, batch: Batch, dispositions: Counter[str], seconds: float) -> None:
        """Nothing to note: `letters` has what was refused."""

    def __call__(self, rng: Random) -> str:
        kind = rng.choice(list(ForeignFormat))
        self._schemas.schemas = {1: odd_schema(rng)}
        self._decoders.clear()
        value = _event(rng, kind)
        raw = None if value is None else as_bytes(rng, value)
        if rng.random() < 0.1:
            raw = b"\0\0\0\0" + rng.choice((b"\1", b"\2")) + rng.randbytes(rng.randrange(40))
        key = rng.choice((b'{"id": "ada"}', b"ada", None, odd_bytes(rng)))
        headers = odd_headers(rng, _EVENT_HEADERS)
        if kind is ForeignFormat.CLOUDEVENTS:
            headers += _attributes(rng)
        message = FakeMessage("foreign", 0, 0, key, raw, headers, rng.choice((NOW_MS, None)))
        return self.send(kind, message)

    def send(self, kind: ForeignFormat, message: FakeMessage) -> str:
        self.letters.clear()
        self._broker.records.clear()
        self._broker.committed.clear()
        self._broker.records["foreign"].append(message)
        source = MemorySource(self._broker, "fuzz", ["foreign"])
        batch = source.poll(0)
        assert batch is not None
        self._translators[kind].translate(batch, MemoryPublisher(self._broker, source))
        return self.letters[0] if self.letters else "translated or unchanged"


class SchemaShelf:
    """A registry without a network."""

    def __init__(self) -> None:
        self.schemas: dict[int, Any] = {}

    def learn(self, numbers: Any) -> None:
        """Everything is known already."""

    def schema(self, number: int) -> Any:
        registry = _registry()
        answer = {"schema": json.dumps(self.schemas.get(number))}
        cast(Any, registry)._ask = lambda *_: answer if number in self.schemas else None
        return registry.schema(number)


def _event(rng: Random, kind: ForeignFormat) -> Any:
    row: Any = _ROW
    for _ in range(rng.randrange(3)):
        row = replace_part(rng, row)
    if kind is ForeignFormat.SALESFORCE:
        return _salesforce_event(rng, row)
    if kind is not ForeignFormat.DEBEZIUM:
        return row
    before = rng.choice((None, row, _ROW))
    operation = rng.choice(("c", "u", "d", "r", "t", odd_json(rng, 4)))
    event: Any = {"op": operation, "source": _SOURCE, "before": before, "after": row}
    if rng.random() < 0.3:
        event = (
            {**row, "__op": operation, "__source_ts_ms": NOW_MS} if isinstance(row, dict) else row
        )
    if rng.random() < 0.3:
        event = replace_part(rng, event)
    if rng.random() < 0.3:
        column = {"field": rng.choice(list(_ROW)), "name": rng.choice(_COLUMN_TYPES)}
        struct = {"type": "struct", "field": "after", "fields": [column]}
        schema: Any = {"type": "struct", "fields": [struct]}
        if rng.random() < 0.3:
            schema = replace_part(rng, schema)
        event = {"schema": schema, "payload": event}
    return None if rng.random() < 0.05 else event


def _salesforce_event(rng: Random, row: Any) -> Any:
    kind = rng.choice(("CREATE", "UPDATE", "DELETE", "GAP_UPDATE", "GAP_OVERFLOW", "x"))
    header: Any = {
        "entityName": "Lead",
        "recordIds": ["00Q01", CANARY],
        "changeType": kind,
        "changeOrigin": "com/salesforce/api/rest/63.0;client=x",
        "transactionKey": "k",
        "sequenceNumber": 1,
        "commitTimestamp": NOW_MS,
        "changedFields": rng.choice((["status"], ["0x7F"], [])),
    }
    if rng.random() < 0.5:
        header = replace_part(rng, header)
    fields = {name: {"string": item} for name, item in _ROW.items()} if rng.random() < 0.3 else row
    return {**(fields if isinstance(fields, dict) else {}), "ChangeEventHeader": header}


def _attributes(rng: Random) -> list[tuple[str, bytes]]:
    named = {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_source": "/crm",
        "ce_type": rng.choice(("lead.updated", "lead.deleted", "lead.created", "lead")),
        "content-type": rng.choice(
            ("application/json", "application/cloudevents+json", "application/avro", "")
        ),
    }
    return [(name, value.encode()) for name, value in named.items() if rng.random() < 0.95]


def schema_boundary(rng: Random) -> str:
    """Decode a body by a writer schema of the registry that has an odd part."""
    if rng.random() < 0.3:
        return _decode(*_almost_valid(rng))
    schema = json.loads(json.dumps(schema_files.current_schema("LeadChanged")))
    place = rng.randrange(len(schema["fields"]) + 1)
    schema["fields"].insert(place, {"name": "extra", "type": odd_schema(rng)})
    if rng.random() < 0.1:
        schema = replace_part(rng, schema)
    body = rng.randbytes(rng.randrange(60)) if rng.random() < 0.5 else bytes(rng.randrange(60))
    return _decode(schema, body)


def _almost_valid(rng: Random) -> tuple[Any, bytes]:
    """Return a schema with one more field, and a body of which a byte may be another."""
    schema = json.loads(json.dumps(schema_files.current_schema("LeadChanged")))
    kind, value = rng.choice((("null", None), ("int", 1), ("string", CANARY), (["null"], None)))
    schema["fields"].insert(rng.randrange(5), {"name": "extra", "type": kind})
    stream = io.BytesIO()
    schemaless_writer(stream, parse_schema(schema), {**event("lead"), "extra": value})
    body = bytearray(stream.getvalue())
    if rng.random() < 0.5:
        body[rng.randrange(len(body))] = rng.randrange(256)
    return schema, bytes(body)


def _decode(schema: Any, body: bytes) -> str:
    shelf = SchemaShelf()
    shelf.schemas[1] = schema
    try:
        Reader("LeadChanged", cast(Any, shelf)).decode(b"\0\0\0\0\1" + body)
    except LeadstreamError as error:
        return sentence(error)
    return "decoded"


def json_boundary(rng: Random) -> str:
    """Decode a change in JSON of which a part or two may be odd."""
    change: Any = event(CANARY, {"status": CANARY, "numbers": {"gpa": 3.5}})
    for _ in range(rng.randrange(3)):
        change = replace_part(rng, change)
    try:
        record = decode_json("LeadChanged", as_bytes(rng, change))
    except Poison as poison:
        return sentence(poison)
    Writer("LeadChanged").encode(record)  # so it has the types of the schema
    return "decoded"


class _BytesConnection(HTTPConnection):
    """A connection whose answer is there already."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("registry")
        self._answer = answer

    def connect(self) -> None:
        self.sock = cast(Any, _BytesSocket(self._answer))


class _BytesSocket:
    def __init__(self, answer: bytes) -> None:
        self._stream = io.BytesIO(answer)

    def __enter__(self) -> "_BytesSocket":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def sendall(self, data: bytes) -> None:
        """The answer does not depend on it."""

    def settimeout(self, seconds: float) -> None:
        """Nothing waits."""

    def recv_into(self, buffer: Any) -> int:
        return self._stream.readinto(buffer)

    def close(self) -> None:
        """Nothing to close."""


class _BytesHttp(RegistryHttp):
    """Requests whose answers come from a function of the path."""

    answer: Callable[[str], bytes] = staticmethod(lambda _path: b"")

    def _connection(self, address: Any, path: str) -> tuple[HTTPConnection, str]:
        return _BytesConnection(self.answer(path)), f"/{path}"


def _registry() -> Registry:
    registry = Registry("http://registry")
    cast(Any, registry)._http = _BytesHttp(["http://registry"], None, 5.0)
    return registry


def registry_boundary(rng: Random) -> str:
    """Ask for a schema, or register one, where the answers are odd."""
    registry = _registry()
    cast(Any, registry)._http.answer = lambda path: _answer(rng, path)
    try:
        if rng.random() < 0.8:
            registry.schema(rng.choice((1, 7, 2**31 - 1)))
        else:
            registry.schema_id("subject", schema_files.current_schema("LeadOutcome"))
    except UserError as error:
        return _kind(error)  # repeats the registry's reason, which knows schemas and no lead
    except LeadstreamError as error:
        return sentence(error)
    return "answered"


def _answer(rng: Random, path: str) -> bytes:
    if path == "subjects" and rng.random() < 0.7:
        body = b"[]"
    else:
        schema = odd_schema(rng, 2)
        content: Any = {"schema": json.dumps(schema), "id": 7}
        if rng.random() < 0.4:
            name = rng.choice(("a", "b", "c"))
            content["references"] = [{"name": name, "subject": name, "version": 1}]
        for _ in range(rng.randrange(3)):
            content = replace_part(rng, content)
        body = as_bytes(rng, content)
    status = rng.choice(("200 OK",) * 12 + ("404 Not Found", "409 Conflict", "500 Oops", "302 X"))
    if rng.random() < 0.1:
        body = b'{"error_code": 40403, "message": ' + json.dumps(odd_json(rng)).encode() + b"}"
    head = f"HTTP/1.1 {status}\r\nContent-Length: {rng.choice((len(body), len(body) // 2, 9**9))}"
    match rng.randrange(30):
        case 0:
            head += "\r\nContent-Encoding: gzip"
        case 1:
            head = f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked"
        case 2:
            head = f"HTTP/1.1 {status}\r\nContent-Length: {odd_json(rng, 4)!r:.30}"
        case 3:
            return rng.randbytes(rng.randrange(60))
        case 4:
            head = head[: rng.randrange(len(head))]
    return head.encode("utf-8", "replace") + b"\r\n\r\n" + body


_LETTER_HEADERS = (
    *(f"__connect.errors.{n}" for n in ("topic", "partition", "offset", "exception.message")),
    *("dlq.reason", "dlq.fingerprint", "dlq.failed_at", "dlq.replays", "dlq.cut", "dlq.key_bytes"),
    *(f"kafka_dlt-{n}" for n in ("original-topic", "original-partition", "exception-message")),
    "__streams.errors.exception",
    "traceparent",
)


def letter_boundary(rng: Random) -> str:
    """Make a dead letter of a record with odd headers, and show a letter as triage does."""
    topics = Topics()
    topic = rng.choice((topics.lead_changes, topics.rescore_requests)).encode()
    headers = [*odd_headers(rng, _LETTER_HEADERS), ("__connect.errors.topic", topic)]
    value = rng.choice((None, odd_bytes(rng), as_bytes(rng, odd_json(rng)), b"\xc3\x01junk"))
    message = FakeMessage("letters", 0, 5, odd_bytes(rng), value, headers, NOW_MS)
    poison = Poison(rng.choice(list(Reason)), "decode", "It is odd.")
    made = dead_letter(
        "letters", message, poison, failed_at=NOW_MS, group_id="fuzz", model_version="1"
    )
    for each in (message, FakeMessage("letters", 0, 5, made.key, made.value, made.headers, NOW_MS)):
        letter = Letter.from_message(each)
        inspection = inspect(letter, topics, None)
        json.dumps(letter_as_json(letter, inspection, None))
        console = Console(file=io.StringIO(), markup=False, emoji=False, highlight=False, width=80)
        for part in render_letter(letter, inspection, None):
            console.print(part)
    return "shown"


class StoreBoundary:
    """Objects of a model store, of which one at a time is odd."""

    def __init__(self, store: str, folder: Path) -> None:
        self._folder = Path(shutil.copytree(store, folder / "store"))
        version = self._folder / "versions" / "1.0.0"
        (version / "manifest.sig").unlink()
        self._registry = ModelRegistry(str(self._folder), Trust(unsigned=True))
        [move] = (self._folder / "aliases" / "log").iterdir()
        self._objects = {
            path: json.loads(path.read_bytes())
            for path in (
                version / "manifest.json",
                self._folder / "aliases" / "champion.json",
                move,
            )
        }
        self._objects[version / "manifest.sig"] = {"key": "a", "signature": "b"}
        self._payload = (version / "model.joblib").read_bytes()

    def __call__(self, rng: Random) -> str:
        path = rng.choice(list(self._objects))
        good = self._objects[path]
        odd = good
        for _ in range(1 + rng.randrange(2)):
            odd = replace_part(rng, odd)
        path.write_bytes(as_bytes(rng, odd))
        try:
            return self._ends(odd)
        finally:
            path.write_text(json.dumps(good))
            if path.name == "manifest.sig":
                path.unlink()

    def _ends(self, odd: Any) -> str:
        registry = self._registry
        ends = [
            _ended(registry.alias),
            _ended(lambda: registry.show("1.0.0")),
            _ended(lambda: registry.signed_by("1.0.0")),
            _ended(registry.log),
        ]
        if isinstance(odd, Mapping) and "artifact" in odd:
            # Without the golden rows, which take milliseconds.
            ends.append(_ended(lambda: _check(self._payload[:200], odd)))
        return "a sentence" if "a sentence" in ends else "read"


def _check(payload: bytes, manifest: Mapping[str, Any]) -> None:
    artifact.load(payload, {**manifest, "artifact": artifact.describe(payload)})


def _ended(call: Callable[[], Any]) -> str:
    try:
        call()
    except UserError as error:
        return _kind(error)  # a manifest holds no lead, and its texts may be shown
    return "read"


@contextmanager
def boundaries(store: str, folder: Path) -> Iterator[dict[str, tuple[float, Boundary]]]:
    """Yield each boundary by name, with its share of the inputs."""
    yield {
        "events of other systems": (0.3, EventBoundary()),
        "logs of a CRM": (0.05, log_boundary),
        "lead changes in JSON": (0.15, json_boundary),
        "schemas of the registry": (0.15, schema_boundary),
        "answers of the registry": (0.15, registry_boundary),
        "headers and letters": (0.01, letter_boundary),
        "objects of the model store": (0.04, StoreBoundary(store, folder)),
    }
