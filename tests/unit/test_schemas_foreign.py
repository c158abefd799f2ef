"""Changes of other systems: what Debezium 3.3 wrote of a CRM at work (debezium.json), and
CloudEvents of every mode.
"""

import base64
import json
from collections.abc import Mapping
from contextlib import closing, suppress
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from leadstream.errors import Poison, Reason, SettingsError
from schemas.codec import Reader, Writer
from schemas.crm_rows import corrected_state
from schemas.foreign_converters import CONVERTERS
from schemas.foreign_formats import (
    ConversionOptions,
    ForeignFormat,
    ForeignMessage,
    headers_by_name,
)
from schemas.foreign_rows import parse_columns
from schemas.registry import Registry
from tests.registry_server import registry_server
from tests.unit.pipelines import event

MESSAGES: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "debezium.json").read_text()
)
HOW = ConversionOptions(parse_columns(""), True, Reader("LeadChanged"), None)
WITHOUT_STATE = ConversionOptions(parse_columns(""), False, Reader("LeadChanged"), None)
WRITER = Writer("LeadChanged")
# What the CRM did: there before the connector, then created, scored, a probability written back,
# hot, deleted.
DONE = [
    ("before", "RESCORE", 12.5, "new", 0),
    ("ada", "CREATED", 40.0, "new", 1),
    ("ada", "UPDATED", 60.25, "new", 2),
    ("ada", "UPDATED", 60.25, "hot", 2),
    ("ada", "DELETED", None, None, 2),
]


def foreign(message: Mapping[str, Any]) -> ForeignMessage:
    raw = {
        name: None if message[name] is None else message[name].encode() for name in ("key", "value")
    }
    headers = headers_by_name((name, value.encode()) for name, value in message["headers"].items())
    return ForeignMessage(
        raw["key"], raw["value"], headers, message["timestamp"], f"t-0-{message['offset']}"
    )


def read(
    kind: ForeignFormat, message: ForeignMessage, how: ConversionOptions = HOW
) -> dict[str, Any] | None:
    """What a message means; every change must be one that can be written."""
    records = CONVERTERS[kind](message, how)
    for record in records:
        WRITER.encode(record)
    return records[0] if records else None


def reported(record: dict[str, Any]) -> tuple[Any, ...]:
    lead = record["lead"] or {}
    known = (record["lead_id"], record["change_type"], lead.get("lead_score"), lead.get("status"))
    return (*known, record["lead_version"])


@pytest.mark.parametrize("of", ["schema", "plain"])
def test_the_envelope_tells_what_the_crm_did_and_that_a_probability_written_back_is_nothing(
    of: str,
) -> None:
    records = [read(ForeignFormat.DEBEZIUM, foreign(message)) for message in MESSAGES[of]]
    assert records.pop(3) is None, "scored again, each score written back would cause the next"
    tombstone = records.pop()
    assert [reported(record) for record in records if record] == DONE
    assert tombstone
    assert (tombstone["lead_id"], tombstone["change_type"]) == ("ada", "DELETED")
    first = records[0]
    assert first
    assert first["lead"]["created_at"] == 1_769_847_300_123
    assert len({record["event_id"] for record in records if record}) == len(DONE)
    again = [
        read(ForeignFormat.DEBEZIUM, foreign(message | {"offset": 99})) for message in MESSAGES[of]
    ]
    assert again[0] == first, "sent again, it is the same event"


@pytest.mark.parametrize(("hours", "corrected"), [(2, True), (14, True), (15, False)])
def test_a_local_time_of_creation_without_its_zone_is_that_of_the_change(
    hours: int, corrected: bool
) -> None:
    at = 1_769_847_300_000
    state = corrected_state({"created_at": at + hours * 3_600_000, "status": "new"}, at)
    assert state["created_at"] == (at if corrected else at + hours * 3_600_000)
    assert corrected_state({"created_at": at - 1}, at) == {"created_at": at - 1}


def test_unwrapped_rows_tell_the_same_but_not_what_was_before() -> None:
    records = [read(ForeignFormat.DEBEZIUM, foreign(message)) for message in MESSAGES["unwrapped"]]
    kinds = [(record["lead_id"], record["change_type"]) for record in records if record]
    assert kinds == [
        *[
            ("before", "RESCORE"),
            ("ada", "CREATED"),
            ("ada", "UPDATED"),
            ("ada", "UPDATED"),
            ("ada", "UPDATED"),
        ],
        *[("ada", "DELETED"), ("ada", "DELETED")],
    ]
    assert records[2]
    assert reported(records[2]) == DONE[2]


def test_the_outbox_router_brings_the_outbox_with_its_event_ids_and_origins() -> None:
    records = [read(ForeignFormat.OUTBOX, foreign(message)) for message in MESSAGES["outbox"]]
    assert [reported(record) for record in records if record] == [
        ("before", "CREATED", *DONE[0][2:]),
        *DONE[1:],
    ]
    assert [record["origin"] for record in records if record] == [
        "crm",
        "crm",
        "crm",
        "leadstream",
        "crm",
    ]
    assert [record["event_id"] for record in records if record] == [
        m["headers"]["id"] for m in MESSAGES["outbox"]
    ]


