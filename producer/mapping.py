"""Mapping files (TOML): the column of a CRM export for each field of a lead, and its format."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadstream.errors import SettingsError, error_text
from leadstream.text_forms import column_name, comparable
from producer.fields import LEAD_KEYS, FieldParsers, MappedField, plain_texts
from schemas.crm_description import Condition
from schemas.description_file import (
    OUTCOME_OF_DATABASE,
    OUTCOME_OF_FILE,
    SECTIONS,
    condition_of,
)
from schemas.options import WrongKey, checked_locale, known, table_of, text_of, zone_of

FILE_OPTIONS = {
    "delimiter",
    "encoding",
    "decimal",
    "thousands",
    "missing",
    "time_zone",
    "locale",
}
NOT_LISTED = "is listed neither as true nor as false in the mapping"
_ID = (
    "is missing: name the column that holds it; a file without ids takes "
    'lead_id = { line = "lead-" }, which numbers its rows'
)
_CREATED = (
    "is missing: name the column that holds it; a file in the order of time without dates takes "
    'created_at = { base = "2020-01-01", step_ms = 60000 }'
)


@dataclass(frozen=True, slots=True)
class MappedOutcome:
    """The column of an export that says whether a lead converted, and its values.

    With `others_missing`, a value that is not listed means that it is not decided.
    """

    column: str
    true: frozenset[str]
    false: frozenset[str]
    missing: frozenset[str]
    decided_at: MappedField | None
    others_missing: bool = False

    def read(self, row: Mapping[str, str]) -> bool | None:
        """Return True, False, or None if it is not decided.

        Raises ValueError if the value is none of the listed ones.
        """
        text = comparable(row[self.column]).strip()
        if text in self.true or text in self.false:
            return text in self.true
        if not text or text in self.missing or self.others_missing:
            return None
        raise ValueError(NOT_LISTED)


@dataclass(frozen=True, slots=True)
class LeadMapping:
    """A full mapping file.

    `fields` holds created_at, the LeadState fields and, if mapped, lead_version. A delimiter or an
    encoding that is None follows from the file. `deleted` is the mark of a soft-deleted row; its
    column may be absent from a file.
    """

    name: str
    delimiter: str | None
    encoding: str | None
    decimal: str
    thousands: str
    only: Mapping[str, frozenset[str]]
    lead_id: MappedField
    occurred_at: MappedField | None
    fields: Mapping[str, MappedField]
    numbers: Mapping[str, MappedField]
    categories: Mapping[str, MappedField]
    outcome: MappedOutcome | None
    deleted: Condition | None = None

    def columns(self) -> dict[str, str]:
        """Return every column that is read, with the key of the mapping that names it."""
        columns = dict.fromkeys(self.only, "rows.only")
        if self.outcome:
            columns[self.outcome.column] = "outcome.column"
        return columns | {
            field.column: field.key for field in self.every_field() if field.column is not None
        }

    def every_field(self) -> list[MappedField]:
        """Return all fields, with the times of the change and of the decision."""
        fields = [
            self.lead_id,
            *self.fields.values(),
            *self.numbers.values(),
            *self.categories.values(),
        ]
        if self.occurred_at:
            fields.append(self.occurred_at)
        if self.outcome and self.outcome.decided_at:
            fields.append(self.outcome.decided_at)
        return fields

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

    Names are compared as `column_name` makes them. Raises SettingsError for a column that is not
    present exactly once.
    """
    names = [column_name(name) for name in header]
    found = {}
    for column, key in mapping.columns().items():
        name = column_name(column)
        if names.count(name) != 1:
            near = difflib.get_close_matches(name, filter(None, names), n=1)
            what = "more than one column" if name in names else "no column"
            hint = f"; did you mean {near[0]!r}?" if near and name not in names else ""
            raise SettingsError(f"{mapping.name}: {key}: {path.name} has {what} {column!r}{hint}")
        found[column] = names.index(name)
    if mapping.deleted and names.count(name := column_name(mapping.deleted.column)) == 1:
        found[mapping.deleted.column] = names.index(name)
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
    known(file, "file", FILE_OPTIONS)
    known(rows, "rows", {"only"})
    known(lead, "lead", (LEAD_KEYS - {"decided_at"}) | {"numbers", "categories"})
    for required, why in (("lead_id", _ID), ("created_at", _CREATED)):
        if required not in lead:
            raise WrongKey(f"lead.{required}", why)
    reader = _parsers(file)
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
        delimiter=_delimiter(file),
        encoding=_named(file, "encoding"),
        decimal=reader.decimal,
        thousands=reader.thousands,
        only={column: plain_texts(only, f"rows.only.{column}", column) for column in only},
        lead_id=fields.pop("lead_id"),
        occurred_at=fields.pop("occurred_at", None),
        fields=fields,
        numbers=own["numbers"],
        categories=own["categories"],
        outcome=_outcome(outcome, reader) if in_file and "outcome" in table else None,
        deleted=condition_of(database, "database.deleted"),
    )


def _parsers(file: Mapping[str, Any]) -> FieldParsers:
    decimal, thousands = (
        text_of(file, "file.decimal", "."),
        comparable(text_of(file, "file.thousands", "")),
    )
    if len(decimal) != 1 or decimal.isalnum():
        raise WrongKey("file.decimal", "must be one sign, such as a point or a comma")
    if len(thousands) > 1 or thousands.isalnum() or thousands == decimal:
        raise WrongKey("file.thousands", "must be one sign, other than the decimal sign")
    return FieldParsers(
        decimal=decimal,
        thousands=thousands,
        missing=plain_texts(file, "file.missing"),
        time_zone=zone_of(text_of(file, "file.time_zone", "UTC"), "file.time_zone"),
        locale=checked_locale(_named(file, "locale"), "file.locale"),
    )


def _named(file: Mapping[str, Any], name: str) -> str | None:
    return text_of(file, f"file.{name}", None) if name in file else None


def _delimiter(file: Mapping[str, Any]) -> str | None:
    delimiter = _named(file, "delimiter")
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise WrongKey("file.delimiter", "must be one character")
    return delimiter


def _outcome(table: Mapping[str, Any], reader: "FieldParsers") -> MappedOutcome:
    column = text_of(table, "outcome.column", None)
    true, false = plain_texts(table, "outcome.true"), plain_texts(table, "outcome.false")
    if not true or not false or true & false:
        raise WrongKey("outcome.true", "true and false must each list values, and none in common")
    missing = reader.missing | plain_texts(table, "outcome.missing")
    if listed := missing & (true | false) & plain_texts(table, "outcome.missing"):
        raise WrongKey("outcome.missing", f"{min(listed)!r} is also listed as true or as false")
    decided_at = (
        reader.field("outcome.decided_at", table["decided_at"]) if "decided_at" in table else None
    )
    return MappedOutcome(column, true, false, missing, decided_at)
