"""Payloads without end: valid ones of every framing and schema version, and these with something
done to their bytes.

Deterministic by seed. Mutations know the structure: they cut, repeat, exchange and overwrite whole
encoded fields as well as single bytes and numbers.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_writer

from leadstream.errors import Poison, Reason
from producer.bad_records import bad_records
from schemas import schema_files
from schemas.codec import Writer
from tests.faults.odd_values import CANARY
from tests.unit.pipelines import CHANGES, NOW_MS, REQUESTS, STATE

_SINGLE = b"\xc3\x01"
_EDGES = (
    0,
    1,
    -1,
    63,
    -64,
    2**31 - 1,
    -(2**31),
    2**53,
    2**62,
    -(2**62),
    2**63 - 1,
    -(2**63),
    253_402_300_800_000,
)
_FLOATS = (
    0.0,
    -0.0,
    1.0,
    55.5,
    100.0,
    1e14,
    1e15,
    -1.0,
    1e-320,
    1.7e308,
    float("inf"),
    float("-inf"),
    float("nan"),
)
_TEXTS = (
    "",
    "lead",
    CANARY,
    "web",
    "Zürich",
    "\N{PILE OF POO}",
    "\0",
    "a" * 300,
    "\u202e",
    "x" * 5000,
    "None",
    "\ufeff",
)
_BYTES = (0x00, 0x01, 0x02, 0x7F, 0x80, 0x81, 0xC3, 0xFE, 0xFF)
_UNKNOWN_ID = 999


@dataclass(frozen=True, slots=True)
class Payload:
    """A record for the consumer.

    `parts` are the encoded fields of a body, to be mutated one by one.
    """

    topic: str
    key: bytes | None
    value: bytes | None


class Shelf:
    """A registry without a network: the present schema of changes, an older and a newer one, and
    one of outcomes.
    """

    def __init__(self) -> None:
        self.schemas = {
            1: _present(),
            2: _older(),
            3: _newer(),
            4: schema_files.current_schema("LeadOutcome"),
        }

    def learn(self, numbers: Iterable[int]) -> None:
        """Everything is known already."""

    def schema(self, number: int) -> Any:
        if number not in self.schemas:
            raise Poison(
                Reason.UNKNOWN_SCHEMA,
                "decode",
                f"The schema registry has no schema with id {number}.",
            )
        return self.schemas[number]


def payloads(seed: int) -> Iterator[Payload]:
    """Half of them as a sender would write them, odd values and all; half with something done to
    the bytes.
    """
    rng = np.random.default_rng([seed, 11])
    bad = bad_records(seed, now=NOW_MS, encode_event=_CHANGE.encode, encode_request=_REQUEST.encode)
    kinds: Sequence[tuple[float, Callable[[int], Payload]]] = (
        (0.72, lambda i: _change(rng, i)),
        (0.10, lambda i: _request(rng, i)),
        (0.08, lambda _: _of_bad(next(bad))),
        (0.10, lambda _: _noise(rng)),
    )
    odds = [share for share, _ in kinds]
    before = Payload(CHANGES, b"lead_0", None)
    for i in itertools.count():
        payload = kinds[int(rng.choice(len(kinds), p=odds))][1](i)
        # The request whose answer is too large is 900 kB each time: now and then is enough.
        while payload.value is not None and len(payload.value) > 300_000 and i % 500:
            payload = _noise(rng)
        if rng.random() < 0.2:
            payload = _mutated(rng, payload, before)
        before = payload
        yield payload


_CHANGE, _REQUEST = Writer("LeadChanged"), Writer("RescoreRequest")


@cache
def _present() -> Any:
    return schema_files.current_schema("LeadChanged")


@cache
def _older() -> Any:
    """Before there were versions, origins and the CRM's own fields."""
    schema = copy.deepcopy(_present())
    schema["fields"] = [
        field for field in schema["fields"] if field["name"] not in {"lead_version", "origin"}
    ]
    state = schema["fields"][-1]["type"][1]
    state["fields"] = [
        field for field in state["fields"] if field["name"] not in {"numbers", "categories"}
    ]
    return schema


