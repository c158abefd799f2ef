"""The codec: golden bytes, both framings, resolution, and one defined end for every kind
of junk.
"""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from copy import deepcopy
from io import BytesIO
from typing import Any

import avro.io
import avro.schema
import pytest
from fastavro import parse_schema, schemaless_writer

from leadstream.errors import Poison, Reason, Transient
from schemas import codec, schema_files
from schemas.codec import Reader, Writer

OUTCOME = {"lead_id": "L-1", "converted": True, "decided_at": 1_700_000_000_000}
# C3 01, fingerprint 7d89da283dd6cc21 little endian, "L-1" (length 3), true, zigzag 1700000000000
OUTCOME_HEX = "c301 21ccd63d28da897d 06 4c2d31 01 80a0abfef962"

CHANGE = {
    "event_id": "e1",
    "lead_id": "L-1",
    "change_type": "UPDATED",
    "occurred_at": 1_700_000_000_000,
    "lead_version": 3,
    "origin": "crm",
    "lead": {
        "created_at": 0,
        "lead_score": 1.5,
        "engagement_score": None,
        "touchpoint_count": -1,
        "lifecycle_state": "né",
        "status": None,
        "source": None,
        "programme_name": None,
        "campus_name": None,
        "numbers": {"a": 2.0},
        "categories": {},
    },
}
CHANGE_HEX = (
    "c301 a2762acf39c4654e"  # single object, fingerprint 4e65c439cf2a76a2
    "04 6531 06 4c2d31 02 80a0abfef962 06 06 63726d"  # e1, L-1, symbol 1, the time, version 3, crm
    "02 00 02 000000000000f83f 00 02 01"  # a state created at 0, score 1.5, no engagement, count -1
    "02 06 6ec3a9 00 00 00 00"  # "né" (3 bytes), then four absent
    "02 02 61 0000000000000040 00 00"  # one block of one number: a = 2.0; no categories
)


