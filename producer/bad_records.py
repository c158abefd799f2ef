"""Bad records of every `dlq.reason`, several kinds each, that a consumer must survive.

The seed determines them.
"""

import itertools
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from leadstream.errors import Reason
from leadstream.lead_fields import END_TIME_MS, MAX_CHANGE_BYTES, MAX_ID_CHARACTERS

Topic = Literal["lead_changes", "rescore_requests"]
Encode = Callable[[Mapping[str, Any]], bytes]

SINGLE_OBJECT_MARKER = b"\xc3\x01"


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that becomes a dead letter with `reason`; `what` names its fault in a few words."""

    topic: Topic
    key: bytes | None
    value: bytes | None
    reason: Reason
    what: str


@dataclass(frozen=True, slots=True)
class _BuilderTools:
    """The tools of a builder: chance, the current time (ms UTC), and an encoder of each record."""

    rng: np.random.Generator
    now: int
    encode_event: Encode
    encode_request: Encode

    def name(self, prefix: str) -> str:
        return f"{prefix}_{self.rng.bytes(6).hex()}"

    def event(self, state: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """Return a good LeadChanged, but with the given fields and state."""
        good = {
            "created_at": self.now - int(self.rng.integers(1, 30 * 86_400_000)),
            "lead_score": float(self.rng.integers(0, 100)),
            "engagement_score": float(self.rng.integers(0, 100)),
            "touchpoint_count": int(self.rng.integers(0, 20)),
            "lifecycle_state": "lead",
            "status": "new",
            "source": "referral",
            "programme_name": "Design",
            "campus_name": "City",
            "numbers": {},
            "categories": {},
        }
        return {
            "event_id": self.rng.bytes(16).hex(),
            "lead_id": self.name("bad"),
            "change_type": "UPDATED",
            "occurred_at": self.now,
            "lead_version": 1,
            "origin": "crm",
            "lead": {**good, **(state or {})},
            **fields,
        }

    def sent(self, state: Mapping[str, Any] | None = None, **fields: Any) -> tuple[bytes, bytes]:
        """Return the key and value of such an event."""
        event = self.event(state, **fields)
        return event["lead_id"].encode(), self.encode_event(event)

    def body(self, value: bytes) -> bytes:
        return value[10:] if value.startswith(SINGLE_OBJECT_MARKER) else value[5:]


KeyAndValue = tuple[bytes | None, bytes | None]


def _text(tools: _BuilderTools, value: bytes) -> KeyAndValue:
    return tools.name("bad").encode(), value


def _truncated(tools: _BuilderTools) -> KeyAndValue:
    key, value = tools.sent()
    return key, value[: -int(tools.rng.integers(1, len(tools.body(value))))]


def _trailing(tools: _BuilderTools) -> KeyAndValue:
    key, value = tools.sent()
    return key, value + tools.rng.bytes(int(tools.rng.integers(1, 9)))


def _not_utf8(tools: _BuilderTools) -> KeyAndValue:
    key, value = tools.sent({"status": "MARK"})
    return key, value.replace(b"MARK", b"\xff\xfe\x80\xc0")


def _unknown_symbol(tools: _BuilderTools) -> KeyAndValue:
    """Return an event with an enum index that no schema has.

    Two encodings that differ only in the symbol show where it is.
    """
    event = tools.event()
    value = bytearray(tools.encode_event(event))
    other = tools.encode_event({**event, "change_type": "CREATED"})
    at = next(i for i, (a, b) in enumerate(zip(value, other, strict=True)) if a != b)
    value[at] = 0x7E  # index 63
    return event["lead_id"].encode(), bytes(value)


def _unknown_fingerprint(tools: _BuilderTools) -> KeyAndValue:
    key, value = tools.sent()
    return key, SINGLE_OBJECT_MARKER + tools.rng.bytes(8) + tools.body(value)


def _unknown_id(tools: _BuilderTools) -> KeyAndValue:
    key, value = tools.sent()
    return key, struct.pack(">BI", 0, 2**31 - 1 - int(tools.rng.integers(1000))) + tools.body(value)


def _keyed(key: bytes | None) -> Callable[[_BuilderTools], KeyAndValue]:
    return lambda tools: (key, tools.sent()[1])


def _fields(**fields: Any) -> Callable[[_BuilderTools], KeyAndValue]:
    return lambda tools: tools.sent(**fields)


def _state(**state: Any) -> Callable[[_BuilderTools], KeyAndValue]:
    return lambda tools: tools.sent(state)


def _later_created(tools: _BuilderTools) -> KeyAndValue:
    return tools.sent({"created_at": tools.now + int(tools.rng.integers(1, 10**9))})


def _out_of_years(occurred_at: int) -> Callable[[_BuilderTools], KeyAndValue]:
    return lambda tools: tools.sent({"created_at": min(0, occurred_at)}, occurred_at=occurred_at)


def _unknown_lead(change_type: str) -> Callable[[_BuilderTools], KeyAndValue]:
    return lambda tools: tools.sent(
        lead_id=tools.name("nobody"), change_type=change_type, lead=None
    )


def _long_request_id(tools: _BuilderTools) -> KeyAndValue:
    return None, json.dumps(
        {"request_id": "x" * (MAX_ID_CHARACTERS + 1), "lead_ids": [tools.name("bad")]}
    ).encode()


def _request(value: bytes | None) -> Callable[[_BuilderTools], KeyAndValue]:
    return lambda tools: (tools.name("request").encode(), value)


def _cut_request(tools: _BuilderTools) -> KeyAndValue:
    request_id = tools.name("request")
    value = tools.encode_request(
        {"request_id": request_id, "lead_ids": [tools.name("bad")], "requested_by": None}
    )
    return request_id.encode(), value[:-3]


def _half_character(tools: _BuilderTools) -> KeyAndValue:
    """Return a request whose id has a lone surrogate.

    json.dumps writes it as an escape: valid JSON, and an id that no answer can carry.
    """
    request = {"request_id": f"{tools.name('request')}\ud800", "lead_ids": [tools.name("bad")]}
    return None, json.dumps(request).encode()


def _half_pairs(tools: _BuilderTools) -> KeyAndValue:
    request = {"request_id": "\udc00" * int(tools.rng.integers(1, 100)), "lead_ids": []}
    return tools.name("request").encode(), json.dumps(request).encode()


def _padded(tools: _BuilderTools) -> KeyAndValue:
    return tools.sent(
        {"categories": {"note": "x" * (MAX_CHANGE_BYTES + int(tools.rng.integers(1, 1000)))}}
    )


def _large_junk(tools: _BuilderTools) -> KeyAndValue:
    return tools.name("bad").encode(), tools.rng.bytes(MAX_CHANGE_BYTES + 1)


def _large_answer(tools: _BuilderTools) -> KeyAndValue:
    """Return a request that a broker accepts, with an answer of over 1,000,000 bytes.

    The answer repeats every id together with an error.
    """
    ids = [f"{tools.name('nobody')}{'x' * 230}" for _ in range(3700)]
    return tools.name("request").encode(), json.dumps(ids).encode()


Builder = Callable[[_BuilderTools], KeyAndValue]

BUILDERS: dict[Reason, tuple[tuple[Topic, str, Builder], ...]] = {
    Reason.UNKNOWN_FRAMING: (
        ("lead_changes", "JSON", lambda tools: _text(tools, json.dumps(tools.event()).encode())),
        ("lead_changes", "an empty value", lambda tools: _text(tools, b"")),
        ("lead_changes", "a line of CSV", lambda tools: _text(tools, b"4711,new,12.5\n")),
        (
            "lead_changes",
            "an Avro container file",
            lambda tools: _text(tools, b"Obj\x01" + tools.rng.bytes(40)),
        ),
        ("lead_changes", "XML", lambda tools: _text(tools, b"<lead id='1'/>")),
        (
            "rescore_requests",
            "a request that is neither Avro nor JSON",
            _request(b"lead_1, lead_2"),
        ),
    ),
    Reason.UNKNOWN_SCHEMA: (
        ("lead_changes", "a fingerprint of no known schema", _unknown_fingerprint),
        ("lead_changes", "a schema id that no registry knows", _unknown_id),
    ),
    Reason.DECODE_FAILED: (
        ("lead_changes", "a truncated value", _truncated),
        ("lead_changes", "trailing bytes", _trailing),
        ("lead_changes", "text that is not UTF-8", _not_utf8),
        ("lead_changes", "an unknown enum symbol", _unknown_symbol),
        ("rescore_requests", "a truncated request", _cut_request),
    ),
    Reason.INVALID_EVENT: (
        ("lead_changes", "a null key", _keyed(None)),
        ("lead_changes", "an empty key", _keyed(b"")),
        ("lead_changes", "a key that is not the lead id", _keyed(b"somebody_else")),
        ("lead_changes", "a key that is not UTF-8", _keyed(b"\xff\xfe")),
        ("lead_changes", "neither key nor value", lambda _: (None, None)),
        ("lead_changes", "an empty lead id", _fields(lead_id="")),
        ("lead_changes", "an empty event id", _fields(event_id="")),
        (
            "lead_changes",
            "a lead id that is too long",
            _fields(lead_id="x" * (MAX_ID_CHARACTERS + 1)),
        ),
        (
            "lead_changes",
            "an event id that is too long",
            _fields(event_id="x" * (MAX_ID_CHARACTERS + 1)),
        ),
        ("lead_changes", "created after it changed", _later_created),
        ("lead_changes", "a change before 1970", _out_of_years(-1)),
        ("lead_changes", "a change after 9999", _out_of_years(END_TIME_MS)),
    ),
    Reason.INVALID_REQUEST: (
        ("rescore_requests", "an id instead of a list", _request(b'{"lead_ids": "lead_1"}')),
        (
            "rescore_requests",
            "an object instead of a list",
            _request(b'{"lead_ids": {"id": "lead_1"}}'),
        ),
        ("rescore_requests", "another key", _request(b'{"ids": ["lead_1"]}')),
        ("rescore_requests", "JSON cut short", _request(b'["lead_1", "lea')),
        ("rescore_requests", "no value", _request(None)),
        ("rescore_requests", "a request id that is too long", _long_request_id),
    ),
    Reason.LEAD_NOT_FOUND: (
        ("lead_changes", "a change without state of an unknown lead", _unknown_lead("UPDATED")),
        ("lead_changes", "a rescoring of an unknown lead", _unknown_lead("RESCORE")),
    ),
    Reason.FEATURE_FAILED: (
        ("lead_changes", "created before 1970", _state(created_at=-1)),
        ("lead_changes", "created in the year 1", _state(created_at=-62_135_596_800_000)),
        ("lead_changes", "created before all calendars", _state(created_at=-(2**62))),
    ),
    Reason.SCORING_FAILED: (
        ("lead_changes", "a lead score that overflows the forest", _state(lead_score=1e14)),
        ("lead_changes", "the largest lead score allowed", _state(lead_score=1e15)),
    ),
    Reason.ENCODE_FAILED: (
        ("rescore_requests", "a request id with half a character", _half_character),
        ("rescore_requests", "a request id of halves only", _half_pairs),
    ),
    Reason.OVERSIZED: (
        ("lead_changes", "a note of 256 KiB", _padded),
        ("lead_changes", "256 KiB of junk", _large_junk),
        ("rescore_requests", "a request with too large an answer", _large_answer),
    ),
}


def bad_records(
    seed: int, *, now: int, encode_event: Encode, encode_request: Encode
) -> Iterator[BadRecord]:
    """Yield bad records without end: the reasons in turn, and the builders of each in turn.

    `now` (ms UTC) is their time of occurrence; the encoders are those of LeadChanged and
    RescoreRequest.
    """
    tools = _BuilderTools(np.random.default_rng([seed, 2]), now, encode_event, encode_request)
    for round_number in itertools.count():
        for reason, builders in BUILDERS.items():
            topic, what, build = builders[round_number % len(builders)]
            key, value = build(tools)
            yield BadRecord(topic, key, value, reason, what)
