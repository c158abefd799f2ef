"""Change events of other systems as LeadChanged.

The formats are Debezium's Postgres connector, its outbox event router, and CloudEvents. All
functions are pure. Each converter returns the fields of LeadChanged, or None where nothing changed
that a score depends on. It raises Poison, or Transient if a registry is needed and does not answer.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader
from fastavro.schema import SchemaParseException, UnknownType

from leadstream.errors import Poison, Reason, SettingsError
from leadstream.lead_fields import CRM_FIELDS, LONG_LIMIT
from schemas.codec import Reader
from schemas.crm_rows import (
    corrected_change_time,
    is_integer,
    lead_state,
    parse_time,
)
from schemas.limits import UnboundedSchemaError, parse_bounded
from schemas.registry import Registry

STATE_COLUMNS = tuple(field.name for field in CRM_FIELDS)
FIELDS = ("lead_id", "lead_version", *STATE_COLUMNS)
_OPERATIONS = {"c": "CREATED", "r": "RESCORE", "u": "UPDATED", "d": "DELETED"}
_TYPES = {"created": "CREATED", "updated": "UPDATED", "deleted": "DELETED", "rescore": "RESCORE"}
# Debezium writes this for a long text that an update did not change.
_NOT_SENT = "__debezium_unavailable_value"
_DECIMAL = "org.apache.kafka.connect.data.Decimal"


class ForeignFormat(StrEnum):
    """The formats that a topic of foreign changes can have."""

    DEBEZIUM = "debezium"
    OUTBOX = "outbox"
    CLOUDEVENTS = "cloudevents"


@dataclass(frozen=True, slots=True)
class ForeignMessage:
    """The content of a message.

    `position` identifies it (topic-partition-offset); `timestamp` is Kafka's, in ms UTC.
    """

    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]
    timestamp: int
    position: str


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """The settings of a conversion.

    `columns` maps each field to its column; `state` says whether states are taken from messages;
    `reader` and `registry` decode Avro.
    """

    columns: Mapping[str, str]
    state: bool
    reader: Reader
    registry: Registry | None


def parse_columns(text: str) -> dict[str, str]:
    """Parse `lead_id=id, lead_score=score` into the column of each field.

    A field that is not named has the column of its own name. Raises SettingsError for an unknown
    field.
    """
    columns = {field: field for field in FIELDS} | {"lead_id": "id"}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        field, _, column = (part.strip() for part in pair.partition("="))
        if field not in FIELDS or not column:
            raise SettingsError(f"{pair!r} is no field=column; fields are {', '.join(FIELDS)}")
        columns[field] = column
    return columns


def from_debezium(message: ForeignMessage, how: ConversionOptions) -> dict[str, Any] | None:
    """Convert a change event of Debezium for the table `people`.

    The event is JSON (with or without its schema) or Avro, with the envelope or unwrapped by
    ExtractNewRecordState. A null value, which follows a deletion, is the same deletion.
    """
    key = _parsed(message.key, how.registry)
    if message.value is None:
        return _deletion(_id_of_key(key, how), message, message.timestamp)
    value = _parsed(message.value, how.registry)
    if not isinstance(value, dict):
        raise _invalid("it is no row and no envelope of Debezium's")
    if not ("op" in value and "source" in value):
        return _unwrapped(value, key, message, how)
    source, operation = value["source"] or {}, value["op"]
    if operation not in _OPERATIONS:
        raise _invalid(f"the operation {operation!r} is none of a single lead")
    before, after = (_fields(value.get(name), how) for name in ("before", "after"))
    occurred_at = parse_time(source.get("ts_ms") or value.get("ts_ms")) or message.timestamp
    lead_id = _lead_id(after or before, key, how)
    identity = message.position
    if source.get("lsn"):
        identity = f"{source.get('schema')}.{source.get('table')}-{source['lsn']}-{lead_id}"
    if operation == "d":
        return _deletion(lead_id, message, occurred_at, identity, before)
    # Only REPLICA IDENTITY FULL makes `before` complete; without it, no comparison is possible.
    if (
        operation == "u"
        and before
        and before.get("created_at") is not None
        and _same(before, after)
    ):
        return None
    return _change(
        _OPERATIONS[operation], lead_id, after, occurred_at=occurred_at, identity=identity, how=how
    )


def from_outbox(message: ForeignMessage, how: ConversionOptions) -> dict[str, Any] | None:
    """Convert a row of leadstream_outbox that Debezium's outbox event router published.

    lead_id is the key, facts the value, and event_id the header `id`. change_type, occurred_at and
    origin are headers of their own names (additional placement).
    """
    key = _parsed(message.key, how.registry, plain=True)
    lead_id = _required("the key, which is the lead's id,", key if isinstance(key, str) else None)
    identity = _header(message, "id") or message.position
    occurred_at = _time(_header(message, "occurred_at")) or message.timestamp
    kind = _header(message, "change_type") or "UPDATED"
    content = _parsed(message.value, how.registry) if message.value is not None else None
    row = _json(content.encode("utf-8", "surrogatepass")) if isinstance(content, str) else content
    if kind == "DELETED" or row is None:
        return _deletion(lead_id, message, occurred_at, identity, row)
    if kind not in _TYPES.values() or not isinstance(row, dict):
        raise _invalid(
            "it is no row of leadstream_outbox: see the settings of its outbox event router"
        )
    record = _change(kind, lead_id, row, occurred_at=occurred_at, identity=identity, how=how)
    return {**record, "origin": _header(message, "origin") or "crm"}


def from_cloudevent(message: ForeignMessage, how: ConversionOptions) -> dict[str, Any] | None:
    """Convert a CloudEvent in binary mode (attributes are headers) or structured mode (JSON).

    Its data is a row of people, or a LeadChanged in Avro. Its id, time and subject are those of the
    change. Its type ends in .created, .updated, .deleted or .rescore. The extension `origin` may
    name the system that caused the change.
    """
    content = (_header(message, "content-type") or "").lower()
    if content.startswith("application/cloudevents+json"):
        event = _json(message.value)
        if not isinstance(event, dict):
            raise _invalid("a structured CloudEvent is a JSON object")
        data = event.get("data")
        raw = _base64(event["data_base64"]) if "data_base64" in event else None
        content = str(event.get("datacontenttype") or "application/json").lower()
    else:
        event = {
            name.removeprefix("ce_"): value.decode("utf-8", "replace")
            for name, value in message.headers.items()
            if name.startswith("ce_")
        }
        data, raw = None, message.value
    for attribute in ("specversion", "id", "source", "type"):
        _required(f"the attribute {attribute} of the CloudEvent", event.get(attribute))
    if not str(event["specversion"]).startswith("1."):
        raise _invalid(f"CloudEvents {event['specversion']!s:.20} is no version that is known here")
    if raw is not None and ("avro" in content):
        return how.reader.decode(raw)
    if raw is not None:
        data = _json(raw)
    kind = _TYPES.get(str(event["type"]).rpartition(".")[2].lower())
    if kind is None:
        raise _invalid(
            "the type of the CloudEvent ends in none of .created, .updated, .deleted, .rescore"
        )
    row = _fields(data, how)
    lead_id = _required(
        "the lead's id, in data or as subject,",
        _text((row or {}).get("lead_id")) or event.get("subject"),
    )
    occurred_at = _time(event.get("time")) or message.timestamp
    # An id is unique within its source.
    identity = f"{event['source']}#{event['id']}"
    if kind == "DELETED":
        return _deletion(lead_id, message, occurred_at, identity, row)
    record = _change(kind, lead_id, row, occurred_at=occurred_at, identity=identity, how=how)
    return {**record, "origin": str(event.get("origin") or "crm")}


CONVERTERS: dict[
    ForeignFormat, Callable[[ForeignMessage, ConversionOptions], dict[str, Any] | None]
] = {
    ForeignFormat.DEBEZIUM: from_debezium,
    ForeignFormat.OUTBOX: from_outbox,
    ForeignFormat.CLOUDEVENTS: from_cloudevent,
}


def headers_by_name(headers: Iterable[tuple[str, bytes | None]] | None) -> dict[str, bytes]:
    """Return the last header of each name.

    Names become lower case, as in CloudEvents and HTTP.
    """
    return {name.lower(): value for name, value in headers or () if value is not None}


def _unwrapped(
    value: dict[str, Any], key: Any, message: ForeignMessage, how: ConversionOptions
) -> dict[str, Any]:
    row = _fields(value, how)
    occurred_at = (
        parse_time(value.get("__source_ts_ms") or value.get("__ts_ms")) or message.timestamp
    )
    lead_id = _lead_id(row, key, how)
    lsn = value.get("__source_lsn") or value.get("__lsn")
    identity = f"{lsn}-{lead_id}" if lsn else message.position
    operation = str(value.get("__op") or "u")
    if str(value.get("__deleted")).lower() == "true" or operation == "d":
        return _deletion(lead_id, message, occurred_at, identity, row)
    return _change(
        _OPERATIONS.get(operation, "UPDATED"),
        lead_id,
        row,
        occurred_at=occurred_at,
        identity=identity,
        how=how,
    )


def _change(
    kind: str,
    lead_id: str,
    row: Mapping[str, Any] | None,
    *,
    occurred_at: int,
    identity: str,
    how: ConversionOptions,
) -> dict[str, Any]:
    lead = lead_state(row or {})
    return {
        "event_id": identity,
        "lead_id": lead_id,
        "change_type": kind,
        "occurred_at": corrected_change_time(occurred_at, lead["created_at"] if lead else None),
        "lead_version": _version(row),
        "origin": "crm",
        "lead": lead if how.state else None,
    }


def _deletion(
    lead_id: str,
    message: ForeignMessage,
    occurred_at: int,
    identity: str = "",
    row: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "event_id": identity or message.position,
        "lead_id": lead_id,
        "change_type": "DELETED",
        "occurred_at": occurred_at,
        "lead_version": _version(row),
        "origin": "crm",
        "lead": None,
    }


def _version(row: Mapping[str, Any] | None) -> int:
    version = (row or {}).get("lead_version")
    return version if isinstance(version, int) and is_integer(version, LONG_LIMIT) else 0


def _fields(row: Any, how: ConversionOptions) -> dict[str, Any] | None:
    """Return the columns of a row under the names of their fields, without absent ones."""
    if row is None:
        return None
    if not isinstance(row, dict):
        raise _invalid("the row is no object of columns")
    return {field: _value(row[column]) for field, column in how.columns.items() if column in row}


def _value(value: Any) -> Any:
    """Return a column's value.

    A decimal with a scale of its own becomes a number; a text that was not sent is missing.
    """
    if value == _NOT_SENT:
        return None
    if isinstance(value, dict) and value.keys() == {"scale", "value"}:
        raw = value["value"]
        return _decimal(raw if isinstance(raw, bytes) else _base64(raw), value["scale"])
    return value


def _same(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> bool:
    return after is not None and all(before.get(name) == after.get(name) for name in STATE_COLUMNS)


def _lead_id(row: Mapping[str, Any] | None, key: Any, how: ConversionOptions) -> str:
    found = _text((row or {}).get("lead_id"))
    return found if found is not None else _id_of_key(key, how)


def _id_of_key(key: Any, how: ConversionOptions) -> str:
    """Return the id in a key: the field of that column, or the only field."""
    if isinstance(key, dict):
        column = how.columns["lead_id"]
        key = key[column] if column in key else next(iter(key.values())) if len(key) == 1 else None
    return _required("the lead's id, in the row or the key,", _text(key))


def _parsed(raw: bytes | None, registry: Registry | None, *, plain: bool = False) -> Any:
    """Parse JSON, with or without Connect's schema, or Avro in Confluent's framing.

    With `plain`, anything else is a text.
    """
    if raw is None:
        return None
    if raw[:1] == b"\x00":
        return _avro(raw, registry)
    try:
        value = _json(raw)
    except Poison:
        if not plain:
            raise
        return _utf8(raw)
    if plain and not isinstance(value, dict | str):
        return _utf8(raw)
    if isinstance(value, dict) and value.keys() == {"schema", "payload"}:
        return _typed(value["payload"], value["schema"])
    return value


def _typed(value: Any, schema: Any) -> Any:
    """Return a value with the decimals that its Connect schema describes."""
    if value is None or not isinstance(schema, dict):
        return value
    if schema.get("name") == _DECIMAL:
        return _decimal(_base64(value), (schema.get("parameters") or {}).get("scale", 0))
    if schema.get("type") == "struct" and isinstance(value, dict):
        of = {
            field.get("field"): field
            for field in schema.get("fields") or []
            if isinstance(field, dict)
        }
        return {name: _typed(inner, of.get(name)) for name, inner in value.items()}
    return value


def _avro(raw: bytes, registry: Registry | None) -> Any:
    if registry is None:
        raise Poison(
            Reason.UNKNOWN_SCHEMA,
            "decode",
            "The value is in Confluent framing, but SCHEMA_REGISTRY_URL is unset.",
        )
    schema = registry.schema(int.from_bytes(raw[1:5], "big"))
    stream = BytesIO(raw[5:])
    try:
        # With its logical types: a decimal's scale is one.
        value = schemaless_reader(stream, parse_bounded(json.dumps(schema)), None)
    except (SchemaParseException, UnknownType, UnboundedSchemaError, RecursionError):
        raise Poison(
            Reason.DECODE_FAILED, "decode", "The registry's schema cannot be used."
        ) from None
    except (EOFError, LookupError, ValueError, TypeError, ArithmeticError):
        raise Poison(
            Reason.DECODE_FAILED, "decode", "The body is not what its schema says."
        ) from None
    if stream.tell() != len(raw) - 5:
        raise Poison(Reason.DECODE_FAILED, "decode", "More bytes follow the record.")
    return value


def _json(raw: bytes | None) -> Any:
    try:
        return json.loads(raw or b"")
    except (ValueError, RecursionError):
        raise Poison(Reason.DECODE_FAILED, "decode", "The value is not JSON.") from None


def _base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise _invalid("a value that should be base64 is not") from None


def _decimal(raw: bytes, scale: Any) -> float:
    try:
        return float(Decimal(int.from_bytes(raw, "big", signed=True)).scaleb(-int(scale)))
    except (TypeError, ValueError, ArithmeticError):
        raise _invalid("a decimal has no scale") from None


def _header(message: ForeignMessage, name: str) -> str | None:
    value = message.headers.get(name)
    return None if value is None else _utf8(value).strip('"')


def _time(value: Any) -> int | None:
    """Parse a time in an attribute or a header, where numbers are digits."""
    return parse_time(
        int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value
    )


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _invalid("a key or header is not UTF-8") from None


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _required(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _invalid(f"{what} is missing")
    return value


def _invalid(detail: str) -> Poison:
    return Poison(Reason.INVALID_EVENT, "decode", detail[:1].upper() + detail[1:] + ".")
