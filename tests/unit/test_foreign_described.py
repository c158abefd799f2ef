"""Events of a described CRM: its own columns, fields, zone and marks decide what a change is."""

import json
import tomllib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

from leadstream.errors import Poison, SettingsError
from schemas.codec import Reader, Writer
from schemas.description_file import parse_description
from schemas.foreign_converters import CONVERTERS
from schemas.foreign_formats import ConversionOptions, ForeignFormat, ForeignMessage
from schemas.foreign_rows import parse_columns

FILE: dict[str, Any] = tomllib.loads("""
[database]
table = "contacts"
id = "contact_uuid"
version = "row_version"
deleted = "deleted_at"
origin = { column = "updated_by", values = ["leadstream"] }
time_zone = "Europe/Berlin"
[lead]
created_at = "created_on"
status = "stage"
[lead.numbers]
gpa = "gpa"
[lead.categories]
consent = "has_consent"
""")
ROW: dict[str, Any] = {
    "contact_uuid": "6f1d9f3e",
    "created_on": 1_769_860_800_500_000,
    "stage": "open",
    "gpa": {"scale": 2, "value": "AV4="},
    "has_consent": True,
    "deleted_at": None,
    "updated_by": "crm",
    "row_version": 4,
    "nickname": "unread",
}
# 2026-01-31 12:00:00.5 in Berlin; ROW has it as if that were in UTC, as Debezium writes it.
CREATED = 1_769_857_200_500
SENT = 1_769_900_000_000


def options(file: Mapping[str, Any] = FILE, columns: str = "", **more: Any) -> ConversionOptions:
    description = parse_columns(columns, file, "crm.toml")
    return ConversionOptions(description, True, Reader("LeadChanged"), None, **more)


def debezium(
    after: Any, before: Any = None, operation: str = "u", how: ConversionOptions | None = None
) -> dict[str, Any] | None:
    event = {"op": operation, "source": {"ts_ms": SENT}, "before": before, "after": after}
    message = ForeignMessage(None, json.dumps(event).encode(), {}, SENT, "t-0-1")
    return only(CONVERTERS[ForeignFormat.DEBEZIUM](message, how or options()))


def only(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    assert len(records) < 2
    for record in records:
        Writer("LeadChanged").encode(record)
    return records[0] if records else None


def cloud_event(data: Any, **attributes: str) -> dict[str, Any] | None:
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "/crm",
        "type": "lead.updated",
        "time": "2026-02-01T00:00:00Z",
        "data": data,
        **attributes,
    }
    headers = {"content-type": b"application/cloudevents+json"}
    message = ForeignMessage(None, json.dumps(event).encode(), headers, SENT, "t-0-1")
    return only(CONVERTERS[ForeignFormat.CLOUDEVENTS](message, options()))


def test_a_row_of_debezium_has_the_state_of_the_description_in_its_zone() -> None:
    record = debezium(ROW, operation="c")
    assert record is not None
    assert (record["lead_id"], record["lead_version"], record["origin"]) == ("6f1d9f3e", 4, "crm")
    lead = record["lead"]
    assert (lead["created_at"], lead["status"]) == (CREATED, "open")
    assert (lead["numbers"], lead["categories"]) == ({"gpa": 3.5}, {"consent": "true"})


@pytest.mark.parametrize(
    "created_on",
    ["2026-01-31T12:00:00.5", "2026-01-31T11:00:00.500Z", "2026-01-31 12:00:00.5+01:00"],
)
def test_a_time_with_or_without_a_zone_is_one_moment_by_every_road(created_on: str) -> None:
    row = {**ROW, "created_on": created_on, "gpa": 3.5}
    found = [debezium(row), cloud_event(row)]
    assert [record and record["lead"]["created_at"] for record in found] == [CREATED] * 2
    assert parse_description("crm.toml", FILE).lead_state(row)["created_at"] == CREATED


def test_a_time_with_its_schema_is_read_in_the_zone_of_the_database() -> None:
    kinds = [{"field": "created_on", "name": "io.debezium.time.MicroTimestamp"}]
    schema = {"type": "struct", "fields": [{"field": "after", "type": "struct", "fields": kinds}]}
    payload = {"op": "c", "source": {"ts_ms": SENT}, "before": None, "after": ROW}
    value = json.dumps({"schema": schema, "payload": payload}).encode()
    record = only(
        CONVERTERS[ForeignFormat.DEBEZIUM](
            ForeignMessage(None, value, {}, SENT, "t-0-1"), options()
        )
    )
    assert record is not None
    assert record["lead"]["created_at"] == CREATED


def test_a_change_of_an_own_column_is_a_change_and_of_another_column_none() -> None:
    assert debezium(ROW | {"gpa": 3.75, "row_version": 5}, ROW) is not None
    assert debezium(ROW | {"has_consent": False}, ROW) is not None
    assert debezium(ROW | {"nickname": "x", "row_version": 5}, ROW) is None


def test_a_soft_deletion_erases_the_lead_and_its_end_brings_it_back() -> None:
    gone = ROW | {"deleted_at": 1_769_860_800_000_000, "row_version": 5}
    record = debezium(gone, ROW)
    assert record is not None
    assert (record["change_type"], record["lead"], record["lead_version"]) == ("DELETED", None, 5)
    back = debezium(ROW, gone)
    assert back is not None
    assert (back["change_type"], back["lead"]["status"]) == ("UPDATED", "open")
    assert (cloud_event(gone) or {})["change_type"] == "DELETED"


