"""Schema evolution: which changes pass, which are refused, and that a fingerprint alone would not
tell.
"""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from schemas import schema_files
from schemas.evolution import COMPATIBILITY, CompatibilityLevel, breaks, compare, compare_releases

Change = Callable[[Any], Any]


def changed(name: str, change: Change) -> Any:
    schema = deepcopy(schema_files.current_schema(name))
    change(schema)
    return schema


def field(schema: Any, name: str) -> Any:
    return next(field for field in schema["fields"] if field["name"] == name)


def remove(name: str) -> Change:
    return lambda schema: schema["fields"].remove(field(schema, name))


def add(**new: Any) -> Change:
    return lambda schema: schema["fields"].append(new)


def set_type(name: str, kind: Any) -> Change:
    return lambda schema: field(schema, name).update(type=kind)


def require(name: str) -> Change:
    """Makes an optional field one that must be there."""

    def change(schema: Any) -> None:
        del field(schema, name)["default"]
        field(schema, name)["type"] = field(schema, name)["type"][1]

    return change


def refused(name: str, change: Change) -> str:
    return " ".join(
        compare(name, "1.0.0", changed(name, change), schema_files.current_schema(name)).breaks
    )


def test_the_present_schemas_break_no_release() -> None:
    comparisons = compare_releases()
    assert {each.record for each in comparisons} == set(schema_files.FILES) == set(COMPATIBILITY)
    assert [each.breaks for each in comparisons if each.breaks] == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("LeadChanged", add(name="region", type=["null", "string"], default=None)),
        ("LeadChanged", add(name="weight", type="double", default=1.0)),
        ("LeadChanged", remove("origin")),
        ("LeadChanged", remove("event_id")),  # an input may stop reading a field
        ("LeadChanged", set_type("lead_version", "double")),
        ("LeadChanged", set_type("event_id", ["null", "string"])),
        (
            "LeadChanged",
            lambda schema: field(schema, "change_type")["type"]["symbols"].append("MERGED"),
        ),
        ("LeadChanged", lambda schema: schema["fields"].reverse()),
        ("LeadChanged", lambda schema: schema.update(doc="Other words.")),
        (
            "LeadChanged",
            lambda schema: field(schema, "event_id").update(name="change_id", aliases=["event_id"]),
        ),
        ("LeadChanged", lambda schema: schema.update(name="LeadMoved", aliases=["LeadChanged"])),
        ("LeadPrediction", add(name="region", type=["null", "string"], default=None)),
        ("LeadPrediction", remove("variant")),
    ],
)
def test_a_change_that_keeps_old_data_readable_passes(name: str, change: Change) -> None:
    assert refused(name, change) == ""


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (
            "LeadChanged",
            add(name="region", type="string"),
            "LeadChanged can no longer read what 1.0.0 wrote: "
            "field region is not written, and has no default.",
        ),
        (
            "LeadChanged",
            lambda schema: field(schema, "event_id").update(name="change_id"),
            "field change_id is not written, and has no default.",
        ),
        (
            "LeadChanged",
            set_type("lead_version", "int"),
            "field lead_version is int to the reader, but long to the writer.",
        ),
        (
            "LeadOutcome",
            set_type("lead_id", "long"),
            "field lead_id is long to the reader, but string to the writer.",
        ),
        (
            "RescoreRequest",
            require("requested_by"),
            "field requested_by is string to the reader, but null to the writer.",
        ),
        (
            "LeadChanged",
            set_type("occurred_at", "long"),
            "field occurred_at is long to the reader, but timestamp-millis",
        ),
        (
            "LeadChanged",
            set_type("occurred_at", {"type": "long", "logicalType": "timestamp-micros"}),
            "field occurred_at is timestamp-micros to the reader, "
            "but timestamp-millis to the writer.",
        ),
        (
            "LeadChanged",
            lambda schema: field(schema, "change_type")["type"]["symbols"].remove("RESCORE"),
            "field change_type has no symbol RESCORE, and no default symbol.",
        ),
        (
            "LeadChanged",
            lambda schema: field(schema, "lead")["type"][1]["fields"].append(
                {"name": "region", "type": "string"}
            ),
            "field lead.region is not written, and has no default.",
        ),
        (
            "LeadChanged",
            lambda schema: schema.update(name="LeadMoved"),
            "the record is LeadMoved to the reader",
        ),
        (
            "RescoreRequest",
            set_type("lead_ids", {"type": "array", "items": "long"}),
            "field lead_ids[] is long to the reader",
        ),
        (
            "LeadPrediction",
            remove("raw_score"),
            "LeadPrediction 1.0.0 cannot read what is written now: "
            "field raw_score is not written, and has no default.",
        ),
        (
            "LeadPrediction",
            lambda schema: field(schema, "grade")["type"]["symbols"].append("E"),
            "LeadPrediction 1.0.0 cannot read what is written now: "
            "field grade has no symbol E, and no default symbol.",
        ),
        (
            "LeadPrediction",
            set_type("source_partition", "long"),
            "1.0.0 cannot read what is written now: field source_partition",
        ),
    ],
)
def test_a_change_that_breaks_is_refused_in_a_sentence_that_names_the_field(
    name: str, change: Change, sentence: str
) -> None:
    assert sentence in refused(name, change)


