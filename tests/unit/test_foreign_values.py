"""Values of foreign rows: times of every unit, decimals of every form, and what was not sent.

Each is one that Debezium, Connect or Avro writes for a column of people.
"""

import base64
import json
from collections.abc import Mapping
from contextlib import closing, suppress
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from leadstream.errors import Poison, Reason
from schemas.codec import Reader, Writer
from schemas.foreign_formats import (
    ConversionOptions,
    ForeignMessage,
    from_cloudevent,
    from_debezium,
    from_outbox,
    headers_by_name,
)
from schemas.foreign_rows import parse_columns
from schemas.foreign_values import MAX_FOREIGN_BYTES
from schemas.registry import Registry
from tests.registry_server import registry_server

HOW = ConversionOptions(parse_columns(""), True, Reader("LeadChanged"), None)
NOT_SENT = "__debezium_unavailable_value"
# 2026-01-31T08:15:00.123 UTC, and midnight before it.
NOON_MS, DAY_MS = 1_769_847_300_123, 1_769_817_600_000
DAYS = DAY_MS // 86_400_000
SENT_MS = 1_800_000_000_000
ROW: dict[str, Any] = {"id": "ada", "created_at": "2026-01-31T08:15:00.123Z", "lead_score": 12.5}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def from_row(row: Mapping[str, Any], **envelope: Any) -> dict[str, Any] | None:
    """What an update to this row becomes; it must be a change that can be written."""
    event = {"op": "u", "source": {"ts_ms": SENT_MS}, "before": None, "after": row, **envelope}
    return converted(encoded(event))


def converted(
    value: bytes | None, key: bytes | None = b'{"id": "ada"}', how: ConversionOptions = HOW
) -> dict[str, Any] | None:
    record = from_debezium(ForeignMessage(key, value, {}, SENT_MS, "t-0-1"), how)
    if record is not None:
        Writer("LeadChanged").encode(record)
    return record


def state(record: dict[str, Any] | None) -> dict[str, Any]:
    assert record is not None
    assert record["lead"] is not None
    lead: dict[str, Any] = record["lead"]
    return lead


def refused(row: dict[str, Any]) -> str:
    with pytest.raises(Poison) as poison:
        from_row(ROW | row)
    assert poison.value.reason is Reason.INVALID_EVENT
    return poison.value.detail


def typed(value: Any, name: str, kind: str = "int64", **parameters: str) -> bytes:
    """An event of which a column has a Connect type of this name."""
    column = {"field": "created_at", "type": kind, "name": name, "parameters": parameters}
    if name.endswith("Decimal"):
        column["field"] = "lead_score"
    struct = {"type": "struct", "field": "after", "fields": [column]}
    schema = {"type": "struct", "fields": [struct]}
    row = ROW | {str(column["field"]): value}
    event = {"op": "c", "source": {"ts_ms": SENT_MS}, "before": None, "after": row}
    return encoded({"schema": schema, "payload": event})


