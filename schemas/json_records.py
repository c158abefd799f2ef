"""JSON of a record's fields, as the record that Avro of the same values gives.

The schema says which JSON a field takes: a time is ISO 8601 text or milliseconds, everything else
the JSON type of its Avro type. A field with a default may be left out. A value never begins like
one of Avro's two framings, so the two cannot be mistaken for each other.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from leadstream.errors import Poison, Reason
from leadstream.kafka.config import Headers
from leadstream.lead_fields import INT_LIMIT, LONG_LIMIT
from schemas import schema_files
from schemas.crm_rows import parse_time
from schemas.foreign_values import parse_integer

# Converts a JSON value; raises _UnfitValue.
Convert = Callable[[Any], Any]

CONTENT_TYPE = "content-type"
JSON_TYPE = b"application/json"
_FRAMES = (b"\x00", b"\xc3")
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\{")
_PLAIN_NAME = re.compile(r"[\w.\-]{1,64}")
_TYPES = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
_LIMITS = {"int": INT_LIMIT, "long": LONG_LIMIT}


class _UnfitValue(Exception):  # never leaves this module
    """A value that does not fit; `path` grows from the field to the record on its way up."""

    def __init__(self, what: str, path: str = "") -> None:
        self.what, self.path = what, path

    def within(self, name: str) -> "_UnfitValue":
        """Return the same one level up."""
        return _UnfitValue(self.what, f"{_named(name)}.{self.path}" if self.path else _named(name))


def is_json(value: bytes, headers: Callable[[], Headers], *, accept: bool) -> bool:
    """Return whether a value is to be read as JSON: its header says so, or it looks like an object.

    With `accept`, a JSON object needs no header. A value in one of Avro's framings is never JSON.
    """
    if not value or value[:1] in _FRAMES:
        return False
    if accept and _OBJECT.match(value):
        return True
    types = [data for name, data in headers() if name.lower() == CONTENT_TYPE and data]
    return bool(types) and types[-1].partition(b";")[0].strip().lower() == JSON_TYPE


def decode_json(record: str, value: bytes) -> dict[str, Any]:
    """Decode a record from JSON, with the default of each field that is not there.

    Raises Poison: DECODE_FAILED if the value is no JSON object, INVALID_EVENT if a field does not
    fit. Sentences name the field, and never its value.
    """
    return convert_record(record, parse_object(value))


def parse_object(value: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises Poison DECODE_FAILED."""
    try:
        found = _DECODER.decode(value.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _undecodable(f"The JSON is not UTF-8 text, from byte {error.start} on.") from None
    except json.JSONDecodeError as error:
        raise _undecodable(
            f"The JSON ends or breaks at character {error.pos}: {error.msg}."
        ) from None
    except RecursionError:
        raise _undecodable("The JSON is nested too deeply.") from None
    if not isinstance(found, dict):
        raise _undecodable(f"The JSON is {_TYPES[type(found)]}, not an object of fields.")
    return found


def convert_record(record: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record from an object of basic values. Raises Poison INVALID_EVENT."""
    try:
        found: dict[str, Any] = _converter(record)(value)
    except _UnfitValue as unfit:
        raise _invalid(f"{unfit.path} {unfit.what}") from None
    return found


@cache
def _converter(record: str) -> Convert:
    return _compile(schema_files.current_schema(record))


def _compile(schema: Any) -> Convert:
    """Return the conversion to a schema in JSON data; it has no names of types but its own."""
    if isinstance(schema, list):
        [branch] = [each for each in schema if each != "null"]
        convert = _compile(branch)
        return lambda value: None if value is None else convert(value)
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(schema, dict) and schema.get("logicalType") == "timestamp-millis":
        return _time
    match kind:
        case "record":
            return _record(schema)
        case "map":
            return _map(_compile(schema["values"]))
        case "enum":
            return _enum(schema["symbols"])
        case "string":
            return _text
        case "double":
            return _double
        case "int" | "long":
            return _integer(kind)
        case _:
            raise NotImplementedError(f"JSON of {kind}: add it to schemas/json_records.py")


def _record(schema: Any) -> Convert:
    fields = [
        (field["name"], _compile(field["type"]), "default" in field, field.get("default"))
        for field in schema["fields"]
    ]
    names = frozenset(name for name, *_ in fields)
    own = "numbers" in names
    hint = "; a CRM's own fields go into lead.numbers and lead.categories" if own else ""

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, "an object of fields")
        found = {}
        try:
            for name, part, optional, default in fields:
                if name in value:
                    found[name] = part(value[name])
                elif optional:
                    # Records must not share the schema's own map.
                    found[name] = dict(default) if isinstance(default, dict) else default
                else:
                    _refuse_absence()
        except _UnfitValue as unfit:
            raise unfit.within(name) from None
        if not value.keys() <= names:
            unknown = next(name for name in value if name not in names)
            raise _UnfitValue(f"is not a field of the schema{hint}", _named(unknown))
        return found

    return convert


def _refuse_absence() -> None:
    raise _UnfitValue("is missing")


def _map(convert: Convert) -> Convert:
    def convert_items(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, "an object of names and values")
        found = {}
        name = ""
        try:
            for name, item in value.items():
                found[name] = convert(item)
        except _UnfitValue as unfit:
            raise unfit.within(name) from None
        if not all(name.isascii() or _is_unicode(name) for name in value):
            raise _UnfitValue("has a name that is not Unicode text")
        return found

    return convert_items


def _enum(symbols: list[str]) -> Convert:
    known = frozenset(symbols)

    def convert(value: Any) -> Any:
        if not isinstance(value, str) or value not in known:
            raise _UnfitValue(f"is none of {', '.join(symbols)}")
        return value

    return convert


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "text")
    if not value.isascii() and not _is_unicode(value):
        raise _UnfitValue("holds half of a surrogate pair, which is not Unicode text")
    return value


def _double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(value, "a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _UnfitValue("is a number beyond the range of a double")
    return number


def _integer(kind: str) -> Callable[[Any], int]:
    limit = _LIMITS[kind]

    def convert(value: Any) -> int:
        # 3.0 and 3e0 are integers in JSON, as some languages write them.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(value, "an integer")
        if not -limit <= value < limit:
            raise _UnfitValue(f"is a number beyond {limit.bit_length()} bits")
        if value % 1:
            raise _UnfitValue("is a fraction, not an integer")
        return int(value)

    return convert


_milliseconds = _integer("long")


def _time(value: Any) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _milliseconds(value)
    if not isinstance(value, str):
        raise _wrong(value, "a time: ISO 8601 text, or milliseconds since 1970")
    found = parse_time(value)
    if found is None:
        raise _UnfitValue(
            "is text that is no time: send ISO 8601, as in 2026-01-31T08:15:00Z, "
            "or milliseconds since 1970 as a number"
        )
    return found


def _refuse_constant(_name: str) -> Any:
    raise _undecodable("The JSON holds NaN or Infinity, which JSON does not have: leave it out.")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _invalid(f"{_named(counts.most_common(1)[0][0])} is there twice in one object")
    return found


_DECODER = json.JSONDecoder(
    parse_int=parse_integer,
    parse_constant=_refuse_constant,
    object_pairs_hook=_refuse_duplicates,
)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _named(name: str) -> str:
    """Return a name as a sentence may show it: one that is none could be anything."""
    return name if _PLAIN_NAME.fullmatch(name) else "a field with an odd name"


def _wrong(value: Any, wanted: str) -> _UnfitValue:
    hint = ": leave it out" if value is None else ""
    return _UnfitValue(f"is {_TYPES[type(value)]}, not {wanted}{hint}")


def _invalid(detail: str) -> Poison:
    return Poison(Reason.INVALID_EVENT, "decode", detail)


def _undecodable(detail: str) -> Poison:
    return Poison(Reason.DECODE_FAILED, "decode", detail)
