"""The description of a CRM: where its database holds leads, and what its columns mean.

One file describes a CRM for every road: state from Postgres, the outbox, events of its database,
and exports. `description_file` reads the file. Here its facts turn a row, by names of columns, into
a LeadState. The values are those of JSON, as Postgres's `to_jsonb` writes them. A value that does
not fit its field is missing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any

from leadstream.lead_fields import (
    CRM_FIELDS,
    END_TIME_MS,
    INT_LIMIT,
    LONG_LIMIT,
    MIN_TIME_MS,
    FieldKind,
)
from leadstream.personal import is_email_address
from leadstream.text_forms import comparable
from schemas.crm_rows import is_integer, parse_number, parse_text, parse_time, to_milliseconds
from schemas.month_names import english
from schemas.number_format import NumberFormat

Value = str | float | int

_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,4})?", re.ASCII)
# The texts of a marker column that mark nothing. The trigger of the outbox has the same rule.
UNMARKED = r"|f|false|n|no|off|0+(\.0*)?"
_UNMARKED = re.compile(UNMARKED, re.ASCII)
# What is removed around texts, and what stands in a row of the outbox that a description made.
SPACES = " \t\n\r\f\v"
DESCRIBED = "leadstream_described"
# The member of a row of the outbox that holds the values of lookups.
NAMES = "leadstream_names"
_MAX_TIME_CHARACTERS = 64
# The day zero of serial days, without a zone.
_DAYS = {"excel": datetime(1899, 12, 30), "excel_1904": datetime(1904, 1, 1)}  # noqa: DTZ001
_OF_NUMBERS = {"epoch_s", "epoch_ms", *_DAYS}
LEADSTREAM = "leadstream"


@dataclass(frozen=True, slots=True)
class TableName:
    """A table or view; without a schema it is found on the search path."""

    table: str
    schema: str | None = None

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}" if self.schema else self.table

    def quoted(self) -> str:
        """Return the name as Postgres reads it, with its quotes."""
        parts = filter(None, (self.schema, self.table))
        return ".".join('"{}"'.format(part.replace('"', '""')) for part in parts)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A table that holds names by key: the field is `value` of the row whose `key` is the column's.

    Keys are compared as texts.
    """

    table: TableName
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one column: it has one of the values, or without values it marks something.

    Null, false, 0 and the texts '', f, false, n, no, off and 0 mark nothing; all else does.
    """

    column: str
    values: frozenset[str] | None = None

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row fulfills the condition."""
        value = parse_text(row.get(self.column))
        if value is None:
            return False
        if self.values is not None:
            return value.strip(SPACES) in self.values
        return not _UNMARKED.fullmatch(value.strip(SPACES).lower())


@dataclass(frozen=True, slots=True)
class TimeFormat:
    """The form of times: a format, the zone of times without one, and the unit of numbers.

    A format is iso, epoch_s, epoch_ms, excel, excel_1904, or one of strptime; the first that fits
    counts. With a `base` (milliseconds UTC) numbers count steps of `step_ms` from it. With
    `end_of_day` a date is the end of its day. Names of months are English or of the `locale`.
    """

    zone: tzinfo = UTC
    forms: tuple[str, ...] = ("iso",)
    base: int | None = None
    step_ms: float = 1.0
    end_of_day: bool = False
    locale: str | None = None

    def read(self, value: Any) -> int | None:
        """Return milliseconds UTC, or None if it is no time from 1970 to 9999."""
        for form in self.forms:
            try:
                found = self._read(value, form)
            except (ValueError, OverflowError):
                continue
            if found is not None and MIN_TIME_MS <= found < END_TIME_MS:
                return found
        return None

    def _read(self, value: Any, form: str) -> int | None:
        if self.base is not None or form in _OF_NUMBERS:
            number = read_number(value)
            if number is None:
                return None
            if self.base is not None:
                return self.base + round(number * self.step_ms)
            if form in _DAYS:
                return self._local(_DAYS[form] + timedelta(milliseconds=round(number * 86_400_000)))
            return int(number * (1000 if form == "epoch_s" else 1))
        if form != "iso" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # 20260131
        if not isinstance(value, str):
            return parse_time(value)
        if len(value) > _MAX_TIME_CHARACTERS:
            return None
        if form != "iso":
            named = english(comparable(value), form, self.locale)
            return self._local(datetime.strptime(named, form))  # noqa: DTZ007  # _local
        # Debezium writes the zone of a date, too.
        text = value[:-1] if len(value) == len("2026-01-31Z") and value.endswith("Z") else value
        moment = datetime.fromisoformat(text)
        if self.end_of_day and len(text) <= len("2026-01-31"):
            moment = datetime.combine(moment, time.max)
        return self._local(moment)

    def _local(self, moment: datetime) -> int:
        return to_milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=self.zone))


