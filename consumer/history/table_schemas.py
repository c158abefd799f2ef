"""The tables of the history and their columns, which follow the schemas of the records."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from leadstream.kafka.topics import Topics
from schemas.schema_files import current_schema

MOMENT = pa.timestamp("us", tz="UTC")
MONTH = "month"

_PRIMITIVES = {
    "string": pa.string(),
    "enum": pa.string(),
    "int": pa.int32(),
    "long": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
}
_PLACE = (
    pa.field("topic", pa.string()),
    pa.field("partition", pa.int32()),
    pa.field("offset", pa.int64()),
)


@dataclass(frozen=True, slots=True)
class HistoryTable:
    """One table: its name, the Avro record of its rows, and the time that a row is about.

    Fields of the record `flat` become columns of their own.
    """

    name: str
    record: str
    time: str
    flat: str | None = None


CHANGES = HistoryTable("changes", "LeadChanged", "occurred_at", flat="lead")
PREDICTIONS = HistoryTable("predictions", "LeadPrediction", "occurred_at")
OUTCOMES = HistoryTable("outcomes", "LeadOutcome", "decided_at")
TABLES = (CHANGES, PREDICTIONS, OUTCOMES)

# Erased leads by the SHA-256 of their id: what arrives later about a time before is not written.
ERASURES = "erasures"
ERASURES_SCHEMA = pa.schema(
    [
        pa.field("lead_hash", pa.string()),
        pa.field("until", MOMENT),
        *_PLACE,
        pa.field("written_at", MOMENT),
    ]
)


def tables_by_topic(topics: Topics) -> dict[str, HistoryTable]:
    """Return the table that each topic is written to."""
    return {
        topics.lead_changes: CHANGES,
        topics.lead_predictions: PREDICTIONS,
        topics.shadow_predictions: PREDICTIONS,
        topics.lead_outcomes: OUTCOMES,
    }


@cache
def record_schema(table: HistoryTable) -> pa.Schema:
    """Return the columns that come from the record and its place in a topic."""
    named: dict[str, Any] = {}
    fields: list[pa.Field] = []
    for field in current_schema(table.record)["fields"]:
        part, _ = _without_null(field["type"])
        if field["name"] == table.flat:
            fields += [_field(inner, named) for inner in part["fields"]]
            fields.append(pa.field("state_source", pa.string()))
        else:
            fields.append(_field(field, named))
    return pa.schema([*fields, *_PLACE])


@cache
def table_schema(table: HistoryTable) -> pa.Schema:
    """Return all columns of a table."""
    own = [pa.field("written_at", MOMENT), pa.field(MONTH, pa.string())]
    return pa.schema([*record_schema(table), *own])


def _field(field: Mapping[str, Any], named: dict[str, Any]) -> pa.Field:
    # Every column may be null: a later schema may lack the field.
    return pa.field(field["name"], _type(field["type"], named))


def _type(schema: Any, named: dict[str, Any]) -> pa.DataType:
    """Return the Arrow type of an Avro type; named types are remembered in `named`."""
    schema, _ = _without_null(schema)
    if isinstance(schema, str):
        return named[schema] if schema in named else _PRIMITIVES[schema]
    if schema.get("logicalType") == "timestamp-millis":
        return MOMENT
    kind = schema["type"]
    match kind:
        case "map":
            return pa.map_(pa.string(), _type(schema["values"], named))
        case "array":
            return pa.list_(_type(schema["items"], named))
        case "record":
            found = pa.struct([_field(field, named) for field in schema["fields"]])
        case _:
            found = _PRIMITIVES[kind]
    if "name" in schema:
        named[schema["name"]] = found
    return found


def _without_null(schema: Any) -> tuple[Any, bool]:
    """Return the type in an optional union, and whether it was one."""
    if not isinstance(schema, list):
        return schema, False
    [part] = [each for each in schema if each != "null"]
    return part, True
