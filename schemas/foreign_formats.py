"""Change events of other systems as LeadChanged.

The formats are Debezium's Postgres connector, its outbox event router, and CloudEvents. All
functions are pure. Each converter returns the fields of LeadChanged, or None where nothing changed
that a score depends on. It raises Poison, or Transient if a registry is needed and does not answer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from leadstream.errors import Poison
from schemas.codec import Reader
from schemas.crm_description import DESCRIBED, CrmDescription
from schemas.crm_rows import corrected_change_time, corrected_state
from schemas.foreign_rows import (
    basic_row,
    completed,
    event_time,
    is_gone,
    is_unchanged,
    row_state,
    row_version,
    was_not_sent,
)
from schemas.foreign_values import (
    AvroDecoder,
    decode_base64,
    invalid,
    parse_json,
    parse_message,
    to_decimal,
    utf8,
)
from schemas.registry import Registry

_ENVELOPE = frozenset(("before", "after", "source", "op", "ts_ms", "ts_us", "ts_ns", "transaction"))
_OPERATIONS = {"c": "CREATED", "r": "RESCORE", "u": "UPDATED", "d": "DELETED"}
_TYPES = {"created": "CREATED", "updated": "UPDATED", "deleted": "DELETED", "rescore": "RESCORE"}


class ForeignFormat(StrEnum):
    """The formats that a topic of foreign changes can have."""

    DEBEZIUM = "debezium"
    OUTBOX = "outbox"
    CLOUDEVENTS = "cloudevents"
    SALESFORCE = "salesforce"


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
class ChangeOccasion:
    """A change as its event names it apart from the row: the lead, the time in ms UTC, an id."""

    lead_id: str
    occurred_at: int
    identity: str


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """The settings of a conversion.

    `description` says what the columns of a row mean; `state` says whether states are taken from
    messages; `reader` and `registry` decode Avro, with the `decoders` of the schema ids seen until
    now. `fetched` says whether the consumer can read from a database what an event does not bring.
    `object` is the object of Salesforce that holds leads.
    """

    description: CrmDescription
    state: bool
    reader: Reader
    registry: Registry | None
    fetched: bool = False
    object: str = "Lead"
    decoders: dict[int, AvroDecoder] = field(default_factory=dict, compare=False)


def from_debezium(message: ForeignMessage, how: ConversionOptions) -> dict[str, Any] | None:
    """Convert a change event of Debezium for the table of leads.

    The event is JSON (with or without its schema) or Avro, with the envelope or unwrapped by
    ExtractNewRecordState. A null or empty value, which follows a deletion, is the same deletion.
    """
    value = parsed(message.value, how)
    if value is None or value == "":
        return deletion(occasion_of_key(message, how), how)
    if not isinstance(value, dict):
        raise invalid("it is no row and no envelope of Debezium's")
    if not _is_envelope(value):
        return _unwrapped(value, message, how)
    operation = value["op"]
    if not isinstance(operation, str) or operation not in _OPERATIONS:
        raise invalid("the operation is none of a single lead")
    source = value.get("source")
    source = source if isinstance(source, dict) else {}
    # A time without a zone in the database is written as if it were in UTC.
    before, after = (basic_row(value.get(name), local_times=True) for name in ("before", "after"))
    sent = source.get("ts_ms") or value.get("ts_ms")
    occurred_at = event_time("ts_ms", sent) or message.timestamp
    lead_id = _lead_id(value.get("after") or value.get("before"), message, how)
    identity = message.position
    if (lsn := _log_position(source.get("lsn"))) is not None:
        identity = f"{source.get('schema')}.{source.get('table')}-{lsn}-{lead_id}"
    occasion = ChangeOccasion(lead_id, occurred_at, identity)
    if operation == "d":
        return deletion(occasion, how, before)
    if operation == "u" and is_unchanged(before, after, how.description):
        return None
    row = completed(after or {}, before or {})
    return changed(_OPERATIONS[operation], occasion, row, how, local_times=True)


def from_outbox(message: ForeignMessage, how: ConversionOptions) -> dict[str, Any] | None:
    """Convert a row of leadstream_outbox that Debezium's outbox event router published.

    lead_id is the key, facts the value, and event_id the header `id`. change_type, occurred_at and
    origin are headers of their own names (additional placement).
    """
    key = parsed(message.key, how, text=True)
    lead_id = required("the key, which is the lead's id,", key if isinstance(key, str) else None)
    identity = _header(message, "id") or message.position
    sent = _header(message, "occurred_at")
    occurred_at = event_time("occurred_at", sent) or message.timestamp
    occasion = ChangeOccasion(lead_id, occurred_at, identity)
    kind = _header(message, "change_type") or "UPDATED"
    if kind == "DELETED":
        return deletion(occasion, how, _outbox_row_or_none(message, how))
    row = _outbox_row(message, how)
    if row is None:
        return deletion(occasion, how)
    if kind not in _TYPES.values() or not isinstance(row, dict):
        raise invalid(
            "it is no row of leadstream_outbox: see the settings of its outbox event router"
        )
    if row.get(DESCRIBED) and how.description.database is None:
        raise invalid(
            "the outbox has rows of a CRM that a file describes: set LEADSTREAM_FIELDS to the file"
        )
    record = changed(kind, occasion, row, how)
    return {**record, "origin": _header(message, "origin") or record["origin"]}


def from_cloudevent(message: ForeignMessage, how: ConversionOptions) -> dict[str, Any] | None:
    """Convert a CloudEvent in binary mode (attributes are headers) or structured mode (JSON).

    Its data is a row of people, or a LeadChanged in Avro. Its id, time and subject are those of the
    change. Its type ends in .created, .updated, .deleted or .rescore. The extension `origin` may
    name the system that caused the change.
    """
    content = (_header(message, "content-type") or "").lower()
    if content.startswith("application/cloudevents+json"):
        event = parsed(message.value, how)
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
        required(f"the attribute {attribute} of the CloudEvent", event.get(attribute))
    if not event["specversion"].startswith("1."):
        raise invalid("the version of the CloudEvent's specification is no version that is known")
    if raw and "avro" in content:
        return how.reader.decode(raw)
    if raw:
        data = parsed(raw, how)
    kind = _TYPES.get(event["type"].rpartition(".")[2].lower())
    if kind is None:
        raise invalid(
            "the type of the CloudEvent ends in none of .created, .updated, .deleted, .rescore"
        )
    data = None if data == "" else data
    row = basic_row(data)
    lead_id = required(
        "the lead's id, in data or as subject,",
        _text((data or {}).get(how.description.id)) or event.get("subject"),
    )
    occurred_at = event_time("time", event.get("time")) or message.timestamp
    # An id is unique within its source.
    occasion = ChangeOccasion(lead_id, occurred_at, f"{event['source']}#{event['id']}")
    if kind == "DELETED":
        return deletion(occasion, how, row)
    record = changed(kind, occasion, row or {}, how)
    return {**record, "origin": str(event.get("origin") or record["origin"])}


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
    row = basic_row(value, local_times=True) or {}
    sent = value.get("__source_ts_ms") or value.get("__ts_ms")
    occurred_at = event_time("__source_ts_ms", sent) or message.timestamp
    lead_id = _lead_id(value, message, how)
    lsn = _log_position(value.get("__source_lsn") or value.get("__lsn"))
    identity = message.position if lsn is None else f"{lsn}-{lead_id}"
    occasion = ChangeOccasion(lead_id, occurred_at, identity)
    operation = value.get("__op") or "u"
    if str(value.get("__deleted")).lower() == "true" or operation == "d":
        return deletion(occasion, how, row)
    kind = _OPERATIONS.get(operation, "UPDATED") if isinstance(operation, str) else "UPDATED"
    return changed(kind, occasion, row, how, local_times=True)


def changed(
    kind: str,
    occasion: ChangeOccasion,
    row: Mapping[str, Any],
    how: ConversionOptions,
    *,
    local_times: bool = False,
) -> dict[str, Any]:
    """Return the change that a basic row describes; a row that is no lead erases it."""
    if is_gone(row, how.description):
        return deletion(occasion, how, row)
    # With --no-state, too, what is wrong with a row is found here.
    lead = row_state(row, how.description, local_times=local_times)
    at = corrected_change_time(occasion.occurred_at, lead["created_at"] if lead else None)
    record = changed_without_state(kind, occasion, row, how)
    state = corrected_state(lead, at) if lead and how.state else None
    return {**record, "occurred_at": at, "lead": state}


def changed_without_state(
    kind: str, occasion: ChangeOccasion, row: Mapping[str, Any], how: ConversionOptions
) -> dict[str, Any]:
    """Return the change of a lead whose state the consumer reads from Postgres."""
    return {
        "event_id": occasion.identity,
        "lead_id": occasion.lead_id,
        "change_type": kind,
        "occurred_at": occasion.occurred_at,
        "lead_version": row_version(row, how.description),
        "origin": how.description.origin(row) or "crm",
        "lead": None,
    }


def deletion(occasion: ChangeOccasion, how: ConversionOptions, row: Any = None) -> dict[str, Any]:
    """Return the erasure of a lead."""
    try:
        version = row_version(row, how.description)
    except (Poison, AttributeError, TypeError):
        version = 0  # an erasure is done, whatever else the event holds
    return {
        "event_id": occasion.identity,
        "lead_id": occasion.lead_id,
        "change_type": "DELETED",
        "occurred_at": occasion.occurred_at,
        "lead_version": version,
        "origin": "crm",
        "lead": None,
    }


def occasion_of_key(message: ForeignMessage, how: ConversionOptions) -> ChangeOccasion:
    """Return what a record without a value says: the lead in its key is gone."""
    return ChangeOccasion(_id_of_key(message, how), message.timestamp, message.position)


def _outbox_row(message: ForeignMessage, how: ConversionOptions) -> Any:
    """Return the row in an outbox event, None if it is empty."""
    content = parsed(message.value, how)
    if isinstance(content, str):
        content = parse_json(content.encode("utf-8", "surrogatepass")) if content else None
    return content


def _outbox_row_or_none(message: ForeignMessage, how: ConversionOptions) -> Any:
    try:
        return _outbox_row(message, how)
    except Poison:
        return None


def _lead_id(row: Mapping[str, Any] | None, message: ForeignMessage, how: ConversionOptions) -> str:
    found = (row or {}).get(how.description.id)
    if found is None or was_not_sent(found):
        return _id_of_key(message, how)
    return required("the lead's id, in the row or the key,", _text(found))


def _id_of_key(message: ForeignMessage, how: ConversionOptions) -> str:
    """Return the id in a key: the field of that column, the only field, or a text."""
    try:
        key = parsed(message.key, how)
    except Poison:
        if not message.key or message.key[:1] in b"\0{[":
            raise
        key = utf8(message.key)
    if isinstance(key, dict):
        column = how.description.id
        key = key[column] if column in key else next(iter(key.values())) if len(key) == 1 else None
    if isinstance(key, str) and key.startswith("Struct{"):
        raise invalid(
            "the key is the text of a structure: "
            "set key.converter to JsonConverter or AvroConverter"
        )
    return required("the lead's id, in the row or the key,", _text(key))


def parsed(raw: bytes | None, how: ConversionOptions, *, text: bool = False) -> Any:
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
    """Return an id as text; a whole number is written without a point, a decimal in full."""
    if isinstance(value, dict) and value.keys() == {"scale", "value"}:
        value = to_decimal(value["value"], value["scale"])
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def required(what: str, value: Any) -> str:
    """Return a text that must be there; raises Poison if it is not."""
    if not isinstance(value, str) or not value:
        raise invalid(f"{what} is missing")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(f"{what} is no Unicode text") from None
    return value
