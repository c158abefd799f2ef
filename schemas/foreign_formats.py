"""Change events of other systems as LeadChanged.

The formats are Debezium's Postgres connector, its outbox event router, and CloudEvents. All
functions are pure. Each converter returns the fields of LeadChanged, or None where nothing changed
that a score depends on. It raises Poison, or Transient if a registry is needed and does not answer.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from leadstream.errors import Poison, SettingsError
from leadstream.lead_fields import CRM_FIELDS, INT_LIMIT, LONG_LIMIT, FieldKind
from schemas.codec import Reader
from schemas.crm_rows import corrected_change_time, lead_state, parse_time
from schemas.foreign_values import (
    AvroDecoder,
    Unreadable,
    decode_base64,
    invalid,
    parse_json,
    parse_message,
    to_decimal,
    utf8,
)
from schemas.registry import Registry

STATE_COLUMNS = tuple(field.name for field in CRM_FIELDS)
FIELDS = ("lead_id", "lead_version", *STATE_COLUMNS)
# A programme or a campus is the id of a row elsewhere: its change is one of the lead, too.
_COMPARED_COLUMNS = tuple(field.column for field in CRM_FIELDS if field.name_table and field.column)
_ENVELOPE = frozenset(("before", "after", "source", "op", "ts_ms", "ts_us", "ts_ns", "transaction"))
_OPERATIONS = {"c": "CREATED", "r": "RESCORE", "u": "UPDATED", "d": "DELETED"}
_TYPES = {"created": "CREATED", "updated": "UPDATED", "deleted": "DELETED", "rescore": "RESCORE"}
# Debezium writes this for a long value that an update did not change: as text, as base64, or as
# the only item of a list.
_NOT_SENT = (
    "__debezium_unavailable_value",
    "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
    b"__debezium_unavailable_value",
)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_MAX_NUMBER_CHARACTERS = 400
# What Postgres and Debezium write for a number that is none: it is missing.
_NO_NUMBERS = {"", "nan", "infinity", "-infinity", "+infinity"}


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
    `reader` and `registry` decode Avro, with the `decoders` of the schema ids seen until now.
    """

    columns: Mapping[str, str]
    state: bool
    reader: Reader
    registry: Registry | None
    decoders: dict[int, AvroDecoder] = field(default_factory=dict, compare=False)


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
    ExtractNewRecordState. A null or empty value, which follows a deletion, is the same deletion.
    """
    value = _parsed(message.value, how)
    if value is None or value == "":
        return _deletion(_id_of_key(message, how), message, message.timestamp)
    if not isinstance(value, dict):
        raise invalid("it is no row and no envelope of Debezium's")
    if not _is_envelope(value):
        return _unwrapped(value, message, how)
    operation = value["op"]
    if not isinstance(operation, str) or operation not in _OPERATIONS:
        raise invalid("the operation is none of a single lead")
    source = value.get("source")
    source = source if isinstance(source, dict) else {}
    before, after = (_fields(value.get(name), how) for name in ("before", "after"))
    sent = source.get("ts_ms") or value.get("ts_ms")
    occurred_at = _required_time("ts_ms", sent) or message.timestamp
    lead_id = _lead_id(after or before, message, how)
    identity = message.position
    if (lsn := _log_position(source.get("lsn"))) is not None:
        identity = f"{source.get('schema')}.{source.get('table')}-{lsn}-{lead_id}"
    if operation == "d":
        return _deletion(lead_id, message, occurred_at, identity, before)
    if operation == "u" and _is_unchanged(value["before"], value["after"], before, after):
        return None
    return _change(
        _OPERATIONS[operation],
        lead_id,
        _completed(after or {}, before or {}),
        occurred_at=occurred_at,
        identity=identity,
        how=how,
    )


def from_outbox(message: ForeignMessage, how: ConversionOptions) -> dict[str, Any] | None:
    """Convert a row of leadstream_outbox that Debezium's outbox event router published.

    lead_id is the key, facts the value, and event_id the header `id`. change_type, occurred_at and
    origin are headers of their own names (additional placement).
    """
    key = _parsed(message.key, how, text=True)
    lead_id = _required("the key, which is the lead's id,", key if isinstance(key, str) else None)
    identity = _header(message, "id") or message.position
    sent = _header(message, "occurred_at")
    occurred_at = _required_time("occurred_at", sent) or message.timestamp
    kind = _header(message, "change_type") or "UPDATED"
    if kind == "DELETED":
        return _deletion(lead_id, message, occurred_at, identity, _outbox_row_or_none(message, how))
    row = _outbox_row(message, how)
    if row is None:
        return _deletion(lead_id, message, occurred_at, identity)
    if kind not in _TYPES.values() or not isinstance(row, dict):
        raise invalid(
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
        event = _parsed(message.value, how)
        if not isinstance(event, dict):
            raise invalid("a structured CloudEvent is a JSON object")
        data, encoded = event.get("data"), event.get("data_base64")
        raw = None if encoded is None else decode_base64(encoded)
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
    if not event["specversion"].startswith("1."):
        raise invalid("the version of the CloudEvent's specification is no version that is known")
    if raw and "avro" in content:
        return how.reader.decode(raw)
    if raw:
        data = _parsed(raw, how)
    kind = _TYPES.get(event["type"].rpartition(".")[2].lower())
    if kind is None:
        raise invalid(
            "the type of the CloudEvent ends in none of .created, .updated, .deleted, .rescore"
        )
    row = _fields(None if data == "" else data, how)
    lead_id = _required(
        "the lead's id, in data or as subject,",
        _text((row or {}).get("lead_id")) or event.get("subject"),
    )
    occurred_at = _required_time("time", event.get("time")) or message.timestamp
    # An id is unique within its source.
    identity = f"{event['source']}#{event['id']}"
    if kind == "DELETED":
        return _deletion(lead_id, message, occurred_at, identity, row)
    record = _change(kind, lead_id, row or {}, occurred_at=occurred_at, identity=identity, how=how)
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


def _is_envelope(value: Mapping[str, Any]) -> bool:
    """Return whether this is Debezium's envelope, and not a row with columns of such names."""
    if "op" not in value or isinstance(value.get("source"), dict):
        return "op" in value
    return ("before" in value or "after" in value) and value.keys() <= _ENVELOPE


