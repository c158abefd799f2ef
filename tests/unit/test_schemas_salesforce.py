"""Change events of Salesforce, as Confluent's and Redpanda Connect's sources write them."""

import json
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer

from leadstream.errors import Poison
from producer.presets import read_preset
from schemas.codec import Reader, Writer
from schemas.foreign_converters import CONVERTERS
from schemas.foreign_formats import ConversionOptions, ForeignFormat, ForeignMessage
from schemas.foreign_rows import parse_columns
from schemas.registry import Registry
from tests.registry_server import registry_server

AT = 1_769_947_200_000
HEADER: dict[str, Any] = {
    "entityName": "Lead",
    "recordIds": ["00Q01"],
    "changeType": "CREATE",
    "changeOrigin": "com/salesforce/api/rest/63.0;client=Web",
    "transactionKey": "0001-abc",
    "sequenceNumber": 1,
    "commitTimestamp": AT,
    "commitNumber": 1_234_567,
    "commitUser": "00501",
    "changedFields": [],
}
# As a Streaming API client gets it: only the fields that have a value or changed.
LEAD: dict[str, Any] = {
    "LeadSource": "Web",
    "Status": "Open",
    "Name": {"FirstName": "Ada", "LastName": "Berg"},
    "Address": {"City": "Lyon", "Country": "FR"},
    "NumberOfEmployees": 12,
    "IsConverted": False,
    "CreatedDate": "2026-01-31T08:15:00.000Z",
    "LastModifiedDate": "2026-02-01T12:00:00Z",
}
# The same in the Avro of the Pub/Sub API, whose unions keep the names of their branches.
TAGGED: dict[str, Any] = {
    "LeadSource": {"string": "Web"},
    "Status": {"string": "Open"},
    "Name": {"com.sforce.eventbus.Name": {"FirstName": {"string": "Ada"}, "LastName": None}},
    "Address": {
        "com.sforce.eventbus.Address": {"City": {"string": "Lyon"}, "Country": {"string": "FR"}}
    },
    "NumberOfEmployees": {"int": 12},
    "AnnualRevenue": None,
    "IsConverted": {"boolean": False},
    "CreatedDate": {"long": 1_769_847_300_000},
    "LastModifiedDate": {"long.timestamp-millis": AT},
}
CREATED = 1_769_847_300_000


def options(*, fetched: bool = True, columns: str = "", **more: Any) -> ConversionOptions:
    description = parse_columns(columns, read_preset("salesforce"))
    return ConversionOptions(
        description, True, Reader("LeadChanged"), None, fetched=fetched, **more
    )


def event(fields: Any = LEAD, **header: Any) -> dict[str, Any]:
    return {"ReplayId": "17", "ChangeEventHeader": HEADER | header, **fields}


def update(**fields: Any) -> dict[str, Any]:
    return event(fields, changeType="UPDATE", changedFields=[*fields, "LastModifiedDate"])


def read(value: Any, how: ConversionOptions | None = None) -> list[dict[str, Any]]:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    message = ForeignMessage(None, raw, {}, AT + 5, "t-0-1")
    records = CONVERTERS[ForeignFormat.SALESFORCE](message, how or options())
    for record in records:
        Writer("LeadChanged").encode(record)
    return records


@pytest.mark.parametrize(
    "value",
    [
        event(),
        event(TAGGED),
        {"schema": "id-of-it", "payload": event(), "event": {"replayId": 6}},
        {"data": {"schema": "id-of-it", "payload": event(), "event": {"replayId": 6}}},
        {"schema": {"type": "struct", "fields": []}, "payload": event()},
    ],
    ids=["confluent", "redpanda", "sf_api", "streaming", "connect"],
)
def test_a_creation_brings_the_whole_lead_in_the_form_of_every_source(value: Any) -> None:
    [record] = read(value)
    assert (record["lead_id"], record["change_type"]) == ("00Q01", "CREATED")
    assert (record["event_id"], record["occurred_at"]) == ("0001-abc-1-00Q01", AT)
    assert record["origin"] == "crm"
    lead = record["lead"]
    assert (lead["created_at"], lead["status"], lead["source"]) == (CREATED, "Open", "Web")
    assert lead["numbers"] == {"employees": 12.0}
    assert lead["categories"] == {"country": "FR"}


