"""deploy/prepare.sh: what docker-compose.yml needs once, on a real Kafka and a real Postgres."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from leadstream.local.broker import Broker
from leadstream.local.postgres import PostgresProcess
from tests.deploy.tools import DEPLOY, ROOT
from tests.integration.running import Stage
from tests.registry_server import RegistryState, registry_server

pytestmark = [pytest.mark.deploy, pytest.mark.broker, pytest.mark.postgres]


@pytest.fixture
def registry() -> Iterator[RegistryState]:
    with registry_server() as state:
        yield state


def test_it_leaves_a_consumer_all_that_it_needs_and_a_second_time_changes_nothing(
    kafka: Broker, fresh_postgres: PostgresProcess, registry: RegistryState, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, str(tmp_path / "models" / "store"), create=False)
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "leadstream"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m leadstream.cli.main "$@"\n')
    command.chmod(0o755)
    (tmp_path / "models").mkdir()
    (tmp_path / "keys").mkdir()
    environment = stage.environment | {
        "SCHEMA_REGISTRY_URL": registry.url,
        "DATABASE_URL": fresh_postgres.url,
        "LEADSTREAM_MODEL_SIGNING_KEY": str(tmp_path / "keys" / "key.pem"),
        "LEADSTREAM_MODEL_VERIFY_KEYS": str(tmp_path / "models" / "key.pem.pub"),
    }
    bare = {
        "PATH": f"{programs}{os.pathsep}{os.defpath}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    with psycopg.connect(fresh_postgres.url, autocommit=True) as connection:
        connection.execute(
            (ROOT / "producer" / "crm.sql").read_bytes()
        )  # as Postgres' image does at its first start
    output = []
    for _ in range(2):
        done = subprocess.run(
            ["sh", DEPLOY / "prepare.sh"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment | bare,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        output.append(done.stdout)
    assert "added" in output[0]
    assert "added" not in output[1]
    versions = [path.name for path in (tmp_path / "models" / "store" / "versions").iterdir()]
    assert versions == ["1.0.0"]
    environment.pop("LEADSTREAM_MODEL_SIGNING_KEY")
    with stage.running(**environment) as process:
        process.until_ready()
        process.event("batch")
        assert process.stop() == 0
