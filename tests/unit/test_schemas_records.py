"""The schema files against the contract, and the fingerprints against the Avro specification."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import avro.schema
import pytest

from leadstream.errors import UserError
from schemas import schema_files

T = {"type": "long", "logicalType": "timestamp-millis"}


def optional(kind: Any) -> list[Any]:
    return ["null", kind]


REASON: list[tuple[Any, ...]] = [
    ("feature", "string"),
    ("contribution", "double"),
    ("value", optional("string"), None),
    ("percentile", optional("double"), None),
    ("given_rate", optional("double"), None),
]
# The contract's records: field, type, and the default where there is one.
CONTRACT: dict[str, list[tuple[Any, ...]]] = {
    "LeadChanged": [
        ("event_id", "string"),
        ("lead_id", "string"),
        ("change_type", ["CREATED", "UPDATED", "DELETED", "RESCORE"]),
        ("occurred_at", T),
        ("lead_version", "long", 0),
        ("origin", "string", "crm"),
        ("lead", optional("LeadState"), None),
    ],
    "LeadState": [
        ("created_at", T),
        ("lead_score", optional("double"), None),
        ("engagement_score", optional("double"), None),
        ("touchpoint_count", optional("int"), None),
        ("lifecycle_state", optional("string"), None),
        ("status", optional("string"), None),
        ("source", optional("string"), None),
        ("programme_name", optional("string"), None),
        ("campus_name", optional("string"), None),
        ("numbers", {"type": "map", "values": "double"}, {}),
        ("categories", {"type": "map", "values": "string"}, {}),
    ],
    "LeadPrediction": [
        ("prediction_id", "string"),
        ("lead_id", "string"),
        ("prediction", "boolean"),
        ("probability", "double"),
        ("probability_low", "double"),
        ("probability_high", "double"),
        ("confidence", "double"),
        ("grade", ["A", "B", "C", "D"]),
        ("raw_score", "double"),
        ("threshold", "double"),
        ("reasons", {"type": "array", "items": "Reason"}),
        ("base_probability", "double", 0.0),
        ("target", "string", "has_application"),
        ("horizon_days", optional("double"), None),
        ("valid_until", optional(T), None),
        ("feature_coverage", "double"),
        ("imputed", {"type": "array", "items": "string"}),
        ("model_used", "string"),
        ("model_version", "string"),
        ("model_sha256", "string"),
        ("variant", "string", "champion"),
        ("event_id", "string"),
        ("change_type", ["CREATED", "UPDATED", "DELETED", "RESCORE"]),
        ("lead_version", "long"),
        ("coalesced_changes", "int"),
        ("occurred_at", T),
        ("scored_at", T),
        ("source_topic", "string"),
        ("source_partition", "int"),
        ("source_offset", "long"),
    ],
    "Reason": REASON,
    "LeadOutcome": [("lead_id", "string"), ("converted", "boolean"), ("decided_at", T)],
    "TriageDecision": [
        ("letter", "LetterId"),
        ("action", ["REPLAYED", "DISCARDED", "SUPERSEDED", "PARKED"]),
        ("decided_by", "string"),
        ("decided_at", T),
        ("because", optional("string"), None),
        ("patch", optional("string"), None),
        ("previous_hash", "string"),
    ],
    "LetterId": [("topic", "string"), ("partition", "int"), ("offset", "long")],
    "RescoreRequest": [
        ("request_id", "string"),
        ("lead_ids", {"type": "array", "items": "string"}),
        ("requested_by", optional("string"), None),
    ],
    "RescoreResult": [
        ("request_id", "string"),
        ("predictions", {"type": "array", "items": "LeadScore"}),
        ("model_used", "string"),
        ("total_processed", "int"),
        ("successful_predictions", "int"),
        ("errors", {"type": "array", "items": "RescoreError"}),
    ],
    "LeadScore": [
        ("lead_id", "string"),
        ("prediction", "boolean"),
        ("probability", "double"),
        ("confidence", "double"),
        ("grade", optional("string"), None),
        ("probability_low", optional("double"), None),
        ("probability_high", optional("double"), None),
        ("reasons", {"type": "array", "items": "ScoreReason"}, []),
        ("valid_until", optional(T), None),
    ],
    "ScoreReason": REASON,
    "RetrainRequested": [
        ("model_version", "string"),
        ("model_sha256", "string"),
        ("trigger", ["DRIFT", "CALIBRATION", "AGE", "OUTCOMES"]),
        ("detail", "string"),
        ("requested_at", T),
        ("requested_by", "string"),
        ("step", "string", "requested"),
        ("candidate", "string", ""),
    ],
    "RescoreError": [("lead_id", "string"), ("code", "string"), ("detail", "string")],
}


def records_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Every record definition within a schema, outermost first."""
    if isinstance(schema, list):
        for branch in schema:
            yield from records_in(branch)
    elif isinstance(schema, dict):
        if schema["type"] == "record":
            yield schema
        for part in [
            *(field["type"] for field in schema.get("fields", ())),
            schema.get("items"),
            schema.get("values"),
        ]:
            yield from records_in(part)


