"""asyncapi.yaml says what the schemas say."""

import pytest
import yaml  # type: ignore[import-untyped]

from leadstream.errors import Poison
from leadstream.kafka.topics import Topics
from schemas import schema_files
from schemas.asyncapi import CHANNELS, FILE, IN_JSON, JSON, document, write
from schemas.json_records import convert_record


def test_a_file_that_is_behind_the_schemas_misleads_its_readers() -> None:
    assert FILE.read_text() == write(), "run `make asyncapi`"


def test_what_tools_read_is_the_schema_itself() -> None:
    read = yaml.safe_load(FILE.read_text())
    assert read == document()
    for record, message in read["components"]["messages"].items():
        if record in IN_JSON.values():
            continue
        assert schema_files.canonical_form(
            message["payload"]["schema"]
        ) == schema_files.canonical_form(schema_files.current_schema(record))


def test_who_reads_that_changes_may_be_json_is_told_the_shape_that_is_taken() -> None:
    read = document()
    channel = read["channels"]["crm.lead-changes"]
    assert set(channel["messages"]) == {"LeadChanged", "LeadChangedJson"}
    message = read["components"]["messages"]["LeadChangedJson"]
    assert message["contentType"] == JSON
    known = message["payload"]["properties"]
    assert list(known) == [
        each["name"] for each in schema_files.current_schema("LeadChanged")["fields"]
    ]
    # What the schema requires, the reader requires, and nothing more.
    change = {"event_id": "e", "lead_id": "ada", "change_type": "CREATED", "occurred_at": 1}
    assert message["payload"]["required"] == list(change)
    assert convert_record("LeadChanged", change)["origin"] == "crm"
    for name in change:
        with pytest.raises(Poison):
            convert_record("LeadChanged", {k: v for k, v in change.items() if k != name})


def test_every_reference_leads_somewhere_and_every_topic_of_records_is_there() -> None:
    read = document()
    for channel in read["channels"].values():
        for name, message in channel["messages"].items():
            assert message["$ref"] == f"#/components/messages/{name}"
            assert name in read["components"]["messages"]
    for operation in read["operations"].values():
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in read["channels"]
    # Dead letters are other topics' bytes, and the relay's positions its own affair.
    assert {*CHANNELS, "dead_letters", "relay_positions", "refresh_marks"} == set(
        Topics.__dataclass_fields__
    )
