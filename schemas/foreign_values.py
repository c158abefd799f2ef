"""Bytes of foreign messages as Python values: JSON, with or without Connect's schema, and Avro.

What a schema says about a value is kept: a time becomes a datetime in UTC, a decimal a Decimal.
A value that is not what its schema says becomes an Unreadable, so that only a reader of this value
meets it. All functions are pure. They raise Poison, and Transient where a registry does not answer.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader

from leadstream.errors import Poison, Reason
from schemas import schema_files
from schemas.limits import UnboundedSchemaError, parse_bounded
from schemas.references import full_name
from schemas.registry import Registry

# Longer messages are not parsed: an event of a lead, with its state before, is some kilobytes.
MAX_FOREIGN_BYTES = 4 * 1024 * 1024
# Python parses integers in the square of their digits; a double has fewer than these.
MAX_DIGITS = 400
_MAX_DECIMAL_BYTES = 160
# Postgres has at most 16,383 digits after the point.
_MAX_SCALE = 20_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECIMALS = {"decimal", "org.apache.kafka.connect.data.Decimal"}
_DAY, _MILLISECOND = timedelta(days=1), timedelta(milliseconds=1)
_MICROSECOND, _NANOSECOND = timedelta(microseconds=1), None  # divided, because it is no timedelta
_DEBEZIUM, _CONNECT = "io.debezium.time.", "org.apache.kafka.connect.data."
# The unit of each type of a point in time: Debezium's and Connect's names, Avro's logical types.
_TIME_UNITS = {
    **dict.fromkeys((_DEBEZIUM + "Date", _CONNECT + "Date", "date"), _DAY),
    **dict.fromkeys(
        (
            _DEBEZIUM + "Timestamp",
            _CONNECT + "Timestamp",
            "timestamp-millis",
            "local-timestamp-millis",
        ),
        _MILLISECOND,
    ),
    **dict.fromkeys(
        (_DEBEZIUM + "MicroTimestamp", "timestamp-micros", "local-timestamp-micros"), _MICROSECOND
    ),
    **dict.fromkeys(
        (_DEBEZIUM + "NanoTimestamp", "timestamp-nanos", "local-timestamp-nanos"), _NANOSECOND
    ),
}
# Numbers that are times, but no points in time.
_SPANS = {
    *(
        _DEBEZIUM + name
        for name in (
            "Time",
            "MicroTime",
            "NanoTime",
            "Year",
            "MicroDuration",
            "NanoDuration",
        )
    ),
    _CONNECT + "Time",
    "time-millis",
    "time-micros",
    "time-nanos",
}
_PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("int", "long"), int),
    **dict.fromkeys(("float", "double"), float),
    **dict.fromkeys(("string", "enum"), str),
    **dict.fromkeys(("bytes", "fixed"), bytes),
    **dict.fromkeys(("record", "error", "map"), dict),
    "array": list,
    "boolean": bool,
}

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that its schema does not describe; `why` completes "<field> is ..."."""

    why: str


@dataclass(frozen=True, slots=True)
class AvroDecoder:
    """A decoder of bodies of one writer schema, with what its logical types mean."""

    schema: Any
    convert: Convert | None

    @classmethod
    def from_schema(cls, schema: Any) -> "AvroDecoder":
        """Return the decoder for a schema in JSON data; raises whatever a wrong schema causes."""
        bounded = parse_bounded(schema_files.canonical_form(schema))
        return cls(bounded, _converter(schema, "", {}))

    def decode(self, body: bytes) -> Any:
        """Return the value of a body. Raises whatever a wrong body causes."""
        stream = BytesIO(body)
        value = schemaless_reader(stream, self.schema, None)
        if stream.tell() != len(body):
            raise Poison(Reason.DECODE_FAILED, "decode", "More bytes follow the record.")
        return value if self.convert is None else self.convert(value)


