"""asyncapi.yaml says what the schemas say."""

import yaml  # type: ignore[import-untyped]

from leadstream.kafka.topics import Topics
from schemas import schema_files
from schemas.asyncapi import CHANNELS, FILE, document, write


def test_a_file_that_is_behind_the_schemas_misleads_its_readers() -> None:
    assert FILE.read_text() == write(), "run `make asyncapi`"


def test_what_tools_read_is_the_schema_itself() -> None:
    read = yaml.safe_load(FILE.read_text())
    assert read == document()
    for record, message in read["components"]["messages"].items():
        assert schema_files.canonical_form(
            message["payload"]["schema"]
        ) == schema_files.canonical_form(schema_files.current_schema(record))


def test_every_reference_leads_somewhere_and_every_topic_of_records_is_there() -> None:
    read = document()
    for channel in read["channels"].values():
        for name, message in channel["messages"].items():
            assert message["$ref"] == f"#/components/messages/{name}"
            assert name in read["components"]["messages"]
    for operation in read["operations"].values():
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in read["channels"]
    # Dead letters are other topics' bytes, and the relay's positions its own affair.
    assert {*CHANNELS, "dead_letters", "relay_positions"} == set(Topics.__dataclass_fields__)