def raw(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def long(number: int) -> bytes:
    """A long as Avro writes it: zigzag, then seven bits a byte, lowest first."""
    zigzag = number * 2 if number >= 0 else -number * 2 - 1
    parts = []
    while zigzag > 127:
        parts.append(zigzag & 127 | 128)
        zigzag >>= 7
    return bytes([*parts, zigzag])


class FakeRegistry:
    """Schemas by id, as `schemas.registry.Registry` answers; counts the questions."""

    def __init__(self, schemas: dict[int, Any] | None = None) -> None:
        self.schemas = schemas or {}
        self.asked: list[Any] = []
        self.down = False

    def learn(self, numbers: Iterable[int]) -> None:
        """Everything is known already."""

    def schema(self, number: int) -> Any:
        self.asked.append(number)
        if self.down:
            raise Transient("registry", "it cannot be reached")
        if number not in self.schemas:
            raise Poison(Reason.UNKNOWN_SCHEMA, "decode", "There is no such id.")
        return self.schemas[number]

    def schema_id(self, subject: str, schema: Any) -> int:
        self.asked.append(subject)
        if self.down:
            raise Transient("registry", "it cannot be reached")
        return next(number for number, known in self.schemas.items() if known == schema)


def reader(record: str, registry: Any = None) -> Reader:
    return Reader(record, registry)


def body(schema: Any, record: Any) -> bytes:
    stream = BytesIO()
    schemaless_writer(stream, parse_schema(schema), record)
    return stream.getvalue()


def poison(value: bytes, record: str = "LeadChanged", registry: Any = None) -> Poison:
    with pytest.raises(Poison) as caught:
        reader(record, registry).decode(value)
    assert caught.value.stage == "decode"
    assert caught.value.detail.endswith(".")
    return caught.value


def refusal(record: Any, name: str = "LeadChanged") -> str:
    with pytest.raises(Poison) as caught:
        Writer(name).encode(record)
    assert (caught.value.reason, caught.value.stage) == (Reason.ENCODE_FAILED, "encode")
    return caught.value.detail


@pytest.mark.parametrize(
    ("name", "record", "text"),
    [("LeadOutcome", OUTCOME, OUTCOME_HEX), ("LeadChanged", CHANGE, CHANGE_HEX)],
)
def test_the_bytes_of_a_single_object_are_these_and_no_others(
    name: str, record: dict[str, Any], text: str
) -> None:
    assert Writer(name).encode(record) == raw(text)
    assert Reader(name).decode(raw(text)) == record


def test_the_bytes_of_confluent_framing_are_these_and_no_others() -> None:
    registry: Any = FakeRegistry({258: schema_files.current_schema("LeadOutcome")})
    value = raw("00 00000102" + OUTCOME_HEX[22:])
    assert Writer("LeadOutcome", registry, "crm.lead-outcomes").encode(OUTCOME) == value
    assert Reader("LeadOutcome", registry).decode(value) == OUTCOME
    assert registry.asked == ["crm.lead-outcomes-value", 258]


def test_a_reader_accepts_both_framings_in_any_order_and_asks_for_an_id_once() -> None:
    registry = FakeRegistry({1: schema_files.current_schema("LeadOutcome")})
    both = reader("LeadOutcome", registry)
    confluent, single = raw("00 00000001" + OUTCOME_HEX[22:]), raw(OUTCOME_HEX)
    assert [both.decode(value) for value in (single, confluent, single, confluent)] == [OUTCOME] * 4
    assert registry.asked == [1]


def test_times_beyond_every_calendar_are_plain_numbers() -> None:
    record = {**OUTCOME, "decided_at": 2**63 - 1}
    assert Reader("LeadOutcome").decode(Writer("LeadOutcome").encode(record)) == record


def test_fields_with_a_default_may_be_left_out() -> None:
    short = {"event_id": "e", "lead_id": "l", "change_type": "CREATED", "occurred_at": 1}
    expected = {**short, "lead_version": 0, "origin": "crm", "lead": None}
    assert Reader("LeadChanged").decode(Writer("LeadChanged").encode(short)) == expected


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (b"", "empty"),
        (b"\x00", "too short"),
        (b"\x00\x00\x00\x01", "too short"),
        (b"\xc3", "too short"),
        (b"\xc3\x01\x00\x00\x00\x00\x00\x00\x00", "too short"),
        (b'{"event_id": "e"}', "JSON"),
        (b'\n ["L-1"]', "JSON"),
        (b"Obj\x01", "4f"),
        (b"\xc3\x02aaaaaaaaaaaaa", "c3"),
        (b"\xff" * 20, "ff"),
    ],
)
def test_bytes_of_no_framing_say_what_they_look_like(value: bytes, sentence: str) -> None:
    error = poison(value)
    assert error.reason is Reason.UNKNOWN_FRAMING
    assert sentence in error.detail


def test_an_unknown_fingerprint_is_an_unknown_schema_and_is_named() -> None:
    error = poison(b"\xc3\x01" + bytes(range(8)) + b"body")
    assert error.reason is Reason.UNKNOWN_SCHEMA
    assert "0706050403020100" in error.detail


def test_another_records_value_is_an_unknown_schema_even_if_its_bytes_would_fit() -> None:
    error = poison(raw(OUTCOME_HEX), "LeadPrediction")
    assert error.reason is Reason.UNKNOWN_SCHEMA
    assert "LeadOutcome" in error.detail
    registry = FakeRegistry(
        {
            7: schema_files.current_schema("LeadOutcome"),
            8: "string",
            9: [{"type": "int"}],
            10: {"type": "int"},
        }
    )
    for number in registry.schemas:
        assert (
            poison(b"\x00" + number.to_bytes(4, "big"), registry=registry).reason
            is Reason.UNKNOWN_SCHEMA
        )


def test_confluent_framing_without_a_registry_is_an_unknown_schema_that_names_the_setting() -> None:
    error = poison(b"\x00\x00\x00\x00\x07aaaa")
    assert error.reason is Reason.UNKNOWN_SCHEMA
    assert "SCHEMA_REGISTRY_URL" in error.detail
    assert "7" in error.detail


