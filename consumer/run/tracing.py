"""Traces by OpenTelemetry, from the extra `otel`: importing this without it is an ImportError.

A batch is a span with a link to each sampled change. Each record is a span of its change's own
trace, which the record carries on in `traceparent`. Lead ids are in no span. These are the
messaging conventions: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from consumer.scoring.result import BatchResult
from leadstream import __version__
from leadstream.errors import LeadstreamError
from leadstream.kafka.acknowledged import Sources
from leadstream.kafka.batch import Batch, read_headers
from leadstream.kafka.config import Headers, Record
from leadstream.kafka.publisher import FinishCommit, Publisher
from leadstream.log import client_logger
from leadstream.settings import Settings, Traces

_W3C = TraceContextTextMapPropagator()
_NAMES = ("traceparent", "tracestate")


class Tracing:
    """The spans of a batch, which end with its commit."""

    def __init__(
        self, tracer: Tracer, settings: Settings, close: Callable[[], None] = lambda: None
    ) -> None:
        self._tracer = tracer
        self._topic = settings.topics.lead_changes
        self._letters = settings.topics.dead_letters
        self._group = settings.group_id
        self._open: list[Span] = []
        self.close = close

    def carry(self, batch: Batch, result: BatchResult) -> BatchResult:
        """Return the result with the traces of the changes in its records, and start its spans."""
        began_ms = result.began_ms
        _end(self.take(), "the batch was not committed")
        contexts = _contexts(batch)
        links = [
            Link(
                context,
                {
                    "messaging.destination.partition.id": str(place[1]),
                    "messaging.kafka.offset": offset,
                },
            )
            for index, parent in contexts.items()
            if (context := _span_context(parent)).trace_flags.sampled
            for place, offset in [(batch.places[index], int(batch.offsets[index]))]
        ]
        span = self._tracer.start_span(
            f"process {self._topic}",
            Context(),
            SpanKind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.operation.name": "process",
                "messaging.destination.name": self._topic,
                "messaging.consumer.group.name": self._group,
                "messaging.batch.message_count": len(batch.messages),
                "leadstream.model.version": result.model_version,
            },
            links,
            began_ms * 1_000_000,
        )
        self._open.append(span)
        if not contexts:
            return result
        records = list(result.records)
        for place, index in enumerate(result.sources.tolist()):
            if (parent := contexts.get(index)) is not None:
                reason = result.letters[index].reason.value if index in result.letters else None
                records[place] = self._carried(records[place], parent, span, reason, began_ms)
        return replace(result, records=records)

    def _carried(
        self, record: Record, parent: Context, batch: Span, reason: str | None, began_ms: int
    ) -> Record:
        """Return the record with the trace of its change; a sampled change has a span."""
        topic, key, value, headers, timestamp = record
        if _span_context(parent).trace_flags.sampled:
            attributes = {
                "messaging.system": "kafka",
                "messaging.operation.type": "create",
                "messaging.operation.name": "create",
                "messaging.destination.name": topic,
            }
            links = [Link(batch.get_span_context())]
            span = self._tracer.start_span(
                f"create {topic}",
                parent,
                SpanKind.PRODUCER,
                attributes,
                links,
                began_ms * 1_000_000,
            )
            if reason is not None:
                span.set_attribute("error.type", reason)
            self._open.append(span)
            parent = trace.set_span_in_context(span, parent)
        if topic == self._letters:
            return record  # its headers are those of the change, and have its trace
        return topic, key, value, [*(headers or []), *_headers(parent)], timestamp

    def take(self) -> list[Span]:
        """Return the open spans; the caller ends them."""
        spans, self._open = self._open, []
        return spans


class TracedPublisher:
    """A publisher that ends the spans of a batch with its commit."""

    def __init__(self, publisher: Publisher, tracing: Tracing) -> None:
        self._publisher, self._tracing = publisher, tracing
        self.open, self.topic_problem, self.close = (
            publisher.open,
            publisher.topic_problem,
            publisher.close,
        )

    def begin(
        self, outputs: Iterable[Record], batch: Batch, sources: Sources | None = None
    ) -> FinishCommit:
        spans = self._tracing.take()
        try:
            end = self._publisher.begin(outputs, batch, sources)
        except LeadstreamError as error:
            _end(spans, str(error))
            raise

        def ended() -> None:
            try:
                end()
            except LeadstreamError as error:
                _end(spans, str(error))
                raise
            _end(spans)

        return ended


def open_tracing(settings: Settings) -> Tracing | None:
    """Return tracing by OTEL_TRACES_EXPORTER, or None if the SDK's variables turn it off."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    client_logger("opentelemetry", "traces.client")
    resource = Resource.create({"service.version": __version__})
    if "OTEL_SERVICE_NAME" not in os.environ and SERVICE_NAME + "=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        resource = resource.merge(Resource({SERVICE_NAME: "leadstream"}))
    provider = TracerProvider(resource=resource)
    exporter = (
        ConsoleSpanExporter()
        if settings.otel_traces_exporter is Traces.CONSOLE
        else OTLPSpanExporter()
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider.get_tracer("leadstream", __version__), settings, provider.shutdown)


def _end(spans: list[Span], trouble: str | None = None) -> None:
    """End the spans of a batch; `trouble` says why it was not committed."""
    for span in spans:
        if trouble is not None:
            span.set_status(StatusCode.ERROR, trouble)
        span.end()


def _contexts(batch: Batch) -> dict[int, Context]:
    """Return the trace of each message that carries a readable one."""
    found = {}
    for index, message in enumerate(batch.messages):
        if headers := read_headers(message):
            carrier: dict[str, Any] = {
                name: value.decode("latin-1") for name, value in headers if value and name in _NAMES
            }
            if carrier and _span_context(context := _W3C.extract(carrier, Context())).is_valid:
                found[index] = context
    return found


def _span_context(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def _headers(context: Context) -> Headers:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return [(name, value.encode("latin-1")) for name, value in carrier.items()]
