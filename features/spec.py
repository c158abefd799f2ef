"""The specification of a model's features: its inputs, its outputs and its calendar.

A model is trained and checked with it. Its hash tells whether this code computes what the model
was trained with.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from features.definitions import BY_NAME, FEATURE_OF_INPUT, FEATURES
from leadstream.errors import SettingsError
from leadstream.lead_fields import (
    CRM_FIELDS,
    END_TIME_MS,
    MAX_CATEGORY_CHARACTERS,
    MAX_NUMBER,
    FieldKind,
    LeadField,
)

LAST_MOMENT = END_TIME_MS - 1  # 9999-12-31T23:59:59.999Z in milliseconds

MOMENT, NUMBER, CATEGORY = "moment", "number", "category"
MEDIAN = "median"
OPTIONAL = tuple(feature.name for feature in FEATURES if feature.optional)

# As inputs these would leak the label or feed the model its own output; the last four are personal
# and never read.
FORBIDDEN = (
    "application_source",
    "conversion_probability",
    "converted",
    "has_application",
    "email",
    "first_name",
    "last_name",
    "phone",
)


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One input: its name in the lead state, its kind, its valid range, and its imputation.

    `kind` is "moment" (milliseconds UTC), "number" or "category". The range of a category is its
    length in characters. The `imputation` of a number is "median" (of training) or the number
    itself as text.
    """

    name: str
    kind: str
    low: float
    high: float
    imputation: str
    description: str


@dataclass(frozen=True, slots=True)
class CalendarSettings:
    """The calendar in which moments are read.

    It has an IANA time zone, the first day of the academic year, and the months of the application
    season. Raises SettingsError if the zone is unknown, if the day does not exist in every year, or
    if a month is not 1 to 12.
    """

    time_zone: str = "UTC"
    academic_year_month: int = 9
    academic_year_day: int = 1
    season_months: tuple[int, ...] = (9, 10, 11, 12, 1)

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.time_zone)
        except (KeyError, ValueError, OSError) as error:
            raise SettingsError(
                f"the time zone {self.time_zone!r} is not known; use a name like Europe/London"
            ) from error
        try:
            date(2023, self.academic_year_month, self.academic_year_day)  # 2023 has no 29 February
        except ValueError as error:
            start = f"month {self.academic_year_month}, day {self.academic_year_day}"
            raise SettingsError(
                f"the academic year cannot start on {start}; use a day that every year has"
            ) from error
        if not set(self.season_months) <= set(range(1, 13)):
            raise SettingsError(
                f"the season's months are numbers from 1 to 12, not {self.season_months}"
            )
        object.__setattr__(self, "season_months", tuple(sorted(set(self.season_months))))


_KINDS = {
    FieldKind.TIME: (MOMENT, "refused"),
    FieldKind.DOUBLE: (NUMBER, MEDIAN),
    FieldKind.INT: (NUMBER, MEDIAN),
    FieldKind.STRING: (CATEGORY, "missing"),
}


def _input(field: LeadField) -> FeatureSpec:
    kind, imputation = _KINDS[field.kind]
    return FeatureSpec(field.name, kind, field.low, field.high, imputation, field.description)


# Nothing here is known only after an application, and nothing is an answer of a model.
INPUTS = tuple(
    _input(field)
    for field in CRM_FIELDS
    if field.kind is FieldKind.TIME or field.name in FEATURE_OF_INPUT
)

# Output -> formula, in matrix order. The text is part of the hash.
FORMULAS = {feature.name: feature.formula for feature in FEATURES}


@dataclass(frozen=True, slots=True)
class Specification:
    """The inputs that a model reads, the names of its outputs in matrix order, and its calendar."""

    inputs: tuple[FeatureSpec, ...]
    outputs: tuple[str, ...]
    calendar: CalendarSettings

    def inputs_of_kind(self, kind: str) -> tuple[FeatureSpec, ...]:
        """Return the inputs of one kind, in the order of the specification."""
        return tuple(spec for spec in self.inputs if spec.kind == kind)

    def fields_of(self, output: str) -> tuple[str, ...]:
        """Return the names of the inputs that an output is computed from."""
        if output in BY_NAME:
            return BY_NAME[output].fields
        named = any(spec.name == output for spec in self.inputs)
        return (output if named else output.removesuffix("_missing"),)

    def to_json(self) -> str:
        """Return canonical JSON of everything that decides a value; descriptions do not.

        The JSON has sorted keys, no spaces, and ASCII characters only.
        """
        content = {
            "inputs": [
                [s.name, s.kind, float(s.low), float(s.high), s.imputation] for s in self.inputs
            ],
            "outputs": [[name, FORMULAS.get(name, "the field itself")] for name in self.outputs],
            "calendar": {
                "time_zone": self.calendar.time_zone,
                "academic_year_start": [
                    self.calendar.academic_year_month,
                    self.calendar.academic_year_day,
                ],
                "season_months": list(self.calendar.season_months),
            },
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """The SHA-256 of `to_json()` in hexadecimal, computed at each call.

        After a formula changed, it differs from the hash that training kept.
        """
        return hashlib.sha256(self.to_json().encode("ascii")).hexdigest()


def specify(
    calendar: CalendarSettings | None = None,
    numbers: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    optional: tuple[str, ...] = OPTIONAL,
    own: tuple[FeatureSpec, ...] = (),
) -> Specification:
    """Build the standard specification, with a CRM's own fields.

    `numbers` and `categories` are names in the maps of LeadState, with default ranges; `own` are
    fields with ranges of their own, as `own_fields` reads them. `optional` names the optional
    outputs to compute. Raises SettingsError for a name that cannot be an input.
    """
    for name in (*numbers, *categories, *(spec.name.partition(".")[2] for spec in own)):
        _check_name(name)
    if unknown := set(optional) - set(OPTIONAL):
        raise SettingsError(
            f"not an optional feature: {', '.join(sorted(unknown))}; "
            f"there are {', '.join(OPTIONAL)}"
        )
    own = (
        *(
            FeatureSpec(f"numbers.{n}", NUMBER, -MAX_NUMBER, MAX_NUMBER, MEDIAN, "own field")
            for n in numbers
        ),
        *(
            FeatureSpec(
                f"categories.{n}", CATEGORY, 1, MAX_CATEGORY_CHARACTERS, "missing", "own field"
            )
            for n in categories
        ),
        *own,
    )
    outputs = (
        *(name for name in FORMULAS if name not in OPTIONAL or name in optional),
        *(spec.name for spec in own),
        *(f"{spec.name}_missing" for spec in own if spec.kind == NUMBER),
    )
    if len(set(outputs)) < len(outputs):
        twice = sorted({name for name in outputs if outputs.count(name) > 1})
        raise SettingsError(f"two features would have the same name: {', '.join(twice)}")
    return Specification((*INPUTS, *own), outputs, calendar or CalendarSettings())


def _check_name(name: str) -> None:
    if not name or len(name) > MAX_CATEGORY_CHARACTERS or not name.isprintable():
        raise SettingsError(
            f"{name!r} cannot name a field: use 1 to {MAX_CATEGORY_CHARACTERS} printable characters"
        )
    if name.strip().casefold() in FORBIDDEN:
        raise SettingsError(
            f"{name!r} cannot be an input: it is an outcome, a prediction or personal"
        )
