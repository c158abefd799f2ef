"""Traces as a collector gets them: a change's goes on in what comes of it, and a batch links to its
changes.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from confluent_kafka.admin import (
    AdminClient,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from leadstream.kafka.batch import Message, Output
from leadstream.local.broker import Broker
from leadstream.local.process import free_ports
from tests.integration.running import Running, Stage, until

pytestmark = pytest.mark.broker
SAMPLED, UNSAMPLED, POISONED, ASKED = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)


@dataclass
class Collector:
    """What an OTLP collector was sent."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


class _CollectorHandler(BaseHTTPRequestHandler):
    collector: ClassVar[Collector]

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest.FromString(
            self.rfile.read(int(self.headers["Content-Length"]))
        )
        for resource in request.resource_spans:
            attributes = {
                each.key: each.value.string_value for each in resource.resource.attributes
            }
            self.collector.services.add(attributes["service.name"])
            self.collector.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at what was sent."""


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_CollectorHandler,), {"collector": collector})
    )
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def parent(trace: str, flags: str = "01") -> tuple[str, bytes]:
    return ("traceparent", f"00-{trace}-{'1' * 16}-{flags}".encode())


def traces(messages: list[Message]) -> dict[bytes | None, list[str]]:
    """The trace ids that records carry, by key."""
    return {
        message.key(): [
            (value or b"").decode().split("-")[1]
            for name, value in message.headers() or []
            if name == "traceparent"
        ]
        for message in messages
    }


def traced(stage: Stage, lead_id: str, *headers: tuple[str, bytes], **fields: Any) -> Output:
    return stage.change(lead_id, **fields)._replace(headers=list(headers))


def sent(stage: Stage) -> None:
    """One change with a sampled trace, one with one that is not, one without, a poisoned one, and a
    request.
    """
    stage.send(
        [
            traced(stage, "sampled", parent(SAMPLED), ("tracestate", b"crm=1")),
            traced(stage, "unsampled", parent(UNSAMPLED, "00")),
            stage.change("plain"),
            traced(stage, "junk", ("traceparent", b"\xff no trace")),
            Output(stage.topics.lead_changes, b"poisoned", b"junk", [parent(POISONED)]),
            stage.request("asked", ["nobody"])._replace(headers=[parent(ASKED)]),
        ]
    )


def test_the_trace_of_a_change_goes_on_in_its_prediction_and_its_letter(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    sent(stage)
    with collecting() as collector:
        settings = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with stage.running(**settings) as process:
            predictions = stage.read(stage.topics.lead_predictions, 4)
            [result] = stage.read(stage.topics.rescore_results, 1)
            [letter] = stage.letters(1)
            process.until_ready()
            assert process.stop() == 0
            assert process.sentences() == []
    found = traces(predictions)
    assert found == {b"sampled": [SAMPLED], b"unsampled": [UNSAMPLED], b"plain": [], b"junk": []}
    assert traces([result]) == {b"asked": [ASKED]}
    # A letter has the headers of its change as they were, so its trace is that one.
    assert [header for header in letter.headers() or [] if header[0] == "traceparent"] == [
        parent(POISONED)
    ]
    assert collector.services == {"leadstream"}

    [created] = collector.named(f"create {stage.topics.lead_predictions}")
    assert (created.trace_id.hex(), created.parent_span_id.hex()) == (SAMPLED, "1" * 16)
    [carried] = [dict(m.headers() or []) for m in predictions if m.key() == b"sampled"]
    assert carried["traceparent"] == f"00-{SAMPLED}-{created.span_id.hex()}-01".encode()
    assert carried["tracestate"] == b"crm=1"
    [dead_lettered] = collector.named(f"create {stage.topics.dead_letters}")
    assert dead_lettered.trace_id.hex() == POISONED
    assert {each.key: each.value.string_value for each in dead_lettered.attributes}[
        "error.type"
    ] == "UNKNOWN_FRAMING"
    batches = collector.named(f"process {stage.topics.lead_changes}")
    assert {link.trace_id.hex() for batch in batches for link in batch.links} == {
        SAMPLED,
        POISONED,
        ASKED,
    }
    assert created.links[0].span_id in {batch.span_id for batch in batches}
    assert "sampled" not in str(collector.spans), "lead ids are in no span"


def test_a_batch_that_is_not_committed_says_so_and_its_next_try_is_another_span(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.delete_topics([stage.topics.lead_predictions]).values():
        future.result(30)
    with collecting() as collector:
        settings = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "LEADSTREAM_KAFKA_ALLOW_AUTO_CREATE_TOPICS": "false",
        }
        with stage.running(**settings) as process:
            sent(stage)
            process.event("batch.held", dependency="brokers")
            assert process.stop() == 0
    batches = collector.named(f"process {stage.topics.lead_changes}")
    tries = [batch for batch in batches if SAMPLED in {link.trace_id.hex() for link in batch.links}]
    assert {batch.status.code for batch in tries} == {2}, "2 is an error"


def test_without_traces_nothing_is_carried_and_with_a_dead_collector_nothing_waits(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    sent(stage)
    with stage.running() as process:
        assert set(map(len, traces(stage.read(stage.topics.lead_predictions, 4)).values())) == {0}
        assert process.stop() == 0
    [port] = free_ports(1)
    settings = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
    }
    with stage.running(
        **settings, OTEL_BSP_SCHEDULE_DELAY="50", OTEL_EXPORTER_OTLP_TIMEOUT="1"
    ) as process:
        stage.send([traced(stage, "late", parent(SAMPLED))])
        assert traces(stage.read(stage.topics.lead_predictions, 5))[b"late"] == [SAMPLED]
        process.event("traces.client")
        assert process.stop() == 0
        assert process.sentences() == [], "what the SDK says is a line of the log"


def refused(process: Running) -> list[str]:
    until(lambda: not process.alive(), "it ends")
    assert process.exit_code() == 2
    return process.lines()


def test_traces_without_the_extra_or_of_a_kind_that_is_none_are_one_sentence(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path / "stage", model_store, create=False)
    stage.folder.mkdir()
    with stage.running(OTEL_TRACES_EXPORTER="jaeger") as process:
        assert refused(process) == [
            "leadstream: OTEL_TRACES_EXPORTER=jaeger: must be 'none', 'otlp' or 'console'"
        ]
    # As where it is not installed: Python finds nothing of this name.
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(
        "import sys\nsys.modules.update({'opentelemetry': None, 'opentelemetry.trace': None})\n"
    )
    path = ":".join([str(tmp_path / "without"), *(entry for entry in sys.path if entry)])
    with stage.running(OTEL_TRACES_EXPORTER="otlp", PYTHONPATH=path) as process:
        [line] = refused(process)
        assert line.startswith(
            "leadstream: OTEL_TRACES_EXPORTER=otlp needs the extra otel: `pip install '.[otel]'`"
        )