def test_a_row_that_rows_only_excludes_is_no_lead() -> None:
    file = FILE | {"rows": {"only": {"kind": ["prospect"]}}}
    one, other = ROW | {"kind": "prospect"}, ROW | {"kind": "student"}
    for row, expected in ((one, "UPDATED"), (other, "DELETED"), (ROW, "UPDATED")):
        record = debezium(row, how=options(file))
        assert record is not None
        assert record["change_type"] == expected


def test_a_score_that_was_written_back_is_marked_by_the_description() -> None:
    record = debezium(ROW | {"updated_by": "leadstream", "gpa": 3.25}, ROW)
    assert record is not None
    assert record["origin"] == "leadstream"


def test_a_name_behind_a_key_is_left_to_the_database() -> None:
    file = deepcopy(FILE)
    file["lead"]["source"] = {"column": "source_id", "lookup": {"table": "sources"}}
    record = debezium(ROW | {"source_id": 7}, how=options(file))
    assert record is not None
    assert record["lead"] is None
    without = debezium(ROW | {"source_id": None}, how=options(file))
    assert without is not None
    assert without["lead"]["source"] is None


def test_ids_of_every_type_are_the_texts_that_postgres_writes() -> None:
    for value, expected in (
        (7, "7"),
        ("7f", "7f"),
        ({"scale": 2, "value": "Au4="}, "7.50"),
        (9_007_199_254_740_993, "9007199254740993"),
    ):
        record = debezium(ROW | {"contact_uuid": value})
        assert record is not None
        assert record["lead_id"] == expected


def test_a_version_may_be_a_time_and_nonsense_is_refused() -> None:
    record = debezium(ROW | {"row_version": "2026-01-31T12:00:00.5"})
    assert record is not None
    assert record["lead_version"] == CREATED
    with pytest.raises(Poison, match="lead_version is no integer, and no time"):
        debezium(ROW | {"row_version": "newest"})


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("gpa", "AV4=", "The field numbers.gpa is a text that is no number"),
        ("gpa", True, "The field numbers.gpa is no number"),
        ("created_on", "yesterday", "The field created_at is no plausible time"),
    ],
)
def test_a_value_that_cannot_be_one_of_its_field_is_named(
    column: str, value: Any, sentence: str
) -> None:
    with pytest.raises(Poison, match=sentence):
        debezium(ROW | {column: value})


def test_a_time_of_another_format_than_the_described_one_is_named_with_that_format() -> None:
    spec = {"column": "created_on", "format": "%d/%m/%Y"}
    how = options({**FILE, "lead": {**FILE["lead"], "created_at": spec}})
    record = debezium(ROW | {"created_on": "31/01/2026"}, how=how)
    assert record is not None
    assert record["lead"]["created_at"] == 1_769_814_000_000
    with pytest.raises(Poison, match="created_at is no time of the described format: %d/%m/%Y"):
        debezium(ROW | {"created_on": "01/31/2026"}, how=how)


def test_columns_of_the_command_line_add_own_fields_and_win_over_the_file() -> None:
    how = options(FILE, "lead_id=uid, status=phase, numbers.visits=visits, categories.tier=tier")
    row = {**ROW, "uid": "u1", "phase": "hot", "visits": 3, "tier": "gold"}
    record = debezium(row, how=how)
    assert record is not None
    assert (record["lead_id"], record["lead"]["status"]) == ("u1", "hot")
    assert record["lead"]["numbers"] == {"gpa": 3.5, "visits": 3.0}
    assert record["lead"]["categories"] == {"consent": "true", "tier": "gold"}
    assert FILE["lead"]["status"] == "stage", "the file is not changed"


@pytest.mark.parametrize("columns", ["phone=mobile", "numbers.=x", "status", "numbers=x"])
def test_columns_that_name_no_field_are_refused_with_the_fields(columns: str) -> None:
    with pytest.raises(SettingsError, match=r"is no field=column; fields are .*numbers\.NAME"):
        parse_columns(columns)


def test_columns_with_personal_data_are_never_read() -> None:
    with pytest.raises(SettingsError, match="looks like personal data"):
        parse_columns("categories.contact=email")


def test_the_outbox_of_a_described_crm_is_read_by_the_description() -> None:
    columns = {"created_on": "2026-01-31T12:00:00.5", "stage": "open", "gpa": 3.5, "row_version": 9}
    message = ForeignMessage(b"u1", json.dumps(columns).encode(), {}, SENT, "t-0-1")
    record = only(CONVERTERS[ForeignFormat.OUTBOX](message, options()))
    assert record is not None
    assert (record["lead_version"], record["lead"]["created_at"]) == (9, CREATED)
    assert record["lead"]["numbers"] == {"gpa": 3.5}
    described = {"leadstream_described": True, **columns}
    message = ForeignMessage(b"u1", json.dumps(described).encode(), {}, SENT, "t-0-1")
    assert CONVERTERS[ForeignFormat.OUTBOX](message, options()) == [record]
    undescribed = ConversionOptions(parse_columns(""), True, Reader("LeadChanged"), None)
    with pytest.raises(Poison, match="set LEADSTREAM_FIELDS to the file"):
        CONVERTERS[ForeignFormat.OUTBOX](message, undescribed)
