"""A pipeline with everything real but Kafka and Postgres, and the messages to give it."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from consumer.scoring.codecs import Codecs
from consumer.scoring.erased import PublishedErasures
from consumer.scoring.leads import Lead
from consumer.scoring.pipeline import Pipeline
from consumer.scoring.result import BatchResult
from consumer.scoring.versions import Versions
from leadstream.errors import Transient
from leadstream.kafka.batch import Batch, ClosedBy, Message, Output
from leadstream.settings import load_settings
from models.registry.slot import ChallengerSlot, ModelSlot
from models.registry.versions import ModelRegistry
from schemas.codec import Reader, Writer
from tests.fakes import FakeMessage
from tests.trained_models import TRUST

NOW_MS = 1_750_000_000_000
CHANGES = "crm.lead-changes"
REQUESTS = "crm.rescore-requests"
PREDICTIONS = "crm.lead-predictions"
RESULTS = "crm.rescore-results"
LETTERS = "crm.lead-changes.dlq"
SHADOW = "crm.lead-predictions.shadow"

_CHANGE = Writer("LeadChanged")
_REQUEST = Writer("RescoreRequest")
_PREDICTION = Reader("LeadPrediction")
_RESULT = Reader("RescoreResult")

STATE: dict[str, Any] = {
    "created_at": NOW_MS - 86_400_000,
    "lead_score": 55.0,
    "engagement_score": 62.0,
    "touchpoint_count": 4,
    "lifecycle_state": "lead",
    "status": "new",
    "source": "web",
    "programme_name": "MBA",
    "campus_name": "Berlin",
    "numbers": {},
    "categories": {},
}


class FakeLeads:
    """Leads by id; None in their place is a database that does not answer."""

    def __init__(self, leads: dict[str, Lead] | None) -> None:
        self.leads = leads
        self.queries: list[list[str]] = []

    def fetch(self, lead_ids: Iterable[str]) -> dict[str, Lead]:
        self.queries.append(list(lead_ids))
        if self.leads is None:
            raise Transient("postgres", "connection refused")
        return {
            lead_id: self.leads[lead_id] for lead_id in self.queries[-1] if lead_id in self.leads
        }

    def close(self) -> None:
        """Nothing to close."""


def pipeline(
    model: str | ModelSlot,
    leads: FakeLeads | None = None,
    clock_ms: Callable[[], int] = lambda: NOW_MS,
    challenger: ChallengerSlot | None = None,
    versions: Versions | None = None,
    erased: PublishedErasures | None = None,
    **settings: str,
) -> Pipeline:
    slot = model if isinstance(model, ModelSlot) else ModelSlot(ModelRegistry(model, TRUST))
    challenger = challenger or ChallengerSlot(ModelRegistry(str(model), TRUST))
    readers = Reader("LeadChanged"), Reader("RescoreRequest")
    codecs = Codecs(
        *readers, Writer("LeadPrediction"), Writer("RescoreResult"), Writer("LeadPrediction")
    )
    return Pipeline(
        load_settings(settings, None),
        slot,
        challenger,
        codecs,
        leads,
        versions=versions,
        erased=erased,
        clock_ms=clock_ms,
    )


def event(
    lead_id: str = "lead_1", state: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    return {
        "event_id": f"event of {lead_id}",
        "lead_id": lead_id,
        "change_type": "UPDATED",
        "occurred_at": NOW_MS,
        "lead_version": 1,
        "origin": "crm",
        "lead": STATE | (state or {}),
        **fields,
    }


def change(
    offset: int, lead_id: str = "lead_1", state: dict[str, Any] | None = None, **fields: Any
) -> FakeMessage:
    record = event(lead_id, state, **({"event_id": f"event {offset}"} | fields))
    return FakeMessage(CHANGES, 0, offset, lead_id.encode(), _CHANGE.encode(record))


def raw(
    offset: int, value: bytes | None, key: bytes | None = b"lead_1", topic: str = CHANGES
) -> FakeMessage:
    return FakeMessage(topic, 0, offset, key, value)


def request(offset: int, body: Any, key: bytes | None = None) -> FakeMessage:
    return FakeMessage(REQUESTS, 0, offset, key, json.dumps(body).encode(), timestamp_=NOW_MS)


def avro_request(offset: int, request_id: str, lead_ids: list[str]) -> FakeMessage:
    record = {"request_id": request_id, "lead_ids": lead_ids, "requested_by": None}
    return FakeMessage(REQUESTS, 0, offset, None, _REQUEST.encode(record), timestamp_=NOW_MS)


def batch(*messages: Message) -> Batch:
    return Batch.from_messages(list(messages), ClosedBy.DRAIN)


def on(outcome: BatchResult, topic: str) -> list[Output]:
    return [output for output in outcome.outputs if output.topic == topic]


def predictions(outcome: BatchResult, topic: str = PREDICTIONS) -> list[dict[str, Any]]:
    return [
        _PREDICTION.decode(output.value)
        for output in on(outcome, topic)
        if output.value is not None
    ]


def results(outcome: BatchResult) -> list[dict[str, Any]]:
    return [
        _RESULT.decode(output.value) for output in on(outcome, RESULTS) if output.value is not None
    ]


def reasons(outcome: BatchResult) -> list[str]:
    return [dict(output.headers or [])["dlq.reason"].decode() for output in on(outcome, LETTERS)]  # type: ignore[union-attr]