def test_an_event_in_avro_is_read_by_the_schema_of_its_writer() -> None:
    text = ["null", "string"]
    header = {
        "type": "record",
        "name": "ChangeEventHeader",
        "fields": [
            {"name": "entityName", "type": "string"},
            {"name": "recordIds", "type": {"type": "array", "items": "string"}},
            {"name": "changeType", "type": {"type": "enum", "name": "Kind", "symbols": ["CREATE"]}},
            {"name": "commitTimestamp", "type": "long"},
        ],
    }
    schema = {
        "type": "record",
        "name": "LeadChangeEvent",
        "fields": [
            {"name": "ChangeEventHeader", "type": header},
            {"name": "Status", "type": text},
            {
                "name": "CreatedDate",
                "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}],
            },
        ],
    }
    plain = json.loads(json.dumps(schema).replace(', "logicalType": "timestamp-millis"', ""))
    body = BytesIO()
    names = ("entityName", "recordIds", "changeType", "commitTimestamp")
    data = {"ChangeEventHeader": {name: HEADER[name] for name in names}}
    schemaless_writer(body, parse_schema(plain), {**data, "Status": "Open", "CreatedDate": CREATED})
    with registry_server() as server:
        registry = Registry(server.url)
        number = registry.schema_id("sf-value", schema)
        how = ConversionOptions(options().description, True, Reader("LeadChanged"), registry)
        [record] = read(b"\0" + number.to_bytes(4, "big") + body.getvalue(), how)
        registry.close()
    assert (record["lead"]["status"], record["lead"]["created_at"]) == ("Open", CREATED)


def test_one_event_is_one_change_for_each_of_its_records() -> None:
    records = read(event(recordIds=["00Q01", "00Q02", "00Q01", "00Q03"]))
    assert [record["lead_id"] for record in records] == ["00Q01", "00Q02", "00Q03"]
    assert len({record["event_id"] for record in records}) == 3
    again = read(event(recordIds=["00Q01", "00Q02", "00Q01", "00Q03"]))
    assert again == records


def test_an_update_brings_no_state_which_the_consumer_reads() -> None:
    [record] = read(update(Status="Contacted"))
    assert (record["change_type"], record["lead"]) == ("UPDATED", None)
    with pytest.raises(Poison, match="brings only a part of the lead: set DATABASE_URL"):
        read(update(Status="Contacted"), options(fetched=False))


def test_an_update_of_other_fields_is_no_change() -> None:
    assert read(update(Description="x")) == []
    assert read(update(Description="x"), options(fetched=False)) == []
    nested = event(
        {"Address": {"Country": "DE"}}, changeType="UPDATE", changedFields=["Address.Country"]
    )
    assert len(read(nested)) == 1


def test_fields_that_changed_may_be_bits_that_only_salesforce_can_name() -> None:
    bits = {"changeType": "UPDATE", "changedFields": ["0x400080"], "nulledFields": []}
    nothing = dict.fromkeys(TAGGED)
    assert read(event(nothing | {"Description": {"string": "x"}}, **bits)) == []
    assert len(read(event(nothing | {"Status": {"string": "Contacted"}}, **bits))) == 1
    assert len(read(event(nothing, **bits | {"nulledFields": ["0x02"]}))) == 1


@pytest.mark.parametrize("kind", ["DELETE", "GAP_DELETE"])
def test_a_deletion_erases_each_lead(kind: str) -> None:
    records = read(event({}, changeType=kind, recordIds=["00Q01", "00Q02"]))
    assert [(r["lead_id"], r["change_type"]) for r in records] == [
        ("00Q01", "DELETED"),
        ("00Q02", "DELETED"),
    ]
    assert read(event({}, changeType=kind), options(fetched=False))


