"""Writer schemas made safe: values that are junk cannot select wrong symbols or never end."""

import json
from typing import Any, NamedTuple

from fastavro import parse_schema

# Schemas nested deeper than this, with the JSON around them.
MAX_SCHEMA_DEPTH = 100
# Values in one record, with those of its records: one that holds the next twice doubles them.
MAX_VALUES = 10_000
# Items of an array or a map may not hold more values than this for each of their bytes.
MAX_VALUES_PER_BYTE = 16


class UnboundedSchemaError(Exception):
    """A schema by which a short value could hold endless data.

    It is recursive, too deep or too wide, or has an array of items of no bytes.
    """


class _Extent(NamedTuple):
    """The least bytes of a value, and the most values in it without those of arrays and maps."""

    bytes: int
    values: int


def parse_bounded(canonical: str) -> Any:
    """Parse a Parsing Canonical Form for `schemaless_reader`.

    With it, the number of no symbol raises KeyError. Raises UnboundedSchemaError, and whatever
    fastavro raises if `canonical` is no schema.
    """
    named: dict[str, Any] = {}
    schema = parse_schema(json.loads(canonical), named)
    _extent(schema, named, {}, ())
    for definition in named.values():
        # fastavro looks symbols up by index: a list takes -1 as the last one, a dict does not.
        if "symbols" in definition:
            definition["symbols"] = dict(enumerate(definition["symbols"]))
    return schema


def check_depth(part: Any) -> None:
    """Raise UnboundedSchemaError if JSON data is nested too deeply for code that recurses."""
    parts, depth = [part], 0
    while parts:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise UnboundedSchemaError(f"it is nested more than {MAX_SCHEMA_DEPTH} times")
        held = [list(each.values()) if isinstance(each, dict) else each for each in parts]
        parts = [
            inner
            for each in held
            if isinstance(each, list)
            for inner in each
            if isinstance(inner, dict | list)
        ]


def _extent(
    schema: Any, named: dict[str, Any], done: dict[str, _Extent], inside: tuple[str, ...]
) -> _Extent:
    """Return the extent of a schema; `done` holds those of the names before it."""
    if isinstance(schema, list):
        branches = [_extent(branch, named, done, inside) for branch in schema]
        return _Extent(
            1 + min((branch.bytes for branch in branches), default=0),
            1 + max((branch.values for branch in branches), default=0),
        )
    if isinstance(schema, str):
        if schema in inside:
            raise UnboundedSchemaError(f"{schema} contains itself")
        if schema in done:
            return done[schema]
        return _extent(named[schema], named, done, inside) if schema in named else _basic(schema)
    kind = schema["type"]
    if not isinstance(kind, str) or kind in named:
        return _extent(kind, named, done, inside)
    if kind in {"record", "error"}:
        return _of_record(schema, named, done, inside)
    if kind in {"array", "map"}:
        item = _extent(schema["items" if kind == "array" else "values"], named, done, inside)
        # A key of a map is a byte at least.
        size = item.bytes + (kind == "map")
        if size == 0:
            raise UnboundedSchemaError("an array holds items of no bytes")
        if item.values > MAX_VALUES_PER_BYTE * size:
            raise UnboundedSchemaError(f"the items of {kind} hold many values in few bytes")
        return _Extent(1, 1)
    if kind == "fixed":
        size = schema["size"]
        if not isinstance(size, int) or size < 0:
            raise UnboundedSchemaError("a fixed value has no size")
        return _Extent(size, 1)
    return _basic(kind)


def _of_record(
    schema: Any, named: dict[str, Any], done: dict[str, _Extent], inside: tuple[str, ...]
) -> _Extent:
    name = schema["name"]
    if name in inside:
        raise UnboundedSchemaError(f"{name} contains itself")
    fields = [_extent(field["type"], named, done, (*inside, name)) for field in schema["fields"]]
    found = _Extent(sum(field.bytes for field in fields), 1 + sum(field.values for field in fields))
    if found.values > MAX_VALUES:
        raise UnboundedSchemaError(f"{name} holds more than {MAX_VALUES} values")
    done[name] = found
    return found


def _basic(kind: str) -> _Extent:
    return _Extent(0 if kind == "null" else 1, 1)