def test_an_id_that_the_registry_lacks_is_an_unknown_schema_but_a_dead_registry_is_not() -> None:
    registry = FakeRegistry()
    assert poison(b"\x00\x00\x00\x00\x07aaaa", registry=registry).reason is Reason.UNKNOWN_SCHEMA
    registry.down = True
    with pytest.raises(Transient):
        reader("LeadChanged", registry).decode(b"\x00\x00\x00\x00\x07aaaa")


def test_a_writer_that_could_not_register_tries_again_with_the_next_record() -> None:
    registry: Any = FakeRegistry({3: schema_files.current_schema("LeadOutcome")})
    registry.down = True
    writer = Writer("LeadOutcome", registry, "t")
    with pytest.raises(Transient):
        writer.encode(OUTCOME)
    registry.down = False
    assert writer.encode(OUTCOME)[:5] == b"\x00\x00\x00\x00\x03"
    assert writer.encode(OUTCOME)[:5] == b"\x00\x00\x00\x00\x03"
    assert registry.asked == ["t-value", "t-value"]


def test_a_writer_with_a_registry_needs_the_topic() -> None:
    registry: Any = FakeRegistry()
    with pytest.raises(ValueError, match="topic"):
        Writer("LeadOutcome", registry)


@pytest.mark.parametrize("name", ["LeadChanged", "LeadOutcome"])
def test_every_truncation_is_undecodable_and_says_where(name: str) -> None:
    value = raw(CHANGE_HEX if name == "LeadChanged" else OUTCOME_HEX)
    for length in range(10, len(value)):
        error = poison(value[:length], name)
        assert error.reason is Reason.DECODE_FAILED
        assert f"byte {length} of {length}" in error.detail


def test_trailing_bytes_are_undecodable_and_counted() -> None:
    error = poison(raw(OUTCOME_HEX) + b"xyz", "LeadOutcome")
    assert error.reason is Reason.DECODE_FAILED
    assert error.detail == "The record ends at byte 21, but 3 more bytes follow."


def test_invalid_utf8_is_undecodable_and_not_quoted() -> None:
    error = poison(raw(OUTCOME_HEX).replace(b"L-1", b"L\xff1"), "LeadOutcome")
    assert error.reason is Reason.DECODE_FAILED
    assert "UTF-8" in error.detail
    assert "L" not in error.detail.replace("LeadOutcome", "")
    assert error.__cause__ is None


@pytest.mark.parametrize("number", [4, 99, -1, -2, -5, 2**40, -(2**62)])
def test_an_unknown_enum_symbol_is_undecodable_even_where_python_lists_would_take_it(
    number: int,
) -> None:
    head, tail = raw(CHANGE_HEX)[:17], raw(CHANGE_HEX)[18:]
    assert poison(head + long(number) + tail).reason is Reason.DECODE_FAILED


@pytest.mark.parametrize("number", [2, 99, -3, 2**40])
def test_an_unknown_union_branch_is_undecodable(number: int) -> None:
    value = raw(CHANGE_HEX)
    at = value.index(raw("06 63726d")) + 4
    assert poison(value[:at] + long(number) + value[at + 1 :]).reason is Reason.DECODE_FAILED


@pytest.mark.parametrize(
    "count", [2**31, 2**40, 2**62, 2**63 - 1, -1, -3, -(2**31), -(2**62), -(2**63)]
)
@pytest.mark.parametrize("what", ["string", "array", "array block", "map", "map block"])
def test_an_absurd_length_is_undecodable_at_once_and_takes_no_memory(what: str, count: int) -> None:
    request = b"\xc3\x01" + schema_files.fingerprint_bytes(
        schema_files.current_schema("RescoreRequest")
    )
    change = raw(CHANGE_HEX)[: -len(raw("02 02 61 0000000000000040 00 00"))]
    name, value = {
        "string": ("RescoreRequest", request + long(count) + b"abc"),
        "array": ("RescoreRequest", request + b"\x02r" + long(count) + b"\x02a\x02b"),
        "array block": (
            "RescoreRequest",
            request + b"\x02r" + long(-1) + long(count) + b"\x02a\x02b" + long(count),
        ),
        "map": ("LeadChanged", change + long(count) + b"\x02a" + bytes(8)),
        "map block": (
            "LeadChanged",
            change + long(-1) + long(count) + b"\x02a" + bytes(8) + long(count),
        ),
    }[what]
    ready = reader(name)
    tracemalloc.start()
    try:
        with pytest.raises(Poison) as caught:
            ready.decode(value)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert caught.value.reason is Reason.DECODE_FAILED


