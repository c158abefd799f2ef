"""A real schema registry (leadstream/local/registry.py), as writers and readers of several versions
meet it.

It takes some twenty seconds to start, so there is one test, which starts it twice.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from leadstream.errors import Poison, Reason, Transient, UserError
from leadstream.local.broker import Broker
from leadstream.local.registry import RegistryProcess
from schemas import schema_files
from schemas.codec import Reader, Writer
from schemas.registry import Registry
from tests.conftest import _unavailable
from tests.integration.running import Stage
from tests.subscriber import prediction

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]


@pytest.fixture
def apicurio(kafka: Broker, tmp_path: Path) -> Iterator[RegistryProcess]:
    try:
        process = RegistryProcess(kafka.bootstrap, tmp_path, print)
    except UserError as error:
        _unavailable(f"no real registry: {error}")
    try:
        process.start()
        yield process
    finally:
        process.kill()


def written(registry: Registry, subject: str, schema: Any, record: dict[str, Any]) -> bytes:
    """A record by this schema, in Confluent's framing."""
    body = BytesIO()
    schemaless_writer(body, parse_schema(schema), record)
    return b"\0" + registry.schema_id(subject, schema).to_bytes(4, "big") + body.getvalue()


def test_schemas_are_registered_evolved_and_refused_and_outlive_the_registry(
    apicurio: RegistryProcess, kafka: Broker, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path / "stage", "unused", create=False)
    stage.folder.mkdir()
    with stage.running("schemas", "register", SCHEMA_REGISTRY_URL=apicurio.url) as process:
        assert process.exit_code(60) == 0, process.lines()
        assert len(process.lines()) == 8
    topic, subject = stage.topics.lead_predictions, f"{stage.topics.lead_predictions}-value"
    present = schema_files.current_schema("LeadPrediction")
    newer = json.loads(json.dumps(present))
    newer["fields"].insert(0, {"name": "added_later", "type": "string", "default": ""})
    broken = json.loads(json.dumps(present))
    broken["fields"] = [field for field in present["fields"] if field["name"] != "probability"]
    with closing(Registry(apicurio.url)) as registry:
        framed = Writer("LeadPrediction", registry, topic).encode(prediction("ada"))
        # A newer writer for readers of today.
        by_newer = written(registry, subject, newer, prediction("ben") | {"added_later": "x"})
        with pytest.raises(UserError, match="refuses the schema"):
            registry.schema_id(subject, broken)
        reader = Reader("LeadPrediction", registry)
        assert (reader.decode(framed)["lead_id"], reader.decode(by_newer)["lead_id"]) == (
            "ada",
            "ben",
        )
        assert schema_files.canonical_form(
            registry.schema(int.from_bytes(framed[1:5], "big"))
        ) == schema_files.canonical_form(present)
        # And a reader of tomorrow, of what is written today.
        by_today = parse_schema(registry.schema(int.from_bytes(framed[1:5], "big")))
        read: Any = schemaless_reader(BytesIO(framed[5:]), by_today, parse_schema(newer))
        assert (read["lead_id"], read["added_later"]) == ("ada", "")
        with pytest.raises(Poison) as unknown:
            reader.decode(b"\0\0\x0f\xff\xff" + framed[5:])
        assert unknown.value.reason is Reason.UNKNOWN_SCHEMA
        apicurio.kill()
        assert reader.decode(framed)["lead_id"] == "ada", "what was learnt needs nobody"
        fresh = Reader("LeadPrediction", closed := Registry(apicurio.url))
        with pytest.raises(Transient):
            fresh.decode(framed)
        closed.close()
    apicurio.start()
    with closing(Registry(apicurio.url)) as registry:
        assert Reader("LeadPrediction", registry).decode(by_newer)["lead_id"] == "ben"
        assert Writer("LeadPrediction", registry, topic).encode(prediction("ada")) == framed, (
            "the same id as before"
        )
