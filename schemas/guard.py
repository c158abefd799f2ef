"""Writer schemas made safe against junk: no wrong number finds a symbol or branch, no few bytes make endless items."""

import json
from typing import Any

from fastavro import parse_schema


class Unbounded(Exception):
    """A schema by which a short value could hold endless data: recursive, or an array of items of no bytes."""


def guarded(canonical: str) -> Any:
    """The parsed schema for `schemaless_reader`, from a Parsing Canonical Form; an unknown index will raise KeyError.

    Raises Unbounded, and whatever fastavro raises where `canonical` is no schema.
    """
    named: dict[str, Any] = {}
    schema = parse_schema(json.loads(canonical), named)
    _smallest(schema, named, ())
    for definition in named.values():
        _strict_indexes(definition)
    return _strict_indexes(schema)


def _strict_indexes(schema: Any) -> Any:
    """fastavro takes index -1 for the last symbol or branch, as Python lists do: dicts know no negative index."""
    if isinstance(schema, list):
        branches = dict(enumerate(_strict_indexes(branch) for branch in schema))
        return type("Branches", (list,), {"__getitem__": branches.__getitem__})(branches.values())
    if isinstance(schema, dict):
        for key in ("items", "values"):
            if key in schema:
                schema[key] = _strict_indexes(schema[key])
        for field in schema.get("fields", ()):
            field["type"] = _strict_indexes(field["type"])
        if isinstance(schema.get("symbols"), list):
            schema["symbols"] = dict(enumerate(schema["symbols"]))
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
            raise Unbounded(f"{schema['name']} contains itself")
        inside = (*inside, schema["name"])
        return sum(_smallest(field["type"], named, inside) for field in schema["fields"])
    if kind == "array" and _smallest(schema["items"], named, inside) == 0:
        raise Unbounded("an array holds items of no bytes")
    if kind == "map":
        _smallest(schema["values"], named, inside)
    if kind == "fixed":
        return int(schema["size"])
    return 0 if kind == "null" else 1
