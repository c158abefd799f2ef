"""The model store on S3: what goes over the wire, what other clients write, and every way of not
answering.
"""

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from leadstream.errors import SettingsError, Transient
from models.registry.store import Store
from models.registry.versions import ModelRegistry
from tests.conftest import S3_ENVIRONMENT
from tests.integration.forked import run_verb
from tests.trained_models import TRUST, trained, write_key

ROOT = Path(__file__).parents[2]
PLAIN = {"Content-Type": "application/octet-stream"}
ERROR = "<Error><Code>{}</Code><Message>told so</Message></Error>"


@contextmanager
def answering(
    status: int, body: str, length: int | None = None
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The URL of a server that answers everything alike, and the headers that it was sent."""
    seen: list[dict[str, str]] = []

    class S3Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # the client asks to continue before it sends

        def answer(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(length or len(body)))
            self.end_headers()
            self.wfile.write(body.encode())
            self.close_connection = True

        do_GET = do_PUT = answer  # noqa: N815  # the names that the handler looks up

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), S3Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def store_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Store]:
    """A store at an S3 of this test's own."""

    def at(url: str) -> Store:
        for name, value in S3_ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        return Store(f"s3://bucket-{url.rpartition(':')[2]}/models")

    return at


def test_a_put_without_its_condition_on_the_wire_would_write_over_another_publisher(
    store_at: Callable[[str], Store],
) -> None:
    with answering(200, "") as (url, seen):
        store = store_at(url)
        assert store.create("versions/1.0.0/model.joblib", b"x")
        store.replace("aliases/champion.json", b"x")
    assert [headers.get("if-none-match") for headers in seen] == ["*", None]


@pytest.mark.parametrize(
    ("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict")]
)
def test_a_version_that_another_is_writing_is_taken_however_the_store_says_so(
    store_at: Callable[[str], Store], status: int, code: str
) -> None:
    with answering(status, ERROR.format(code)) as (url, _):
        assert store_at(url).create("versions/1.0.0/model.joblib", b"x") is False


@pytest.mark.parametrize(
    ("status", "body", "length"),
    [
        (403, ERROR.format("AccessDenied"), None),
        (503, ERROR.format("SlowDown"), None),
        (500, "no XML", None),
        (404, ERROR.format("NoSuchBucket"), None),
        (200, "cut off", 1000),
    ],
    ids=["denied", "busy", "broken", "no bucket", "cut off"],
)
def test_an_answer_that_is_none_is_transient_and_no_empty_store(
    store_at: Callable[[str], Store], status: int, body: str, length: int | None
) -> None:
    with answering(status, body, length) as (url, _):
        store = store_at(url)
        asked: list[Callable[[], object]] = [
            lambda: store.read("aliases/champion.json"),
            lambda: store.names("versions"),
        ]
        if status != 200:
            asked += [lambda: store.create("a", b""), lambda: store.replace("a", b"")]
        for ask in asked:
            with pytest.raises(
                Transient, match=r"model store: s3://bucket-.* does not answer"
            ) as raised:
                ask()
            assert "\n" not in str(raised.value)


def test_a_store_that_takes_connections_and_says_nothing_cannot_hold_the_consumer_up(
    store_at: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.registry.store.SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = store_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        for ask in (
            lambda: store.read("a", 1),
            lambda: store.create("a", b"x"),
            lambda: store.replace("a", b"x"),
        ):
            began = time.monotonic()
            with pytest.raises(Transient, match=r"does not answer \(not in time\)"):
                ask()
            assert time.monotonic() - began < 5


def test_what_another_client_writes_is_seen_at_once(bucket: str, s3: str) -> None:
    store = Store(bucket)
    assert store.names("versions") == []
    key = bucket.removeprefix("s3://")
    for name in ("1.0.0", "1.1.0"):
        put = urllib.request.Request(
            f"{s3}/{key}/versions/{name}/manifest.json", b"{}", PLAIN, method="PUT"
        )
        urllib.request.urlopen(put).close()
        assert name in store.names("versions")
    assert store.names("versions/1.0.0") == ["manifest.json"]
    assert store.read("versions/1.0.0/manifest.json") == b"{}"


def test_an_empty_object_is_empty_and_a_large_one_is_not_read_to_its_end(bucket: str) -> None:
    store = Store(bucket)
    store.replace("empty", b"")
    store.replace("large", b"x" * 1000)
    assert store.read("empty") == b""
    assert store.read("large", 10) == b"x" * 11
    assert store.read("absent") is None


def test_a_reader_never_sees_half_an_alias(bucket: str) -> None:
    store = Store(bucket)
    texts = [bytes([65 + i]) * 200_000 for i in range(2)]
    store.replace("aliases/x.json", texts[0])
    done = threading.Event()

    def write() -> None:
        for i in range(20):
            store.replace("aliases/x.json", texts[i % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = {Store(bucket).read("aliases/x.json")}
    while not done.is_set():
        seen.add(Store(bucket).read("aliases/x.json"))
    writer.join()
    assert seen <= set(texts)


def test_without_s3fs_the_setting_is_named_and_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(
        SettingsError, match=r"MODEL_STORE=s3://b/m: .*pip install 'leadstream\[s3\]'"
    ):
        Store("s3://b/m")


def leadstream(folder: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run_verb(
        *words,
        folder=folder,
        environ={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "AWS_EC2_METADATA_DISABLED": "true",
            "LEADSTREAM_MODEL_SIGNING_KEY": str(write_key(folder / "key")),
            **environment,
        },
    )


def test_the_verbs_work_on_s3_as_on_a_folder(bucket: str, s3: str, tmp_path: Path) -> None:
    registry = ModelRegistry(bucket, TRUST)
    for seed in (1, 2):
        registry.publish(trained(seed))
    there = {"MODEL_STORE": bucket, "AWS_ENDPOINT_URL": s3, **S3_ENVIRONMENT}
    registry.promote("1.0.0")
    for words in (("promote", "1.1.0"), ("rollback",), ("list",)):
        done = leadstream(tmp_path, "models", *words, **there)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert registry.resolve() == "1.0.0"
    assert [move["action"] for move in registry.log()] == ["promote", "promote", "rollback"]


@pytest.mark.parametrize(
    "environment",
    [
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", **S3_ENVIRONMENT},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    ],
    ids=["unreachable", "without credentials"],
)
def test_a_store_that_cannot_be_asked_is_one_sentence(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = leadstream(tmp_path, "models", "list", MODEL_STORE="s3://nowhere/models", **environment)
    assert done.returncode == 1
    assert done.stderr.startswith("leadstream: model store: s3://nowhere/models does not answer (")
    assert done.stderr.count("\n") == 1
