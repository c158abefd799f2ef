"""The AsyncAPI document of the topics and their records, made from the .avsc files.

`make asyncapi` writes it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leadstream import __version__
from leadstream.kafka.topics import CONFIGS, Topics
from schemas import schema_files

FILE = Path(__file__).parent / "asyncapi.yaml"
AVRO = "application/vnd.apache.avro;version=1.12.0"
JSON = "application/json"
# The one record that producers may also send as JSON.
IN_JSON = {"LeadChanged": "LeadChangedJson"}
_LISTS, _INTEGERS = {"cleanup.policy"}, {"retention.ms", "delete.retention.ms", "max.message.bytes"}


@dataclass(frozen=True, slots=True)
class Channel:
    """The use of a topic: its direction, the record of its values, its key, and its purpose."""

    action: Literal["receive", "send"]
    record: str
    key: str
    summary: str


CHANNELS = {
    "lead_changes": Channel(
        "receive",
        "LeadChanged",
        "the lead's id",
        "Each change of a lead is scored; a null value erases the lead.",
    ),
    "rescore_requests": Channel(
        "receive", "RescoreRequest", "the request's id, or none", "Leads to score again."
    ),
    "lead_outcomes": Channel("receive", "LeadOutcome", "the lead's id", "What became of a lead."),
    "lead_predictions": Channel(
        "send",
        "LeadPrediction",
        "the lead's id",
        "The current score of each lead; a null value erases the lead.",
    ),
    "rescore_results": Channel(
        "send", "RescoreResult", "the request's id", "The answer to each rescore request."
    ),
    "dead_letter_audit": Channel(
        "send",
        "TriageDecision",
        "the letter, as partition-offset",
        "What became of each dead letter.",
    ),
    "shadow_predictions": Channel(
        "send",
        "LeadPrediction",
        "the lead's id",
        "What a challenger would have said; not for subscribers.",
    ),
    "retrain_requests": Channel(
        "send",
        "RetrainRequested",
        "model_version:trigger",
        "A training is asked for, and why; and the steps of `leadstream learn`.",
    ),
}


def document() -> dict[str, Any]:
    """Build the AsyncAPI 3 document, with the default names of the topics."""
    topics = Topics()
    names = {field: getattr(topics, field) for field in CHANNELS}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Leadstream",
            "version": __version__,
            "description": "Lead changes in, calibrated conversion probabilities out. "
            "Read committed data only.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/vnd.apache.avro",
        "channels": {
            names[field]: _channel(field, names[field], channel)
            for field, channel in CHANNELS.items()
        },
        "operations": {
            _camel(channel.action, field): {
                "action": channel.action,
                "channel": {"$ref": f"#/channels/{names[field]}"},
                "summary": channel.summary,
            }
            for field, channel in CHANNELS.items()
        },
        "components": {
            "messages": {
                **{record: _message(record) for record in schema_files.FILES},
                **{name: _json_message(record) for record, name in IN_JSON.items()},
            }
        },
    }


def write() -> str:
    """Return the document as YAML."""
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # only a schema change needs it

    text = yaml.safe_dump(document(), sort_keys=False, width=120, allow_unicode=True)
    return f"# Made from the .avsc files by `make asyncapi`: do not edit.\n{text}"


def _channel(field: str, name: str, channel: Channel) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key, value in CONFIGS[field].items():
        config[key] = [value] if key in _LISTS else int(value) if key in _INTEGERS else value
    return {
        "address": name,
        "description": f"{channel.summary} The key is {channel.key}, in UTF-8.",
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"}
            for name in (channel.record, IN_JSON.get(channel.record))
            if name
        },
        "bindings": {
            "kafka": {"topic": name, "topicConfiguration": config, "bindingVersion": "0.5.0"}
        },
    }


def _message(record: str) -> dict[str, Any]:
    schema = schema_files.current_schema(record)
    return {
        "name": record,
        "summary": schema["doc"],
        "payload": {"schemaFormat": AVRO, "schema": schema},
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": "0.5.0"}},
    }


def _json_message(record: str) -> dict[str, Any]:
    schema = schema_files.current_schema(record)
    return {
        "name": IN_JSON[record],
        "summary": f"{schema['doc']} The same fields as {record}, in JSON.",
        "contentType": JSON,
        "headers": {
            "type": "object",
            "properties": {"content-type": {"type": "string", "const": JSON}},
            "description": "Without this header, JSON is read only with LEADSTREAM_JSON=accept.",
        },
        "payload": json_schema(schema),
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": "0.5.0"}},
    }


def json_schema(avro: Any) -> dict[str, Any]:
    """Return the JSON Schema of an Avro schema, as `schemas.json_records` reads it."""
    if isinstance(avro, list):
        return {"oneOf": [json_schema(branch) for branch in avro]}
    if isinstance(avro, str):
        return {"type": _JSON_TYPES[avro]}
    if avro.get("logicalType") == "timestamp-millis":
        time = "ISO 8601 text, or milliseconds since 1970 UTC"
        return {"type": ["string", "integer"], "description": time}
    match avro["type"]:
        case "record":
            return {
                "type": "object",
                "properties": {
                    field["name"]: json_schema(field["type"]) | {"description": field["doc"]}
                    for field in avro["fields"]
                },
                "required": [each["name"] for each in avro["fields"] if "default" not in each],
            }
        case "enum":
            return {"type": "string", "enum": list(avro["symbols"])}
        case "map":
            return {"type": "object", "additionalProperties": json_schema(avro["values"])}
        case "array":
            return {"type": "array", "items": json_schema(avro["items"])}
        case other:
            return json_schema(other)


_JSON_TYPES = {
    "null": "null",
    "string": "string",
    "boolean": "boolean",
    "int": "integer",
    "long": "integer",
    "double": "number",
}


def _camel(action: str, field: str) -> str:
    return action + "".join(part.capitalize() for part in field.split("_"))


if __name__ == "__main__":
    FILE.write_text(write(), encoding="utf-8")
