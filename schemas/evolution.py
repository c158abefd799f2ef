"""The check of schema changes: the current schemas against every released one.

It follows schema resolution in the Avro specification. It compares full schemas, not fingerprints:
a fingerprint does not show that a default was dropped or a time unit changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from fastavro import parse_schema

from schemas import schema_files


class CompatibilityLevel(StrEnum):
    """The promise that a change must keep towards every released version.

    The names are the registry's.
    """

    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"  # the current schema reads what any release wrote
    FULL_TRANSITIVE = "FULL_TRANSITIVE"  # and any release reads what the current one writes


COMPATIBILITY = {
    "LeadChanged": CompatibilityLevel.BACKWARD_TRANSITIVE,
    "LeadPrediction": CompatibilityLevel.FULL_TRANSITIVE,
    "LeadOutcome": CompatibilityLevel.BACKWARD_TRANSITIVE,
    "TriageDecision": CompatibilityLevel.FULL_TRANSITIVE,
    "RescoreRequest": CompatibilityLevel.BACKWARD_TRANSITIVE,
    "RescoreResult": CompatibilityLevel.FULL_TRANSITIVE,
    "RetrainRequested": CompatibilityLevel.FULL_TRANSITIVE,
}

_PROMOTIONS = {
    ("int", "long"),
    ("int", "float"),
    ("int", "double"),
    ("long", "float"),
    ("long", "double"),
    ("float", "double"),
    ("string", "bytes"),
    ("bytes", "string"),
}


@dataclass(frozen=True, slots=True)
class SchemaComparison:
    """One released schema compared with the current one of the same record."""

    record: str
    version: str
    level: CompatibilityLevel
    changed: bool
    same_bytes: bool
    breaks: tuple[str, ...]


def compare_releases(folder: Path = schema_files.FOLDER) -> list[SchemaComparison]:
    """Compare every released schema with the current one.

    Raises UserError if a file holds no schema.
    """
    return [
        compare(record, version, schema_files.current_schema(record, folder), old)
        for version, schemas in schema_files.released_schemas(folder).items()
        for record, old in schemas.items()
    ]


def compare(record: str, version: str, present: Any, old: Any) -> SchemaComparison:
    """Compare the schema `old`, released as `version`, with `present`, at the level of `record`."""
    broken = [
        f"{record} can no longer read what {version} wrote: {text}."
        for text in breaks(present, old)
    ]
    if COMPATIBILITY[record] is CompatibilityLevel.FULL_TRANSITIVE:
        broken += [
            f"{record} {version} cannot read what is written now: {text}."
            for text in breaks(old, present)
        ]
    same_bytes = schema_files.canonical_form(old) == schema_files.canonical_form(present)
    return SchemaComparison(
        record, version, COMPATIBILITY[record], old != present, same_bytes, tuple(broken)
    )


def breaks(reader: Any, writer: Any) -> list[str]:
    """List why `reader` cannot read all that `writer` may write; both are JSON data.

    There is one clause for each cause, and none if it can. Beyond the specification, a changed
    logical type is a break: the bytes still decode, but to another moment.
    """
    reader_names: dict[str, Any] = {}
    writer_names: dict[str, Any] = {}
    pair = _Pair(reader_names, writer_names, set())
    return list(
        pair.breaks(parse_schema(reader, reader_names), parse_schema(writer, writer_names), "")
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    reader_names: dict[str, Any]
    writer_names: dict[str, Any]
    seen: set[tuple[str, str]]

    def breaks(self, reader: Any, writer: Any, path: str) -> Iterator[str]:
        reader = _defined(reader, self.reader_names)
        writer = _defined(writer, self.writer_names)
        if isinstance(writer, list):
            for branch in writer:
                yield from self.breaks(reader, branch, path)
        elif isinstance(reader, list):
            if not any(self._fits(branch, writer, path) for branch in reader):
                # The breaks of the branch of the same kind say more than that no branch fits.
                alike = [
                    part
                    for part in reader
                    if _kind(_defined(part, self.reader_names)) == _kind(writer)
                ]
                if alike:
                    yield from self.breaks(alike[0], writer, path)
                else:
                    yield f"{_at(path)} does not take {_name(writer)}"
        elif _kind(reader) == _kind(writer) and _logical(reader) == _logical(writer):
            yield from self._same_kind(reader, writer, path)
        elif (_kind(writer), _kind(reader)) not in _PROMOTIONS or _logical(reader) != _logical(
            writer
        ):
            yield f"{_at(path)} is {_name(reader)} to the reader, but {_name(writer)} to the writer"

    def _fits(self, reader: Any, writer: Any, path: str) -> bool:
        return not list(
            _Pair(self.reader_names, self.writer_names, set(self.seen)).breaks(reader, writer, path)
        )

    def _same_kind(self, reader: Any, writer: Any, path: str) -> Iterator[str]:
        kind = _kind(reader)
        if kind in ("record", "enum", "fixed") and not _same_name(reader, writer):
            yield f"{_at(path)} is {_name(reader)} to the reader, but {_name(writer)} to the writer"
        elif kind == "record":
            if (reader["name"], writer["name"]) not in self.seen:
                self.seen.add((reader["name"], writer["name"]))
                yield from self._fields(reader, writer, path)
        elif kind == "enum":
            missing = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
            if missing and "default" not in reader:
                yield f"{_at(path)} has no symbol {', '.join(missing)}, and no default symbol"
        elif kind == "fixed" and reader["size"] != writer["size"]:
            sizes = f"{reader['size']} bytes to the reader, but {writer['size']} to the writer"
            yield f"{_at(path)} is {sizes}"
        elif kind in ("array", "map"):
            part = "items" if kind == "array" else "values"
            yield from self.breaks(reader[part], writer[part], f"{path}[]")

    def _fields(self, reader: Any, writer: Any, path: str) -> Iterator[str]:
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            where = f"{path}.{field['name']}".strip(".")
            names = (field["name"], *field.get("aliases", ()))
            match = next((written[name] for name in names if name in written), None)
            if match is not None:
                yield from self.breaks(field["type"], match["type"], where)
            elif "default" not in field:
                yield f"{_at(where)} is not written, and has no default"


def _defined(schema: Any, names: dict[str, Any]) -> Any:
    """Return the definition where `schema` is a name."""
    return names.get(schema, schema) if isinstance(schema, str) else schema


def _kind(schema: Any) -> str:
    return str(schema["type"] if isinstance(schema, dict) else schema)


def _logical(schema: Any) -> str | None:
    return schema.get("logicalType") if isinstance(schema, dict) else None


def _name(schema: Any) -> str:
    """Return a type for messages: its logical type, its name, or its kind."""
    if isinstance(schema, dict):
        return str(_logical(schema) or _short(schema.get("name") or schema["type"]))
    return str(schema)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _same_name(reader: Any, writer: Any) -> bool:
    """Return whether the unqualified names are equal, or the writer's is one of the aliases."""
    aliases = reader.get("aliases", ())
    return _short(reader["name"]) == _short(writer["name"]) or not {
        writer["name"],
        _short(writer["name"]),
    }.isdisjoint(aliases)


def _at(path: str) -> str:
    return f"field {path}" if path else "the record"