@dataclass(frozen=True, slots=True)
class DescribedField:
    """One field of a lead: `created_at`, `numbers.gpa`, `categories.country`, and so on.

    `column` is None if the value is a constant or the file says only how exports have it.
    """

    name: str
    kind: FieldKind
    column: str | None = None
    constant: str | None = None
    lookup: Lookup | None = None
    missing: frozenset[str] = frozenset()
    values: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    times: TimeFormat = TimeFormat()
    units: NumberFormat | None = None

    def read(self, row: Mapping[str, Any], names: Mapping[str, Any]) -> Value | None:
        """Return the value in a row; `names` holds the values of lookups by name of the field."""
        if self.constant is not None:
            value: Any = self.constant
        elif self.lookup is not None:
            value = names.get(self.name)
        else:
            value = row.get(self.column or "")
        value = self._replaced(value)
        if value is None:
            return None
        match self.kind:
            case FieldKind.TIME:
                return self.times.read(value)
            case FieldKind.DOUBLE:
                return self._scaled(value)
            case FieldKind.INT:
                number = self._number(value)
                fits = number is not None and number.is_integer() and 0 <= number < INT_LIMIT
                return int(number) if fits and number is not None else None
            case _:
                text = parse_text(value)
                return None if text is None or is_email_address(text) else text

    def _replaced(self, value: Any) -> Any:
        """Return the value after the rules for missing and replaced texts; None if it is absent."""
        if value is None or not (isinstance(value, str) or self.missing or self.values):
            return value
        text = (parse_text(value) or "").strip()
        if not text or text in self.missing:
            return None
        return self.values.get(text, text if isinstance(value, str) else value)

    def _number(self, value: Any) -> float | None:
        """Return a number; a text may have one of the units next to it."""
        number = read_number(value)
        if number is not None or self.units is None or not isinstance(value, str):
            return number
        try:
            return self.units.number(value)
        except ValueError:
            return None

    def _scaled(self, value: Any) -> float | None:
        number = self._number(value)
        return None if number is None else parse_number(number * self.scale)


@dataclass(frozen=True, slots=True)
class OwnInput:
    """A CRM's own number or category as an input of models: a row of the table `feature`."""

    name: str
    type: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DescribedDatabase:
    """The table of leads in Postgres."""

    table: TableName
    id: str
    version: str | None
    deleted: Condition | None
    origin: Condition | None
    times: TimeFormat


@dataclass(frozen=True, slots=True)
class DescribedOutcome:
    """The table of outcomes in Postgres: a row with a time that fulfills the condition is one.

    Without `decided_at` the time is that of the change.
    """

    table: TableName
    lead: str
    decided_at: DescribedField | None
    where: Condition | None

    def columns(self) -> tuple[str, ...]:
        """Return the columns that are read, each once."""
        found = [self.lead]
        if self.decided_at and self.decided_at.column:
            found.append(self.decided_at.column)
        if self.where:
            found.append(self.where.column)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class DescribedLog:
    """The CRM's log of changes: a table, or a file without one, with a row for each change.

    A row has the lead, the time, and either `field` with its `new` and perhaps its `old` value, or
    in `row` the full row of the lead after the change, as JSON.
    """

    table: TableName | None
    lead: str
    at: DescribedField
    field: str | None
    old: str | None
    new: str | None
    row: str | None

    def columns(self) -> tuple[str, ...]:
        """Return the columns that are read, each once."""
        named = (self.lead, self.at.column, self.field, self.old, self.new, self.row)
        return tuple(dict.fromkeys(filter(None, named)))