def test_blocks_with_their_sizes_are_read_as_the_specification_allows() -> None:
    head = (
        b"\xc3\x01"
        + schema_files.fingerprint_bytes(schema_files.current_schema("RescoreRequest"))
        + b"\x02r"
    )
    blocks = long(-2) + long(4) + b"\x02a\x02b" + long(1) + b"\x02c" + long(0)
    assert Reader("RescoreRequest").decode(head + blocks + b"\x00")["lead_ids"] == ["a", "b", "c"]


def test_many_empty_blocks_and_endless_numbers_end_quickly() -> None:
    head = b"\xc3\x01" + schema_files.fingerprint_bytes(
        schema_files.current_schema("RescoreRequest")
    )
    for junk in (
        b"\x80" * 100_000,
        b"\x02r" + (long(-(2**63)) + b"\x00") * 20_000,
        b"\x02r" + b"\x01\x00\x00" * 50_000,
    ):
        assert poison(head + junk, "RescoreRequest").reason is Reason.DECODE_FAILED


def changed(name: str, change: Any) -> Any:
    """The present schema of `name` after `change` has worked on a copy."""
    schema = deepcopy(schema_files.current_schema(name))
    change(schema)
    return schema


def decode_by(schema: Any, record: Any, name: str = "LeadOutcome") -> dict[str, Any]:
    value = b"\x00\x00\x00\x00\x05" + body(schema, record)
    return reader(name, FakeRegistry({5: schema})).decode(value)


def test_an_older_writers_value_gets_the_defaults_of_newer_fields() -> None:
    old = changed("LeadChanged", lambda schema: schema["fields"].__delitem__(slice(4, 6)))
    record = {key: value for key, value in CHANGE.items() if key not in ("lead_version", "origin")}
    assert decode_by(old, record, "LeadChanged") == {**CHANGE, "lead_version": 0, "origin": "crm"}


def test_a_newer_writers_fields_are_skipped_wherever_they_stand() -> None:
    extra = [
        {"name": "first", "type": {"type": "array", "items": "double"}},
        {"name": "second", "type": ["null", {"type": "map", "values": "string"}]},
    ]
    new = changed("LeadOutcome", lambda schema: schema["fields"].__setitem__(slice(1, 1), extra))
    assert decode_by(new, {**OUTCOME, "first": [1.0, 2.0], "second": {"a": "b"}}) == OUTCOME


def test_a_narrower_writers_number_is_promoted() -> None:
    old = changed("LeadOutcome", lambda schema: schema["fields"][2].update(type="int"))
    assert decode_by(old, {**OUTCOME, "decided_at": 5}) == {**OUTCOME, "decided_at": 5}


def test_a_schema_in_another_namespace_or_with_other_docs_is_the_same_record() -> None:
    assert (
        decode_by(changed("LeadOutcome", lambda schema: schema.pop("namespace")), OUTCOME)
        == OUTCOME
    )
    assert (
        decode_by(changed("LeadOutcome", lambda schema: schema.update(doc="other")), OUTCOME)
        == OUTCOME
    )


def test_a_truncated_field_that_the_reader_skips_is_still_undecodable() -> None:
    for extra, junk in [
        ("double", b"\x00"),
        ("string", b"\x50ab"),
        ({"type": "array", "items": "double"}, long(2**60)),
    ]:
        new = changed(
            "LeadOutcome",
            lambda schema, kind=extra: schema["fields"].append({"name": "x", "type": kind}),
        )
        value = (
            b"\x00\x00\x00\x00\x05"
            + body(schema_files.current_schema("LeadOutcome"), OUTCOME)
            + junk
        )
        assert poison(value, "LeadOutcome", FakeRegistry({5: new})).reason is Reason.DECODE_FAILED


