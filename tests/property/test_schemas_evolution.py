"""The compatibility rules against a second implementation, and against what decoding
really does.
"""

import json
from copy import deepcopy
from io import BytesIO
from typing import Any

import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.evolution import breaks
from tests.examples import examples

PRIMITIVES = ["null", "boolean", "int", "long", "float", "double", "string", "bytes"]
SAMPLES: dict[str, Any] = {
    "null": None,
    "boolean": True,
    "int": 1,
    "long": 1,
    "float": 1.0,
    "double": 1.0,
    "string": "a",
    "bytes": b"a",
}
DEFAULTS: dict[str, Any] = {**SAMPLES, "bytes": "a"}


@st.composite
def types(draw: st.DrawFn) -> Any:
    """A type of depth two at most; names are few, so that two drawn schemas often speak of the same
    thing.
    """
    primitive = st.sampled_from(PRIMITIVES)
    match draw(
        st.sampled_from(
            ["primitive", "primitive", "array", "map", "union", "enum", "fixed", "record"]
        )
    ):
        case "array":
            return {"type": "array", "items": draw(primitive)}
        case "map":
            return {"type": "map", "values": draw(primitive)}
        case "union":
            return draw(st.lists(primitive, min_size=1, max_size=3, unique=True))
        case "enum":
            symbols = draw(st.lists(st.sampled_from("ABC"), min_size=1, unique=True))
            default = {"default": symbols[0]} if draw(st.booleans()) else {}
            return {"type": "enum", "name": "NAME", "symbols": symbols, **default}
        case "fixed":
            return {"type": "fixed", "name": "NAME", "size": draw(st.integers(1, 2))}
        case "record":
            return {
                "type": "record",
                "name": "NAME",
                "fields": [{"name": "x", "type": draw(primitive)}],
            }
    return draw(primitive)


@st.composite
def records(draw: st.DrawFn) -> Any:
    fields = []
    for name in draw(st.lists(st.sampled_from("abcd"), unique=True, min_size=1)):
        kind = deepcopy(draw(types()))
        if isinstance(kind, dict) and "name" in kind:
            kind["name"] = f"Of{name}"
        default = {}
        if draw(st.booleans()) and isinstance(kind, str):
            default = {"default": DEFAULTS[kind]}
        fields.append({"name": name, "type": kind, **default})
    return {"type": "record", "name": "R", "fields": fields}


def sample(kind: Any) -> Any:
    """Some value of the type."""
    if isinstance(kind, list):
        return sample(kind[0])
    if isinstance(kind, str):
        return SAMPLES[kind]
    match kind["type"]:
        case "array":
            return [sample(kind["items"])]
        case "map":
            return {"k": sample(kind["values"])}
        case "enum":
            return kind["symbols"][-1]
        case "fixed":
            return b"a" * kind["size"]
    return {field["name"]: sample(field["type"]) for field in kind["fields"]}


@given(reader=records(), writer=records())
@settings(max_examples=examples(150), deadline=None)
def test_the_rules_agree_with_a_second_implementation(reader: Any, writer: Any) -> None:
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    other = checker.get_compatibility(
        avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer))
    )
    assert (breaks(reader, writer) == []) == (
        other.compatibility is SchemaCompatibilityType.compatible
    )


@given(reader=records(), writer=records())
@settings(max_examples=examples(150), deadline=None)
def test_what_the_rules_let_pass_decodes(reader: Any, writer: Any) -> None:
    if breaks(reader, writer):
        return
    stream = BytesIO()
    schemaless_writer(stream, parse_schema(deepcopy(writer)), sample(writer))
    stream.seek(0)
    back = schemaless_reader(stream, parse_schema(deepcopy(writer)), parse_schema(deepcopy(reader)))
    assert isinstance(back, dict)
    assert back.keys() == {field["name"] for field in reader["fields"]}


@given(schema=records())
@settings(deadline=None)
def test_every_schema_reads_itself(schema: Any) -> None:
    assert breaks(schema, schema) == []