def test_without_states_the_consumer_is_left_to_ask_the_database() -> None:
    record = read(ForeignFormat.DEBEZIUM, foreign(MESSAGES["plain"][1]), WITHOUT_STATE)
    assert record
    assert record["lead"] is None


def test_columns_of_other_names_are_found_by_the_setting() -> None:
    how = ConversionOptions(
        parse_columns("lead_id = uid, lead_score=points"), True, HOW.reader, None
    )
    row = {
        "uid": 7,
        "points": {"scale": 1, "value": "fQ=="},
        "created_at": 1_769_847_300_123_456,
        "status": None,
    }
    envelope = {
        "op": "c",
        "source": {"lsn": 5, "schema": "public", "table": "people"},
        "before": None,
        "after": row,
    }
    message = ForeignMessage(b"{}", json.dumps(envelope).encode(), {}, 1_800_000_000_000, "t-0-1")
    record = read(ForeignFormat.DEBEZIUM, message, how)
    assert record
    assert (record["lead_id"], record["lead"]["lead_score"], record["lead"]["created_at"]) == (
        "7",
        12.5,
        1_769_847_300_123,
    )
    with pytest.raises(SettingsError, match="'phone=mobile' is no field=column"):
        parse_columns("phone=mobile")


def test_an_envelope_in_avro_is_read_by_the_schema_of_its_writer() -> None:
    decimal = {
        "type": "bytes",
        "scale": 2,
        "precision": 6,
        "logicalType": "decimal",
        "connect.version": 1,
    }
    row = [
        {"name": "id", "type": "string"},
        {
            "name": "created_at",
            "type": {"type": "string", "connect.name": "io.debezium.time.ZonedTimestamp"},
        },
        {"name": "lead_score", "type": ["null", decimal], "default": None},
        {"name": "status", "type": ["null", "string"], "default": None},
    ]
    source = [
        {"name": name, "type": kind}
        for name, kind in (
            ("ts_ms", "long"),
            ("schema", "string"),
            ("table", "string"),
            ("lsn", ["null", "long"]),
        )
    ]
    value = {"type": "record", "name": "Value", "namespace": "crm.public.people", "fields": row}
    envelope = {
        "type": "record",
        "name": "Envelope",
        "namespace": "crm.public.people",
        "fields": [
            {"name": "before", "type": ["null", value], "default": None},
            {"name": "after", "type": ["null", "Value"], "default": None},
            {"name": "source", "type": {"type": "record", "name": "Source", "fields": source}},
            {"name": "op", "type": "string"},
        ],
    }
    ada = {
        "id": "ada",
        "created_at": "2026-01-31T08:15:00.123456Z",
        "lead_score": Decimal("12.50"),
        "status": "new",
    }
    at = {"ts_ms": 1_769_900_000_000, "schema": "public", "table": "people", "lsn": 17}
    with registry_server() as state, closing(Registry(state.url)) as registry:
        number = registry.schema_id("crm.public.people-value", envelope)

        def message(**fields: Any) -> ForeignMessage:
            body = BytesIO()
            schemaless_writer(body, parse_schema(envelope), {"source": at, **fields})
            return ForeignMessage(
                None, b"\0" + number.to_bytes(4, "big") + body.getvalue(), {}, 0, "t-0-1"
            )

        how = ConversionOptions(parse_columns(""), True, HOW.reader, registry)
        record = read(ForeignFormat.DEBEZIUM, message(op="c", before=None, after=ada), how)
        assert record
        assert reported(record) == ("ada", "CREATED", 12.5, "new", 0)
        assert read(ForeignFormat.DEBEZIUM, message(op="u", before=ada, after=ada), how) is None
        full = message(op="c", before=None, after=ada)
        with pytest.raises(Poison) as short:
            read(
                ForeignFormat.DEBEZIUM,
                ForeignMessage(None, (full.value or b"")[:-3], {}, 0, "t-0-1"),
                how,
            )
        assert short.value.reason is Reason.DECODE_FAILED
    with pytest.raises(Poison) as unset:
        read(ForeignFormat.DEBEZIUM, full)
    assert unset.value.reason is Reason.UNKNOWN_SCHEMA


ROW = {"id": "ada", "created_at": "2026-01-31T08:15:00Z", "lead_score": 12.5, "lead_version": 3}
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "A234",
    "source": "/crm/leads",
    "type": "com.example.lead.updated",
    "time": "2026-02-01T00:00:00Z",
}


def binary(
    data: bytes | None, content: str = "application/json", **attributes: str
) -> ForeignMessage:
    named = [(f"ce_{name}", value.encode()) for name, value in (ATTRIBUTES | attributes).items()]
    return ForeignMessage(
        b"ada", data, headers_by_name([*named, ("Content-Type", content.encode())]), 5, "t-0-1"
    )


