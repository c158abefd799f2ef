"""The fields of a mapping: a column or a constant, its options, and the parser that they make."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from leadstream.lead_fields import INT_LIMIT, LONG_LIMIT, FieldKind, fields_of_kind
from leadstream.personal import is_personal_column
from leadstream.text_forms import comparable
from producer.moments import (
    DAY_MS,
    EXCEL_BASES,
    Clock,
    clock_moment,
    epoch_clock,
    first_clock,
    iso_clock,
    serial_clock,
    strptime_clock,
)
from producer.values import identifier, impersonal, integer_identifier
from schemas.description_file import FIELD_OPTIONS, INPUT_OPTIONS
from schemas.number_format import NumberFormat, finite
from schemas.options import (
    WrongKey,
    checked_locale,
    known,
    number_of,
    text_of,
    texts_of,
    units_of,
    zone_of,
)

Value = str | float | int
Parse = Callable[[str], Value]


class CellKind(StrEnum):
    """Kinds of cells, by what they hold."""

    TIME = "time"
    NUMBER = "number"
    INTEGER = "integer"
    ID = "id"
    TEXT = "text"


_NUMBERS = fields_of_kind(FieldKind.DOUBLE)
# The greatest value of each integer field.
_INTEGERS = {
    **dict.fromkeys(fields_of_kind(FieldKind.INT), INT_LIMIT - 1),
    "lead_version": LONG_LIMIT - 1,
}
_TIMES = fields_of_kind(FieldKind.TIME) | {"occurred_at", "decided_at"}
LEAD_KEYS = fields_of_kind(FieldKind.STRING) | _NUMBERS | _INTEGERS.keys() | _TIMES | {"lead_id"}
OWN_KEYS = ("lead.numbers.", "lead.categories.")
# Who decided on a date decided before its end.
_DAY_ENDS = "outcome.decided_at"
_FOR_TIMES = {"locale", "time_zone", "base", "step_ms"}


@dataclass(frozen=True, slots=True)
class MappedField:
    """One field of a lead.

    `column` is None if the value is a constant or follows from the line number. `missing` and
    `values` hold texts as `comparable` makes them. `zone` is that of times without one. With
    `day_ends`, a date without a time is the last moment of that day, else its first.
    """

    key: str
    column: str | None
    constant: str | None
    missing: frozenset[str]
    values: Mapping[str, str]
    parse: Parse
    kind: CellKind
    zone: ZoneInfo | None = None
    day_ends: bool = False

    def read(self, row: Mapping[str, str | None], line: int) -> Value | None:
        """Return the value in this row, None if it is missing.

        Raises ValueError with the rest of a sentence if it is wrong.
        """
        if self.constant is not None:
            text = self.constant
        elif self.column is None:
            text = str(line)
        else:
            text = (row[self.column] or "").strip()
            plain = comparable(text).strip()
            if not plain or plain in self.missing:
                return None
            if plain in self.values:
                text = self.values[plain]
        return self.parse(text)


@dataclass(frozen=True, slots=True)
class FieldParsers:
    """The defaults of the file, and a parser for each kind of field."""

    decimal: str
    thousands: str
    missing: frozenset[str]
    time_zone: ZoneInfo
    locale: str | None = None

    def field(self, key: str, spec: Any) -> MappedField:  # whatever the TOML says
        """Return the field of a key; raises WrongKey for a wrong option."""
        options = {"column": spec} if isinstance(spec, str) else spec
        if not isinstance(options, dict):
            raise WrongKey(key, "must be the name of a column or a table of options")
        own = key.startswith(OWN_KEYS)
        known(options, key, FIELD_OPTIONS | (INPUT_OPTIONS if own else set()))
        kind = _kind(key)
        _check_options(key, kind, options)
        column = text_of(options, f"{key}.column", None) if "column" in options else None
        if column is not None and is_personal_column(comparable(column)):
            raise WrongKey(
                key, f"the column {column!r} looks like personal data, which is never read"
            )
        values = options.get("values", {})
        if not isinstance(values, dict):
            raise WrongKey(f"{key}.values", "must be a table of old = new")
        return MappedField(
            key=key,
            column=column,
            constant=str(options["constant"]) if "constant" in options else None,
            missing=plain_texts(options, f"{key}.missing")
            if "missing" in options
            else self.missing,
            values={comparable(old): str(new) for old, new in values.items()},
            parse=self.parser(key, kind, options),
            kind=kind,
            zone=self.zone(key, options) if kind is CellKind.TIME else None,
            day_ends=key == _DAY_ENDS,
        )

    def parser(self, key: str, kind: CellKind, options: Mapping[str, Any]) -> Parse:
        """Return the parser of the cells of a field."""
        match kind:
            case CellKind.TIME:
                return self.moment(key, options)
            case CellKind.NUMBER:
                numbers = self.numbers(key, options)
                scale = number_of(options, f"{key}.scale", 1.0)
                return lambda text: finite(numbers.number(text) * scale)
            case CellKind.INTEGER:
                numbers, max_value = self.numbers(key, options), _INTEGERS[key.rpartition(".")[2]]
                return lambda text: numbers.integer(text, max_value)
            case CellKind.ID:
                return _id_parser(key, options)
            case CellKind.TEXT:
                return impersonal

    def numbers(self, key: str, options: Mapping[str, Any]) -> NumberFormat:
        """Return how the numbers of a field are written."""
        return NumberFormat(self.decimal, self.thousands, units_of(options, f"{key}.unit"))

    def moment(self, key: str, options: Mapping[str, Any]) -> Parse:
        """Return the parser of the cells of a time."""
        zone = self.zone(key, options)
        clock = self._since_base(key, options, zone) if "base" in options else None
        clock = clock or self._clock(key, options)
        return clock_moment(clock, zone, end_of_day=key == _DAY_ENDS)

    def zone(self, key: str, options: Mapping[str, Any]) -> ZoneInfo:
        """Return the zone of the times of a field that name none."""
        name = text_of(options, f"{key}.time_zone", self.time_zone.key)
        return zone_of(name, f"{key}.time_zone")

    def _since_base(self, key: str, options: Mapping[str, Any], zone: ZoneInfo) -> Clock:
        step = number_of(options, f"{key}.step_ms", 1.0)
        try:
            base = datetime.fromisoformat(text_of(options, f"{key}.base", None))
        except ValueError:
            raise WrongKey(f"{key}.base", "is not an ISO 8601 time") from None
        # Days are counted on the calendar; other steps are time that passes.
        if base.tzinfo is None and step % DAY_MS:
            base = base.replace(tzinfo=zone).astimezone(UTC)
        return serial_clock(base, self.numbers(key, options).number, step)

    def _clock(self, key: str, options: Mapping[str, Any]) -> Clock:
        formats = options.get("format", "iso")
        given = [formats] if isinstance(formats, str) else formats
        if not isinstance(given, list) or not given or not all(isinstance(f, str) for f in given):
            raise WrongKey(f"{key}.format", "must be text or a list of texts")
        named = text_of(options, f"{key}.locale", self.locale) if "locale" in options else None
        locale = checked_locale(named or self.locale, f"{key}.locale")
        number = self.numbers(key, options).number
        return first_clock([_clock_of(f"{key}.format", form, number, locale) for form in given])


def plain_texts(table: Mapping[str, Any], key: str, name: str | None = None) -> frozenset[str]:
    """Return a list of texts as `comparable` makes them."""
    return frozenset(comparable(text).strip() for text in texts_of(table, key, name))


def _kind(key: str) -> CellKind:
    if key.startswith("lead.numbers."):
        return CellKind.NUMBER
    if key.startswith("lead.categories."):
        return CellKind.TEXT
    name = key.rpartition(".")[2]
    for names, kind in (
        (_TIMES, CellKind.TIME),
        (_NUMBERS, CellKind.NUMBER),
        (_INTEGERS, CellKind.INTEGER),
        ({"lead_id"}, CellKind.ID),
    ):
        if name in names:
            return kind
    return CellKind.TEXT


def _check_options(key: str, kind: CellKind, options: Mapping[str, Any]) -> None:
    """Raise WrongKey for options that do not go together, or not with this kind of field."""
    if "column" in options and "constant" in options:
        raise WrongKey(key, "takes a column or a constant, not both")
    if not options.keys() & {"column", "constant", "base", "line"}:
        raise WrongKey(key, "needs a column, a constant or a base")
    numbers = kind in (CellKind.NUMBER, CellKind.INTEGER)
    allowed = {
        "scale": kind is CellKind.NUMBER,
        "unit": numbers,
        "format": kind in (CellKind.TIME, CellKind.ID),
        "line": kind is CellKind.ID,
    } | dict.fromkeys(_FOR_TIMES, kind is CellKind.TIME)
    what = {"scale": "numbers", "unit": "numbers", "line": "lead_id"}
    for option in options:
        if not allowed.get(option, True):
            raise WrongKey(f"{key}.{option}", f"is for {what.get(option, 'times')} only")
    if "step_ms" in options and "base" not in options:
        raise WrongKey(f"{key}.step_ms", "needs a base")
    if "line" in options and options.keys() & {"column", "constant"}:
        raise WrongKey(key, "takes a column or line, not both")


def _clock_of(key: str, form: str, number: Callable[[str], float], locale: str | None) -> Clock:
    """Return the parser of one format. Raises WrongKey."""
    match form:
        case "epoch_ms":
            return epoch_clock(number, 1)
        case "epoch_s":
            return epoch_clock(number, 1000)
        case "excel" | "excel_1904":
            return serial_clock(EXCEL_BASES[form], number, DAY_MS)
        case "iso":
            return iso_clock
    _check_format(key, form)
    return strptime_clock(form, locale)


def _check_format(key: str, form: str) -> None:
    if "%Z" in form:
        raise WrongKey(key, "%Z depends on the machine: use %z, or time_zone for all rows")
    try:
        datetime.strptime("", form)  # noqa: DTZ007  # only to compile it
    except ValueError as error:
        if "does not match" not in str(error):
            raise WrongKey(key, "is neither a known name nor a format of strptime") from None
    except re.error:
        raise WrongKey(key, "repeats a part of the time") from None
    if not re.search("%[YyGcx]", form):
        raise WrongKey(key, "has no year")


def _id_parser(key: str, options: Mapping[str, Any]) -> Parse:
    if "line" in options:
        prefix = text_of(options, f"{key}.line", None)
        return lambda line: identifier(f"{prefix}{line}")
    form = text_of(options, f"{key}.format", "text")
    if form not in ("text", "integer"):
        raise WrongKey(f"{key}.format", 'must be "text" or "integer"')
    return integer_identifier if form == "integer" else identifier