def test_a_default_map_is_each_records_own() -> None:
    def without_maps(schema: Any) -> None:
        del schema["fields"][6]["type"][1]["fields"][9:]

    old = changed("LeadChanged", without_maps)
    value = b"\x00\x00\x00\x00\x05" + body(old, CHANGE)
    both = reader("LeadChanged", FakeRegistry({5: old}))
    both.decode(value)["lead"]["numbers"]["mine"] = 1.0
    assert both.decode(value)["lead"]["numbers"] == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda schema: schema["fields"].pop(0),  # a field that has no default
        lambda schema: schema["fields"][1].update(type="string"),
        lambda schema: schema["fields"][1].update(type=["null", "boolean"]),
        lambda schema: schema["fields"][1].update(
            type={"type": "enum", "name": "E", "symbols": ["X"]}
        ),
        lambda schema: schema["fields"].append(
            {"name": "e", "type": {"type": "array", "items": "null"}}
        ),
        lambda schema: schema["fields"].append({"name": "e", "type": ["null", "LeadOutcome"]}),
        lambda schema: schema["fields"].append({"name": "e", "type": "Nonsense"}),
        lambda schema: schema.pop("fields"),
        lambda schema: schema.update(fields=[3]),
        lambda schema: schema.update(fields={"a": 1}),
        lambda schema: schema.update(type="recor"),
    ],
)
def test_a_schema_that_cannot_be_resolved_is_undecodable(change: Any) -> None:
    schema = changed("LeadOutcome", change)
    value = b"\x00\x00\x00\x00\x05\x00\x00\x00"
    assert poison(value, "LeadOutcome", FakeRegistry({5: schema})).reason is Reason.DECODE_FAILED


def test_a_symbol_that_only_a_newer_writer_knows_is_undecodable_and_its_neighbours_are_not() -> (
    None
):
    new = changed(
        "LeadChanged", lambda schema: schema["fields"][2]["type"]["symbols"].append("MERGED")
    )
    registry = FakeRegistry({5: new})
    merged = b"\x00\x00\x00\x00\x05" + body(new, {**CHANGE, "change_type": "MERGED"})
    assert poison(merged, registry=registry).reason is Reason.DECODE_FAILED
    assert decode_by(new, CHANGE, "LeadChanged") == CHANGE


