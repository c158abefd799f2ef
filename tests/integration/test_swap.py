"""A model in a running process: what it costs to have one, and what it costs to change it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from leadstream.local.broker import Broker
from models.registry.versions import ModelRegistry
from tests.conftest import S3_ENVIRONMENT
from tests.integration.running import Stage
from tests.trained_models import TRUST, promoted_store, trained

pytestmark = pytest.mark.broker


class SlowStore(ThreadingHTTPServer):
    """A folder, read as S3 is; of one object a few bytes a second arrive until it is let go."""

    def __init__(self, folder: Path, slow: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder, self.slow = folder, slow
        self.asked, self.let_go = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: SlowStore

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].lstrip("/").partition("/")[2]  # without the bucket
        file = self.server.folder / path
        status, body = (
            (206, file.read_bytes())
            if file.is_file()
            else (404, b"<Error><Code>NoSuchKey</Code></Error>")
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", '"1"')
        self.end_headers()
        if path == self.server.slow:
            self.server.asked.set()
            while not self.server.let_go.wait(0.2):
                self.wfile.write(body[:1])
                body = body[1:]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SlowStore]:
    """Two versions, the first of them the champion; the second one's artifact is slow."""
    ModelRegistry(promoted_store(tmp_path / "models"), TRUST).publish(trained(2))
    server = SlowStore(tmp_path / "models", "versions/1.1.0/model.joblib")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.let_go.set()
    server.shutdown()
    server.server_close()


def test_a_version_that_takes_long_to_read_does_not_stop_the_stream_which_the_present_one_serves(
    tmp_path: Path, kafka: Broker, store: SlowStore
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, str(tmp_path / "models"))
    with stage.running(
        MODEL_STORE="s3://bucket", AWS_ENDPOINT_URL=store.url, **S3_ENVIRONMENT
    ) as process:
        process.event("model.loaded", version="1.0.0")
        alias = {"version": "1.1.0", "previous": ["1.0.0"], "moved_at": 1}
        (tmp_path / "models/aliases/champion.json").write_text(json.dumps(alias))
        assert store.asked.wait(30)
        stage.send(stage.changes("meanwhile", 100))
        assert {prediction["model_version"] for prediction in stage.predictions(100)} == {"1.0.0"}
        assert not store.let_go.is_set()
        store.let_go.set()
        process.event("model.loaded", version="1.1.0")
        stage.send(stage.changes("after", 10))
        last = [
            p["model_version"] for p in stage.predictions(110) if p["lead_id"].startswith("after")
        ]
        assert last == ["1.1.0"] * 10


def test_a_running_consumer_has_loaded_neither_scikit_learn_nor_pandas_nor_a_database_s_client(
    tmp_path: Path, kafka: Broker
) -> None:
    registry = ModelRegistry(promoted_store(tmp_path / "models"), TRUST)
    second = registry.publish(trained(2))
    stage = Stage.on(kafka.bootstrap, tmp_path, registry.url)
    stage.fresh = True
    with stage.running() as process:
        stage.send(stage.changes("lead", 3000))  # a full window of drift
        stage.predictions(3000)
        registry.promote(second, force=True)
        process.event("model.loaded", version=second)
        mapped = Path(f"/proc/{process.pid}/maps")
        if not mapped.exists():
            pytest.skip("this system does not tell what a process has mapped")
        files = {line.split(maxsplit=5)[-1] for line in mapped.read_text().splitlines()}
        assert any("/numpy/" in file for file in files)
        for package in ("sklearn", "pandas", "psycopg_binary"):
            assert not [file for file in files if f"/{package}" in file]
