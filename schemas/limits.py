"""Writer schemas made safe against junk: no wrong number finds an enum symbol, no few bytes make endless items."""

import json
from typing import Any

from fastavro import parse_schema


class UnboundedSchemaError(Exception):
    """A schema by which a short value could hold endless data: recursive, or an array of items of no bytes."""


def parse_bounded(canonical: str) -> Any:
    """The parsed schema for `schemaless_reader` from a Parsing Canonical Form; a number of no symbol raises KeyError.

    Raises UnboundedSchemaError, and whatever fastavro raises where `canonical` is no schema.
    """
    named: dict[str, Any] = {}
    schema = parse_schema(json.loads(canonical), named)
    _smallest(schema, named, ())
    for definition in named.values():
        # fastavro looks symbols up by index, and to a list -1 is the last one: a dict knows no negative index.
        if "symbols" in definition:
            definition["symbols"] = dict(enumerate(definition["symbols"]))
    return schema


def _smallest(schema: Any, named: dict[str, Any], inside: tuple[str, ...]) -> int:
    """At least how many bytes a value takes, as far as none and some differ."""
    if isinstance(schema, list):
        return 1 + min((_smallest(branch, named, inside) for branch in schema), default=0)
    if isinstance(schema, str):
        if schema in named:
            return _smallest(named[schema], named, inside)
        return 0 if schema == "null" else 1
    kind = schema["type"]
    if kind == "record":
        if schema["name"] in inside:
            raise UnboundedSchemaError(f"{schema['name']} contains itself")
        inside = (*inside, schema["name"])
        return sum(_smallest(field["type"], named, inside) for field in schema["fields"])
    if kind == "array" and _smallest(schema["items"], named, inside) == 0:
        raise UnboundedSchemaError("an array holds items of no bytes")
    if kind == "map":
        _smallest(schema["values"], named, inside)
    if kind == "fixed":
        return int(schema["size"])
    return 0 if kind == "null" else 1
