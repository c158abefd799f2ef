"""The tutorial, command by command in one shell, against a real Kafka and a real Postgres."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from leadstream.local.broker import Broker
from leadstream.local.kafka import KafkaProcess
from leadstream.local.postgres import Postgres
from leadstream.local.process import Child, free_ports
from tests.docs.own_table import CONTINUED, PAGE, SHAPES, as_script, commands_for, section
from tests.docs.test_reference import ROOT
from tests.integration.databases import database_of_its_own
from tests.integration.outboxes import schema_of_its_own
from tests.integration.running import Stage

pytestmark = [pytest.mark.broker, pytest.mark.postgres, pytest.mark.timeout(400)]
# What is not run here, and where it is.
NOT_RUN = {
    "make demo": "tests/integration/test_demo.py",
    "python3 -m venv": "the tests run in an environment",
    "pip install": "the tests run in an environment",
    "docker compose": "the Kafka and the Postgres of the tests are used",
    "export DATABASE_URL=$(docker": "the Kafka and the Postgres of the tests are used",
}
PSQL = '''#!{python}
"""psql -c, as far as the tutorial needs it; it waits as a reader waits."""
import sys, time
from pathlib import Path
import psycopg
url, option, statement = sys.argv[1:]
with psycopg.connect(url, autocommit=True) as connection:
    if not statement.startswith("select"):
        assert connection.execute(statement).rowcount == 1
        raise SystemExit
    deadline = time.monotonic() + 90
    while not (rows := connection.execute(statement).fetchall()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    print(rows[0][0] if "A" in option else ("row", *rows[0]))
'''
# A reader looks again until the score has followed the change.
LEADSTREAM = """#!/bin/sh
run() {{ {python} -m leadstream.cli.main "$@"; }}
[ "$1" = lead ] || {{ exec {python} -m leadstream.cli.main "$@"; }}
for try in $(seq 60); do
    run "$@" >{folder}/new 2>&1 && ! cmp -s {folder}/new {folder}/seen && break
    sleep 0.5
done
cat {folder}/new; mv {folder}/new {folder}/seen
"""
DIRECT = """#!/bin/sh
exec {python} -m leadstream.cli.main "$@"
"""


def commands() -> list[str]:
    """Every command of the page but those for a table of one's own, in order."""
    return [line for number in (*range(1, 9), 10) for line in section(number)]


def topics_of(stage: Stage) -> dict[str, str]:
    """The settings of the topics and the group that no other test has."""
    return {
        name: value
        for name, value in stage.environment.items()
        if "TOPIC" in name or "GROUP" in name
    }


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_whoever_follows_the_tutorial_has_scores_that_follow_changes(
    fresh_kafka: KafkaProcess, postgres: Postgres, tmp_path: Path
) -> None:
    stage = Stage.on(fresh_kafka.bootstrap, tmp_path, "unused", create=False)
    ports = dict(zip(("8080", "8090", "8091"), map(str, free_ports(3)), strict=True))
    with schema_of_its_own(postgres.url) as (url, _):
        text = "\n".join(line for line in commands() if not line.startswith(tuple(NOT_RUN)))
        text = text.replace("localhost:9092", fresh_kafka.bootstrap)
        text = text.replace(
            "postgresql://leadstream:leadstream@localhost:5432/leadstream", f"'{url}'"
        )
        for port, free in ports.items():
            text = text.replace(port, free)
        lines = [
            "set -euo pipefail",
            f"export LEADSTREAM_HTTP_PORT={ports['8080']}",
            *text.splitlines(),
            "wait",
        ]
        program(
            tmp_path / "bin",
            "leadstream",
            LEADSTREAM.format(python=sys.executable, folder=tmp_path),
        )
        program(tmp_path / "bin", "psql", PSQL.format(python=sys.executable))
        (tmp_path / "script").write_text("\n".join(lines) + "\n")
        path = {"PATH": f"{tmp_path}/bin:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        bash = shutil.which("bash") or "/bin/bash"
        child = Child(
            [bash, "-x", "script"],
            tmp_path,
            tmp_path / "log",
            environ={**topics_of(stage), **path, "HOME": str(tmp_path)},
        )
        code = child.wait(300)
        log = (tmp_path / "log").read_text()
        assert code == 0, log[-4000:]
    displayed = re.findall(r"^(lead_1_\d+)\n  grade +([A-D])$", log, re.MULTILINE)
    assert [grade for _, grade in displayed] == ["B", "A"]
    assert re.search(r"^\('row', '[A-D]', \d+\)$", log, re.MULTILINE)
    assert re.search(r"^[1-9]\d* open dead letters", log, re.MULTILINE)
    assert re.search(r"^\w{16} LEAD_NOT_FOUND +[1-9]", log, re.MULTILINE), "one to replay"
    assert not re.search(r"(FAIL|MEND) ", log), "nothing is wrong with a new cluster"
    assert '"ready": true' in log
    assert log.count('"event": "stopped"') == 3


def test_whoever_has_a_table_of_ones_own_gets_a_first_prediction_by_the_same_page(
    kafka: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    school = next(shape for shape in SHAPES if shape.name == "school")
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused", create=False)
    program(tmp_path / "bin", "leadstream", DIRECT.format(python=sys.executable))
    with database_of_its_own(postgres.url) as url:
        school.fill(url)
        (tmp_path / "script").write_text(
            as_script(["leadstream topics create", *commands_for(school)])
        )
        environ = {
            **topics_of(stage),
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "MODEL_STORE": str(tmp_path / "models"),
            "DATABASE_URL": url,
            "LEADSTREAM_HTTP_PORT": str(free_ports(1)[0]),
            "PATH": f"{tmp_path}/bin:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
        }
        child = Child(
            [shutil.which("bash") or "/bin/bash", "script"],
            tmp_path,
            tmp_path / "log",
            environ=environ,
        )
        code = child.wait(300)
    log = (tmp_path / "log").read_text()
    assert code == 0, log[-4000:]
    assert re.search(r"^1 of 1 leads scored by \w+$", log, re.MULTILINE), log
    assert re.search(r"^2400 +\d", log, re.MULTILINE)
    assert "FAIL" not in log
    assert '"event": "stopped"' in log


def test_a_transcript_of_a_try_has_the_commands_of_the_tutorial() -> None:
    page = PAGE.read_text().replace(f"{CONTINUED}\n    ", " ")
    tries = re.split(r"^## \d\. ", page, flags=re.MULTILINE)[1:]
    assert [text.partition("\n")[0] for text in tries] == [shape.name for shape in SHAPES]
    for shape, text in zip(SHAPES, tries, strict=True):
        displayed = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
        assert displayed == ["leadstream topics create", *commands_for(shape)]
        assert "1 of 1 leads scored" in text


def test_the_tutorial_says_of_no_command_that_it_is_run_which_is_not() -> None:
    left_out = [line for line in commands() if line.startswith(tuple(NOT_RUN))]
    assert len(left_out) == len(NOT_RUN)
    assert all(
        not where.startswith("tests/") or (ROOT / where).exists() for where in NOT_RUN.values()
    )