def test_an_undeletion_brings_the_whole_lead_again() -> None:
    [record] = read(event(changeType="UNDELETE"))
    assert (record["change_type"], record["lead"]["status"]) == ("CREATED", "Open")


@pytest.mark.parametrize(
    ("kind", "change_type"),
    [("GAP_CREATE", "CREATED"), ("GAP_UPDATE", "UPDATED"), ("GAP_UNDELETE", "CREATED")],
)
def test_a_gap_event_has_no_fields_and_asks_the_database(kind: str, change_type: str) -> None:
    [record] = read(event({}, changeType=kind))
    assert (record["change_type"], record["lead"]) == (change_type, None)
    with pytest.raises(Poison, match="set DATABASE_URL"):
        read(event({}, changeType=kind), options(fetched=False))


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"changeType": "GAP_OVERFLOW", "recordIds": ["000000000000000AAA"]}, "GAP_OVERFLOW"),
        ({"changeType": "UPDATE", "recordIds": ["00Q*"]}, "names no single records"),
        ({"changeType": "UPDATE", "recordIds": ["000000000000000AAA"]}, "names no single records"),
        ({"recordIds": []}, "recordIds is missing or empty"),
        ({"recordIds": [7]}, "the id of a record is missing"),
        ({"changeType": "MERGE"}, "the changeType is none of CREATE, UNDELETE, UPDATE, DELETE"),
        ({"changeType": None}, "the changeType is none of"),
        ({"commitTimestamp": "soon"}, "the field commitTimestamp is no plausible time"),
    ],
)
def test_an_event_that_names_no_lead_says_what_to_do(header: Any, sentence: str) -> None:
    with pytest.raises(Poison) as found:
        read(event(**header))
    assert sentence.lower() in found.value.detail.lower()


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("com/salesforce/api/rest/63.0;client=leadstream", "leadstream"),
        ("com/salesforce/api/bulkapi/63.0;client=Leadstream", "leadstream"),
        ("com/salesforce/api/rest/63.0;client=leadstreamer", "crm"),
        ("", "crm"),
        (None, "crm"),
    ],
)
def test_a_score_that_leadstream_wrote_starts_no_loop(origin: Any, expected: str) -> None:
    [record] = read(event(changeOrigin=origin))
    assert record["origin"] == expected


def test_events_of_other_objects_are_left_out() -> None:
    assert read(event(entityName="Account")) == []
    assert len(read(event(entityName="Contact"), options(object="Contact"))) == 1


def test_a_lead_that_was_converted_is_left_out_as_in_an_export() -> None:
    assert read(event(LEAD | {"IsConverted": True})) == []
    assert read(update(IsConverted=True)) == []


def test_a_row_of_a_snapshot_is_scored_again() -> None:
    row = LEAD | {"Id": "00Q07", "attributes": {"type": "Lead", "url": "/x"}}
    [record] = read(row)
    assert (record["lead_id"], record["change_type"]) == ("00Q07", "RESCORE")
    assert record["lead"]["status"] == "Open"
    assert read(row | {"attributes": {"type": "Account"}}) == []
    [gone] = read(row | {"IsDeleted": True})
    assert gone["change_type"] == "DELETED"


def test_fields_of_ones_own_are_found_in_any_letter_case() -> None:
    how = options(columns="programme_name=programme__c, numbers.gpa=GPA__c")
    [record] = read(event(LEAD | {"Programme__c": "MBA", "GPA__c": 3.5}), how)
    assert record["lead"]["programme_name"] == "MBA"
    assert record["lead"]["numbers"] == {"employees": 12.0, "gpa": 3.5}


def test_no_name_of_a_person_leaves_the_event() -> None:
    assert "Ada" not in json.dumps(read(event())) + json.dumps(read(event(TAGGED)))
