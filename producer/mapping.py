"""Mapping files (TOML): the column of a CRM export for each field of a lead, and its format."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadstream.errors import SettingsError, error_text
from producer.fields import LEAD_KEYS, FieldParsers, MappedField
from schemas.description_file import OUTCOME_OF_DATABASE, OUTCOME_OF_FILE, SECTIONS
from schemas.options import WrongKey, known, table_of, text_of, texts_of, zone_of

_FILE = {"delimiter", "encoding", "decimal", "thousands", "missing", "time_zone"}


@dataclass(frozen=True, slots=True)
class MappedOutcome:
    """The column of an export that says whether a lead converted, and its values."""

    column: str
    true: frozenset[str]
    false: frozenset[str]
    missing: frozenset[str]
    decided_at: MappedField | None

    def read(self, row: Mapping[str, str]) -> bool | None:
        """Return True, False, or None if it is not decided.

        Raises ValueError if the value is none of the listed ones.
        """
        text = row[self.column].strip()
        if text in self.true or text in self.false:
            return text in self.true
        if not text or text in self.missing:
            return None
        raise ValueError("is listed neither as true nor as false in the mapping")


@dataclass(frozen=True, slots=True)
class LeadMapping:
    """A full mapping file.

    `fields` holds created_at, the LeadState fields and, if mapped, lead_version.
    """

    name: str
    delimiter: str
    encoding: str
    decimal: str
    only: Mapping[str, frozenset[str]]
    lead_id: MappedField
    occurred_at: MappedField | None
    fields: Mapping[str, MappedField]
    numbers: Mapping[str, MappedField]
    categories: Mapping[str, MappedField]
    outcome: MappedOutcome | None

    def columns(self) -> dict[str, str]:
        """Return every column that is read, with the key of the mapping that names it."""
        fields = [
            self.lead_id,
            *self.fields.values(),
            *self.numbers.values(),
            *self.categories.values(),
        ]
        if self.occurred_at:
            fields.append(self.occurred_at)
        columns = dict.fromkeys(self.only, "rows.only")
        if self.outcome:
            columns[self.outcome.column] = "outcome.column"
            if self.outcome.decided_at:
                fields.append(self.outcome.decided_at)
        return columns | {field.column: field.key for field in fields if field.column is not None}

    def origins(self) -> dict[str, str]:
        """Return the column of every input of a model, by the name of the input.

        Own fields are `numbers.X` and `categories.X`.
        """
        own = {f"numbers.{name}": field for name, field in self.numbers.items()}
        own |= {f"categories.{name}": field for name, field in self.categories.items()}
        return {
            name: field.column
            for name, field in {**self.fields, **own}.items()
            if field.column is not None
        }


def column_positions(header: Sequence[str], path: Path, mapping: LeadMapping) -> dict[str, int]:
    """Return the index of each column of the mapping in a file's header.

    Raises SettingsError for a column that is not present exactly once.
    """
    found = {}
    for column, key in mapping.columns().items():
        if header.count(column) != 1:
            near = difflib.get_close_matches(column, header, n=1)
            what = "more than one column" if column in header else "no column"
            hint = f"; did you mean {near[0]!r}?" if near and column not in header else ""
            raise SettingsError(f"{mapping.name}: {key}: {path.name} has {what} {column!r}{hint}")
        found[column] = header.index(column)
    return found


def load_mapping(path: Path) -> LeadMapping:
    """Read the mapping in a TOML file.

    Raises SettingsError in one sentence that names the file and the key.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        return _mapping(path.name, table)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error_text(error)}") from None
    except WrongKey as wrong:
        raise SettingsError(f"{path}: {wrong.key}: {wrong.what}") from None


def parse_mapping(name: str, table: Mapping[str, Any]) -> LeadMapping:
    """Parse the tables of a mapping file.

    Raises SettingsError in one sentence that names the key.
    """
    try:
        return _mapping(name, table)
    except WrongKey as wrong:
        raise SettingsError(f"{name}: {wrong.key}: {wrong.what}") from None


def _mapping(name: str, table: Mapping[str, Any]) -> LeadMapping:
    known(table, "", SECTIONS)
    file, rows, lead, database = (
        table_of(table, key, key) for key in ("file", "rows", "lead", "database")
    )
    # What a description says about the database is true of its exports, too.
    if "lead_id" not in lead and "id" in database:
        lead = {"lead_id": database["id"], **lead}
    if "time_zone" not in file and "time_zone" in database:
        file = {**file, "time_zone": database["time_zone"]}
    known(file, "file", _FILE)
    known(rows, "rows", {"only"})
    known(lead, "lead", (LEAD_KEYS - {"decided_at"}) | {"numbers", "categories"})
    for required in ("lead_id", "created_at"):
        if required not in lead:
            raise WrongKey(f"lead.{required}", "is missing: name the column that holds it")
    delimiter = text_of(file, "file.delimiter", ",")
    if len(delimiter) != 1:
        raise WrongKey("file.delimiter", "must be one character")
    reader = FieldParsers(
        decimal=text_of(file, "file.decimal", "."),
        thousands=text_of(file, "file.thousands", ""),
        missing=texts_of(file, "file.missing"),
        time_zone=zone_of(text_of(file, "file.time_zone", "UTC"), "file.time_zone"),
    )
    own = {}
    for kind in ("numbers", "categories"):
        specs = table_of(lead, kind, f"lead.{kind}")
        own[kind] = {
            name: reader.field(f"lead.{kind}.{name}", spec) for name, spec in specs.items()
        }
    fields = {
        key: reader.field(f"lead.{key}", spec) for key, spec in lead.items() if key not in own
    }
    only = table_of(rows, "only", "rows.only")
    outcome = table_of(table, "outcome", "outcome")
    known(outcome, "outcome", OUTCOME_OF_FILE | OUTCOME_OF_DATABASE)
    in_file = "column" in outcome or not outcome.keys() & OUTCOME_OF_DATABASE
    return LeadMapping(
        name=name,
        delimiter=delimiter,
        encoding=text_of(file, "file.encoding", "utf-8"),
        decimal=reader.decimal,
        only={column: texts_of(only, f"rows.only.{column}", column) for column in only},
        lead_id=fields.pop("lead_id"),
        occurred_at=fields.pop("occurred_at", None),
        fields=fields,
        numbers=own["numbers"],
        categories=own["categories"],
        outcome=_outcome(outcome, reader) if in_file and "outcome" in table else None,
    )


def _outcome(table: Mapping[str, Any], reader: "FieldParsers") -> MappedOutcome:
    column = text_of(table, "outcome.column", None)
    true, false = texts_of(table, "outcome.true"), texts_of(table, "outcome.false")
    if not true or not false or true & false:
        raise WrongKey("outcome.true", "true and false must each list values, and none in common")
    decided_at = (
        reader.field("outcome.decided_at", table["decided_at"]) if "decided_at" in table else None
    )
    return MappedOutcome(column, true, false, reader.missing, decided_at)
