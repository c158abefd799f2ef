"""From a consumed message to what it asks for: a change to score, a lead to erase, or a request to answer."""

import json
from dataclasses import dataclass
from typing import Any

from leadstream.errors import Poison, Reason
from leadstream.kafka.batch import Message
from leadstream.lead_fields import (
    END_TIME_MS,
    MAX_CHANGE_BYTES,
    MAX_ID_CHARACTERS,
    MIN_TIME_MS,
)
from schemas.codec import Reader

LOOP_ORIGIN = "leadstream"
MAX_REQUEST_LEADS = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """A change to score. `lead` is the state it carries, or None where the state is in Postgres."""

    index: int
    lead_id: str
    event_id: str
    change_type: str
    occurred_at: int
    lead_version: int
    lead: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Erasure:
    """A lead to forget. A null value has no version of its own, 0: it is newer than all before it."""

    index: int
    lead_id: str
    lead_version: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A change that Leadstream caused itself: to score it would start a loop."""

    index: int


@dataclass(frozen=True, slots=True)
class Request:
    """Leads to rescore, in the order asked for, each once. `malformed` are ids that cannot be a lead's."""

    index: int
    request_id: str
    lead_ids: list[str]
    malformed: dict[str, str]


def decode_change(index: int, message: Message, reader: Reader) -> Change | Erasure | Ignored:
    """A message of the changes topic; Poison where it is none that can be understood."""
    key, value = message.key(), message.value()
    if value is None:
        return Erasure(index, _text_key(key), 0)
    if len(value) > MAX_CHANGE_BYTES:
        raise Poison(
            Reason.OVERSIZED,
            "decode",
            f"the value has {len(value)} bytes; a lead change has at most {MAX_CHANGE_BYTES}",
        )
    event = reader.decode(value)
    lead_id = event["lead_id"]
    _check_id("lead_id", lead_id)
    if _text_key(key) != lead_id:
        raise _invalid(
            "the key and lead_id differ; changes of a lead keep their order only under its own key"
        )
    _check_id("event_id", event["event_id"])
    if event["origin"] == LOOP_ORIGIN:
        return Ignored(index)
    occurred_at = event["occurred_at"]
    if not MIN_TIME_MS <= occurred_at < END_TIME_MS:
        raise _invalid(
            f"occurred_at is {occurred_at} ms, not a time between the years 1970 and 9999"
        )
    if event["change_type"] == "DELETED":
        return Erasure(index, lead_id, event["lead_version"])
    lead = event["lead"]
    if lead is not None:
        check_state(lead, occurred_at)
    return Change(
        index,
        lead_id,
        event["event_id"],
        event["change_type"],
        occurred_at,
        event["lead_version"],
        lead,
    )


def check_state(lead: dict[str, Any], occurred_at: int) -> None:
    """A state must be one that could be known at `occurred_at` (ms UTC); Poison INVALID_EVENT where it is not."""
    created_at = lead["created_at"]
    if created_at is not None and created_at > occurred_at:
        raise _invalid(f"created_at is {created_at - occurred_at} ms after occurred_at")


def decode_request(index: int, message: Message, reader: Reader) -> Request:
    """A message of the requests topic, in Avro or one of the legacy JSON forms; Poison where it is neither."""
    value = message.value()
    if value is None:
        raise Poison(Reason.INVALID_REQUEST, "decode", "the request has a null value")
    if value.lstrip()[:1] in (b"[", b"{"):
        body = _json(value)
        ids = body.get("lead_ids") if isinstance(body, dict) else body
        request_id = body.get("request_id") if isinstance(body, dict) else None
    else:
        body = reader.decode(value)
        ids, request_id = body["lead_ids"], body["request_id"]
    if not isinstance(ids, list):
        raise Poison(
            Reason.INVALID_REQUEST,
            "decode",
            'the request has no list of ids: ["id"] or {"lead_ids": ["id"]}',
        )
    if len(ids) > MAX_REQUEST_LEADS:
        detail = (
            f"the request has {len(ids)} ids; at most {MAX_REQUEST_LEADS} are answered together"
        )
        raise Poison(Reason.INVALID_REQUEST, "decode", detail)
    if not isinstance(request_id, str) or not request_id:
        request_id = _request_id(message)
    if len(request_id) > MAX_ID_CHARACTERS:
        raise Poison(
            Reason.INVALID_REQUEST, "decode", f"request_id is over {MAX_ID_CHARACTERS} characters"
        )
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
    # The number 1 reads like the string "1" and must not make a good id bad.
    return Request(
        index,
        request_id,
        list(lead_ids),
        {id_: why for id_, why in malformed.items() if id_ not in good},
    )


def _request_id(message: Message) -> str:
    key = message.key()
    if key:
        try:
            return key.decode()
        except UnicodeDecodeError:
            pass
    return f"{message.topic()}-{message.partition()}-{message.offset()}"


def _json(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Poison(
            Reason.INVALID_REQUEST, "decode", f"the request is not JSON: {type(error).__name__}"
        ) from error


def _text_key(key: bytes | None) -> str:
    if not key:
        raise _invalid("the key is empty; it must be the lead id")
    try:
        lead_id = key.decode()
    except UnicodeDecodeError as error:
        raise _invalid("the key is not UTF-8") from error
    if len(lead_id) > MAX_ID_CHARACTERS:
        raise _invalid(f"the key is over {MAX_ID_CHARACTERS} characters")
    return lead_id


def _check_id(name: str, value: str) -> None:
    if not value:
        raise _invalid(f"{name} is empty")
    if len(value) > MAX_ID_CHARACTERS:
        raise _invalid(f"{name} is over {MAX_ID_CHARACTERS} characters")


def _invalid(detail: str) -> Poison:
    return Poison(Reason.INVALID_EVENT, "validate", detail)