def test_every_cause_gets_its_own_sentence() -> None:
    def change(schema: Any) -> None:
        add(name="a", type="string")(schema)
        add(name="b", type="string")(schema)

    assert (
        len(
            compare(
                "LeadChanged",
                "1.0.0",
                changed("LeadChanged", change),
                schema_files.current_schema("LeadChanged"),
            ).breaks
        )
        == 2
    )


def test_schemas_of_one_fingerprint_are_still_compared() -> None:
    """A dropped default and a changed time unit leave the fingerprint alone, and break all the
    same.
    """
    with_default = changed("LeadPrediction", add(name="region", type="string", default=""))
    without = changed("LeadPrediction", add(name="region", type="string"))
    micros = changed(
        "LeadPrediction", set_type("scored_at", {"type": "long", "logicalType": "timestamp-micros"})
    )
    assert schema_files.fingerprint_bytes(with_default) == schema_files.fingerprint_bytes(without)
    assert schema_files.fingerprint_bytes(micros) == schema_files.fingerprint_bytes(
        schema_files.current_schema("LeadPrediction")
    )
    older = schema_files.current_schema("LeadPrediction")
    assert compare("LeadPrediction", "1.0.0", with_default, older).breaks == ()
    assert compare("LeadPrediction", "1.0.0", without, older).breaks != ()
    assert compare("LeadPrediction", "1.0.0", micros, older).breaks != ()


def test_a_change_of_words_alone_is_seen_as_the_same_bytes() -> None:
    old = schema_files.current_schema("LeadChanged")
    words = compare(
        "LeadChanged",
        "1.0.0",
        changed("LeadChanged", lambda schema: schema.update(doc="Other.")),
        old,
    )
    assert (words.changed, words.same_bytes) == (True, True)
    field_added = compare(
        "LeadChanged", "1.0.0", changed("LeadChanged", add(name="a", type="int", default=0)), old
    )
    assert (field_added.changed, field_added.same_bytes) == (True, False)


def test_every_release_counts_not_only_the_newest(tmp_path: Path) -> None:
    """A field that came with a default and then lost it still reads the newest release, but no
    longer the first.
    """
    for name in schema_files.FILES.values():
        shutil.copy(schema_files.FOLDER / name, tmp_path / name)
    shutil.copytree(schema_files.FOLDER / "released" / "1.0.0", tmp_path / "released" / "1.0.0")
    shutil.copytree(schema_files.FOLDER / "released" / "1.0.0", tmp_path / "released" / "1.1.0")
    file = schema_files.FILES["LeadChanged"]
    with_default = changed("LeadChanged", add(name="region", type="string", default=""))
    (tmp_path / "released" / "1.1.0" / file).write_text(json.dumps(with_default))
    (tmp_path / file).write_text(
        json.dumps(changed("LeadChanged", add(name="region", type="string")))
    )
    broken = {(each.record, each.version) for each in compare_releases(tmp_path) if each.breaks}
    assert broken == {("LeadChanged", "1.0.0")}


def test_what_subscribers_read_must_stay_readable_by_their_old_schemas_too() -> None:
    assert {
        name for name, level in COMPATIBILITY.items() if level is CompatibilityLevel.FULL_TRANSITIVE
    } == {
        "LeadPrediction",
        "RescoreResult",
        "RetrainRequested",
        "TriageDecision",
    }


def test_a_schema_that_contains_itself_is_compared_without_end() -> None:
    tree = {
        "type": "record",
        "name": "Tree",
        "fields": [
            {"name": "value", "type": "int"},
            {"name": "left", "type": ["null", "Tree"], "default": None},
        ],
    }
    wider = deepcopy(tree)
    wider["fields"][0]["type"] = "long"  # type: ignore[index]
    assert breaks(wider, tree) == []
    assert breaks(tree, wider) == ["field value is int to the reader, but long to the writer"]
