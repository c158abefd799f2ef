"""Answers that no registry should give: each ends as a dead letter for its schema id, or as an
outage of the registry, and none of them stops the process or its loop.
"""

import gzip
import itertools
import json
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest

from consumer.scoring.events import EventReader
from leadstream.errors import Poison, Reason, Transient, UserError
from leadstream.kafka.batch import Batch, ClosedBy, Message
from schemas import schema_files
from schemas.codec import Reader, Writer
from schemas.registry import MAX_REFERENCES, Registry
from schemas.registry_http import MAX_ANSWER_BYTES
from tests.fakes import FakeMessage, ManualClock
from tests.raw_http_server import http_answer, raw_http_server
from tests.registry_server import RegistryState, registry_server

SCHEMA = schema_files.current_schema("LeadOutcome")
GOOD = json.dumps({"schema": json.dumps(SCHEMA)}).encode()


def ended(answer: Callable[[str], Iterable[bytes]], timeout_s: float = 5.0) -> Exception | None:
    """How a question for a schema ends: its error, or None for a schema."""
    with raw_http_server(answer) as url, closing(Registry(url, timeout_s)) as registry:
        try:
            registry.schema(7)
        except (Poison, Transient) as error:
            return error
        return None


# To the question for the schema; other questions are answered as a registry does.
ODD_ANSWERS: dict[str, bytes] = {
    "null": http_answer(b"null"),
    "no content": http_answer(b"", "204 No Content"),
    "empty": http_answer(b""),
    "list": http_answer(b"[1, 2]"),
    "number": http_answer(b"7"),
    "true": http_answer(b"true"),
    "text": http_answer(b'"schema"'),
    "HTML": http_answer(b"<html>hello</html>"),
    "bytes": http_answer(b"\xff\xfe\x00"),
    "half": http_answer(GOOD[:-7]),
    "empty object": http_answer(b"{}"),
    "schema null": http_answer(b'{"schema": null}'),
    "schema number": http_answer(b'{"schema": 7}'),
    "schema object": http_answer(b'{"schema": {"type": "string"}}'),
    "schema no JSON": http_answer(b'{"schema": "{"}'),
    "type list": http_answer(b'{"schema": "{}", "schemaType": []}'),
    "type JSON": http_answer(b'{"schema": "{}", "schemaType": "JSON"}'),
    "references number": http_answer(b'{"schema": "{}", "references": 7}'),
    "references texts": http_answer(b'{"schema": "{}", "references": ["a"]}'),
    "references objects": http_answer(b'{"schema": "{}", "references": [{}]}'),
    "reference version": http_answer(
        b'{"schema": "{}", "references": [{"name": "a", "subject": "a", "version": "x"}]}'
    ),
    "nested": http_answer(b"[" * 100_000),
    "nested schema": http_answer(json.dumps({"schema": "[" * 300 + "]" * 300}).encode()),
    "digits": http_answer(b'{"id": ' + b"9" * 1_000_000 + b"}"),
    "huge": http_answer(b'"' + b"x" * (MAX_ANSWER_BYTES + 1) + b'"'),
    "gzip bomb": http_answer(gzip.compress(bytes(200_000_000), 9), Content_Encoding="gzip"),
    "deflate bomb": http_answer(zlib.compress(bytes(50_000_000), 9), Content_Encoding="deflate"),
    "gzip junk": http_answer(b"junk", Content_Encoding="gzip"),
    "too short": http_answer(GOOD, Content_Length="12"),
    "length words": http_answer(GOOD[:-1], Content_Length="many"),
    "negative length": http_answer(GOOD[:-1], Content_Length="-5"),
    "reference subject": http_answer(
        b'{"schema": "{}", "references": [{"name": "a", "subject": "\\ud800", "version": 1}]}'
    ),
    "chunk below zero": http_answer(b"-1\r\nhello", Transfer_Encoding="chunked"),
    "endless chunk": http_answer(b"-1\r\n" + b"x" * 9_000_000, Transfer_Encoding="chunked"),
    "chunk of many digits": http_answer(b"-" + b"f" * 40 + b"\r\nx", Transfer_Encoding="chunked"),
    "chunks": http_answer(b"zz\r\nhello", Transfer_Encoding="chunked"),
    "no HTTP": b"hello\r\n\r\n",
    "nothing": b"",
    "headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 1_000_000 + b"\r\n\r\n",
    "redirect": http_answer(b"", "302 Found", Location="/schemas/ids/7"),
    "unknown": http_answer(b'{"error_code": [], "message": {}}', "404 Not Found"),
    "refused": http_answer(b"[]", "409 Conflict"),
    "teapot": http_answer(b"null", "418 Teapot"),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_an_odd_answer_is_a_sentence_about_its_schema_or_about_the_registry(name: str) -> None:
    def answer(path: str) -> list[bytes]:
        return [ODD_ANSWERS[name] if "/ids/" in path else http_answer(b"[]")]

    error = ended(answer)
    assert error is not None
    assert len(str(error)) < 300
    if isinstance(error, Poison):
        assert error.reason in (Reason.UNKNOWN_SCHEMA, Reason.DECODE_FAILED)
        assert "id 7" in error.detail


@pytest.mark.parametrize(
    "name",
    [
        *("null", "list", "HTML", "gzip bomb", "huge", "no content"),
        *("empty object", "schema null", "schema number", "schema object"),
    ],
)
def test_an_answer_to_every_question_that_is_none_is_an_outage(name: str) -> None:
    error = ended(lambda _: [ODD_ANSWERS[name]])
    assert isinstance(error, Transient)
    assert error.dependency == "registry"


def test_a_registry_that_recovers_while_it_is_asked_is_believed() -> None:
    answers = iter([http_answer(b"[1, 2]"), http_answer(GOOD)])
    assert ended(lambda path: [next(answers) if "/ids/" in path else http_answer(b"[]")]) is None


def test_an_id_that_was_found_or_registered_is_known_whatever_is_answered_later() -> None:
    with registry_server() as state, closing(Registry(state.url)) as registry:
        number = registry.schema_id("topic-value", SCHEMA)
        with closing(Registry(state.url)) as another:
            assert another.find_id("topic-value", SCHEMA) == number
            assert another.find_id("elsewhere-value", SCHEMA) is None
            state.answer = b"[]"
            assert another.schema(number) == registry.schema(number) == SCHEMA


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(gzip.compress(GOOD), Content_Encoding="gzip"),
        http_answer(GOOD, Content_Length=str(2 * len(GOOD))),
        b"HTTP/1.0 200 OK\r\n\r\n" + GOOD,
        b"HTTP/1.1 100 Continue\r\n\r\n" + http_answer(GOOD),
    ],
    ids=["compressed", "length too large", "until the end", "continued"],
)
def test_an_answer_that_holds_a_schema_is_taken(answer: bytes) -> None:
    assert ended(lambda _: [answer]) is None


