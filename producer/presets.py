"""Presets: mappings for the exports of well-known CRMs.

A preset is a mapping file in which a list of columns means the first that is present. Letter case
does not matter. A column that the file does not have leaves its field missing; the id and the time
of creation must be present.
"""

import csv
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leadstream.errors import SettingsError, UserError
from producer.mapping import LeadMapping, parse_mapping
from producer.parquet import read_header

FOLDER = Path(__file__).parent / "presets"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
_REQUIRED = ("lead_id", "created_at")


def load_preset(name: str, path: Path, *, parquet: bool = False) -> tuple[LeadMapping, list[str]]:
    """Build the mapping of this file by a preset; also return the fields without a column.

    Raises SettingsError if a required column is absent, UserError if the file cannot be read.
    """
    table = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    header = {
        column.casefold(): column
        for column in (read_header(path) if parquet else _csv_header(path))
    }
    lead, absent = dict(table["lead"]), list[str]()
    for required in _REQUIRED:
        if _there(lead[required], header) is None:
            columns = " or ".join(_columns(lead[required]))
            raise SettingsError(
                f"--preset {name}: {path.name} has no column {columns}, which is the {required}"
            )
    own_specs = {kind: lead.pop(kind, {}) for kind in ("numbers", "categories")}
    fields = _present(lead, header, absent, "")
    own = {kind: _present(specs, header, absent, f"{kind}.") for kind, specs in own_specs.items()}
    listed = table.get("rows", {}).get("only", {})
    only = {
        header[name.casefold()]: values
        for name, values in listed.items()
        if name.casefold() in header
    }
    return parse_mapping(
        f"--preset {name}", {**table, "rows": {"only": only}, "lead": {**fields, **own}}
    ), absent


def _present(
    fields: Mapping[str, Any], header: Mapping[str, str], absent: list[str], prefix: str
) -> dict[str, str]:
    present = {}
    for field, columns in fields.items():
        if (found := _there(columns, header)) is None:
            absent.append(prefix + field)
        else:
            present[field] = found
    return present


def _there(columns: str | Sequence[str], header: Mapping[str, str]) -> str | None:
    return next(
        (header[column.casefold()] for column in _columns(columns) if column.casefold() in header),
        None,
    )


def _columns(columns: str | Sequence[str]) -> Sequence[str]:
    return [columns] if isinstance(columns, str) else columns


def _csv_header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: its first line is no CSV in UTF-8") from None
