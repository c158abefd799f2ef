"""The fields of a mapping: a column or a constant, its options, and the parser that they make."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from leadstream.lead_fields import INT_LIMIT, LONG_LIMIT, FieldKind, fields_of_kind
from leadstream.personal import is_personal_column
from producer.values import (
    NUMBER,
    finite,
    identifier,
    impersonal,
    in_years,
    integer,
    milliseconds,
    parsed,
)
from schemas.description_file import FIELD_OPTIONS, INPUT_OPTIONS
from schemas.options import WrongKey, known, number_of, text_of, texts_of, zone_of

Value = str | float | int
Parse = Callable[[str], Value]

_NUMBERS = fields_of_kind(FieldKind.DOUBLE)
# The greatest value of each integer field.
_INTEGERS = {
    **dict.fromkeys(fields_of_kind(FieldKind.INT), INT_LIMIT - 1),
    "lead_version": LONG_LIMIT - 1,
}
_TIMES = fields_of_kind(FieldKind.TIME) | {"occurred_at", "decided_at"}
LEAD_KEYS = fields_of_kind(FieldKind.STRING) | _NUMBERS | _INTEGERS.keys() | _TIMES | {"lead_id"}
OWN_KEYS = ("lead.numbers.", "lead.categories.")


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
class FieldParsers:
    """The defaults of the file, and a parser for each kind of field."""

    decimal: str
    thousands: str
    missing: frozenset[str]
    time_zone: ZoneInfo

    def field(self, key: str, spec: Any) -> MappedField:  # whatever the TOML says
        """Return the field of a key; raises WrongKey for a wrong option."""
        options = {"column": spec} if isinstance(spec, str) else spec
        if not isinstance(options, dict):
            raise WrongKey(key, "must be the name of a column or a table of options")
        own = key.startswith(OWN_KEYS)
        known(options, key, FIELD_OPTIONS | (INPUT_OPTIONS if own else set()))
        if "column" in options and "constant" in options:
            raise WrongKey(key, "takes a column or a constant, not both")
        if not options.keys() & {"column", "constant", "base"}:
            raise WrongKey(key, "needs a column, a constant or a base")
        column = text_of(options, f"{key}.column", None) if "column" in options else None
        if column is not None and is_personal_column(column):
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
            missing=texts_of(options, f"{key}.missing") if "missing" in options else self.missing,
            values={old: str(new) for old, new in values.items()},
            parse=self.parser(key, options),
        )

    def parser(self, key: str, options: Mapping[str, Any]) -> Parse:
        """Return the parser of the cells of a field."""
        name = key.rpartition(".")[2]
        own = key.startswith(OWN_KEYS)
        if not own and name in _TIMES:
            return self.moment(key, options)
        for option in options.keys() & {"format", "time_zone", "base", "step_ms"}:
            raise WrongKey(f"{key}.{option}", "is for times only")
        if key.startswith("lead.numbers.") or (not own and name in _NUMBERS):
            scale = number_of(options, f"{key}.scale", 1.0)
            return lambda text: finite(self.number(text) * scale)
        if "scale" in options:
            raise WrongKey(f"{key}.scale", "is for numbers only")
        if not own and name in _INTEGERS:
            return lambda text: integer(self.number(text), _INTEGERS[name])
        return identifier if not own and name == "lead_id" else impersonal

    def number(self, text: str) -> float:
        """Return the number that a cell holds."""
        plain = text.replace(self.thousands, "") if self.thousands else text
        if self.decimal != ".":
            plain = plain.replace(self.decimal, ".") if "." not in plain else ""
        if not NUMBER.fullmatch(plain):
            raise ValueError("is not a number")
        return finite(float(plain))

    def moment(self, key: str, options: Mapping[str, Any]) -> Parse:
        """Return the parser of the cells of a time."""
        zone_name = text_of(options, f"{key}.time_zone", self.time_zone.key)
        zone = zone_of(zone_name, f"{key}.time_zone")
        if "base" in options:
            step = number_of(options, f"{key}.step_ms", 1.0)
            try:
                base = milliseconds(
                    datetime.fromisoformat(text_of(options, f"{key}.base", None)), zone
                )
            except ValueError:
                raise WrongKey(f"{key}.base", "is not an ISO 8601 time") from None
            return lambda text: in_years(base + round(self.number(text) * step))
        if "step_ms" in options:
            raise WrongKey(f"{key}.step_ms", "needs a base")
        form = text_of(options, f"{key}.format", "iso")
        match form:
            case "epoch_ms":
                return lambda text: in_years(int(self.number(text)))
            case "epoch_s":
                return lambda text: in_years(int(self.number(text) * 1000))
            case "iso":
                return lambda text: in_years(parsed(datetime.fromisoformat, text, zone))
            case _:
                # parsed gives it its zone
                read = lambda text: datetime.strptime(text, form)  # noqa: DTZ007, E731
                return lambda text: in_years(parsed(read, text, zone))
