"""Mapping files (TOML): the column of a CRM export for each field of a lead, and its format."""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from leadstream.errors import SettingsError
from leadstream.lead_fields import (
    END_TIME_MS,
    INT_LIMIT,
    LONG_LIMIT,
    MAX_ID_CHARACTERS,
    MIN_TIME_MS,
    FieldKind,
    fields_of_kind,
)

Value = str | float | int
Parse = Callable[[str], Value]

_NUMBERS = fields_of_kind(FieldKind.DOUBLE)
# The greatest value of each integer field.
_INTEGERS = {
    **dict.fromkeys(fields_of_kind(FieldKind.INT), INT_LIMIT - 1),
    "lead_version": LONG_LIMIT - 1,
}
_TIMES = fields_of_kind(FieldKind.TIME) | {"occurred_at", "decided_at"}
_FIELDS = fields_of_kind(FieldKind.STRING) | _NUMBERS | _INTEGERS.keys() | _TIMES | {"lead_id"}
_OPTIONS = {
    "column",
    "constant",
    "missing",
    "values",
    "scale",
    "format",
    "time_zone",
    "base",
    "step_ms",
}
_FILE = {"delimiter", "encoding", "decimal", "thousands", "missing", "time_zone"}
# Columns with personal data: never read, whatever a mapping says.
_PERSONAL = frozenset(
    [
        "email",
        "emailaddress",
        "mail",
        "phone",
        "phonenumber",
        "telephone",
        "mobile",
        "mobilenumber",
        "mobilephone",
        "cellphone",
        "name",
        "firstname",
        "lastname",
        "surname",
        "givenname",
        "familyname",
        "fullname",
        "contactname",
        "leadname",
        "personname",
        "namefirst",
        "namelast",
    ]
)
# An address has at most 254 characters; longer texts would cost the square of their length.
_MAX_EMAIL_CHARACTERS = 320
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class MappedField:
    """One field of a lead.

    `column` is None if the value is a constant or follows from the line number.
    """

    key: str
    column: str | None
    constant: str | None
    missing: frozenset[str]
    values: Mapping[str, str]
    parse: Parse

    def read(self, row: Mapping[str, str], line: int) -> Value | None:
        """Return the value in this row, None if it is missing.

        Raises ValueError with the rest of a sentence if it is wrong.
        """
        if self.constant is not None:
            text = self.constant
        elif self.column is None:
            text = str(line)
        else:
            text = row[self.column].strip()
            if not text or text in self.missing:
                return None
        return self.parse(self.values.get(text, text))


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


class _Wrong(Exception):  # never leaves this module
    def __init__(self, key: str, what: str) -> None:
        self.key, self.what = key, what


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
        raise SettingsError(f"{path}: not TOML: {error}") from None
    except _Wrong as wrong:
        raise SettingsError(f"{path}: {wrong.key}: {wrong.what}") from None


def parse_mapping(name: str, table: Mapping[str, Any]) -> LeadMapping:
    """Parse the tables of a mapping file.

    Raises SettingsError in one sentence that names the key.
    """
    try:
        return _mapping(name, table)
    except _Wrong as wrong:
        raise SettingsError(f"{name}: {wrong.key}: {wrong.what}") from None


