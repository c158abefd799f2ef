"""The HTTP endpoints of a running process."""

import json
import socket
import struct
from urllib.parse import urlsplit

import pytest

from models.registry.versions import ModelRegistry
from tests.integration.conftest import ServedConsumer
from tests.integration.running import until
from tests.trained_models import TRUST

pytestmark = [pytest.mark.broker, pytest.mark.postgres]


def test_a_process_that_works_is_alive_and_ready_and_misses_nothing(served: ServedConsumer) -> None:
    assert served.process.get("/healthz") == (200, b'{\n  "alive": true\n}\n')
    status, body = served.process.get("/readyz")
    assert (status, json.loads(body)) == (200, {"ready": True, "missing": {}, "warnings": {}})
    until(lambda: served.process.metric("ready") == 1, "the metric says the same")


def test_nobody_on_the_network_sees_the_pages_unless_the_settings_say_so(
    served: ServedConsumer,
) -> None:
    address = urlsplit(served.process.event("started")["http"])
    assert "LEADSTREAM_HTTP_HOST" not in served.stage.environment
    assert address.hostname == "127.0.0.1"
    # An address of this machine, too: whoever listens on all of them answers here.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", address.port or 0), 5)


def test_the_model_in_service_is_the_champion_of_the_store(served: ServedConsumer) -> None:
    status, body = served.process.get("/model")
    model = json.loads(body)
    manifest = ModelRegistry(served.stage.environment["MODEL_STORE"], TRUST).show("1.0.0")
    assert status == 200
    assert model["version"] == "1.0.0"
    assert model["metrics"] == manifest["metrics"]
    assert model["loaded_since"] > 1_700_000_000_000
    labels = {name: model[name] for name in ("version", "sha256", "model_used")}
    assert served.process.metric("model_info", variant="champion", **labels) == 1
    assert model["challenger"] == {"version": None, "refused": None, "share": 0}


def test_every_metric_has_our_prefix_and_a_sentence(served: ServedConsumer) -> None:
    lines = served.process.get("/metrics")[1].decode().splitlines()
    assert all(
        line.split()[2 if line.startswith("#") else 0].startswith("leadstream_") for line in lines
    )
    assert all(len(line.split()) > 4 for line in lines if line.startswith("# HELP"))


def test_a_page_that_does_not_exist_is_a_404_that_names_those_that_do(
    served: ServedConsumer,
) -> None:
    status, body = served.process.get("/nothing")
    assert status == 404
    assert json.loads(body)["pages"] == ["/healthz", "/readyz", "/metrics", "/model"]


def test_a_probe_that_hangs_up_must_not_leave_a_stack_trace_in_the_log(
    served: ServedConsumer,
) -> None:
    address = urlsplit(served.process.event("started")["http"])
    for sent in (b"", b"GET /metrics HTTP/1.0\r\n\r\n"):
        with socket.create_connection((address.hostname, address.port)) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # close with a reset
            probe.sendall(sent)
    assert served.process.get("/healthz")[0] == 200
    assert served.process.sentences() == []