def parse_message(
    raw: bytes | None,
    registry: Registry | None,
    decoders: dict[int, AvroDecoder],
    *,
    text: bool = False,
) -> Any:
    """Parse JSON, with or without Connect's schema, or Avro in Confluent's framing.

    With `text`, anything else is a text. `decoders` keeps the decoder of each schema id.
    """
    if raw is None:
        return None
    if len(raw) > MAX_FOREIGN_BYTES:
        raise Poison(
            Reason.OVERSIZED, "decode", f"The event has more than {MAX_FOREIGN_BYTES:,} bytes."
        )
    if raw[:1] == b"\x00":
        return _avro(raw, registry, decoders)
    try:
        value = parse_json(raw)
    except Poison:
        if not text:
            raise
        return utf8(raw)
    if text and not isinstance(value, dict | str):
        return utf8(raw)
    if isinstance(value, dict) and value.keys() == {"schema", "payload"}:
        return _with_schema(value["payload"], value["schema"])
    return value


def parse_json(raw: bytes | str | None) -> Any:
    """Parse JSON; an integer of more than MAX_DIGITS digits is infinite."""
    try:
        return json.loads(raw or b"", parse_int=parse_integer)
    except (ValueError, RecursionError):
        raise Poison(Reason.DECODE_FAILED, "decode", "The value is not JSON.") from None


def decode_base64(text: Any) -> bytes:
    """Decode base64; raises Poison for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise invalid("a value that should be base64 is not") from None


def utf8(raw: bytes) -> str:
    """Decode UTF-8; raises Poison for anything else."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise invalid("a key or header is not UTF-8") from None


def invalid(detail: str) -> Poison:
    """Return the error of an event that means nothing; `detail` becomes a sentence."""
    return Poison(Reason.INVALID_EVENT, "decode", detail[:1].upper() + detail[1:] + ".")


def to_decimal(raw: Any, scale: Any) -> Decimal | Unreadable:
    """Return a decimal from the bytes of its unscaled value, or from their base64."""
    if isinstance(raw, str) and len(raw) <= 2 * _MAX_DECIMAL_BYTES:
        try:
            raw = base64.b64decode(raw, validate=True)
        except (ValueError, binascii.Error):
            return Unreadable("no decimal: its value is not base64")
    if isinstance(scale, str) and len(scale) < 10 and scale.removeprefix("-").isdecimal():
        scale = int(scale)
    if not isinstance(scale, int) or abs(scale) > _MAX_SCALE:
        return Unreadable("a decimal without its scale")
    if not isinstance(raw, bytes) or len(raw) > _MAX_DECIMAL_BYTES:
        return Unreadable("a decimal of too many digits")
    return Decimal(f"{int.from_bytes(raw, 'big', signed=True)}e{-scale}")


def parse_integer(text: str) -> int | float:
    return int(text) if len(text) <= MAX_DIGITS else float("-inf" if text[0] == "-" else "inf")


def _avro(raw: bytes, registry: Registry | None, decoders: dict[int, AvroDecoder]) -> Any:
    if registry is None:
        raise Poison(
            Reason.UNKNOWN_SCHEMA,
            "decode",
            "The value is in Confluent framing, but SCHEMA_REGISTRY_URL is unset.",
        )
    number = int.from_bytes(raw[1:5], "big")
    decoder = decoders.get(number)
    if decoder is None:
        decoder = decoders[number] = _decoder(number, registry.schema(number))
    try:
        return decoder.decode(raw[5:])
    except Poison:
        raise
    except Exception:  # noqa: BLE001 -- whatever fastavro raises is about this body
        raise Poison(
            Reason.DECODE_FAILED, "decode", "The body is not what its schema says."
        ) from None


def _decoder(number: int, schema: Any) -> AvroDecoder:
    try:
        return AvroDecoder.from_schema(schema)
    except UnboundedSchemaError as error:
        detail = f"The registry's schema id {number} cannot be used: {error}."
    except Exception:  # noqa: BLE001 -- whatever fastavro raises is about this schema
        detail = f"The registry's schema id {number} cannot be used: it is not valid Avro."
    raise Poison(Reason.DECODE_FAILED, "decode", detail)


