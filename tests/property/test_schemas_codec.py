"""What must hold for every record and value: round trips, two implementations that agree, no crash
on junk.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from typing import Any

import avro.io
import avro.schema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leadstream.errors import Poison, Reason
from schemas import schema_files
from schemas.codec import Reader, Writer, _without_logical_types
from tests.examples import examples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
READERS = {name: Reader(name) for name in schema_files.FILES}
WRITERS = {name: Writer(name) for name in schema_files.FILES}
NAMES = sorted(schema_files.FILES)


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Every value that fits `schema`."""
    if isinstance(schema, list):
        return st.one_of([values(branch) for branch in schema])
    kind = schema["type"] if isinstance(schema, dict) else schema
    match kind:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "int":
            return st.integers(-(2**31), 2**31 - 1)
        case "long":
            return st.integers(-(2**63), 2**63 - 1)
        case "double":
            return st.floats(allow_nan=False)
        case "string":
            return TEXT
        case "enum":
            return st.sampled_from(schema["symbols"])
        case "array":
            return st.lists(values(schema["items"]), max_size=4)
        case "map":
            return st.dictionaries(TEXT, values(schema["values"]), max_size=4)
        case "record":
            return st.fixed_dictionaries(
                {field["name"]: values(field["type"]) for field in schema["fields"]}
            )
    raise AssertionError(kind)


RECORDS = {name: values(schema_files.current_schema(name)) for name in schema_files.FILES}
SECOND = {
    name: avro.schema.parse(json.dumps(_without_logical_types(schema_files.current_schema(name))))
    for name in schema_files.FILES
}


REASONS = (Reason.UNKNOWN_FRAMING, Reason.UNKNOWN_SCHEMA, Reason.DECODE_FAILED)


def end_of(call: Callable[[], dict[str, Any]]) -> dict[str, Any] | tuple[Reason, str]:
    """The record, or the reason and stage of its end; any other exception is a failure of
    the test.
    """
    try:
        return call()
    except Poison as error:
        return error.reason, error.stage


class OneSchemaRegistry:
    """Knows each record's present schema, by its place in NAMES."""

    def learn(self, numbers: Iterable[int]) -> None:
        """Everything is known already."""

    def schema(self, number: int) -> Any:
        if number >= len(NAMES):
            raise Poison(Reason.UNKNOWN_SCHEMA, "decode", "There is no such id.")
        return schema_files.current_schema(NAMES[number])

    def schema_id(self, subject: str, schema: Any) -> int:
        return NAMES.index(schema["name"])


REGISTRY: Any = OneSchemaRegistry()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=examples(40), deadline=None)
def test_what_is_written_is_what_is_read_in_both_framings(name: str, data: st.DataObject) -> None:
    record = data.draw(RECORDS[name])
    single = WRITERS[name].encode(record)
    confluent = Writer(name, REGISTRY, "topic").encode(record)
    assert single[10:] == confluent[5:]
    reader = Reader(name, REGISTRY)
    assert reader.decode(single) == reader.decode(confluent) == record


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=examples(40), deadline=None)
def test_a_second_implementation_writes_and_reads_the_same_bytes(
    name: str, data: st.DataObject
) -> None:
    record = data.draw(RECORDS[name])
    value = WRITERS[name].encode(record)
    stream = BytesIO()
    avro.io.DatumWriter(SECOND[name]).write(record, avro.io.BinaryEncoder(stream))
    assert stream.getvalue() == value[10:]
    assert (
        avro.io.DatumReader(SECOND[name]).read(avro.io.BinaryDecoder(BytesIO(value[10:]))) == record
    )


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=examples(40), deadline=None)
def test_a_body_of_junk_is_a_record_or_undecodable_and_nothing_else(
    name: str, data: st.DataObject
) -> None:
    value = bytearray(WRITERS[name].encode(data.draw(RECORDS[name])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(10, len(value)))
        value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=12))
    end = end_of(lambda: READERS[name].decode(bytes(value)))
    fields = {field["name"] for field in schema_files.current_schema(name)["fields"]}
    assert end == (Reason.DECODE_FAILED, "decode") or (
        isinstance(end, dict) and end.keys() == fields
    )


@given(
    value=st.binary(max_size=60),
    head=st.sampled_from([b"", b"\x00", b"\x00\x00\x00\x00\x01", b"\xc3", b"\xc3\x01"]),
)
@settings(max_examples=examples(100), deadline=None)
def test_any_bytes_end_in_a_record_or_one_of_three_reasons(head: bytes, value: bytes) -> None:
    for registry in (None, REGISTRY):
        for name in NAMES:
            end = end_of(partial(Reader(name, registry).decode, head + value))
            assert isinstance(end, dict) or (end[0] in REASONS and end[1] == "decode")


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=3)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=examples(40), deadline=None)
def test_a_record_with_anything_in_a_field_is_refused_or_comes_back_equal(
    name: str, data: st.DataObject
) -> None:
    record = data.draw(RECORDS[name])
    field = data.draw(st.sampled_from(sorted(record)))
    record[field] = data.draw(ANYTHING)
    end = end_of(lambda: READERS[name].decode(WRITERS[name].encode(record)))
    if isinstance(end, dict):
        # A NaN is not equal to itself, and a whole number comes back from a double as a float; both
        # are the value.
        assert repr(end[field]) == repr(record[field]) or end[field] == pytest.approx(record[field])
    else:
        assert end == (Reason.ENCODE_FAILED, "encode")