@pytest.mark.parametrize("start", [b"", http_answer(GOOD)[: -len(GOOD)]], ids=["head", "body"])
def test_an_answer_byte_by_byte_ends_by_the_deadline(start: bytes) -> None:
    done = threading.Event()

    def slowly(_path: str) -> Iterator[bytes]:
        yield start
        for byte in itertools.cycle(b"HTTP/1.1 100 Continue\r\n\r\n"):
            if done.wait(0.02):
                return
            yield bytes([byte])

    try:
        error = ended(slowly, 0.3)
    finally:
        done.set()
    assert isinstance(error, Transient)
    assert error.detail == "it gave no answer within 0.3 s"


def test_an_id_whose_answer_comes_too_late_costs_its_own_records_only() -> None:
    done = threading.Event()

    def answer(path: str) -> Iterator[bytes]:
        if path.endswith("/ids/7"):
            done.wait(30)
        yield http_answer(b"[]" if path.endswith("/subjects") else GOOD)

    value = Writer("LeadOutcome").encode({"lead_id": "L", "converted": True, "decided_at": 7})
    framed = [b"\0" + number.to_bytes(4, "big") + value[10:] for number in (5, 6, 7, 8)]
    with raw_http_server(answer) as url, closing(Registry(url, 0.5)) as registry:
        reader = Reader("LeadOutcome", registry)
        reader.prepare(framed)
        try:
            for each in (framed[0], framed[1], framed[3]):
                assert reader.decode(each)["lead_id"] == "L"
            with pytest.raises(Poison, match="for schema id 7 comes too late"):
                reader.decode(framed[2])
        finally:
            done.set()


