"""The table of a lead's fields against every place that cannot read it: the schema and the SQL."""

import re
import tomllib
from typing import Any

import pytest

from consumer.run.lead_query import people_query
from features.definitions import FEATURE_OF_INPUT
from features.spec import INPUTS
from leadstream.lead_fields import CRM_FIELDS, LEAD_FIELDS, STATE_FIELDS, FieldKind
from producer import presets
from producer.crm import _PEOPLE
from producer.mapping import parse_mapping
from producer.migrate import FOLDER, migrations
from producer.simulator import SimulatedCrm
from schemas import schema_files
from schemas.crm_rows import lead_state
from schemas.foreign_rows import parse_columns

AVRO: dict[FieldKind, Any] = {
    FieldKind.TIME: {"type": "long", "logicalType": "timestamp-millis"},
    FieldKind.DOUBLE: "double",
    FieldKind.INT: "int",
    FieldKind.STRING: "string",
    FieldKind.DOUBLE_MAP: {"type": "map", "values": "double"},
    FieldKind.STRING_MAP: {"type": "map", "values": "string"},
}
SQL = {
    FieldKind.TIME: "timestamptz",
    FieldKind.DOUBLE: "double precision",
    FieldKind.INT: "integer",
    FieldKind.STRING: "text",
}
# Columns of `people` that are no field of a lead's state.
OTHER_COLUMNS = {
    "id",
    "first_name",
    "last_name",
    "email",
    "phone",
    "conversion_probability",
    "lead_version",
}
VALUES: dict[FieldKind, Any] = {
    FieldKind.TIME: 1_700_000_000_000,
    FieldKind.DOUBLE: 1.5,
    FieldKind.INT: 7,
    FieldKind.STRING: "x",
}


def test_a_field_that_the_schema_lacks_or_has_of_another_type_is_found() -> None:
    [state] = [
        field["type"][1]
        for field in schema_files.current_schema("LeadChanged")["fields"]
        if field["name"] == "lead"
    ]
    expected = [
        (field.name, ["null", AVRO[field.kind]] if field.optional else AVRO[field.kind])
        for field in LEAD_FIELDS
    ]
    assert [(field["name"], field["type"]) for field in state["fields"]] == expected


def test_a_field_that_the_outbox_does_not_record_is_found() -> None:
    """The newest definition of leadstream_state counts: a migration is never edited."""
    definitions = [
        found[1]
        for migration in migrations()
        for found in re.finditer(
            r"function leadstream_state\(.*?jsonb_build_object\((.*?)\);", migration.sql, re.DOTALL
        )
    ]
    assert definitions, FOLDER
    pairs = re.findall(r"'(\w+)', person -> '(\w+)'", definitions[-1])
    assert all(key == column for key, column in pairs)
    named = {field.name for field in CRM_FIELDS if field.name_table}
    assert {key for key, _ in pairs} == {field.column for field in CRM_FIELDS} | named


def test_the_demos_crm_has_no_column_of_another_type_than_the_table() -> None:
    text = (FOLDER.parent / "crm.sql").read_text(encoding="utf-8")
    people = text.split("create table if not exists people (")[1].split("\n);")[0]
    types = dict(
        re.findall(r"^ +(\w+) ([a-z ]+?)(?: not null.*| primary key| default.*)?,?$", people, re.M)
    )
    for field in CRM_FIELDS:
        kind = f"bigint references {field.name_table}" if field.name_table else SQL[field.kind]
        assert types.pop(field.column or "", kind) == kind, field.name
    assert types.keys() == OTHER_COLUMNS


def test_every_reader_of_the_table_has_every_field() -> None:
    names = [field.name for field in CRM_FIELDS]
    read_by_models = {"created_at", *FEATURE_OF_INPUT}
    assert read_by_models <= set(names)
    assert [spec.name for spec in INPUTS] == [name for name in names if name in read_by_models]
    assert [field.name for field in parse_columns("").fields] == names
    assert {field.column for field in CRM_FIELDS} <= set(_PEOPLE.split(", "))
    types = {("people", str(field.column)): "double precision" for field in CRM_FIELDS}
    query = people_query(types | {("people", "id"): "text"}).statement.as_string()
    assert all(f'p."{field.column}"' in query for field in CRM_FIELDS if not field.name_table)
    crm = SimulatedCrm(1, start=1_700_000_000_000, leads=1, days=1)
    [first, *_] = crm.changes()
    assert first.state is not None
    assert tuple(first.state) == STATE_FIELDS


@pytest.mark.parametrize("field", CRM_FIELDS, ids=lambda field: field.name)
def test_a_field_that_cannot_come_from_a_row_or_a_mapping_is_found(field: Any) -> None:
    row = {"created_at": VALUES[FieldKind.TIME], field.name: VALUES[field.kind]}
    state = lead_state(row)
    assert state is not None
    assert tuple(state) == STATE_FIELDS
    assert state[field.name] == VALUES[field.kind]
    options = {"column": "c", "format": "epoch_ms"} if field.kind is FieldKind.TIME else "c"
    mapping = parse_mapping(
        "m", {"lead": {"lead_id": "id", "created_at": "at", field.name: options}}
    )
    assert mapping.fields[field.name].read({"c": str(VALUES[field.kind])}, 2) == VALUES[field.kind]


@pytest.mark.parametrize("name", presets.NAMES)
def test_a_preset_names_only_fields_that_exist(name: str) -> None:
    table = tomllib.loads((presets.FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    others = {"lead_id", "lead_version", "occurred_at"}
    assert table["lead"].keys() <= {*STATE_FIELDS, *others}
