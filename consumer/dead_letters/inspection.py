"""What is in a letter's value: the record beside its schema, or where its bytes stop being one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from consumer.dead_letters.letters import Letter
from leadstream.errors import Poison, Reason
from leadstream.kafka.topics import Topics
from schemas import catalogue
from schemas.codec import Reader
from schemas.locate import DecodeFailure, first_failure
from schemas.registry import Registry

BEFORE, AFTER = 32, 32


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a record: its dotted name, its type in the schema, and what it is."""

    name: str
    type: str
    value: Any


@dataclass(frozen=True, slots=True)
class Anatomy:
    """`record` is the name of the Avro record that the value is or should be, or "JSON", or None where nothing says.

    Either `value` is what it holds, or `failure` says where it stops being that.
    """

    record: str | None
    value: Any = None
    failure: DecodeFailure | None = None
    detail: str | None = None


def record_of(letter: Letter, topics: Topics) -> str | None:
    """The name of the record that the letter's topic holds; None where it came from a topic that is not ours."""
    return {topics.lead_changes: "LeadChanged", topics.rescore_requests: "RescoreRequest"}.get(
        letter.facts.topic or ""
    )


def anatomy(letter: Letter, topics: Topics, registry: Registry | None) -> Anatomy:
    """Read a letter's value by today's schemas. Raises Transient where the registry does not answer."""
    record, value = record_of(letter, topics), letter.value
    if record is None or value is None:
        return Anatomy(record)
    if record == "RescoreRequest" and value.lstrip()[:1] in (b"[", b"{"):
        return _json(value)
    reader = Reader(record, registry)
    try:
        return Anatomy(record, reader.decode(value))
    except Poison as poison:
        return Anatomy(record, None, _failure(value, reader, poison), poison.detail)


def fields(record: str, value: dict[str, Any]) -> Iterator[Field]:
    """A decoded record field by field, in the order of its present schema."""
    return _fields("", catalogue.current_schema(record), value)


def neighbourhood(value: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Rows of 16 bytes, each with the offset of its first one: those around the byte `at`."""
    first = max(0, at - BEFORE) // 16 * 16
    for start in range(first, min(len(value), at + AFTER), 16):
        yield start, value[start : start + 16]


def _json(value: bytes) -> Anatomy:
    try:
        return Anatomy("JSON", json.loads(value))
    except UnicodeDecodeError as error:
        return Anatomy(
            "JSON",
            None,
            DecodeFailure(error.start, "the request", "the text is not UTF-8"),
            "no JSON",
        )
    except json.JSONDecodeError as error:
        at = len(error.doc[: error.pos].encode("utf-8", "surrogatepass"))
        return Anatomy(
            "JSON", None, DecodeFailure(at, "the request", error.msg), f"no JSON: {error.msg}"
        )
    except RecursionError:
        return Anatomy(
            "JSON", None, DecodeFailure(0, "the request", "it is nested too deeply"), "no JSON"
        )


def _failure(value: bytes, reader: Reader, poison: Poison) -> DecodeFailure | None:
    if poison.reason is Reason.UNKNOWN_FRAMING:
        return DecodeFailure(0, "the framing", poison.detail)
    if poison.reason is Reason.UNKNOWN_SCHEMA:
        return DecodeFailure(1 if value[:1] == b"\x00" else 2, "the schema's number", poison.detail)
    try:
        start, schema = reader.layout(value)
    except Poison:
        return DecodeFailure(1, "the schema's number", poison.detail)
    return first_failure(value, start, schema)


def _fields(path: str, schema: Any, value: Any) -> Iterator[Field]:
    for field in schema["fields"]:
        name = f"{path}.{field['name']}" if path else field["name"]
        part, kind = value[field["name"]], field["type"]
        record = _record(kind)
        if record is not None and part is not None:
            yield from _fields(name, record, part)
        else:
            yield Field(name, _type(kind), part)


def _record(kind: Any) -> Any:
    options = kind if isinstance(kind, list) else [kind]
    return next(
        (each for each in options if isinstance(each, dict) and each["type"] == "record"), None
    )


def _type(kind: Any) -> str:
    """A schema in a few words."""
    if isinstance(kind, list):
        return " or ".join(_type(each) for each in kind if each != "null") + (
            " or null" if "null" in kind else ""
        )
    if isinstance(kind, str):
        return kind
    match kind["type"]:
        case "enum":
            return " | ".join(kind["symbols"])
        case "array":
            return f"array of {_type(kind['items'])}"
        case "map":
            return f"map of {_type(kind['values'])}"
        case "record" | "fixed":
            return str(kind["name"])
        case other:
            return str(kind.get("logicalType", other))