def test_a_redirect_is_not_followed_and_named() -> None:
    asked: list[str] = []

    def answer(path: str) -> list[bytes]:
        asked.append(path)
        return [ODD_ANSWERS["redirect"]]

    error = ended(answer)
    assert isinstance(error, Transient)
    assert "name that address in SCHEMA_REGISTRY_URL" in error.detail
    assert len(asked) == 1


def test_many_unknown_ids_are_asked_for_once_and_let_the_loop_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def answer(path: str) -> list[bytes]:
        asked.append(path)
        return [http_answer(b'{"error_code": 40403, "message": "no"}', "404 Not Found")]

    good = Writer("LeadOutcome").encode(
        {"lead_id": "L", "converted": True, "decided_at": 1_700_000_000_000}
    )
    values = [b"\0" + number.to_bytes(4, "big") + b"body" for number in range(1, 300)]
    batch = messages([*values, good])
    with raw_http_server(answer) as url, closing(Registry(url)) as registry:
        reader = EventReader(Reader("LeadChanged", registry), "requests")
        monkeypatch.setattr("schemas.registry.UNKNOWN_BUDGET_S", 0.0)
        with pytest.raises(Transient, match="asked for 299 schema ids"):
            reader.read(batch, [])
        monkeypatch.setattr("schemas.registry.UNKNOWN_BUDGET_S", 60.0)
        poisons = reader.read(batch, []).poisons
        assert len(asked) == len(set(asked)) == len(values)
        reader.read(batch, [])
        assert len(asked) == len(values)
    assert [poison.reason for poison in poisons.values()].count(Reason.UNKNOWN_SCHEMA) == 300


def messages(values: list[bytes]) -> Batch:
    found: list[Message] = [
        FakeMessage(offset_=i, key_=b"lead", value_=value) for i, value in enumerate(values)
    ]
    return Batch.from_messages(found, ClosedBy.SIZE)


def test_a_schema_that_cannot_be_used_is_not_asked_for_with_every_record() -> None:
    asked: list[str] = []

    def answer(path: str) -> list[bytes]:
        asked.append(path)
        return [ODD_ANSWERS["type JSON"]]

    clock = ManualClock()
    with raw_http_server(answer) as url, closing(Registry(url, clock=clock)) as registry:
        for _ in range(3):
            with pytest.raises(Poison, match="one of type JSON"):
                registry.schema(7)
        assert len(asked) == 1
        clock.now += 11
        with pytest.raises(Poison, match="one of type JSON"):
            registry.schema(7)
        assert len(asked) == 2


