"""Rescore requests: the leads that a message asks for, and the one result about them all."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from consumer.scoring.change_columns import inputs_from_states
from consumer.scoring.leads import Lead
from consumer.scoring.predictions import output_limit
from consumer.scoring.rows import Rows
from consumer.scoring.score import RESCORE, BatchContext, BatchScorer, Predicted
from consumer.scoring.states import lead_as_of, lead_not_found
from leadstream.dictionary import DictionaryColumn
from leadstream.errors import Poison, Reason
from leadstream.kafka.batch import Batch, Message
from leadstream.kafka.config import Record
from leadstream.kafka.topic_config import RecordLimits
from leadstream.lead_fields import MAX_ID_CHARACTERS
from schemas.codec import Reader, Writer

MAX_REQUEST_LEADS = 10_000
# The default size of a batch of changes: one query and one call of the model per slice.
SLICE = 2_000


@dataclass(frozen=True, slots=True)
class RescoreRequest:
    """Leads to rescore, in the order asked for, each once, as of `occurred_at` (ms UTC).

    `index` is the message. `malformed` says of ids why they cannot be a lead's.
    """

    index: int
    request_id: str
    lead_ids: list[str]
    malformed: dict[str, str]
    occurred_at: int


@dataclass(frozen=True, slots=True, eq=False)
class RescoreReply:
    """The reply to a request: predictions, and what the one result says.

    `answers` has what the result says of each predicted lead, `errors` the code and the sentence
    of each other one, both by lead id. `records` are the predictions, in the request's order.
    """

    request: RescoreRequest
    answers: dict[str, dict[str, Any]]
    errors: dict[str, tuple[str, str]]
    records: list[Record]

    def counts(self) -> Counter[str]:
        """Count the leads by how they were answered: predicted, or the code of the error."""
        return Counter({"predicted": len(self.answers)}) + Counter(
            code for code, _ in self.errors.values()
        )

    def result(self, model_name: str) -> dict[str, Any]:
        """Return the RescoreResult."""
        ids, answers, errors = self.request.lead_ids, self.answers, self.errors
        return {
            "request_id": self.request.request_id,
            "predictions": [{"lead_id": id_, **answers[id_]} for id_ in ids if id_ in answers],
            "model_used": model_name,
            "total_processed": len(ids),
            "successful_predictions": len(answers),
            "errors": [
                {"lead_id": id_, "code": errors[id_][0], "detail": errors[id_][1]}
                for id_ in ids
                if id_ in errors
            ],
        }


# One lead that a request asks for.
RequestedLead = tuple[RescoreRequest, str]


def read_requests(
    batch: Batch, indices: Iterable[int], reader: Reader, now_ms: int
) -> tuple[list[RescoreRequest], dict[int, Poison]]:
    """Return the requests at these messages, and by message why others cannot be understood."""
    requests: list[RescoreRequest] = []
    poisons: dict[int, Poison] = {}
    for index in indices:
        try:
            requests.append(decode_request(index, batch.messages[index], reader, now_ms))
        except Poison as poison:
            poisons[index] = poison
    return requests, poisons


def decode_request(index: int, message: Message, reader: Reader, now_ms: int) -> RescoreRequest:
    """Return the request in a message, in Avro or in one of the legacy JSON forms.

    It is as of when it was sent, so that a second try gives the same; `now_ms` is used if the
    message has no timestamp. Raises Poison for anything else.
    """
    ids, request_id = _body(message.value(), reader)
    if not isinstance(ids, list):
        raise _invalid('the request has no list of ids: ["id"] or {"lead_ids": ["id"]}')
    if len(ids) > MAX_REQUEST_LEADS:
        raise _invalid(
            f"the request has {len(ids)} ids; at most {MAX_REQUEST_LEADS} are answered together"
        )
    if not isinstance(request_id, str) or not request_id:
        request_id = _default_id(message)
    if len(request_id) > MAX_ID_CHARACTERS:
        raise _invalid(f"request_id is over {MAX_ID_CHARACTERS} characters")
    lead_ids: dict[str, None] = {}
    malformed: dict[str, str] = {}
    good: set[str] = set()
    for entry in ids:
        text = entry if isinstance(entry, str) else json.dumps(entry)
        lead_id = text.encode("utf-8", "backslashreplace").decode()
        lead_ids[lead_id] = None
        if not isinstance(entry, str):
            malformed[lead_id] = "an id must be a string"
        elif lead_id != entry:
            malformed[lead_id] = "an id must be Unicode text"
        elif not entry or len(entry) > MAX_ID_CHARACTERS:
            malformed[lead_id] = f"an id has 1 to {MAX_ID_CHARACTERS} characters"
        else:
            good.add(lead_id)
    kind, timestamp = message.timestamp()
    return RescoreRequest(
        index,
        request_id,
        list(lead_ids),
        # The number 1 reads like the string "1" and must not make a good id bad.
        {id_: why for id_, why in malformed.items() if id_ not in good},
        timestamp if kind else now_ms,
    )


def slice_leads(requests: Iterable[RescoreRequest]) -> list[list[RequestedLead]]:
    """Return the leads to score, whichever request they belong to, in slices of at most SLICE."""
    wanted = [
        (request, id_)
        for request in requests
        for id_ in request.lead_ids
        if id_ not in request.malformed
    ]
    return [wanted[first : first + SLICE] for first in range(0, len(wanted), SLICE)]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSlice:
    """A slice of requested leads after scoring; `wanted` are those that became rows.

    `refused` says why others did not. `predicted` is None if no lead became a row.
    """

    wanted: list[RequestedLead]
    refused: list[tuple[RequestedLead, Poison]]
    predicted: Predicted | None


def score_slice(
    leads: Sequence[RequestedLead],
    read: Mapping[str, Lead | Poison],
    scorer: BatchScorer,
    context: BatchContext,
    *,
    database: bool,
) -> ScoredSlice:
    """Score requested leads by the states that were read for them."""
    wanted: list[RequestedLead] = []
    found: list[Lead] = []
    refused: list[tuple[RequestedLead, Poison]] = []
    for request, lead_id in leads:
        try:
            lead = read.get(lead_id)
            if isinstance(lead, Poison):
                raise lead
            if lead is None:
                raise lead_not_found(database=database)
            lead = lead_as_of(lead, request.occurred_at)
        except Poison as poison:
            refused.append(((request, lead_id), poison))
        else:
            wanted.append((request, lead_id))
            found.append(lead)
    if not wanted:
        return ScoredSlice(wanted, refused, None)
    n = len(wanted)
    rows = Rows(
        index=np.array([request.index for request, _ in wanted], np.intp),
        keys=[lead_id.encode() for _, lead_id in wanted],
        event_id=[request.request_id for request, _ in wanted],
        change_type=DictionaryColumn(np.zeros(n, np.intp), [RESCORE]),
        occurred_at=np.array([request.occurred_at for request, _ in wanted], np.int64),
        lead_version=np.array([lead.version for lead in found], np.int64),
        coalesced=np.zeros(n, np.intp),
        states=inputs_from_states([lead.state for lead in found], context.inputs()),
    )
    return ScoredSlice(wanted, refused, scorer.predict(rows, context))


def build_replies(
    requests: Sequence[RescoreRequest], slices: Sequence[ScoredSlice]
) -> list[RescoreReply]:
    """Return the reply to each request from all scored slices."""
    replies = {
        request.index: RescoreReply(
            request,
            {},
            {id_: ("INVALID_ID", detail) for id_, detail in request.malformed.items()},
            [],
        )
        for request in requests
    }
    for part in slices:
        failed = part.predicted.failed if part.predicted else {}
        refused = [*part.refused, *((part.wanted[row], why) for row, why in failed.items())]
        for (request, lead_id), why in refused:
            replies[request.index].errors[lead_id] = why.reason.value, why.detail
        if part.predicted is None:
            continue
        predicted = part.predicted
        scored = sorted(zip(predicted.indices.tolist(), predicted.outputs, strict=True))
        entries = predicted.result_entries([row for row, _ in scored])
        for (row, record), entry in zip(scored, entries, strict=True):
            request, lead_id = part.wanted[row]
            reply = replies[request.index]
            reply.answers[lead_id] = entry
            reply.records.append(record)
            if (shadow := predicted.shadows.get(row)) is not None:
                reply.records.append(shadow)
    return list(replies.values())


def write_results(
    replies: Iterable[RescoreReply],
    writer: Writer,
    topic: str,
    model_name: str,
    limits: RecordLimits,
) -> tuple[dict[int, Record], dict[int, Poison]]:
    """Return the result of each reply by message, and why others cannot be written."""
    records: dict[int, Record] = {}
    poisons: dict[int, Poison] = {}
    limit = output_limit(limits, topic)
    for reply in replies:
        request = reply.request
        try:
            result = reply.result(model_name)
            value = writer.encode(result)
            key = request.request_id.encode()
            if len(key) + len(value) > limit:
                for each in result["predictions"]:
                    each["reasons"] = []  # the predictions have them
                value = writer.encode(result)
            if (size := len(key) + len(value)) > limit:
                raise _too_large(size, limit)
        except Poison as poison:
            poisons[request.index] = poison
        else:
            records[request.index] = (topic, key, value, None, None)
    return records, poisons


def _too_large(size: int, limit: int) -> Poison:
    detail = f"the answer has {size} bytes; at most {limit} are published: ask for fewer leads"
    return Poison(Reason.OVERSIZED, "encode", detail)


def _body(value: bytes | None, reader: Reader) -> tuple[Any, Any]:
    """Return what stands for the ids and for the request id."""
    if value is None:
        raise _invalid("the request has a null value")
    if value.lstrip()[:1] not in (b"[", b"{"):
        record = reader.decode(value)
        return record["lead_ids"], record["request_id"]
    try:
        body = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"the request is not JSON: {type(error).__name__}") from error
    return (
        (body.get("lead_ids"), body.get("request_id")) if isinstance(body, dict) else (body, None)
    )


def _default_id(message: Message) -> str:
    key = message.key()
    if key:
        try:
            return key.decode()
        except UnicodeDecodeError:
            pass
    return f"{message.topic()}-{message.partition()}-{message.offset()}"


def _invalid(detail: str) -> Poison:
    return Poison(Reason.INVALID_REQUEST, "decode", detail)
