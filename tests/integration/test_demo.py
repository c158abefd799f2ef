"""`leadstream demo` as a newcomer runs it: a small one, of whose output every line is read."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from leadstream.errors import Reason
from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres

SETTINGS = ("LEADSTREAM_", "KAFKA_", "SCHEMA_REGISTRY_URL", "DATABASE_URL", "MODEL_STORE")
SMALL = ("--changes", "1000", "--bad", "30", "--rate", "500")


@contextlib.contextmanager
def demo(*arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process; when it has ended, no program and no file of it may be left."""
    # Any user may enter it, unlike pytest's folders: Postgres does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="demo-test-"))
    folder.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    process = subprocess.Popen(
        [sys.executable, "-m", "leadstream.cli.main", "demo", *arguments],
        env={**clean, "TMPDIR": str(folder), "COLUMNS": "80", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        with process:
            yield process
        assert not programs_of(folder)
        assert not list(folder.iterdir())
    finally:
        process.kill()
        shutil.rmtree(folder)


def programs_of(folder: Path) -> list[str]:
    """The programs of this machine that name the folder in their command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(
                str(folder).encode() in (process / of).read_bytes() for of in ("cmdline", "environ")
            ):
                found.append(
                    (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
    return found


def all_of(process: subprocess.Popen[str]) -> str:
    """What it still says until it ends, checked as every output of it is to be."""
    output = process.communicate(timeout=150)[0]
    for word in ("Traceback", "Warning", "warning", "Error"):
        assert word not in output, output
    assert all(len(line) <= 80 for line in output.splitlines()), output
    return output


def until_output(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        if match := re.search(pattern, line):
            return match
    pytest.fail(f"never said {pattern!r}: {''.join(output)}")


def assert_balanced(output: str) -> None:
    numbers = re.search(r"consumed = .*\n\s*([\d,]+) = ([\d,+ ]+)\n", output)
    assert numbers, output
    consumed, dispositions = (part.replace(",", "") for part in numbers.groups())
    assert int(consumed) == sum(map(int, dispositions.split("+"))) == 1000
    assert "The accounting balances." in output
    for reason in Reason:
        assert re.search(rf"\b3  {reason}\b", output), reason
    for term in ("p50", "p99", "calibration error", "Brier", "predicted", "leadstream demo --keep"):
        assert term in output


@pytest.mark.broker
@pytest.mark.postgres
def test_the_demo_balances_its_books_and_leaves_nothing(kafka: Broker, postgres: Postgres) -> None:
    with demo(*SMALL) as process:
        output = all_of(process)
    assert process.returncode == 0, output
    assert "Delivery: exactly-once" in output
    assert_balanced(output)


@pytest.mark.postgres
@pytest.mark.long
def test_without_a_real_broker_the_demo_says_what_is_missing_and_balances_all_the_same(
    postgres: Postgres,
) -> None:
    with demo(*SMALL, "--seed", "2", LEADSTREAM_LOCAL_BROKER="mock") as process:
        output = all_of(process)
    assert process.returncode == 0, output
    assert "The mock broker has no real transactions" in " ".join(output.split())
    assert "Delivery: at-least-once" in output
    assert_balanced(output)


@pytest.mark.broker
@pytest.mark.postgres
@pytest.mark.long
def test_in_a_kafka_and_postgres_of_the_user_nothing_of_the_demo_stays_even_after_a_failure(
    kafka: Broker, postgres: Postgres
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})

    def theirs() -> set[str]:
        with psycopg.connect(postgres.url) as conn:
            databases = conn.execute("select datname from pg_database").fetchall()
        groups = admin.list_consumer_groups().result(10).valid
        names = {*admin.list_topics(timeout=10).topics, *(name for (name,) in databases)}
        return {name for name in names | {group.group_id for group in groups} if "demo" in name}

    given = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "DATABASE_URL": postgres.url}
    with demo("--changes", "4000", "--rate", "200", **given) as process:
        consumer = int(until_output(process, r"process (\d+), ready")[1])
        assert len(theirs()) == 12  # 10 topics, a group, a database
        until_output(process, r"sent [\d,]+ of")
        os.kill(consumer, signal.SIGKILL)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "Traceback" not in output
    assert "could not be removed" not in output
    assert "leadstream: The consumer ended with exit code -9; its log ends with:" in output
    assert theirs() == set()


@pytest.mark.postgres
def test_kept_running_it_names_what_to_export_until_ctrl_c(postgres: Postgres) -> None:
    with demo(*SMALL, "--keep", LEADSTREAM_LOCAL_BROKER="mock") as process:
        port = until_output(process, r"export LEADSTREAM_HTTP_PORT=(\d+)")[1]
        until_output(process, r"Ctrl-C ends the demo")
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            ready = answer.status
        os.killpg(process.pid, signal.SIGINT)
        all_of(process)
    assert ready == 200
    assert process.returncode == 0


def test_more_bad_records_than_the_consumer_bears_are_refused_in_one_line() -> None:
    with demo("--changes", "100", "--bad", "50") as process:
        output = all_of(process)
    assert process.returncode == 2
    assert output == "leadstream: --changes 100: with 50 bad records at least 200; see --bad\n"
