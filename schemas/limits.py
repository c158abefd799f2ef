"""Writer schemas made safe: values that are junk cannot select wrong symbols or never end."""

import json
from typing import Any

from fastavro import parse_schema


class UnboundedSchemaError(Exception):
    """A schema by which a short value could hold endless data.

    It is recursive, or has an array of items of no bytes.
    """


def parse_bounded(canonical: str) -> Any:
    """Parse a Parsing Canonical Form for `schemaless_reader`.

    With it, the number of no symbol raises KeyError. Raises UnboundedSchemaError, and whatever
    fastavro raises if `canonical` is no schema.
    """
    named: dict[str, Any] = {}
    schema = parse_schema(json.loads(canonical), named)
    _min_size(schema, named, ())
    for definition in named.values():
        # fastavro looks symbols up by index: a list takes -1 as the last one, a dict does not.
        if "symbols" in definition:
            definition["symbols"] = dict(enumerate(definition["symbols"]))
    return schema


def _min_size(schema: Any, named: dict[str, Any], inside: tuple[str, ...]) -> int:
    """Return a lower bound of the bytes of a value; only zero and more than zero matter."""
    if isinstance(schema, list):
        return 1 + min((_min_size(branch, named, inside) for branch in schema), default=0)
    if isinstance(schema, str):
        if schema in named:
            return _min_size(named[schema], named, inside)
        return 0 if schema == "null" else 1
    kind = schema["type"]
    if kind == "record":
        if schema["name"] in inside:
            raise UnboundedSchemaError(f"{schema['name']} contains itself")
        inside = (*inside, schema["name"])
        return sum(_min_size(field["type"], named, inside) for field in schema["fields"])
    if kind == "array" and _min_size(schema["items"], named, inside) == 0:
        raise UnboundedSchemaError("an array holds items of no bytes")
    if kind == "map":
        _min_size(schema["values"], named, inside)
    if kind == "fixed":
        return int(schema["size"])
    return 0 if kind == "null" else 1
