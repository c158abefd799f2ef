"""What ends the process, with which exit code, and the one line that says why."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from leadstream.local.broker import Broker
from leadstream.local.process import free_ports
from tests.integration.forked import run_verb
from tests.integration.running import Stage, until

ROOT = Path(__file__).parents[2]


def leadstream(*words: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A verb, to its end."""
    return run_verb(*words, folder=cwd, environ={"PATH": "/usr/bin:/bin", **settings})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"MODEL_STORE": "models"}, "KAFKA_BOOTSTRAP_SERVERS is not set"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "localhost:1"}, "MODEL_STORE is not set"),
        (
            {"LEADSTREAM_BATCH_MAX_RECORDS": "many"},
            "LEADSTREAM_BATCH_MAX_RECORDS=many: must be a whole number",
        ),
        ({"LEADSTREAM_DELIVERY": "maybe-once"}, "LEADSTREAM_DELIVERY=maybe-once: must be"),
        (
            {"LEADSTREAM_KAFKA_ENABLE_AUTO_COMMIT": "true"},
            "LEADSTREAM_KAFKA_ENABLE_AUTO_COMMIT is refused",
        ),
        (
            {
                "KAFKA_BOOTSTRAP_SERVERS": "localhost:1",
                "MODEL_STORE": "models",
                "LEADSTREAM_HTTP_PORT": "0",
                "LEADSTREAM_KAFKA_NO_SUCH_THING": "1",
            },
            "no.such.thing",
        ),
        (
            {
                "KAFKA_BOOTSTRAP_SERVERS": "localhost:1",
                "MODEL_STORE": "models",
                "DATABASE_URL": "postgres//user:hunter2@host",
            },
            "DATABASE_URL cannot be read: write postgresql://",
        ),
    ],
    ids=[
        "no brokers",
        "no store",
        "no number",
        "no delivery",
        "refused",
        "unknown property",
        "no address",
    ],
)
def test_a_wrong_setting_is_exit_code_2_and_one_line_that_names_it(
    tmp_path: Path, settings: dict[str, str], named: str
) -> None:
    done = leadstream("run", cwd=tmp_path, **settings)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "hunter2" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words", [("walk",), ("run", "--fast"), (), ("topics",), ("dead-letters", "show", "seven")]
)
def test_wrong_usage_is_exit_code_2_and_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = leadstream(*words, cwd=tmp_path, KAFKA_BOOTSTRAP_SERVERS="localhost:1")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_port_that_is_taken_is_named_with_the_mend(tmp_path: Path, model_store: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = leadstream(
            "run",
            cwd=tmp_path,
            KAFKA_BOOTSTRAP_SERVERS="localhost:1",
            MODEL_STORE=model_store,
            LEADSTREAM_HTTP_PORT=port,
        )
    assert done.returncode == 2
    assert f"LEADSTREAM_HTTP_PORT={port}" in done.stderr


def test_an_empty_model_store_is_one_sentence_that_says_how_to_fill_it(
    tmp_path: Path, kafka: Broker, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    with stage.running(MODEL_STORE=str(tmp_path / "empty")) as process:
        assert process.exit_code() == 1
        [sentence] = process.sentences()
        assert "no model is promoted to champion" in sentence
        assert "leadstream train" in sentence


def test_a_bug_is_exit_code_1_with_one_stack_trace_and_nothing_committed(
    tmp_path: Path, kafka: Broker, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    stage.send(stage.changes("lead", 3))
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import consumer.scoring.score\n"
        "def broken(*_):\n"
        "    raise KeyError('a bug')\n"
        "consumer.scoring.score.BatchScorer._encode = broken\n"
    )
    with stage.running(PYTHONPATH=f"{tmp_path}:{ROOT}") as process:
        assert process.exit_code() == 1
        text = "\n".join(process.sentences())
        assert text.count("Traceback (most recent call last)") == 1
        assert "KeyError: 'a bug'" in text
    assert stage.committed(stage.topics.lead_changes) == 0


_SLOW_MODULES = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name in ("consumer", "producer"):
            print("loading", file=sys.stderr, flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("relay",),
        ("sink",),
        ("translate", "--format", "debezium", "--from", "foreign"),
        ("follow",),
        ("history", "write"),
        ("learn",),
    ],
)
def test_a_stop_while_the_modules_load_is_no_failure(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_SLOW_MODULES)
    stage = Stage.on("127.0.0.1:1", tmp_path, "models", create=False)
    with stage.running(
        *words,
        PYTHONPATH=f"{tmp_path}:{ROOT}",
        DATABASE_URL="postgresql://db/crm",
        LEADSTREAM_HISTORY="history",
    ) as process:
        until(lambda: process.lines() == ["loading"], "it loads its modules")
        process.signal(signal.SIGTERM)
        assert process.exit_code() == 0
        assert process.lines() == ["loading"]


def test_brokers_that_do_not_answer_are_waited_for_by_name_and_a_stop_still_ends_it(
    tmp_path: Path, model_store: str
) -> None:
    stage = Stage.on("127.0.0.1:1", tmp_path, model_store, create=False)
    with stage.running() as process:
        process.event("batch.held", dependency="brokers")
        assert "brokers" in process.missing()
        assert process.get("/healthz")[0] == 200
        assert process.get("/model")[0] == 503
        # The client tries many times a second, and says so once.
        assert len(process.lines()) < 20
        assert process.stop(20) == 0
        assert process.sentences() == []


def test_a_second_signal_ends_a_process_at_once_that_waits_for_a_broker(
    tmp_path: Path, model_store: str
) -> None:
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as silent:  # it takes connections, and never says a word
        stage = Stage.on(
            f"127.0.0.1:{silent.getsockname()[1]}", tmp_path, model_store, create=False
        )
        with stage.running() as process:
            process.event("started")
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGINT)
            began = time.monotonic()
            code = process.exit_code()
            assert time.monotonic() - began < 2
            assert code in (128 + signal.SIGTERM, 128 + signal.SIGINT)