@cache
def _newer() -> Any:
    """With fields that nobody here knows, and a kind of change that has no meaning yet."""
    schema = copy.deepcopy(_present())
    schema["fields"].insert(2, {"name": "tenant", "type": ["null", "string"], "default": None})
    schema["fields"].append(
        {"name": "trail", "type": {"type": "array", "items": "long"}, "default": []}
    )
    change_type = next(field for field in schema["fields"] if field["name"] == "change_type")
    change_type["type"]["symbols"] = [*change_type["type"]["symbols"], "MERGED"]
    return schema


def _change(rng: np.random.Generator, i: int) -> Payload:
    number = int(rng.integers(1, 4))
    schema = {1: _present, 2: _older, 3: _newer}[number]()
    lead_id = f"lead_{i}" if rng.random() < 0.8 else f"lead_{int(rng.integers(20))}"
    parts = _encoded(schema, _event(rng, lead_id, i, number))
    if rng.random() < 0.4:
        parts = _restructured(rng, parts)
    if number == 1 and rng.random() < 0.7:
        header = _SINGLE + schema_files.fingerprint_bytes(schema)
    else:
        odd = (_UNKNOWN_ID, 4, int(rng.integers(2**31)))
        known = rng.random() < 0.97
        header = b"\0" + (number if known else odd[int(rng.integers(len(odd)))]).to_bytes(4, "big")
    return Payload(CHANGES, lead_id.encode(), header + b"".join(parts))


def _event(rng: np.random.Generator, lead_id: str, i: int, number: int) -> dict[str, Any]:
    def pick(common: Any, odd: Sequence[Any], share: float = 0.06) -> Any:
        return odd[int(rng.integers(len(odd)))] if rng.random() < share else common

    state = {
        **STATE,
        "created_at": pick(NOW_MS - int(rng.integers(1, 10**10)), _EDGES),
        "lead_score": pick(float(rng.integers(0, 100)), (*_FLOATS, None)),
        "engagement_score": pick(float(rng.integers(0, 100)), (*_FLOATS, None)),
        "touchpoint_count": pick(
            int(rng.integers(0, 30)), (None, -1, 2**31 - 1, -(2**31), 10**6 + 1)
        ),
        **{
            name: pick("referral", (*_TEXTS, None))
            for name in ("source", "status", "programme_name")
        },
        "numbers": pick({}, ({"budget": 1.0}, {"": float("nan"), "a": 1e308})),
        "categories": pick({}, ({"note": "x" * 2000}, {"a": "", "": "b"})),
    }
    symbols = ("UPDATED", "CREATED", "DELETED", "RESCORE", *(("MERGED",) if number == 3 else ()))
    return {
        "event_id": pick(f"event_{i}", _TEXTS),
        "lead_id": lead_id,
        "tenant": pick(None, _TEXTS, 0.5),
        "change_type": pick("UPDATED", symbols, 0.2),
        "occurred_at": pick(NOW_MS, _EDGES),
        "lead_version": pick(i, _EDGES),
        "origin": pick("crm", ("leadstream", "", "x" * 300)),
        "lead": None if rng.random() < 0.15 else state,
        "trail": pick([], ([1, 2, 3], [2**62])),
    }


def _request(rng: np.random.Generator, i: int) -> Payload:
    ids: list[Any] = [f"lead_{int(rng.integers(30))}" for _ in range(int(rng.integers(0, 6)))]
    request_id = f"request_{i}"
    if rng.random() < 0.5:
        record = {"request_id": request_id, "lead_ids": ids, "requested_by": None}
        return Payload(REQUESTS, request_id.encode(), _REQUEST.encode(record))
    odd: tuple[Any, ...] = (None, 1, 2.5, True, [], {}, "", "x" * 300, "\ud800", {"a": [1]})
    body: Any = [odd[int(rng.integers(len(odd)))] if rng.random() < 0.3 else entry for entry in ids]
    if rng.random() < 0.6:
        body = {"lead_ids": body, **({"request_id": request_id} if rng.random() < 0.5 else {})}
    return Payload(REQUESTS, request_id.encode(), json.dumps(body).encode())


