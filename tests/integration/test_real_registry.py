"""A real schema registry: Apicurio, its Confluent API, its schemas in a Kafka topic. It takes half a minute to start.

APICURIO_APP names the folder of an unpacked `apicurio-registry-app-VERSION-all.tar.gz` (Maven Central; 3.0 runs on Java
17, later ones on 21); without it these tests are skipped.
"""

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer

from leadstream.errors import Poison, Reason, Transient, UserError
from local.broker import Broker
from local.process import Child, await_ready, free_ports
from schemas import catalogue
from schemas.codec import Reader, Writer
from schemas.registry import Registry
from tests.integration.running import Stage
from tests.subscribed import prediction

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]


class RegistryProcess:
    """An Apicurio whose schemas outlive it, in a Kafka topic."""

    def __init__(self, jar: Path, bootstrap: str, folder: Path) -> None:
        port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        self._command = ["java", "-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", str(jar)]
        self._environment = os.environ | {
            "QUARKUS_HTTP_PORT": str(port),
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "APICURIO_STORAGE_KIND": "kafkasql",
            "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": bootstrap,
        }
        self._folder = folder
        self._child: Child | None = None

    def start(self) -> None:
        self._child = Child(self._command, self._folder, self._folder / "log", environ=self._environment)
        await_ready("Apicurio", self._child, self._serves, 120)

    def kill(self) -> None:
        if self._child is not None:
            self._child.end(signal.SIGKILL, 10)
            self._child = None

    def _serves(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=2):
                return True
        except OSError:
            return False


@pytest.fixture
def apicurio(kafka: Broker, tmp_path: Path) -> Iterator[RegistryProcess]:
    app = os.environ.get("APICURIO_APP")
    if app is None:
        pytest.skip("APICURIO_APP is not set: no real registry")
    jar = next(path for path in (*Path(app).glob("*-runner.jar"), Path(app) / "quarkus-run.jar") if path.exists())
    process = RegistryProcess(jar, kafka.bootstrap, tmp_path)
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
        assert process.exit_code(60) == 0, process.said()
        assert len(process.said()) == 8
    topic, subject = stage.topics.lead_predictions, f"{stage.topics.lead_predictions}-value"
    present = catalogue.present("LeadPrediction")
    newer = json.loads(json.dumps(present))
    newer["fields"].insert(0, {"name": "added_later", "type": "string", "default": ""})
    broken = json.loads(json.dumps(present))
    broken["fields"] = [field for field in present["fields"] if field["name"] != "probability"]
    with closing(Registry(apicurio.url)) as registry:
        framed = Writer("LeadPrediction", registry, topic).encode(prediction("ada"))
        # A newer writer for readers of today; and what was written today for those of tomorrow, who know the registry.
        by_newer = written(registry, subject, newer, prediction("ben") | {"added_later": "x"})
        with pytest.raises(UserError, match="refuses the schema"):
            registry.schema_id(subject, broken)
        reader = Reader("LeadPrediction", registry)
        assert (reader.decode(framed)["lead_id"], reader.decode(by_newer)["lead_id"]) == ("ada", "ben")
        assert catalogue.canonical(registry.schema(int.from_bytes(framed[1:5], "big"))) == catalogue.canonical(present)
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
        assert Writer("LeadPrediction", registry, topic).encode(prediction("ada")) == framed, "the same id as before"