@dataclass(frozen=True, slots=True)
class CrmDescription:
    """A description of a CRM.

    `path` is the file's name in messages. `only` are the conditions of a row that is a lead.
    `database`, `outcome` and `log` are None where the file does not have them.
    """

    path: str
    fields: tuple[DescribedField, ...]
    own: tuple[OwnInput, ...]
    only: tuple[Condition, ...]
    id: str
    version: str | None
    database: DescribedDatabase | None
    outcome: DescribedOutcome | None
    log: DescribedLog | None = None

    def state_columns(self) -> tuple[str, ...]:
        """Return the columns that a score depends on, each once."""
        return tuple(dict.fromkeys(each.column for each in self.fields if each.column))

    def presence_columns(self) -> tuple[str, ...]:
        """Return the columns that say whether a row is a lead, each once."""
        return tuple(dict.fromkeys(each.column for each in self._conditions()))

    def lookups(self) -> dict[str, tuple[str, Lookup]]:
        """Return column and lookup by name of the field."""
        return {
            each.name: (each.column, each.lookup)
            for each in self.fields
            if each.column and each.lookup
        }

    def feature_document(self) -> dict[str, Any]:
        """Return the own fields as the document of a specification file."""
        rows = [{"name": one.name, "type": one.type, **one.options} for one in self.own]
        return {"feature": rows}

    def is_lead(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row is a lead that is not deleted."""
        deleted = self.database and self.database.deleted
        return all(each.holds(row) for each in self.only) and not (deleted and deleted.holds(row))

    def lead_id(self, row: Mapping[str, Any]) -> str | None:
        """Return the id of a row's lead, as text."""
        return parse_text(row.get(self.id))

    def origin(self, row: Mapping[str, Any]) -> str | None:
        """Return `leadstream` for a row that a score was written back to, None otherwise."""
        origin = self.database and self.database.origin
        return LEADSTREAM if origin and origin.holds(row) else None

    def lead_version(self, row: Mapping[str, Any]) -> int:
        """Return the version of a row: a whole number, or a time in milliseconds; 0 if neither."""
        return 0 if self.version is None else read_version(row.get(self.version), self)

    def lead_state(
        self, row: Mapping[str, Any], names: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Build a LeadState from a row; `names` holds the values of lookups by name of the field.

        created_at is None where the row has none, and no state then.
        """
        state: dict[str, Any] = {each.name: None for each in CRM_FIELDS}
        maps: dict[str, dict[str, Value]] = {"numbers": {}, "categories": {}}
        for each in self.fields:
            value = each.read(row, names or {})
            own, _, name = each.name.partition(".")
            if not name:
                state[own] = value
            elif value is not None:
                maps[own][name] = value
        return state | maps

    def _conditions(self) -> Iterator[Condition]:
        yield from self.only
        if self.database and self.database.deleted:
            yield self.database.deleted


def read_version(value: Any, description: CrmDescription | None = None) -> int:
    """Return a version: a whole number, or a time in milliseconds UTC; 0 if it is neither."""
    number = read_integer(value)
    if number is None and isinstance(value, str):
        database = description and description.database
        return (database.times if database else TimeFormat()).read(value.strip()) or 0
    return number if number is not None and is_integer(number, LONG_LIMIT) else 0


def read_number(value: Any) -> float | None:
    """Return a finite number, also of a text of digits; None for anything else."""
    if not isinstance(value, str):
        return parse_number(value)
    text = value.strip()
    return parse_number(float(text)) if _NUMBER.fullmatch(text) else None


def read_integer(value: Any) -> int | None:
    """Return a whole number without loss, also of a text of digits; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if abs(value) < 2**53 and value.is_integer() else None
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if re.fullmatch(r"-?\d{1,19}", text, re.ASCII) else None