def test_sigterm_finishes_the_batch_and_what_it_did_not_reach_is_left_for_the_next(
    tmp_path: Path, kafka: Broker, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    stage.send(stage.changes("lead", 20_000))
    with stage.running(LEADSTREAM_BATCH_MAX_RECORDS="500", LEADSTREAM_REASONS="0") as first:
        first.event("batch")
        assert first.stop() == 0
        done = sum(line["consumed"] for line in first.events("batch"))
        assert 0 < done < 20_000
        assert first.events("stopped")
    assert stage.committed(stage.topics.lead_changes) == done
    with stage.running(LEADSTREAM_REASONS="0"):
        predictions = stage.predictions(20_000)
    assert len({prediction["lead_id"] for prediction in predictions}) == len(predictions) == 20_000


@pytest.mark.parametrize("closed", [">/dev/full 2>/dev/full", ">&- 2>&-", ">/dev/null 2>/dev/full"])
def test_a_log_that_cannot_be_written_stops_no_work_and_is_counted(
    tmp_path: Path, kafka: Broker, model_store: str, closed: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    [port] = free_ports(1)
    process = subprocess.Popen(
        [
            *("sh", "-c", f'exec "$@" {closed}', "sh"),
            *(sys.executable, "-m", "leadstream.cli.main", "run"),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **stage.environment}
        | {"LEADSTREAM_HTTP_PORT": str(port)},
    )
    try:
        stage.send(stage.changes("lead", 3))
        assert len(stage.predictions(3)) == 3

        def dropped() -> float:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            [count] = re.findall(r"^leadstream_log_lines_dropped_total (\S+)", text, re.MULTILINE)
            return float(count)

        until(dropped, "the lost lines are counted")
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&1"])
def test_a_start_in_which_something_breaks_ends_and_hangs_in_no_client(
    tmp_path: Path, kafka: Broker, model_store: str, closed: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    (tmp_path / "sitecustomize.py").write_text(
        "import consumer.run.app as app\n"
        "def broken(*_, **__):\n"
        "    raise OSError(28, 'No space left on device')\n"
        "app.TransactionalPublisher = broken\n"
    )
    done = subprocess.run(
        [
            *("sh", "-c", f'exec "$@" {closed}', "sh"),
            *(sys.executable, "-m", "leadstream.cli.main", "run"),
        ],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", **stage.environment, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.count("Traceback") == (closed == "2>&1")
