"""Schemas that refer to others, as one schema: the first use of a name becomes its definition."""

from collections.abc import Sequence
from typing import Any

_NAMED = ("record", "error", "enum", "fixed")


def inline_references(schema: Any, references: Sequence[Any]) -> Any:
    """Return `schema` with the definitions of `references` in place of the first use of each name.

    Raises whatever a schema that is no valid Avro causes.
    """
    definitions: dict[str, Any] = {}
    for reference in references:
        _define(reference, "", definitions)
    return _inline(schema, "", definitions, set())


def full_name(name: str, namespace: str) -> str:
    """Return the full name of a type in a namespace."""
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _define(schema: Any, namespace: str, definitions: dict[str, Any]) -> None:
    """Add each type of a schema, with its namespace, by its full name."""
    if isinstance(schema, list):
        for branch in schema:
            _define(branch, namespace, definitions)
    elif isinstance(schema, dict):
        if schema.get("type") in _NAMED:
            name, namespace = _names(schema, namespace)
            definitions.setdefault(name, {**schema, "name": name, "namespace": namespace})
        for part in _parts(schema):
            _define(part, namespace, definitions)


def _inline(schema: Any, namespace: str, definitions: dict[str, Any], done: set[str]) -> Any:
    if isinstance(schema, str):
        name = full_name(schema, namespace)
        name = name if name in definitions else schema
        if name in done or name not in definitions:
            return name if name in done else schema
        return _inline(definitions[name], "", definitions, done)
    if isinstance(schema, list):
        return [_inline(branch, namespace, definitions, done) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in _NAMED:
        name, namespace = _names(schema, namespace)
        if name in done:
            return name
        done.add(name)
    copy = dict(schema)
    if isinstance(schema.get("fields"), list):
        copy["fields"] = [
            {**field, "type": _inline(field["type"], namespace, definitions, done)}
            for field in schema["fields"]
        ]
    for part in ("items", "values"):
        if part in schema:
            copy[part] = _inline(schema[part], namespace, definitions, done)
    if "type" in schema and schema["type"] not in _NAMED:
        copy["type"] = _inline(schema["type"], namespace, definitions, done)
    return copy


def _names(schema: dict[str, Any], namespace: str) -> tuple[str, str]:
    """Return the full name of a named type, and the namespace within it."""
    own = schema["name"]
    if "." in own:
        return own, own.rpartition(".")[0]
    namespace = schema.get("namespace") or namespace
    return full_name(own, namespace), namespace


def _parts(schema: dict[str, Any]) -> list[Any]:
    fields = schema.get("fields")
    held = [field["type"] for field in fields] if isinstance(fields, list) else []
    return held + [schema[part] for part in ("items", "values", "type") if part in schema]
