"""Odd values without end: JSON of any shape, Avro schemas of every kind, headers, and bytes.

All are drawn from one seeded generator, so that a run can be repeated.
"""

import base64
import json
from collections.abc import Callable
from random import Random
from typing import Any

# Texts of leads: they may be in no log line, no error and no header that Leadstream adds.
CANARY = "canary@lead.example"
TEXTS = (
    "",
    "ada",
    CANARY,
    "\ud800",
    "\udfff\ud800",
    "\0",
    "Zürich",
    "\u202e",
    "x" * 300,
    "[/red]",
    "<script>",
    "__debezium_unavailable_value",
    "2026-01-31T08:15:00Z",
    "2026-01-31Z",
    "infinity",
    "NaN",
    "60.25",
    "1e400",
    "9" * 500,
    "F4k=",
    "Struct{id=ada}",
    "\x1b[31m",
)
NUMBERS = (
    0,
    -1,
    1,
    20_484,
    1_769_847_300,
    1_769_847_300_123,
    1_769_847_300_123_456,
    1_769_847_300_123_456_789,
    2**31,
    2**63,
    -(2**63),
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-320,
    float("inf"),
    float("-inf"),
    float("nan"),
)
NAMES = (
    "id",
    "lead_id",
    "created_at",
    "lead_score",
    "engagement_score",
    "touchpoint_count",
    "status",
    "source",
    "programme_id",
    "lead_version",
    "op",
    "before",
    "after",
    "schema",
    "payload",
    "scale",
    "value",
    "type",
    "fields",
    "field",
    "name",
    "parameters",
    "data",
    "ts_ms",
    "version",
    "previous",
    "__op",
    "__deleted",
    "",
)


def odd_json(rng: Random, depth: int = 0) -> Any:
    """Return a JSON value of any type."""
    kind = rng.randrange(10 if depth < 4 else 6)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice((None, True, False))
    if kind < 8:
        return [odd_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(NAMES): odd_json(rng, depth + 1) for _ in range(rng.randrange(5))}


def replace_part(rng: Random, value: Any, odd: Callable[[Random], Any] = odd_json) -> Any:
    """Return JSON data with one part replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        if rng.random() < 0.1:
            return {key: part for key, part in value.items() if key != name}
        return {**value, name: replace_part(rng, value[name], odd)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], replace_part(rng, value[place], odd), *value[place + 1 :]]
    return odd(rng)


def as_bytes(rng: Random, value: Any) -> bytes:
    """Return JSON text of a value; now and then with something done to it."""
    text = json.dumps(value).encode()
    match rng.randrange(40):
        case 0:
            return text[: rng.randrange(len(text) + 1)]
        case 1:
            place = rng.randrange(len(text) + 1)
            return text[:place] + rng.randbytes(3) + text[place:]
        case 2:
            return b"[" * rng.choice((10, 999, 50_000))
        case 3:
            return text.replace(b"1", b"9" * rng.choice((30, 5_000)), 1)
        case 4:
            return text.decode().encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
        case 5:
            return b""
        case _:
            return text


def odd_headers(rng: Random, names: tuple[str, ...]) -> list[tuple[str, bytes | None]]:
    """Return headers, some with one of these names."""
    return [
        (
            rng.choice(names) if rng.random() < 0.7 else rng.choice(("", "a", "\0", "x" * 200)),
            None if rng.random() < 0.1 else odd_bytes(rng),
        )
        for _ in range(rng.randrange(6))
    ]


def odd_bytes(rng: Random) -> bytes:
    """Return a text, a number or bytes, as a header or a key may hold."""
    match rng.randrange(5):
        case 0:
            return rng.randbytes(rng.randrange(12))
        case 1:
            return str(rng.choice(NUMBERS)).encode()
        case 2:
            return base64.b64encode(rng.randbytes(5))
        case 3:
            return json.dumps(odd_json(rng, 3)).encode()
        case _:
            return rng.choice(TEXTS).encode("utf-8", "surrogatepass")


_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_LOGICAL = (
    ("int", "date"),
    ("long", "timestamp-millis"),
    ("long", "timestamp-micros"),
    ("long", "timestamp-nanos"),
    ("int", "time-millis"),
    ("long", "time-micros"),
    ("string", "uuid"),
    ("bytes", "decimal"),
    ("long", "no such type"),
)
_CONNECT = (
    ("long", "io.debezium.time.MicroTimestamp"),
    ("int", "io.debezium.time.Date"),
    ("string", "io.debezium.time.ZonedTimestamp"),
    ("bytes", "org.apache.kafka.connect.data.Decimal"),
)
_SIZES = (0, 1, 5, -1, 2**31, 2**70, "5", None)
_BAD_KINDS: tuple[Any, ...] = (
    7,
    None,
    "decimal",
    {},
    {"type": 7},
    {"type": "record"},
    {"type": "record", "name": 7, "fields": []},
    {"type": "enum", "name": "E", "symbols": "A"},
    {"type": "array"},
    {"type": "map", "values": []},
    [],
    [["null"]],
    {"type": "record", "name": "R", "fields": [7]},
    {"type": "record", "name": "R", "fields": [{"name": "a"}]},
)


def odd_schema(rng: Random, depth: int = 0) -> Any:
    """Return an Avro schema of any kind: most are valid, some never end, some are none."""
    kind = rng.randrange(16 if depth < 4 else 5)
    name = f"N{rng.randrange(6)}"
    match kind:
        case 0 | 1:
            return rng.choice(_PRIMITIVES)
        case 2:
            base, logical = rng.choice(_LOGICAL)
            return {"type": base, "logicalType": logical, "precision": 10, "scale": 2}
        case 3:
            base, logical = rng.choice(_CONNECT)
            return {"type": base, "connect.name": logical, "connect.parameters": {"scale": "2"}}
        case 4:
            return name if rng.random() < 0.7 else rng.choice(_BAD_KINDS)
        case 5:
            return {"type": "enum", "name": name, "symbols": ["A", "B"][: rng.randrange(3)]}
        case 6:
            return {"type": "fixed", "name": name, "size": rng.choice(_SIZES)}
        case 7 | 8:
            return {"type": "array", "items": odd_schema(rng, depth + 1)}
        case 9:
            return {"type": "map", "values": odd_schema(rng, depth + 1)}
        case 10 | 11:
            return ["null", odd_schema(rng, depth + 1)]
        case 12:
            return [odd_schema(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 13:
            return doubling(rng.choice((3, 12, 60)), rng.choice(("null", "long")))
        case 14:
            schema: Any = "long"
            for _ in range(rng.choice((20, 200))):
                schema = {"type": "array", "items": schema}
            return schema
        case _:
            fields = [
                {"name": f"f{place}", "type": odd_schema(rng, depth + 1)}
                for place in range(rng.randrange(5))
            ]
            return {"type": "record", "name": name, "fields": fields}


def doubling(levels: int, leaf: Any) -> Any:
    """Return a record that holds the next twice, down to the leaf: 2^levels values."""
    schema: Any = {"type": "record", "name": "D0", "fields": [{"name": "a", "type": leaf}]}
    for level in range(1, levels + 1):
        fields = [{"name": "a", "type": schema}, {"name": "b", "type": f"D{level - 1}"}]
        schema = {"type": "record", "name": f"D{level}", "fields": fields}
    return schema
