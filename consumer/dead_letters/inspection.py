"""Inspection of a value: the decoded record with its schema, or the byte where decoding fails."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from consumer.dead_letters.letters import Letter
from leadstream.errors import Poison, Reason
from leadstream.kafka.topics import Topics
from schemas import schema_files
from schemas.codec import Reader
from schemas.json_records import decode_json, is_json
from schemas.locate import DecodeFailure, first_failure
from schemas.registry import Registry

BEFORE, AFTER = 32, 32


@dataclass(frozen=True, slots=True)
class InspectedField:
    """A field of a record: its dotted name, its type in the schema, and its value."""

    name: str
    type: str
    value: Any


@dataclass(frozen=True, slots=True)
class Inspection:
    """The content of a value: either `value`, or the `failure` that prevents decoding.

    `record` is the name of the expected Avro record, or "JSON", or None for a foreign topic.
    """

    record: str | None
    value: Any = None
    failure: DecodeFailure | None = None
    detail: str | None = None


def record_name(letter: Letter, topics: Topics) -> str | None:
    """Return the record name of the topic of a letter, or None for a foreign topic."""
    return {topics.lead_changes: "LeadChanged", topics.rescore_requests: "RescoreRequest"}.get(
        letter.parsed.topic or ""
    )


def inspect(
    letter: Letter, topics: Topics, registry: Registry | None, *, accept_json: bool = False
) -> Inspection:
    """Decode a value with the present schemas. Raises Transient if the registry does not answer.

    With `accept_json`, a change in JSON needs no header.
    """
    record, value = record_name(letter, topics), letter.value
    if record is None or value is None:
        return Inspection(record)
    if letter.parsed.cut is not None and not letter.restored:
        return Inspection(record, None, None, "The letter was cut, so it cannot be read.")
    if record == "RescoreRequest" and value.lstrip()[:1] in (b"[", b"{"):
        return _json(value, "the request")
    if record == "LeadChanged" and is_json(value, letter.content_headers, accept=accept_json):
        return _json_change(value)
    reader = Reader(record, registry)
    try:
        return Inspection(record, reader.decode(value))
    except Poison as poison:
        return Inspection(record, None, _failure(value, reader, poison), poison.detail)


def fields(record: str, value: dict[str, Any]) -> Iterator[InspectedField]:
    """Yield the fields of a decoded record, in the order of the present schema."""
    return _fields("", schema_files.current_schema(record), value)


def hex_window(value: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield rows of 16 bytes around the byte `at`, each with the offset of its first byte."""
    first = max(0, at - BEFORE) // 16 * 16
    for start in range(first, min(len(value), at + AFTER), 16):
        yield start, value[start : start + 16]


def _json_change(value: bytes) -> Inspection:
    """Return the change in JSON; one whose fields do not fit is shown as it is."""
    try:
        return Inspection("LeadChanged", decode_json("LeadChanged", value))
    except Poison as poison:
        found = _json(value, "the change")
        return replace(found, detail=poison.detail)


def _json(value: bytes, what: str) -> Inspection:
    try:
        return Inspection("JSON", json.loads(value))
    except UnicodeDecodeError as error:
        return Inspection(
            "JSON",
            None,
            DecodeFailure(error.start, what, "the text is not UTF-8"),
            "no JSON",
        )
    except json.JSONDecodeError as error:
        at = len(error.doc[: error.pos].encode("utf-8", "surrogatepass"))
        return Inspection("JSON", None, DecodeFailure(at, what, error.msg), f"no JSON: {error.msg}")
    except ValueError:
        return Inspection(
            "JSON", None, DecodeFailure(0, what, "a number has too many digits"), "no JSON"
        )
    except RecursionError:
        return Inspection(
            "JSON", None, DecodeFailure(0, what, "it is nested too deeply"), "no JSON"
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


def _fields(path: str, schema: Any, value: Any) -> Iterator[InspectedField]:
    for field in schema["fields"]:
        name = f"{path}.{field['name']}" if path else field["name"]
        part, kind = value[field["name"]], field["type"]
        record = _record(kind)
        if record is not None and part is not None:
            yield from _fields(name, record, part)
        else:
            yield InspectedField(name, _type(kind), part)


def _record(kind: Any) -> Any:
    options = kind if isinstance(kind, list) else [kind]
    return next(
        (each for each in options if isinstance(each, dict) and each["type"] == "record"), None
    )


def _type(kind: Any) -> str:
    """Return the short name of a type."""
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