def outline(kind: Any) -> Any:
    """A type with nested records by name and enums by symbols, as CONTRACT writes it."""
    if isinstance(kind, list):
        return [outline(branch) for branch in kind]
    if isinstance(kind, dict) and kind["type"] == "record":
        return kind["name"]
    if isinstance(kind, dict) and kind["type"] == "enum":
        return kind["symbols"]
    if isinstance(kind, dict) and kind["type"] == "array":
        return {"type": "array", "items": outline(kind["items"])}
    return kind


ALL_RECORDS = {
    record["name"]: record
    for name in schema_files.FILES
    for record in records_in(schema_files.current_schema(name))
}


@pytest.mark.parametrize("name", CONTRACT)
def test_a_record_has_the_fields_of_the_contract_in_its_order(name: str) -> None:
    fields = [
        (field["name"], outline(field["type"]), *([field["default"]] if "default" in field else []))
        for field in ALL_RECORDS[name]["fields"]
    ]
    assert fields == CONTRACT[name]


def test_no_record_stands_beside_the_contract() -> None:
    assert ALL_RECORDS.keys() == CONTRACT.keys()
    assert {path.name for path in schema_files.FOLDER.glob("*.avsc")} == set(
        schema_files.FILES.values()
    )
    assert {schema_files.current_schema(name)["namespace"] for name in schema_files.FILES} == {
        "crm.leads"
    }


@pytest.mark.parametrize("name", CONTRACT)
def test_every_field_says_what_it_means(name: str) -> None:
    for field in ALL_RECORDS[name]["fields"]:
        assert re.fullmatch(r"[A-Z].{15,}\.", field["doc"]), (name, field["name"])
    assert ALL_RECORDS[name]["doc"]


@pytest.mark.parametrize(
    ("schema", "number"),
    [
        # Of the Avro project's shared test data, schema-tests.txt.
        ("null", 7195948357588979594),
        ("boolean", -6970731678124411036),
        ("int", 8247732601305521295),
        ("long", -3434872931120570953),
        ("float", 5583340709985441680),
        ("double", -8181574048448539266),
        ("bytes", 5746618253357095269),
        ("string", -8142146995180207161),
        ([], -1241056759729112623),
        ({"type": "fixed", "name": "foo", "size": 15}, 1756455273707447556),
        ({"type": "record", "name": "foo", "fields": []}, -4824392279771201922),
    ],
)
def test_fingerprints_are_those_of_the_avro_specification(schema: Any, number: int) -> None:
    assert int.from_bytes(schema_files.fingerprint_bytes(schema), "little", signed=True) == number


def rabin(text: bytes) -> int:
    """CRC-64-AVRO bit by bit, as the Avro specification defines it."""
    crc = 0xC15D213AA4D7A795
    for byte in text:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xC15D213AA4D7A795 if crc & 1 else 0)
    return crc


@pytest.mark.parametrize("name", schema_files.FILES)
def test_two_implementations_agree_on_canonical_form_and_fingerprint(name: str) -> None:
    schema = schema_files.current_schema(name)
    canonical = schema_files.canonical_form(schema)
    # avro 1.12 leaves {"type": "long"} where a logical type stood; specification and Java have
    # "long".
    other = avro.schema.parse(json.dumps(schema).replace(json.dumps(T), '"long"'))
    assert canonical == other.canonical_form
    assert schema_files.fingerprint_bytes(schema) == other.fingerprint()
    assert schema_files.fingerprint_bytes(schema) == rabin(canonical.encode()).to_bytes(8, "little")


def test_a_released_schema_never_changes() -> None:
    """What was released is on the topics: these numbers may only be added to."""
    marks = {
        (version, name): schema_files.fingerprint_bytes(schema)[::-1].hex()
        for version, schemas in schema_files.released_schemas().items()
        for name, schema in schemas.items()
    }
    assert {key: mark for key, mark in marks.items() if key[0] == "1.0.0"} == {
        ("1.0.0", "LeadChanged"): "4e65c439cf2a76a2",
        ("1.0.0", "LeadPrediction"): "929bea9a205f4d9a",
        ("1.0.0", "LeadOutcome"): "7d89da283dd6cc21",
        ("1.0.0", "TriageDecision"): "f110cf6bf65996a5",
        ("1.0.0", "RescoreRequest"): "6b8ebe311e6b527f",
        ("1.0.0", "RescoreResult"): "2fa76ad97fcf9f2c",
        ("1.0.0", "RetrainRequested"): "09eb30b84e4462c1",
    }


def test_released_versions_come_oldest_first_by_number_not_by_text(tmp_path: Path) -> None:
    for version in ("1.10.0", "1.2.0", "2.0.0"):
        (tmp_path / "released" / version).mkdir(parents=True)
    assert list(schema_files.released_schemas(tmp_path)) == ["1.2.0", "1.10.0", "2.0.0"]


@pytest.mark.parametrize(
    "text",
    ["{", "[]]", '{"type": "record"}', '{"type": "record", "name": "A", "fields": [1]}', "3"],
)
def test_a_broken_schema_file_is_one_sentence_not_a_stack_trace(tmp_path: Path, text: str) -> None:
    (tmp_path / "lead_changed.avsc").write_text(text)
    with pytest.raises(UserError, match=r"lead_changed\.avsc is not a valid Avro schema"):
        schema_files.current_schema("LeadChanged", tmp_path)


def test_a_missing_schema_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lead_changed\.avsc is missing"):
        schema_files.current_schema("LeadChanged", tmp_path)