def _unwrapped(
    value: dict[str, Any], message: ForeignMessage, how: ConversionOptions
) -> dict[str, Any]:
    row = _fields(value, how) or {}
    sent = value.get("__source_ts_ms") or value.get("__ts_ms")
    occurred_at = _required_time("__source_ts_ms", sent) or message.timestamp
    lead_id = _lead_id(row, message, how)
    lsn = _log_position(value.get("__source_lsn") or value.get("__lsn"))
    identity = message.position if lsn is None else f"{lsn}-{lead_id}"
    operation = value.get("__op") or "u"
    if str(value.get("__deleted")).lower() == "true" or operation == "d":
        return _deletion(lead_id, message, occurred_at, identity, row)
    kind = _OPERATIONS.get(operation, "UPDATED") if isinstance(operation, str) else "UPDATED"
    return _change(kind, lead_id, row, occurred_at=occurred_at, identity=identity, how=how)


def _change(
    kind: str,
    lead_id: str,
    row: Mapping[str, Any],
    *,
    occurred_at: int,
    identity: str,
    how: ConversionOptions,
) -> dict[str, Any]:
    # What was not sent is not missing: the consumer then reads the state from Postgres.
    sent = not any(_was_not_sent(row.get(name)) for name in STATE_COLUMNS)
    lead = _state(row) if sent and how.state else None
    return {
        "event_id": identity,
        "lead_id": lead_id,
        "change_type": kind,
        "occurred_at": corrected_change_time(occurred_at, lead["created_at"] if lead else None),
        "lead_version": _integer("lead_version", row.get("lead_version"), LONG_LIMIT) or 0,
        "origin": "crm",
        "lead": lead,
    }


def _deletion(
    lead_id: str,
    message: ForeignMessage,
    occurred_at: int,
    identity: str = "",
    row: Any = None,
) -> dict[str, Any]:
    try:
        version = _integer("lead_version", row["lead_version"], LONG_LIMIT) or 0
    except (Poison, TypeError, LookupError):
        version = 0  # an erasure is done, whatever else the event holds
    return {
        "event_id": identity or message.position,
        "lead_id": lead_id,
        "change_type": "DELETED",
        "occurred_at": occurred_at,
        "lead_version": version,
        "origin": "crm",
        "lead": None,
    }


def _outbox_row(message: ForeignMessage, how: ConversionOptions) -> Any:
    """Return the row in an outbox event, None if it is empty."""
    content = _parsed(message.value, how)
    if isinstance(content, str):
        content = parse_json(content.encode("utf-8", "surrogatepass")) if content else None
    return content


def _outbox_row_or_none(message: ForeignMessage, how: ConversionOptions) -> Any:
    try:
        return _outbox_row(message, how)
    except Poison:
        return None


def _fields(row: Any, how: ConversionOptions) -> dict[str, Any] | None:
    """Return the columns of a row under the names of their fields, without absent ones."""
    if row is None:
        return None
    if not isinstance(row, dict):
        raise invalid("the row is no object of columns")
    return {field: _value(row[column]) for field, column in how.columns.items() if column in row}


def _value(value: Any) -> Any:
    """Return a column's value; a decimal with a scale of its own becomes a number."""
    if isinstance(value, dict) and value.keys() == {"scale", "value"}:
        return to_decimal(value["value"], value["scale"])
    return value


def _was_not_sent(value: Any) -> bool:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return isinstance(value, str | bytes) and value in _NOT_SENT