def named(name: str, kind: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": "f", "type": kind}]}


def reference(subject: str, version: int = 1) -> dict[str, Any]:
    return {"name": subject, "subject": subject, "version": version}


def with_references(schemas: dict[str, tuple[Any, list[str]]]) -> Callable[[str], list[bytes]]:
    """A registry of subjects, each with its references; id 7 is that of `main`."""

    def answer(path: str) -> list[bytes]:
        subject = "main" if "/ids/" in path else path.split("/")[2]
        if subject not in schemas:
            return [http_answer(b'{"error_code": 40401, "message": "no"}', "404 Not Found")]
        schema, uses = schemas[subject]
        content = {"schema": json.dumps(schema), "references": [reference(use) for use in uses]}
        return [http_answer(json.dumps(content).encode())]

    return answer


def test_references_become_part_of_the_schema() -> None:
    schemas = {
        "main": (named("crm.Main", ["null", "geo.Town", "crm.Zip"]), ["town", "zip"]),
        "town": ({**named("Town", "Land"), "namespace": "geo"}, ["land"]),
        "land": ({**named("geo.Land", {"type": "array", "items": "crm.Zip"})}, ["zip"]),
        "zip": ({"type": "fixed", "name": "Zip", "namespace": "crm", "size": 5}, []),
    }
    with raw_http_server(with_references(schemas)) as url, closing(Registry(url)) as registry:
        form = schema_files.canonical_form(registry.schema(7))
    assert form == schema_files.canonical_form(
        {
            **named("crm.Main", None),
            "fields": [
                {
                    "name": "f",
                    "type": [
                        "null",
                        {
                            **named("geo.Town", None),
                            "fields": [
                                {
                                    "name": "f",
                                    "type": named(
                                        "geo.Land",
                                        {
                                            "type": "array",
                                            "items": {
                                                "type": "fixed",
                                                "name": "crm.Zip",
                                                "size": 5,
                                            },
                                        },
                                    ),
                                }
                            ],
                        },
                        "crm.Zip",
                    ],
                }
            ],
        }
    )


@pytest.mark.parametrize(
    ("schemas", "words"),
    [
        ({"main": (named("Main", "Gone"), ["gone"])}, "version 1 of gone, which is missing"),
        ({"main": (named("Main", "Main"), ["main"])}, None),
        ({"main": (named("A", "B"), ["b"]), "b": (named("B", "C"), ["main"])}, None),
        ({"main": (named("A", "B"), ["b"]), "b": ([1, {"type": "record"}], [])}, "not valid Avro"),
        (
            {
                **{f"s{n}": (named(f"S{n}", "int"), [f"s{n + 1}"]) for n in range(100)},
                "main": (named("Main", "S0"), ["s0"]),
            },
            f"more than {MAX_REFERENCES} references",
        ),
    ],
    ids=["missing", "itself", "circle", "no Avro", "many"],
)
def test_references_that_cannot_be_resolved_are_the_reason(
    schemas: dict[str, tuple[Any, list[str]]], words: str | None
) -> None:
    error = ended(with_references(schemas))
    if words is not None:
        assert isinstance(error, Poison)
        assert words in error.detail


@pytest.mark.parametrize("number", ["7", True, None, 1.5, []])
def test_an_answer_without_an_id_is_waited_for_and_ends_no_process(number: Any) -> None:
    answer = http_answer(json.dumps({"id": number}).encode())
    with (
        raw_http_server(lambda _path: [answer]) as url,
        closing(Registry(url)) as registry,
        pytest.raises(Transient, match="has no id"),
    ):
        Writer("LeadOutcome", registry, "topic").header()


@pytest.mark.parametrize("number", [0, -1, 2**31])
def test_an_id_that_no_record_can_hold_is_not_written(number: Any) -> None:
    def answer(_path: str) -> list[bytes]:
        return [http_answer(json.dumps({"id": number}).encode())]

    with (
        raw_http_server(answer) as url,
        closing(Registry(url)) as registry,
        pytest.raises(UserError, match="an id that no record can hold"),
    ):
        Writer("LeadOutcome", registry, "topic").header()


@pytest.fixture
def server() -> Iterator[RegistryState]:
    with registry_server() as state:
        yield state


def doubling(levels: int, leaf: Any) -> Any:
    """A record that holds the next twice, down to the leaf: 2^levels values."""
    schema: dict[str, Any] = {
        "type": "record",
        "name": "R0",
        "fields": [{"name": "a", "type": leaf}],
    }
    for level in range(1, levels + 1):
        fields: list[Any] = [{"name": "a", "type": schema}, {"name": "b", "type": f"R{level - 1}"}]
        schema = {"type": "record", "name": f"R{level}", "fields": fields}
    return schema


WIDE: dict[str, Any] = {"type": "record", "name": "Wide"} | {
    "fields": [{"name": f"f{i}", "type": "null"} for i in range(100)]
}
ENDLESS: dict[str, Any] = {
    "doubling": doubling(60, "null"),
    "doubling longs": doubling(60, "long"),
    "recursive": {"name": "child", "type": ["null", "LeadChanged"]},
    "nested": {"type": "array", "items": "int"},
    "wide items": {"type": "array", "items": WIDE},
    "empty items": {"type": "array", "items": {"type": "fixed", "name": "Empty", "size": 0}},
    "negative": {"type": "fixed", "name": "Minus", "size": -5},
    "words": {"type": "fixed", "name": "Words", "size": "many"},
    "no symbols": {"type": "enum", "name": "None", "symbols": []},
    "no kind": {"type": "decimal"},
    "a number": 7,
}
for _ in range(40):
    ENDLESS["nested"] = {"type": "array", "items": ENDLESS["nested"]}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_schema_by_which_a_value_never_ends_is_refused(server: RegistryState, name: str) -> None:
    schema = json.loads(json.dumps(schema_files.current_schema("LeadChanged")))
    schema["fields"].insert(0, {"name": "extra", "type": ENDLESS[name]})
    server.schemas.append(json.dumps(schema))
    registry = Registry(server.url)
    value = b"\0\0\0\0\1" + b"\x02" * 50
    with pytest.raises(Poison) as poison:
        Reader("LeadChanged", registry).decode(value)
    assert poison.value.reason is Reason.DECODE_FAILED
