"""The examples for subscribers, each run as it stands, on a topic with all that a subscriber may
meet: records of a real `run`, both framings, an erasure, and every compression.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from fastavro import parse_schema, schemaless_writer

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from schemas import schema_files
from schemas.codec import Writer
from schemas.registry import Registry
from tests.conftest import _unavailable
from tests.integration.running import Stage
from tests.registry_server import registry_server
from tests.subscriber import prediction

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]
EXAMPLES = Path(__file__).parents[2] / "examples"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leadstream" / "examples"
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
LEADS = 20  # of each compression: a client sends a batch that does not shrink as it is


@dataclass(frozen=True, slots=True)
class SubscriberOutput:
    """What an example is told about where to read, and what it must print."""

    environment: dict[str, str]
    expected: list[str]

    def lines(self, folder: Path, *command: str) -> list[str]:
        """What an example prints until it has read everything, sorted: there is no order between
        partitions.
        """
        environment = os.environ | self.environment
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return sorted(done.stdout.splitlines())


@pytest.fixture(scope="module")
def outputs(
    kafka: Broker, tmp_path_factory: pytest.TempPathFactory, model_store: str
) -> Iterator[SubscriberOutput]:
    """What `run` writes, both framings, an erasure, a record by a schema newer than the reader's,
    every compression, and a record that was never committed.
    """
    folder = tmp_path_factory.mktemp("examples")
    stage = Stage.on(kafka.bootstrap, folder, model_store, partitions=3)
    topic = stage.topics.lead_predictions
    expected = [*_scored(stage), *_compressed(stage)]
    with registry_server() as state:
        registry = Registry(state.url)
        single, framed = Writer("LeadPrediction"), Writer("LeadPrediction", registry, topic)
        records: list[tuple[str, bytes | None]] = [
            ("single", single.encode(prediction("single"))),
            ("framed", framed.encode(prediction("framed", probability=0.5, grade="C"))),
            ("newer", _newer(registry, topic, prediction("newer", probability=0.125, grade="D"))),
            ("gone", None),
        ]
        registry.close()
        stage.send(Output(topic, key.encode(), value) for key, value in records)
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(topic, single.encode(prediction("aborted")), b"aborted")
        assert producer.flush(30) == 0
        producer.abort_transaction(30)
        yield SubscriberOutput(
            {
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                "SCHEMA_REGISTRY_URL": state.url,
                "TOPIC": topic,
                "SCHEMAS": str(schema_files.FOLDER),
            },
            sorted(
                [*expected, "framed\t0.500\tC", "gone\terased", "newer\t0.125\tD", _line("single")]
            ),
        )


def _scored(stage: Stage) -> list[str]:
    """Have `run` score leads, and return what an example prints about them."""
    stage.send(stage.changes("real", 2 * LEADS))
    with stage.running() as process:
        found = stage.predictions(2 * LEADS)
        assert process.stop() == 0
    return [f"{each['lead_id']}\t{each['probability']:.3f}\t{each['grade']}" for each in found]


def _compressed(stage: Stage) -> list[str]:
    writer, topic = Writer("LeadPrediction"), stage.topics.lead_predictions
    leads = []
    for compression in COMPRESSIONS:
        producer = Producer(
            {
                "bootstrap.servers": stage.bootstrap,
                "compression.type": compression,
                "linger.ms": 500,
            }
        )
        for number in range(LEADS):
            leads.append(f"{compression}-{number}")
            producer.produce(topic, writer.encode(prediction(leads[-1])), leads[-1].encode(), 0)
        assert producer.flush(30) == 0
    return [_line(lead) for lead in leads]


def _line(lead: str) -> str:
    return f"{lead}\t0.250\tB"


def _newer(registry: Registry, topic: str, record: dict[str, Any]) -> bytes:
    """By a schema with one more field, first of all: who read it with their own schema alone would
    read nonsense.
    """
    schema = json.loads(json.dumps(schema_files.current_schema("LeadPrediction")))
    schema["fields"].insert(0, {"name": "added_later", "type": "string", "default": ""})
    body = BytesIO()
    schemaless_writer(body, parse_schema(schema), record | {"added_later": "something"})
    return b"\0" + registry.schema_id(f"{topic}-value", schema).to_bytes(4, "big") + body.getvalue()


def _runtime(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            _unavailable(f"{program} is not installed here")


def _prepared(name: str, file: str) -> Path:
    """A copy of an example in the user's cache, where what it downloads stays."""
    folder = CACHE / name
    shutil.copytree(
        EXAMPLES / name,
        folder,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("node_modules", "target"),
    )
    assert (folder / file).exists()
    return folder


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and any(
        sign in done.stderr + done.stdout for sign in ("ENOTFOUND", "resolve host", "dial tcp")
    ):
        pytest.skip(f"{command[0]} cannot fetch what the example needs: no network")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_python(outputs: SubscriberOutput) -> None:
    command = (sys.executable, "subscribe.py", "--once")
    assert outputs.lines(EXAMPLES / "python", *command) == outputs.expected


def test_node(outputs: SubscriberOutput) -> None:
    _runtime("node", "npm")
    folder = _prepared("node", "package-lock.json")
    needed = json.loads((folder / "package.json").read_text())["dependencies"]
    if not all((folder / "node_modules" / name).exists() for name in needed):
        _run(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    assert outputs.lines(folder, "node", "subscribe.mjs", "--once") == outputs.expected


def test_java(outputs: SubscriberOutput) -> None:
    _runtime("java", "javac", "mvn")
    folder = _prepared("java", "pom.xml")
    if not (folder / "target" / "dependency").exists():
        _run(folder, "mvn", "-B", "-q", "dependency:copy-dependencies")
    _run(
        folder,
        "javac",
        "-d",
        "target/classes",
        "-cp",
        "target/dependency/*",
        "src/main/java/example/Subscribe.java",
    )
    java = ("java", "-XX:TieredStopAtLevel=1", "-cp", "target/classes:target/dependency/*")
    assert outputs.lines(folder, *java, "example.Subscribe", "--once") == outputs.expected


def test_go(outputs: SubscriberOutput) -> None:
    _runtime("go")
    folder = _prepared("go", "go.sum")
    _run(folder, "go", "build", "-o", "subscribe", ".")
    assert outputs.lines(folder, "./subscribe", "-once") == outputs.expected


def test_kcat(outputs: SubscriberOutput) -> None:
    _runtime("kcat")
    topic, broker = (
        outputs.environment["TOPIC"],
        outputs.environment["KAFKA_BOOTSTRAP_SERVERS"],
    )
    lines = outputs.lines(
        EXAMPLES, "kcat", "-q", "-b", broker, "-t", topic, "-C", "-e", "-f", "%k %S\\n"
    )
    assert [line.split()[0] for line in lines] == sorted(
        line.split("\t")[0] for line in outputs.expected
    )
    assert "gone -1" in lines, "a null value erases"