def _completed(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with what was not sent, because it did not change, from the row before."""
    return {
        name: before.get(name, value) if _was_not_sent(value) else value
        for name, value in after.items()
    }


def _is_unchanged(
    raw_before: Any,
    raw_after: Any,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> bool:
    """Return whether nothing changed that a score depends on.

    Only REPLICA IDENTITY FULL makes `before` complete; without it, no comparison is possible.
    """
    if not before or after is None or before.get("created_at") is None:
        return False
    full = _completed(after, before)
    return all(before.get(name) == full.get(name) for name in STATE_COLUMNS) and all(
        raw_before.get(column) == raw_after.get(column) for column in _COMPARED_COLUMNS
    )


def _state(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the LeadState in a row, None without a time of creation.

    Raises Poison for a value that is not of its field's kind: it would be taken for a missing one.
    """
    return lead_state(
        {
            field.name: _READERS[field.kind](field.name, row[field.name])
            for field in CRM_FIELDS
            if field.name in row
        }
    )


def _readable(name: str, value: Any) -> Any:
    if isinstance(value, Unreadable):
        raise invalid(f"the field {name} is {value.why}")
    return value


def _required_time(name: str, value: Any) -> int | None:
    """Return milliseconds UTC; None only where there is no value."""
    if _readable(name, value) is None or value == "":
        return None
    if isinstance(value, str) and value.isdecimal() and 8 < len(value) < 20:
        value = int(value)
    found = parse_time(value)
    if found is None:
        raise invalid(
            f"the field {name} is no plausible time: send ISO 8601, or the schema that tells the "
            "unit, or a number of seconds, milliseconds, microseconds or nanoseconds since 1970"
        )
    return found


def _time(name: str, value: Any) -> datetime | int | None:
    # A datetime has a unit; as a number, a time before 1973 would be taken for another one.
    return value if isinstance(value, datetime) else _required_time(name, value)


def _number(name: str, value: Any) -> float | Decimal | None:
    """Return a number, also from a text; None for a missing one, and for one that is not finite."""
    if _readable(name, value) is None:
        return None
    if isinstance(value, str):
        if len(value) < 20 and value.strip().lower() in _NO_NUMBERS:
            return None
        if len(value) > _MAX_NUMBER_CHARACTERS or not _NUMBER.fullmatch(value):
            raise invalid(
                f"the field {name} is a text that is no number: set Debezium's "
                "decimal.handling.mode to double or string, or send the schema of the row"
            )
        return Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise invalid(f"the field {name} is no number")
    return value if isinstance(value, int) or math.isfinite(value) else None


def _integer(name: str, value: Any, limit: int) -> int | None:
    number = _number(name, value)
    if number is None:
        return None
    if not -limit <= number < limit:
        raise invalid(f"the field {name} is a number that is too large for its field")
    if int(number) != number:
        raise invalid(f"the field {name} is no integer")
    return int(number)


def _category(name: str, value: Any) -> str | None:
    """Return a text; other JSON values are written as JSON writes them."""
    if isinstance(_readable(name, value), Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return utf8(value)
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)


_READERS: Mapping[FieldKind, Callable[[str, Any], Any]] = {
    FieldKind.TIME: _time,
    FieldKind.DOUBLE: _number,
    FieldKind.INT: lambda name, value: _integer(name, value, INT_LIMIT),
    FieldKind.STRING: _category,
}


def _lead_id(row: Mapping[str, Any] | None, message: ForeignMessage, how: ConversionOptions) -> str:
    found = (row or {}).get("lead_id")
    if found is None or _was_not_sent(found):
        return _id_of_key(message, how)
    return _required("the lead's id, in the row or the key,", _text(found))


def _id_of_key(message: ForeignMessage, how: ConversionOptions) -> str:
    """Return the id in a key: the field of that column, the only field, or a text."""
    try:
        key = _parsed(message.key, how)
    except Poison:
        if not message.key or message.key[:1] in b"\0{[":
            raise
        key = utf8(message.key)
    if isinstance(key, dict):
        column = how.columns["lead_id"]
        key = key[column] if column in key else next(iter(key.values())) if len(key) == 1 else None
    if isinstance(key, str) and key.startswith("Struct{"):
        raise invalid(
            "the key is the text of a structure: "
            "set key.converter to JsonConverter or AvroConverter"
        )
    return _required("the lead's id, in the row or the key,", _text(_value(key)))


def _parsed(raw: bytes | None, how: ConversionOptions, *, text: bool = False) -> Any:
    """Parse a key or a value; an empty one is as one that is null."""
    return parse_message(raw or None, how.registry, how.decoders, text=text)


def _header(message: ForeignMessage, name: str) -> str | None:
    value = message.headers.get(name)
    return None if value is None else utf8(value).strip('"')


def _log_position(lsn: Any) -> int | str | None:
    """Return a position in the database's log as an event's id can hold it."""
    if isinstance(lsn, int) and not isinstance(lsn, bool):
        return lsn if 0 < lsn < 2**64 else None
    return lsn if isinstance(lsn, str) and 0 < len(lsn) < 40 else None


def _text(value: Any) -> str | None:
    """Return an id as text; a whole number is written without a point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _required(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(f"{what} is missing")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(f"{what} is no Unicode text") from None
    return value