def structured(**fields: Any) -> ForeignMessage:
    content = headers_by_name([("content-type", b"application/cloudevents+json; charset=UTF-8")])
    return ForeignMessage(b"ada", json.dumps(ATTRIBUTES | fields).encode(), content, 5, "t-0-1")


@pytest.mark.parametrize(
    "message",
    [
        binary(json.dumps(ROW).encode()),
        structured(data=ROW),
        structured(data_base64=base64.b64encode(json.dumps(ROW).encode()).decode()),
    ],
    ids=["binary", "structured", "base64"],
)
def test_a_cloudevent_is_understood_in_either_mode(message: ForeignMessage) -> None:
    record = read(ForeignFormat.CLOUDEVENTS, message)
    assert record
    assert reported(record) == ("ada", "UPDATED", 12.5, None, 3)
    assert (record["event_id"], record["occurred_at"]) == ("/crm/leads#A234", 1_769_904_000_000)


def test_a_cloudevent_may_delete_by_its_subject_mark_its_origin_or_hold_avro() -> None:
    deleted = read(ForeignFormat.CLOUDEVENTS, binary(None, type="lead.deleted", subject="ben"))
    assert deleted
    assert (deleted["lead_id"], deleted["change_type"]) == ("ben", "DELETED")
    marked = read(ForeignFormat.CLOUDEVENTS, binary(json.dumps(ROW).encode(), origin="leadstream"))
    assert marked
    assert marked["origin"] == "leadstream"
    full = event("cleo")
    assert read(
        ForeignFormat.CLOUDEVENTS, binary(WRITER.encode(full), "application/avro")
    ) == HOW.reader.decode(WRITER.encode(full))


@pytest.mark.parametrize(
    ("kind", "message", "words"),
    [
        (ForeignFormat.CLOUDEVENTS, binary(b"{}", specversion="0.3"), "is no version"),
        (ForeignFormat.CLOUDEVENTS, binary(b"{}", type="lead.merged"), "ends in none of"),
        (
            ForeignFormat.CLOUDEVENTS,
            binary(b"{}"),
            "the lead's id, in data or as subject, is missing",
        ),
        (
            ForeignFormat.CLOUDEVENTS,
            ForeignMessage(None, b"{}", {}, 5, "t"),
            "attribute specversion",
        ),
        (ForeignFormat.CLOUDEVENTS, structured(data_base64="?"), "base64"),
        (ForeignFormat.DEBEZIUM, ForeignMessage(None, b"[]", {}, 5, "t"), "no row and no envelope"),
        (
            ForeignFormat.DEBEZIUM,
            ForeignMessage(None, None, {}, 5, "t"),
            "the row or the key, is missing",
        ),
        (
            ForeignFormat.DEBEZIUM,
            ForeignMessage(b"{}", b'{"op":"t","source":{}}', {}, 5, "t"),
            "none of a single lead",
        ),
        (ForeignFormat.DEBEZIUM, ForeignMessage(None, b"junk", {}, 5, "t"), "not JSON"),
        (ForeignFormat.OUTBOX, ForeignMessage(None, b"{}", {}, 5, "t"), "the key"),
        (
            ForeignFormat.OUTBOX,
            ForeignMessage(b"ada", b"7", {}, 5, "t"),
            "no row of leadstream_outbox",
        ),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_sentence(
    kind: ForeignFormat, message: ForeignMessage, words: str
) -> None:
    with pytest.raises(Poison) as poison:
        CONVERTERS[kind](message, HOW)
    assert words.lower() in poison.value.detail.lower()
    assert poison.value.detail.endswith(".")


PARTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["c", "u", "d", "1.0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *HOW.description.state_columns(),
                    "id",
                    "op",
                    "before",
                    "after",
                    "source",
                    "payload",
                    "schema",
                    "scale",
                    "value",
                    "__op",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
RAW = st.none() | st.binary(max_size=20) | PARTS.map(lambda part: json.dumps(part).encode())


@given(
    kind=st.sampled_from(ForeignFormat),
    key=RAW,
    value=RAW,
    headers=st.dictionaries(
        st.sampled_from(["id", "change_type", "occurred_at", "ce_type", "content-type"]),
        st.binary(),
    ),
)
def test_nothing_that_may_be_in_a_topic_raises_anything_but_poison(
    kind: ForeignFormat, key: bytes | None, value: bytes | None, headers: dict[str, bytes]
) -> None:
    extra = (
        {f"ce_{name}": text.encode() for name, text in ATTRIBUTES.items()}
        if kind is ForeignFormat.CLOUDEVENTS
        else {}
    )
    with suppress(Poison):
        read(kind, ForeignMessage(key, value, extra | headers, 1_800_000_000_000, "t-0-1"))
