"""The examples for producers, each run as it stands: what they send is scored."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leadstream.kafka.batch import Batch, ClosedBy
from leadstream.local.broker import Broker
from tests.integration.running import Stage
from tests.integration.test_examples import EXAMPLES, _prepared, _run, _runtime
from tests.unit.pipelines import on, pipeline, predictions

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]
SENT = ["ada\tCREATED", "ada\tUPDATED", "eve\terased"]
Check = Callable[..., None]


@pytest.fixture
def sends(kafka: Broker, tmp_path: Path, model_store: str) -> Check:
    """Run a program that sends changes to a topic of its own, and score them."""
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused", partitions=3)
    topic = stage.topics.lead_changes

    def check(folder: Path, *command: str) -> None:
        environment = os.environ | stage.environment | {"TOPIC": topic}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.splitlines() == SENT
        records: list[Any] = stage.read(topic, len(SENT))
        result = pipeline(model_store, LEADSTREAM_TOPIC_LEAD_CHANGES=topic).process(
            Batch.from_messages(records, ClosedBy.DRAIN)
        )
        assert result.letters == {}
        [ada] = predictions(result)
        assert (ada["lead_id"], ada["change_type"], ada["lead_version"]) == ("ada", "UPDATED", 2)
        assert [output.key for output in on(result, "crm.lead-predictions")].count(b"eve") == 1
        # Java's partitioner, which all examples use: a lead stays in one partition whoever sends.
        assert {record.partition() for record in records if record.key() == b"ada"} == {ADA}

    return check


# murmur2("ada") modulo 3
ADA = 2


def test_python(sends: Check) -> None:
    sends(EXAMPLES / "python", sys.executable, "produce.py")


def test_node(sends: Check) -> None:
    _runtime("node", "npm")
    folder = _prepared("node", "package-lock.json")
    if not (folder / "node_modules" / "kafkajs").exists():
        _run(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    sends(folder, "node", "produce.mjs")


def test_java(sends: Check) -> None:
    _runtime("java", "javac", "mvn")
    folder = _prepared("java", "pom.xml")
    if not (folder / "target" / "dependency").exists():
        _run(folder, "mvn", "-B", "-q", "dependency:copy-dependencies")
    source = "src/main/java/example/Produce.java"
    _run(folder, "javac", "-d", "target/classes", "-cp", "target/dependency/*", source)
    java = ("java", "-XX:TieredStopAtLevel=1", "-cp", "target/classes:target/dependency/*")
    sends(folder, *java, "example.Produce")


def test_go(sends: Check) -> None:
    _runtime("go")
    folder = _prepared("go", "go.sum")
    _run(folder, "go", "build", "-o", "producer", "./produce")
    sends(folder, "./producer")


def test_kcat(sends: Check) -> None:
    """The shortest producer: kcat with a header."""
    _runtime("kcat")
    change = {"event_id": "1", "lead_id": "ada", "occurred_at": 1_769_847_300_000}
    lead = {"lead": {"created_at": "2026-01-30T08:15:00Z"}}
    lines = [
        json.dumps(change | lead | {"change_type": kind, "lead_version": version})
        for version, kind in enumerate(("CREATED", "UPDATED"), 1)
    ]
    send = 'kcat -q -P -b "$KAFKA_BOOTSTRAP_SERVERS" -t "$TOPIC" -X partitioner=murmur2_random'
    script = "\n".join(
        (
            f"printf '%s\\n' {' '.join(repr('ada|' + line) for line in lines)} "
            f"| {send} -K '|' -H content-type=application/json",
            f"printf 'eve|\\n' | {send} -K '|' -Z",
            f"printf '%s\\n' {' '.join(repr(line) for line in SENT)}",
        )
    )
    sends(EXAMPLES, "bash", "-c", script.replace("\\t", "\t"))