def test_an_enum_that_a_newer_schema_names_twice_is_still_read_strictly() -> None:
    again = {"name": "before", "type": "ChangeType"}
    new = changed("LeadChanged", lambda schema: schema["fields"].append(again))
    assert decode_by(new, {**CHANGE, "before": "CREATED"}, "LeadChanged") == CHANGE
    value = b"\x00\x00\x00\x00\x05" + body(new, {**CHANGE, "before": "CREATED"})
    assert (
        poison(value[:-1] + b"\x01", registry=FakeRegistry({5: new})).reason is Reason.DECODE_FAILED
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lead_id": "a\ud800"}, "lead_id holds a lone surrogate at character 1"),
        ({"lead_id": 7}, "lead_id is of type int, not a string"),
        ({"lead_id": None}, "lead_id is of type NoneType, not a string"),
        ({"lead_id": b"L-1"}, "lead_id is of type bytes, not a string"),
        ({"change_type": "MERGED"}, "change_type is none of CREATED, DELETED, RESCORE, UPDATED"),
        ({"change_type": 1}, "change_type is none of"),
        ({"occurred_at": 1.5}, "occurred_at is of type float, not a long"),
        ({"occurred_at": True}, "occurred_at is of type bool, not a long"),
        ({"occurred_at": 2**63}, "too large"),
        ({"lead": "state"}, "lead is of type str, not a record"),
        ({"lead": {}}, "lead.created_at is missing"),
        (
            {"lead": {"created_at": 1, "lead_score": "5"}},
            "lead.lead_score is of type str, not a double",
        ),
        ({"lead": {"created_at": 1, "lead_score": 10**400}}, "too large"),
        (
            {"lead": {"created_at": 1, "touchpoint_count": 2**31}},
            "lead.touchpoint_count does not fit 32 bits",
        ),
        (
            {"lead": {"created_at": 1, "touchpoint_count": 1.0}},
            "lead.touchpoint_count is of type float, not an int",
        ),
        ({"lead": {"created_at": 1, "numbers": []}}, "lead.numbers is of type list, not a map"),
        (
            {"lead": {"created_at": 1, "numbers": {"a": "b"}}},
            "lead.numbers.a is of type str, not a double",
        ),
        (
            {"lead": {"created_at": 1, "numbers": {1: 1.0}}},
            "lead.numbers has a name that is not text",
        ),
        (
            {"lead": {"created_at": 1, "categories": {"a": "\udfff"}}},
            "lead.categories.a holds a lone surrogate",
        ),
        (
            {"lead": {"created_at": 1, "categories": {"\udfff": "a"}}},
            "lead.categories.(a name) holds a lone surrogate",
        ),
        ({"lead": {"created_at": 1, "numbres": {}}}, "lead.numbres is not a field of the schema"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_by_field_and_never_written_as_something_else(
    change: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal({**CHANGE, **change})


def test_missing_fields_and_records_that_are_none_are_refused() -> None:
    assert "decided_at is missing" in refusal({"lead_id": "a", "converted": True}, "LeadOutcome")
    assert "it is of type NoneType, not a record" in refusal(None)
    assert "converted is of type str, not a boolean" in refusal(
        {**OUTCOME, "converted": "no"}, "LeadOutcome"
    )
    request = {"request_id": "r", "lead_ids": ["a", 2]}
    assert "lead_ids.1 is of type int, not a string" in refusal(request, "RescoreRequest")
    assert "lead_ids is of type str, not an array" in refusal(
        {**request, "lead_ids": "abc"}, "RescoreRequest"
    )
    assert "lead_ids.1 holds a lone surrogate" in refusal(
        {**request, "lead_ids": ["a", "\ud800"]}, "RescoreRequest"
    )


def test_an_error_never_quotes_what_a_record_holds() -> None:
    assert "Ada" not in refusal({**CHANGE, "lead": {"created_at": "Ada Lovelace"}})
    assert "Ada" not in refusal({**CHANGE, "change_type": "Ada Lovelace"})
    assert "Ada" not in poison(b"Ada Lovelace").detail
    assert "Ada" not in poison(raw(OUTCOME_HEX) + b"Ada Lovelace", "LeadOutcome").detail


@pytest.mark.parametrize("name", ["LeadChanged", "LeadOutcome"])
def test_a_second_implementation_reads_and_writes_the_same_bytes(name: str) -> None:
    record, value = (
        (CHANGE, raw(CHANGE_HEX)) if name == "LeadChanged" else (OUTCOME, raw(OUTCOME_HEX))
    )
    schema = avro.schema.parse(
        json.dumps(codec._without_logical_types(schema_files.current_schema(name)))
    )
    stream = BytesIO()
    avro.io.DatumWriter(schema).write(record, avro.io.BinaryEncoder(stream))
    assert stream.getvalue() == value[10:]
    assert avro.io.DatumReader(schema).read(avro.io.BinaryDecoder(BytesIO(value[10:]))) == record


def test_reading_without_a_registry_loads_no_http_client() -> None:
    code = (
        "import sys; from schemas.codec import Reader, Writer; "
        "Reader('LeadChanged'); Writer('LeadChanged');"
        "print([name for name in ('httpx', 'httpx2', 'confluent_kafka', 'authlib', 'attrs') "
        "if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("record", schema_files.FILES)
def test_a_value_is_known_by_the_fingerprint_that_pythons_avro_computes(record: str) -> None:
    schema = schema_files.current_schema(record)
    mark = avro.schema.parse(json.dumps(schema)).fingerprint("CRC-64-AVRO")
    assert mark == schema_files.python_fingerprint_bytes(schema)
    start, writer = Reader(record).layout(b"\xc3\x01" + mark)
    assert (start, writer["name"].rpartition(".")[2]) == (10, record)
