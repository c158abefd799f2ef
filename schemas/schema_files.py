"""The schemas in files: the current ones, every released one, and their fingerprints."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from fastavro import parse_schema
from fastavro.schema import (
    SchemaParseException,
    UnknownType,
    fingerprint,
    to_parsing_canonical_form,
)

from leadstream.errors import UserError, error_text

FOLDER = Path(__file__).parent
FILES = {
    "LeadChanged": "lead_changed.avsc",
    "LeadPrediction": "lead_prediction.avsc",
    "LeadOutcome": "lead_outcome.avsc",
    "TriageDecision": "triage_decision.avsc",
    "RescoreRequest": "rescore_request.avsc",
    "RescoreResult": "rescore_result.avsc",
    "RetrainRequested": "retrain_requested.avsc",
}


@cache
def current_schema(record: str, folder: Path = FOLDER) -> Any:
    """Return the current schema of `record` as JSON data, shared: do not change it.

    Raises UserError if the file holds no schema.
    """
    return _load(folder / FILES[record])


@cache
def released_schemas(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Return every released schema by version (oldest first) and record, as JSON data."""
    versions = sorted(
        (folder / "released").iterdir(),
        key=lambda path: [int(part) for part in path.name.split(".")],
    )
    return {
        path.name: {
            record: _load(path / name) for record, name in FILES.items() if (path / name).exists()
        }
        for path in versions
    }


def canonical_form(schema: Any) -> str:
    """Return Avro's Parsing Canonical Form.

    It holds what decides the bytes, and no docs, defaults, aliases or logical types.
    """
    return str(to_parsing_canonical_form(schema))


def fingerprint_bytes(schema: Any) -> bytes:
    """Return CRC-64-AVRO of the Parsing Canonical Form: 8 bytes, little endian as on the wire.

    See "Single-object encoding" in the Avro specification.
    """
    return bytes.fromhex(fingerprint(canonical_form(schema), "CRC-64-AVRO"))


def python_fingerprint_bytes(schema: Any) -> bytes:
    """Return the fingerprint that Python's library `avro` computes, as `fingerprint_bytes`.

    Its canonical form keeps a primitive type that has a logical type as an object.
    """
    form = _with_objects(json.loads(canonical_form(schema)), schema)
    return bytes.fromhex(fingerprint(json.dumps(form, separators=(",", ":")), "CRC-64-AVRO"))


def _with_objects(canonical: Any, schema: Any) -> Any:
    """Return a canonical form with an object for each primitive type that has a logical type."""
    if isinstance(schema, dict) and isinstance(schema["type"], dict | list):
        return _with_objects(canonical, schema["type"])
    if isinstance(canonical, str):
        return {"type": canonical} if isinstance(schema, dict) and len(schema) > 1 else canonical
    if isinstance(canonical, list):
        return [_with_objects(*pair) for pair in zip(canonical, schema, strict=True)]
    form = dict(canonical)
    if "fields" in form:
        form["fields"] = [
            {**field, "type": _with_objects(field["type"], original["type"])}
            for field, original in zip(form["fields"], schema["fields"], strict=True)
        ]
    for part in form.keys() & {"items", "values"}:
        form[part] = _with_objects(form[part], schema[part])
    return form


def _load(path: Path) -> Any:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        parse_schema(schema)
    except FileNotFoundError:
        raise UserError(f"The schema file {path.name} is missing.") from None
    except (ValueError, TypeError, KeyError, SchemaParseException, UnknownType) as error:
        raise UserError(
            f"{path.parent.name}/{path.name} is not a valid Avro schema: {error_text(error)}"
        ) from None
    return schema
