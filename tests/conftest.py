"""The ground that tests share: each kind is started at most once per session, when the first test
asks for it.

Without Java (or Docker, or KAFKA_BOOTSTRAP_SERVERS) the tests of real brokers are
skipped, and say why. LEADSTREAM_REQUIRE_BROKER=1 turns each such skip into a failure; continuous
integration sets it, and LEADSTREAM_REQUIRE_BROWSER=1, which does the same where there is no
Chromium.
"""

import contextlib
import os
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn, TypeVar
from uuid import uuid4

import pytest

from leadstream.errors import UserError
from leadstream.local.broker import Broker, local_broker
from leadstream.local.kafka import KafkaProcess, local_kafka
from leadstream.local.postgres import Postgres, PostgresProcess, local_postgres, local_server
from leadstream.local.process import Say
from models.train import reasons
from tests import examples  # noqa: F401  # registers the profiles
from tests.shared_kafka import hold_run, shared_kafka
from tests.trained_models import EXPLAINED_ROWS, SHARED_FOLDER, promoted_store


def pytest_configure(config: pytest.Config) -> None:
    """Give the workers of a parallel run one folder for what they share: models and a Kafka.

    A training explains few rows: thousands take as long as the rest of it.
    """
    reasons.MAX_ROWS = EXPLAINED_ROWS
    if SHARED_FOLDER not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="leadstream-tests-")
        os.environ[SHARED_FOLDER] = folder.name
        config.add_cleanup(folder.cleanup)
        hold_run(config, Path(folder.name))


Started = TypeVar("Started")
S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("LEADSTREAM_REQUIRE_BROKER") == "1":
        pytest.fail(f"LEADSTREAM_REQUIRE_BROKER=1, but: {reason}", pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def start_or_skip(start: Callable[[Say], AbstractContextManager[Started]]) -> Iterator[Started]:
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(start(lines.append))
        except UserError as error:
            _unavailable(str(error))
        if isinstance(started, Broker) and started.kind == "mock":
            _unavailable(
                "no real broker: " + (" | ".join(lines[:-1]) or "LEADSTREAM_LOCAL_BROKER=mock")
            )
        yield started


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """A real Kafka with transactions, shared by all tests: use topics and groups of your own."""
    folder = Path(os.environ[SHARED_FOLDER])
    with start_or_skip(lambda say: shared_kafka(folder, say)) as broker:
        yield broker


@pytest.fixture(scope="session")
def mock_broker() -> Iterator[Broker]:
    """librdkafka's mock cluster, without transactions; topics appear on first use, with four
    partitions.
    """
    with local_broker("mock", say=lambda _: None) as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real Postgres, shared by all tests: use a schema or tables of your own."""
    with start_or_skip(local_postgres) as server:
        yield server


@pytest.fixture
def fresh_kafka() -> Iterator[KafkaProcess]:
    """A Kafka of this test's own, to stop, kill and start again."""
    with start_or_skip(local_kafka) as node:
        yield node


@pytest.fixture
def fresh_postgres() -> Iterator[PostgresProcess]:
    """A Postgres of this test's own, to stop, kill and start again."""
    with start_or_skip(local_server) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an S3 server on this machine, which the environment names from now on: use a
    bucket of your own.
    """
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer  # takes a second

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as environment:
        for name, value in S3_ENVIRONMENT.items():
            environment.setenv(name, value)
        environment.setenv("AWS_ENDPOINT_URL", url)
        yield url
    server.stop()


@pytest.fixture
def bucket(s3: str) -> str:
    """The URL of a model store in an empty bucket."""
    name = f"models-{uuid4().hex[:8]}"
    urllib.request.urlopen(urllib.request.Request(f"{s3}/{name}", method="PUT")).close()
    return f"s3://{name}/store"


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model store with a champion, shared by all tests: look, and change nothing."""
    return promoted_store(tmp_path_factory.mktemp("models"))