TIMES = {
    "Date": (DAYS, DAY_MS),
    "Timestamp": (NOON_MS, NOON_MS),
    "MicroTimestamp": (NOON_MS * 1000 + 7, NOON_MS),
    "NanoTimestamp": (NOON_MS * 1_000_000 + 7, NOON_MS),
    "ZonedTimestamp": ("2026-01-31T09:15:00.123456+01:00", NOON_MS),
    "IsoTimestamp": ("2026-01-31T08:15:00.123456789Z", NOON_MS),
    "IsoDate": ("2026-01-31Z", DAY_MS),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_time_of_debezium_has_the_unit_of_its_type(name: str) -> None:
    value, expected = TIMES[name]
    assert state(converted(typed(value, f"io.debezium.time.{name}")))["created_at"] == expected


@pytest.mark.parametrize(("name", "value"), [("Date", DAYS), ("Timestamp", NOON_MS)])
def test_a_time_of_connect_has_the_unit_of_its_type(name: str, value: int) -> None:
    record = converted(typed(value, f"org.apache.kafka.connect.data.{name}"))
    assert state(record)["created_at"] == TIMES[name][1]


def test_a_time_of_1971_with_a_schema_is_not_taken_for_another_unit() -> None:
    record = converted(typed(50_000_000_000, "io.debezium.time.Timestamp"))
    assert state(record)["created_at"] == 50_000_000_000


@pytest.mark.parametrize(
    "name", ["io.debezium.time.MicroTime", "io.debezium.time.Time", "io.debezium.time.Year"]
)
def test_a_time_of_day_is_no_time_of_creation(name: str) -> None:
    with pytest.raises(Poison, match="created_at is a time of day or a duration"):
        converted(typed(29_700_000_000, name))


def test_a_time_beyond_the_calendar_costs_only_the_event_that_needs_it() -> None:
    with pytest.raises(Poison, match="created_at is a time that no calendar has"):
        converted(typed(9_223_372_036_825_200_000, "io.debezium.time.MicroTimestamp"))


@pytest.mark.parametrize(
    "value",
    [
        NOON_MS // 1000,
        NOON_MS / 1000,
        str(NOON_MS // 1000),
        NOON_MS,
        str(NOON_MS),
        NOON_MS * 1000,
        NOON_MS * 1_000_000,
    ],
)
def test_a_time_without_a_schema_has_the_unit_that_its_size_tells(value: Any) -> None:
    assert state(from_row(ROW | {"created_at": value}))["created_at"] // 1000 == NOON_MS // 1000


@pytest.mark.parametrize(
    "value", [DAYS, 0, -1, 10**30, True, [], {}, "yesterday", "x" * 10_000, 1e300]
)
def test_a_number_that_is_no_plausible_time_is_a_sentence_and_not_1970(value: Any) -> None:
    assert "created_at is no plausible time" in refused({"created_at": value})


@pytest.mark.parametrize(
    ("value", "score"),
    [
        ("60.25", 60.25),
        ("NaN", None),
        ("", None),
        ("1e400", None),
        ({"scale": 2, "value": "F4k="}, 60.25),
        (10**300, 1e300),
        (float("inf"), None),
    ],
)
def test_a_number_is_read_in_every_form_of_decimal_handling_mode(
    value: Any, score: float | None
) -> None:
    assert state(from_row(ROW | {"lead_score": value}))["lead_score"] == score


def test_a_decimal_with_its_schema_is_exact() -> None:
    record = converted(typed("F4k=", "org.apache.kafka.connect.data.Decimal", "bytes", scale="2"))
    assert state(record)["lead_score"] == 60.25


@pytest.mark.parametrize("value", ["F4k=", "12,5", "abc", [], True, {"a": 1}])
def test_what_is_no_number_is_refused_and_not_taken_for_a_missing_one(value: Any) -> None:
    assert "lead_score is " in refused({"lead_score": value})


@pytest.mark.parametrize(
    "value", [7, 7.0, "7", "7.00", {"scale": 0, "value": "Bw=="}, {"scale": 2, "value": "Arw="}]
)
def test_counts_versions_and_ids_of_type_numeric_are_read(value: Any) -> None:
    row: dict[str, Any] = ROW | {"touchpoint_count": value, "lead_version": value}
    record = from_row(row)
    assert state(record)["touchpoint_count"] == 7
    assert record is not None
    assert record["lead_version"] == 7
    identified = from_row(ROW | {"id": value})
    assert identified is not None
    assert identified["lead_id"] in ("7", "7.00")


def test_a_version_of_64_bits_keeps_every_digit() -> None:
    for value in (2**63 - 1, str(2**63 - 1)):
        record = from_row(ROW | {"lead_version": value})
        assert record is not None
        assert record["lead_version"] == 2**63 - 1
    for wrong in (2**63, "1e9999", 2.5, "2.5"):
        assert "lead_version is " in refused({"lead_version": wrong})


@pytest.mark.parametrize(
    "digits",
    ["9" * 1_000_000, "0." + "9" * 1_000_000, "1e" + "9" * 1_000_000, "9" * 401],
    ids=["integer", "fraction", "exponent", "401 digits"],
)
def test_a_number_of_a_million_digits_costs_one_record(digits: str) -> None:
    for value in (digits, json.dumps(digits)):
        for column in ("lead_score", "touchpoint_count", "lead_version", "created_at", "id"):
            row = json.dumps(ROW | {column: 0}).replace(f'"{column}": 0', f'"{column}": {value}')
            event = f'{{"op": "c", "source": {{}}, "before": null, "after": {row}}}'
            with suppress(Poison):
                converted(event.encode(), None)
    digits_of_a_decimal = base64.b64encode(b"\x7f" * 1_000_000).decode()
    assert "lead_score is a decimal of too many" in refused(
        {"lead_score": {"scale": 0, "value": digits_of_a_decimal}}
    )


def test_an_event_of_megabytes_is_not_parsed() -> None:
    with pytest.raises(Poison) as poison:
        converted(b"[" * (MAX_FOREIGN_BYTES + 1))
    assert poison.value.reason is Reason.OVERSIZED


@pytest.mark.parametrize("column", ["programme_id", "campus_id", "programme_name", "campus_name"])
def test_a_change_of_programme_or_campus_alone_is_a_change(column: str) -> None:
    before = ROW | {column: "one", "conversion_probability": 0.5}
    assert from_row(before | {"conversion_probability": 0.6}, before=before) is None
    changed = from_row(before | {column: "two"}, before=before)
    assert changed is not None
    assert changed["change_type"] == "UPDATED"


NOT_SENT_FORMS = [NOT_SENT, base64.b64encode(NOT_SENT.encode()).decode(), [NOT_SENT]]


@pytest.mark.parametrize("value", NOT_SENT_FORMS, ids=["text", "base64", "list"])
def test_a_value_that_was_not_sent_is_not_scored_as_missing(value: Any) -> None:
    record = from_row(ROW | {"source": value})
    assert record is not None
    assert (record["lead"], record["change_type"]) == (None, "UPDATED")
    before = ROW | {"source": "web", "lead_score": 1.0}
    assert state(from_row(ROW | {"source": value}, before=before))["source"] == "web"
    assert from_row(before | {"source": value}, before=before) is None
    assert state(from_row(ROW | {"note": value}))["source"] is None, "a column that is not needed"


@pytest.mark.parametrize(
    "value",
    [None, b"", b"null", b'""', b'{"schema": null, "payload": null}', b'{"op": "d", "source": {}}'],
    ids=["null", "empty", "JSON null", "JSON text", "with schema", "nothing before"],
)
@pytest.mark.parametrize("key", [b'{"id": "ada"}', b'"ada"', b"ada"], ids=["row", "JSON", "text"])
def test_a_deletion_with_nothing_in_it_is_an_erasure(value: bytes | None, key: bytes) -> None:
    record = converted(value, key)
    assert record is not None
    assert (record["lead_id"], record["change_type"]) == ("ada", "DELETED")


def test_a_deletion_of_the_other_formats_with_nothing_in_it_is_an_erasure() -> None:
    deleted = headers_by_name([("change_type", b"DELETED"), ("id", b"e")])
    for value in (None, b"", b"junk", b'{"lead_version": "x"}'):
        record = from_outbox(ForeignMessage(b"ada", value, deleted, SENT_MS, "t-0-1"), HOW)
        assert record is not None
        assert (record["lead_id"], record["change_type"]) == ("ada", "DELETED")
    named = {"specversion": "1.0", "id": "1", "source": "/crm", "type": "lead.deleted"}
    headers = headers_by_name(
        (f"ce_{name}", value.encode()) for name, value in (named | {"subject": "ada"}).items()
    )
    for value in (None, b"", b"null", b'""'):
        record = from_cloudevent(ForeignMessage(None, value, headers, SENT_MS, "t-0-1"), HOW)
        assert record is not None
        assert (record["lead_id"], record["change_type"]) == ("ada", "DELETED")


@pytest.mark.parametrize(
    "key",
    [b"\0\0\0\0\7x", b"{", b"\xff", b"Struct{id=ada}", b"[" * 5000],
    ids=["Avro", "brace", "bytes", "structure", "nested"],
)
def test_a_key_that_is_not_needed_makes_no_dead_letter(key: bytes) -> None:
    event = {"op": "c", "source": {"ts_ms": SENT_MS}, "before": None, "after": ROW}
    assert state(converted(encoded(event), key))["lead_score"] == 12.5
    with pytest.raises(Poison):
        converted(None, key)


def test_columns_with_the_names_of_an_envelope_are_columns() -> None:
    row = ROW | {"source": "web", "op": "night shift", "before": "x", "schema": "y", "payload": 1}
    assert state(converted(encoded(row)))["source"] == "web"
    assert state(from_row(ROW | {"source": "web"}))["source"] == "web"


def test_a_time_of_the_event_that_is_no_time_is_a_sentence() -> None:
    event = {"op": "c", "source": {"ts_ms": 7}, "before": None, "after": ROW}
    with pytest.raises(Poison, match="ts_ms is no plausible time"):
        converted(encoded(event))


@pytest.mark.parametrize("lead_id", ["\ud800", True, [], {}, 1.5])
def test_an_id_that_no_key_can_hold_is_a_sentence(lead_id: Any) -> None:
    assert "the lead's id" in refused({"id": lead_id}).lower()


AVRO_TIMES = {
    "date": ("int", {}, DAYS, DAY_MS),
    "timestamp-millis": ("long", {}, NOON_MS, NOON_MS),
    "timestamp-micros": ("long", {}, NOON_MS * 1000, NOON_MS),
    "timestamp-nanos": ("long", {}, NOON_MS * 1_000_000, NOON_MS),
    "local-timestamp-millis": ("long", {}, NOON_MS, NOON_MS),
    "local-timestamp-micros": ("long", {}, NOON_MS * 1000, NOON_MS),
    "connect date": ("int", {"connect.name": "io.debezium.time.Date"}, DAYS, DAY_MS),
    "connect micros": (
        "long",
        {"connect.name": "io.debezium.time.MicroTimestamp"},
        NOON_MS * 1000,
        NOON_MS,
    ),
    "1971": ("long", {"logicalType": "timestamp-millis"}, 50_000_000_000, 50_000_000_000),
}


@pytest.mark.parametrize("name", AVRO_TIMES)
@pytest.mark.parametrize("shape", ["nullable", "named"])
def test_a_time_in_avro_has_the_unit_of_its_logical_type(name: str, shape: str) -> None:
    kind, extra, value, expected = AVRO_TIMES[name]
    column = {"type": kind, **(extra or {"logicalType": name})}
    fields = [
        {"name": "id", "type": "string"},
        {"name": "created_at", "type": ["null", column], "default": None},
    ]
    row = {"type": "record", "name": "Row", "namespace": "crm", "fields": fields}
    schema = row
    if shape == "named":
        event = [{"name": "before", "type": ["null", row]}, {"name": "after", "type": "Row"}]
        event.append({"name": "op", "type": "string"})
        schema = {"type": "record", "name": "Envelope", "namespace": "crm", "fields": event}
    data: Any = {"id": "ada", "created_at": value}
    if shape == "named":
        data = {"before": None, "after": data, "op": "c"}
    assert state(from_avro(schema, data))["created_at"] == expected


def from_avro(schema: Any, data: Any) -> dict[str, Any] | None:
    """What a body of this schema becomes; fastavro writes the numbers as they are."""
    with registry_server() as server, closing(Registry(server.url)) as registry:
        number = registry.schema_id("crm-value", schema)
        body = BytesIO()
        schemaless_writer(body, parse_schema(without_logical_types(schema)), data)
        value = b"\0" + number.to_bytes(4, "big") + body.getvalue()
        how = ConversionOptions(parse_columns(""), True, HOW.reader, registry)
        return converted(value, None, how)


def without_logical_types(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: without_logical_types(v) for k, v in schema.items() if k != "logicalType"}
    return [without_logical_types(v) for v in schema] if isinstance(schema, list) else schema


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(column=st.sampled_from(["id", "lead_version", *HOW.description.state_columns()]), value=JSON)
def test_any_json_in_a_column_is_a_change_or_a_sentence(column: str, value: Any) -> None:
    record = None
    with suppress(Poison):
        record = from_row(ROW | {column: value})
    assert record is None or record["lead"] is None or record["lead"]["created_at"] >= 10**11