def _mapping(name: str, table: Mapping[str, Any]) -> LeadMapping:
    _known(table, "", {"file", "rows", "lead", "outcome"})
    file, rows, lead = (_table(table, key, key) for key in ("file", "rows", "lead"))
    _known(file, "file", _FILE)
    _known(rows, "rows", {"only"})
    _known(lead, "lead", (_FIELDS - {"decided_at"}) | {"numbers", "categories"})
    for required in ("lead_id", "created_at"):
        if required not in lead:
            raise _Wrong(f"lead.{required}", "is missing: name the column that holds it")
    delimiter = _text(file, "file.delimiter", ",")
    if len(delimiter) != 1:
        raise _Wrong("file.delimiter", "must be one character")
    reader = _FieldParsers(
        decimal=_text(file, "file.decimal", "."),
        thousands=_text(file, "file.thousands", ""),
        missing=_texts(file, "file.missing"),
        time_zone=_zone(_text(file, "file.time_zone", "UTC"), "file.time_zone"),
    )
    own = {}
    for kind in ("numbers", "categories"):
        specs = _table(lead, kind, f"lead.{kind}")
        own[kind] = {
            name: reader.field(f"lead.{kind}.{name}", spec) for name, spec in specs.items()
        }
    fields = {
        key: reader.field(f"lead.{key}", spec) for key, spec in lead.items() if key not in own
    }
    only = _table(rows, "only", "rows.only")
    return LeadMapping(
        name=name,
        delimiter=delimiter,
        encoding=_text(file, "file.encoding", "utf-8"),
        decimal=reader.decimal,
        only={column: _texts(only, f"rows.only.{column}", column) for column in only},
        lead_id=fields.pop("lead_id"),
        occurred_at=fields.pop("occurred_at", None),
        fields=fields,
        numbers=own["numbers"],
        categories=own["categories"],
        outcome=_outcome(_table(table, "outcome", "outcome"), reader)
        if "outcome" in table
        else None,
    )


def _outcome(table: Mapping[str, Any], reader: "_FieldParsers") -> MappedOutcome:
    _known(table, "outcome", {"column", "true", "false", "decided_at"})
    column = _text(table, "outcome.column", None)
    true, false = _texts(table, "outcome.true"), _texts(table, "outcome.false")
    if not true or not false or true & false:
        raise _Wrong("outcome.true", "true and false must each list values, and none in common")
    decided_at = (
        reader.field("outcome.decided_at", table["decided_at"]) if "decided_at" in table else None
    )
    return MappedOutcome(column, true, false, reader.missing, decided_at)


@dataclass(frozen=True, slots=True)
class _FieldParsers:
    """The defaults of the file, and a parser for each kind of field."""

    decimal: str
    thousands: str
    missing: frozenset[str]
    time_zone: ZoneInfo

    def field(self, key: str, spec: Any) -> MappedField:  # whatever the TOML says
        options = {"column": spec} if isinstance(spec, str) else spec
        if not isinstance(options, dict):
            raise _Wrong(key, "must be the name of a column or a table of options")
        _known(options, key, _OPTIONS)
        if "column" in options and "constant" in options:
            raise _Wrong(key, "takes a column or a constant, not both")
        if not options.keys() & {"column", "constant", "base"}:
            raise _Wrong(key, "needs a column, a constant or a base")
        column = _text(options, f"{key}.column", None) if "column" in options else None
        if column is not None and re.sub(r"[\W_\d]+", "", column).lower() in _PERSONAL:
            raise _Wrong(
                key, f"the column {column!r} looks like personal data, which is never read"
            )
        values = options.get("values", {})
        if not isinstance(values, dict):
            raise _Wrong(f"{key}.values", "must be a table of old = new")
        return MappedField(
            key=key,
            column=column,
            constant=str(options["constant"]) if "constant" in options else None,
            missing=_texts(options, f"{key}.missing") if "missing" in options else self.missing,
            values={old: str(new) for old, new in values.items()},
            parse=self.parser(key, options),
        )

    def parser(self, key: str, options: Mapping[str, Any]) -> Parse:
        name = key.rpartition(".")[2]
        own = key.startswith(("lead.numbers.", "lead.categories."))
        if not own and name in _TIMES:
            return self.moment(key, options)
        for option in options.keys() & {"format", "time_zone", "base", "step_ms"}:
            raise _Wrong(f"{key}.{option}", "is for times only")
        if key.startswith("lead.numbers.") or (not own and name in _NUMBERS):
            scale = _number(options, f"{key}.scale", 1.0)
            return lambda text: _finite(self.number(text) * scale)
        if "scale" in options:
            raise _Wrong(f"{key}.scale", "is for numbers only")
        if not own and name in _INTEGERS:
            return lambda text: _integer(self.number(text), _INTEGERS[name])
        return _identifier if not own and name == "lead_id" else _impersonal

    def number(self, text: str) -> float:
        plain = text.replace(self.thousands, "") if self.thousands else text
        if self.decimal != ".":
            plain = plain.replace(self.decimal, ".") if "." not in plain else ""
        if not _NUMBER.fullmatch(plain):
            raise ValueError("is not a number")
        return _finite(float(plain))

    def moment(self, key: str, options: Mapping[str, Any]) -> Parse:
        zone_name = _text(options, f"{key}.time_zone", self.time_zone.key)
        zone = _zone(zone_name, f"{key}.time_zone")
        if "base" in options:
            step = _number(options, f"{key}.step_ms", 1.0)
            try:
                base = _milliseconds(
                    datetime.fromisoformat(_text(options, f"{key}.base", None)), zone
                )
            except ValueError:
                raise _Wrong(f"{key}.base", "is not an ISO 8601 time") from None
            return lambda text: _in_years(base + round(self.number(text) * step))
        if "step_ms" in options:
            raise _Wrong(f"{key}.step_ms", "needs a base")
        form = _text(options, f"{key}.format", "iso")
        match form:
            case "epoch_ms":
                return lambda text: _in_years(int(self.number(text)))
            case "epoch_s":
                return lambda text: _in_years(int(self.number(text) * 1000))
            case "iso":
                return lambda text: _in_years(_parsed(datetime.fromisoformat, text, zone))
            case _:
                # _parsed gives it its zone
                read = lambda text: datetime.strptime(text, form)  # noqa: DTZ007, E731
                return lambda text: _in_years(_parsed(read, text, zone))