def _with_schema(value: Any, schema: Any) -> Any:
    """Return a value with the times and decimals that its Connect schema describes."""
    if value is None or not isinstance(schema, dict):
        return value
    convert = _named_conversion(schema.get("name"), schema.get("parameters"))
    if convert is not None:
        return convert(value)
    fields = schema.get("fields")
    if schema.get("type") == "struct" and isinstance(value, dict) and isinstance(fields, list):
        kinds = {each["field"]: each for each in fields if _is_field(each)}
        return {name: _with_schema(inner, kinds.get(name)) for name, inner in value.items()}
    return value


def _is_field(field: Any) -> bool:
    return isinstance(field, dict) and isinstance(field.get("field"), str)


def _named_conversion(name: Any, parameters: Any) -> Convert | None:
    """Return what the name of a type means for its values; None if nothing."""
    if not isinstance(name, str):
        return None
    if name in _DECIMALS:
        scale = parameters.get("scale", 0) if isinstance(parameters, Mapping) else 0
        return partial(to_decimal, scale=scale)
    if name in _TIME_UNITS:
        return partial(_to_time, unit=_TIME_UNITS[name])
    if name in _SPANS:
        return _to_span
    return None


def _to_time(value: Any, unit: timedelta | None) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return _EPOCH + (timedelta(microseconds=value // 1000) if unit is None else value * unit)
    except OverflowError:
        return Unreadable("a time that no calendar has")


def _to_span(_value: Any) -> Unreadable:
    return Unreadable("a time of day or a duration, not a point in time")


def _converter(schema: Any, namespace: str, names: dict[str, Convert | None]) -> Convert | None:
    """Return what makes values of a valid schema meaningful, or None if they are as they are."""
    if isinstance(schema, str):
        return names.get(full_name(schema, namespace), names.get(schema))
    if isinstance(schema, list):
        return _union_converter(schema, namespace, names)
    kind = schema["type"]
    if not isinstance(kind, str):
        return _converter(kind, namespace, names)
    own = schema.get("name")
    if isinstance(own, str):
        namespace = schema.get("namespace") or own.rpartition(".")[0] or namespace
    for name in (schema.get("connect.name"), schema.get("logicalType")):
        found = _named_conversion(name, {**schema, **(schema.get("connect.parameters") or {})})
        if found is not None:
            break
    else:
        found = _container_converter(kind, schema, namespace, names)
    if isinstance(own, str):
        names[full_name(own, namespace)] = found
    return found


def _container_converter(
    kind: str, schema: Any, namespace: str, names: dict[str, Convert | None]
) -> Convert | None:
    if kind in {"record", "error"}:
        found = {
            field["name"]: _converter(field["type"], namespace, names) for field in schema["fields"]
        }
        fields = {name: convert for name, convert in found.items() if convert is not None}
        return partial(_convert_record, fields=fields) if fields else None
    if kind in {"array", "map"}:
        convert = _converter(schema["items" if kind == "array" else "values"], namespace, names)
        return convert and partial(_convert_items, convert=convert)
    return names.get(full_name(kind, namespace), names.get(kind))


def _union_converter(
    branches: list[Any], namespace: str, names: dict[str, Convert | None]
) -> Convert | None:
    """Convert by the first branch of the value's type; which one was written is not known."""
    found = [(_python_type(each), _converter(each, namespace, names)) for each in branches]
    if all(convert is None for _, convert in found):
        return None
    return partial(_convert_union, branches=found)


def _python_type(schema: Any) -> type | tuple[type, ...]:
    kind = schema["type"] if isinstance(schema, dict) else schema
    if not isinstance(kind, str):
        return object
    return type(None) if kind == "null" else _PYTHON_TYPES.get(kind, dict)


def _convert_union(
    value: Any, branches: list[tuple[type | tuple[type, ...], Convert | None]]
) -> Any:
    for kind, convert in branches:
        if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return value if convert is None else convert(value)
    return value


def _convert_record(value: Any, fields: dict[str, Convert]) -> Any:
    return value | {name: convert(value[name]) for name, convert in fields.items()}


def _convert_items(value: Any, convert: Convert) -> Any:
    if isinstance(value, dict):
        return {name: convert(item) for name, item in value.items()}
    return [convert(item) for item in value]