def _of_bad(bad: Any) -> Payload:
    return Payload(
        {"lead_changes": CHANGES, "rescore_requests": REQUESTS}[bad.topic], bad.key, bad.value
    )


def _noise(rng: np.random.Generator) -> Payload:
    heads = (
        b"",
        _SINGLE,
        b"\0",
        b"\0\0\0\0\1",
        b"\0\0\0\0\2",
        _SINGLE + schema_files.fingerprint_bytes(_present()),
        b"{",
        b"[",
    )
    value = heads[int(rng.integers(len(heads)))] + rng.bytes(int(rng.integers(0, 60)))
    key = (b"lead_1", None, b"", b"\xff")[int(rng.integers(4))]
    topic = CHANGES if rng.random() < 0.7 else REQUESTS
    return Payload(topic, key, None if rng.random() < 0.05 else value)


@cache
def _parsed(text: str) -> Any:
    return parse_schema(json.loads(text))


def _encoded(schema: Mapping[str, Any], record: Mapping[str, Any]) -> list[bytes]:
    """The fields of a record, each encoded on its own; those of a state apart."""
    parts = []
    for field in schema["fields"]:
        kind, value = field["type"], record[field["name"]]
        if isinstance(kind, list) and value is not None and isinstance(kind[1], dict):
            parts += [b"\2", *_encoded(kind[1], value)]
            continue
        stream = BytesIO()
        schemaless_writer(stream, _parsed(json.dumps(kind)), value)
        parts.append(stream.getvalue())
    return parts


def _restructured(rng: np.random.Generator, parts: list[bytes]) -> list[bytes]:
    """One encoded field is lost, repeated, exchanged with another, or becomes an odd number."""
    # Most often behind the ids: what they spoil is seen before anything else is read.
    i = int(rng.integers(2 if rng.random() < 0.9 else 0, len(parts)))
    j = int(rng.integers(len(parts)))
    match rng.integers(6):
        case 0:
            return parts[:i] + parts[i + 1 :]
        case 1:
            return [*parts[:i], parts[i], *parts[i:]]
        case 2:
            swapped = list(parts)
            swapped[i], swapped[j] = parts[j], parts[i]
            return swapped
        case 3:
            return [*parts[:i], _varint(_EDGES[int(rng.integers(len(_EDGES)))]), *parts[i + 1 :]]
        case 4:
            return [*parts[:i], rng.bytes(int(rng.integers(1, 9))), *parts[i + 1 :]]
        case _:
            return parts[:i]


def _mutated(rng: np.random.Generator, payload: Payload, other: Payload) -> Payload:
    value = payload.value or b""
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(value) + 1))
        end = min(len(value), at + int(rng.integers(1, 9)))
        match rng.integers(8):
            case 0 if at < len(value):
                value = (
                    value[:at] + bytes([value[at] ^ 1 << int(rng.integers(8))]) + value[at + 1 :]
                )
            case 1:
                value = (
                    value[:at] + bytes([_BYTES[int(rng.integers(len(_BYTES)))]]) + value[at + 1 :]
                )
            case 2:
                value = value[:at] + rng.bytes(int(rng.integers(1, 9))) + value[at:]
            case 3:
                value = value[:at] + value[end:]
            case 4:
                value = value[:at] + value[at:end] * int(rng.integers(2, 40)) + value[end:]
            case 5:
                value = value[:at]
            case 6:
                value = value[:at] + (other.value or b"")[at : at + 40_000]
            case _:
                value = value[:at] + _varint(_EDGES[int(rng.integers(len(_EDGES)))]) + value[end:]
    return Payload(payload.topic, payload.key, value)


def _varint(number: int) -> bytes:
    encoded = (number << 1) ^ (number >> 63)
    out = bytearray()
    while encoded > 0x7F:
        out.append(encoded & 0x7F | 0x80)
        encoded >>= 7
    return bytes([*out, encoded])
