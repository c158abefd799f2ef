"""Presets: mappings for the exports of well-known CRMs.

A preset is a mapping file in which a list of columns means the first that is present. Letter case
does not matter. A column that the file does not have leaves its field missing; the id and the time
of creation must be present. `[retired]` says of columns why they should not be used any more.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leadstream.errors import SettingsError
from producer.csv_file import find_shape
from producer.mapping import LeadMapping, parse_mapping
from producer.parquet import read_header
from schemas.description_file import merge_lead, named_columns

FOLDER = Path(__file__).parent / "presets"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
_REQUIRED = ("lead_id", "created_at")
_OWN = ("numbers", "categories")


def load_preset(
    name: str,
    path: Path,
    *,
    parquet: bool = False,
    own: Mapping[str, Any] | None = None,
    columns: str = "",
) -> tuple[LeadMapping, list[str]]:
    """Build the mapping of this file by a preset; also return the fields without a column.

    `own` is the table [lead] of a description: its fields count where the file has their columns.
    Those of `columns` ("lead_score=Fit, numbers.gpa=GPA") always count. Raises SettingsError if a
    required column is absent, UserError if the file cannot be read.
    """
    table = read_preset(name)
    names = read_header(path) if parquet else _csv_header(path, _named_columns(table["lead"]))
    return mapping_of_names(name, table, names, path.name, own=own, columns=columns)


def load_history_preset(
    name: str, names: Sequence[str], where: str, *, columns: str = ""
) -> LeadMapping:
    """Build the mapping of an export with these columns, to import a history by.

    Leads that converted are not left out: their history is what a model learns from. A lead whose
    outcome is none of the preset's may still convert. `where` is the export's name in messages.
    """
    table, history = read_preset(name), _tables(name).get("history", {})
    only = dict(table.get("rows", {}).get("only", {}))
    for column in history.get("kept", []):
        only.pop(column, None)
    header = {column.casefold(): column for column in names}
    spec = history.get("outcome", {})
    there = {key: _there(spec.get(key, []), header) for key in ("column", "decided_at")}
    if there["column"] is not None:
        listed = {"true": spec["true"], "false": ["never"]}
        table["outcome"] = {key: value for key, value in there.items() if value} | listed
    mapping, _ = mapping_of_names(
        name, {**table, "rows": {"only": only}}, names, where, columns=columns
    )
    if mapping.outcome is None:
        return mapping
    outcome = replace(mapping.outcome, false=frozenset(), others_missing=True)
    return replace(mapping, outcome=outcome)


def mapping_of_names(
    name: str,
    table: Mapping[str, Any],
    names: Sequence[str],
    where: str,
    *,
    own: Mapping[str, Any] | None = None,
    columns: str = "",
) -> tuple[LeadMapping, list[str]]:
    """Build the mapping of a file with these columns; also return the fields without a column.

    `table` is that of the preset, and `where` the file's name in messages.
    """
    header = {column.casefold(): column for column in names}
    lead = merge_lead(table["lead"], _there_of_own(own or {}, header))
    lead, absent = merge_lead(lead, named_columns(columns)), list[str]()
    for required in _REQUIRED:
        if _there(lead[required], header) is None:
            columns = " or ".join(_columns(lead[required]))
            raise SettingsError(
                f"--preset {name}: {where} has no column {columns}, which is the {required}"
            )
    own_specs = {kind: lead.pop(kind, {}) for kind in _OWN}
    fields = _present(lead, header, absent, "")
    found = {kind: _present(specs, header, absent, f"{kind}.") for kind, specs in own_specs.items()}
    listed = table.get("rows", {}).get("only", {})
    only = {
        header[name.casefold()]: values
        for name, values in listed.items()
        if name.casefold() in header
    }
    table = {**table, "rows": {"only": only}, "lead": {**fields, **found}}
    tables = {key: part for key, part in table.items() if key != "retired"}
    return parse_mapping(f"--preset {name}", tables), absent


def retired_columns(name: str, mapping: LeadMapping) -> list[str]:
    """Return a sentence for each column of a mapping that its preset calls retired."""
    retired: dict[str, str] = read_preset(name).get("retired", {})
    by_case = {column.casefold(): why for column, why in retired.items()}
    return [
        f"{column}: {by_case[column.casefold()]}"
        for column in mapping.columns()
        if column.casefold() in by_case
    ]


def read_preset(name: str) -> dict[str, Any]:
    """Return the tables of a preset, in which a list of columns means the first that is there."""
    tables = _tables(name)
    tables.pop("history", None)
    return tables


def _tables(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))


def _there_of_own(own: Mapping[str, Any], header: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a description's [lead] whose columns the file has."""
    found = {
        name: spec
        for name, spec in own.items()
        if name not in _OWN and _there(spec, header) is not None
    }
    for kind in _OWN:
        specs = own.get(kind, {})
        found[kind] = {
            name: spec
            for name, spec in (specs if isinstance(specs, dict) else {}).items()
            if _there(spec, header) is not None
        }
    return found


def _present(
    fields: Mapping[str, Any], header: Mapping[str, str], absent: list[str], prefix: str
) -> dict[str, Any]:
    present: dict[str, Any] = {}
    for field, spec in fields.items():
        if (found := _there(spec, header)) is None:
            absent.append(prefix + field)
        else:
            present[field] = {**spec, "column": found} if isinstance(spec, dict) else found
    return present


def _there(spec: Any, header: Mapping[str, str]) -> str | None:
    return next(
        (header[column.casefold()] for column in _columns(spec) if column.casefold() in header),
        None,
    )


def _columns(spec: Any) -> Sequence[str]:
    """Return the columns that a field may have: one, the first of a list, or that of a table."""
    if isinstance(spec, dict):
        spec = spec.get("column", [])
    return [spec] if isinstance(spec, str) else spec


def _named_columns(lead: Mapping[str, Any]) -> frozenset[str]:
    """Return every column that a preset can read, without case."""
    own = [spec for kind in _OWN for spec in lead.get(kind, {}).values()]
    specs = [spec for name, spec in lead.items() if name not in _OWN]
    return frozenset(column.casefold() for spec in specs + own for column in _columns(spec))


def export_header(path: Path, name: str) -> Sequence[str]:
    """Return the names of the columns of an export, CSV or Parquet, that a preset reads."""
    if path.suffix.lower() == ".parquet":
        return read_header(path)
    return _csv_header(path, _named_columns(read_preset(name)["lead"]))


def _csv_header(path: Path, wanted: frozenset[str]) -> Sequence[str]:
    return find_shape(path, lambda names: sum(name.casefold() in wanted for name in names)).header