def _parsed(parse: Callable[[str], datetime], text: str, zone: ZoneInfo) -> int:
    try:
        return _milliseconds(parse(text), zone)
    except (ValueError, OverflowError):
        raise ValueError("is not a time in the format of the mapping") from None


def _milliseconds(moment: datetime, zone: ZoneInfo) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return (aware - _EPOCH) // timedelta(milliseconds=1)


def _in_years(moment: int) -> int:
    if not MIN_TIME_MS <= moment < END_TIME_MS:
        raise ValueError("is outside the years 1970 to 9999")
    return moment


def _finite(number: float) -> float:
    if number - number != 0:
        raise ValueError("is too large a number")
    return number


def _integer(number: float, max_value: int) -> int:
    if number != int(number) or not 0 <= number <= max_value:
        raise ValueError("is not a whole number in range")
    return int(number)


def _identifier(text: str) -> str:
    if len(text) > MAX_ID_CHARACTERS:
        raise ValueError(f"is longer than {MAX_ID_CHARACTERS} characters")
    return _impersonal(text)


def _impersonal(text: str) -> str:
    if len(text) <= _MAX_EMAIL_CHARACTERS and _EMAIL.fullmatch(text):
        raise ValueError("is an e-mail address, which is never read")
    return text


def _known(table: Mapping[str, Any], key: str, names: Set[str]) -> None:
    for name in table:
        if name not in names:
            raise _Wrong(
                f"{key}.{name}".lstrip("."),
                f"is not known here; there are {', '.join(sorted(names))}",
            )


def _table(table: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise _Wrong(key, "must be a table")
    return value


def _text(table: Mapping[str, Any], key: str, default: str | None) -> str:
    value = table.get(key.rpartition(".")[2], default)
    if not isinstance(value, str):
        raise _Wrong(key, "must be text" if value is not None else "is missing")
    return value


def _texts(table: Mapping[str, Any], key: str, name: str | None = None) -> frozenset[str]:
    value = table.get(name or key.rpartition(".")[2], [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Wrong(key, "must be a list of texts")
    return frozenset(value)


def _number(table: Mapping[str, Any], key: str, default: float) -> float:
    value = table.get(key.rpartition(".")[2], default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise _Wrong(key, "must be a number")
    return float(value)


def _zone(name: str, key: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _Wrong(key, f"{name!r} is not a time zone, for example Europe/Berlin") from None
