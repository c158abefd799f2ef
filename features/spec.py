"""What goes into the features and what comes out: the specification that a model is trained and checked with."""

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from leadstream.errors import SettingsError

LONGEST_CATEGORY = 256
LARGEST_NUMBER = 1e15
LAST_MOMENT = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z in milliseconds

MOMENT, NUMBER, CATEGORY = "moment", "number", "category"
MEDIAN = "median"
OPTIONAL = ("score_cubed", "days_squared")

# As inputs these would leak the label or feed the model its own output; the last four are personal and never read.
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
    """One input: its name in the lead state, its kind, the range that counts as valid, and what replaces it.

    `kind` is "moment" (milliseconds UTC), "number" or "category"; for a category the range is its length in characters.
    `imputation` of a number is "median" (of training) or the number itself as text.
    """

    name: str
    kind: str
    low: float
    high: float
    imputation: str
    description: str


@dataclass(frozen=True, slots=True)
class CalendarSettings:
    """The calendar that moments are read in: an IANA time zone, the academic year's first day, the season's months.

    Raises SettingsError if the zone is unknown, the day does not exist in every year, or a month is not 1 to 12.
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


# What LeadState carries. Nothing here is known only after an application, and nothing is an answer of a model.
INPUTS = (
    FeatureSpec(
        "created_at",
        MOMENT,
        0,
        LAST_MOMENT,
        "refused",
        "when the lead was created; the row fails without it",
    ),
    FeatureSpec(
        "lead_score", NUMBER, 0, LARGEST_NUMBER, "median", "the CRM's own score, on its own scale"
    ),
    FeatureSpec(
        "engagement_score", NUMBER, 0, 100, "median", "how engaged the lead is, in per cent"
    ),
    FeatureSpec("touchpoint_count", NUMBER, 0, 1e6, "median", "contacts with the lead so far"),
    FeatureSpec(
        "lifecycle_state",
        CATEGORY,
        1,
        LONGEST_CATEGORY,
        "missing",
        "where the lead stands in the CRM's cycle",
    ),
    FeatureSpec("status", CATEGORY, 1, LONGEST_CATEGORY, "missing", "the CRM's status of the lead"),
    FeatureSpec("source", CATEGORY, 1, LONGEST_CATEGORY, "missing", "where the enquiry came from"),
    FeatureSpec(
        "programme_name", CATEGORY, 1, LONGEST_CATEGORY, "missing", "the programme enquired about"
    ),
    FeatureSpec(
        "campus_name", CATEGORY, 1, LONGEST_CATEGORY, "missing", "the campus enquired about"
    ),
)

# Output -> formula, in matrix order. The text is part of the hash: a changed formula is another specification.
FORMULAS = {
    "lead_score": "lead_score",
    "engagement_score": "engagement_score",
    "touchpoint_count": "touchpoint_count",
    "days_since_creation": "max(0, as_of - created_at) in days of 24 hours, with fractions",
    "created_month": "month of created_at, 1 to 12",
    "created_day_of_week": "weekday of created_at, 0 = Monday to 6 = Sunday",
    "created_hour": "hour of created_at, 0 to 23",
    "academic_week": "week of created_at in its academic year, 1 to 53; week 1 starts with the year's first day",
    "is_application_season": "1 if created_at lies in a month of the season, else 0",
    "score_squared": "lead_score^2",
    "score_cubed": "lead_score^3",
    "score_log": "ln(1 + lead_score)",
    "score_percentile": "mid-rank share of lead_score in training",
    "engagement_squared": "engagement_score^2",
    "engagement_percentile": "mid-rank share of engagement_score in training",
    "touchpoint_log": "ln(1 + touchpoint_count)",
    "touchpoint_percentile": "mid-rank share of touchpoint_count in training",
    "days_squared": "days_since_creation^2",
    "score_engagement_interaction": "lead_score * engagement_score",
    "score_time_interaction": "lead_score / (1 + days_since_creation)",
    "score_engagement_score_interaction": "score_percentile * engagement_percentile",
    "score_touchpoint_interaction": "lead_score * touchpoint_count",
    "lifecycle_state": "code of lifecycle_state",
    "status": "code of status",
    "engagement_level": "code of the level: high from 80, medium from 50, else low; missing if engagement_score is",
    "source": "code of source",
    "campus_preference": "code of campus_name",
    "programme_name": "code of programme_name",
    "lead_score_missing": "1 if lead_score was imputed, else 0",
    "engagement_score_missing": "1 if engagement_score was imputed, else 0",
    "touchpoint_count_missing": "1 if touchpoint_count was imputed, else 0",
}


@dataclass(frozen=True, slots=True)
class Specification:
    """The inputs that a model reads, the names of its outputs in matrix order, and its calendar."""

    inputs: tuple[FeatureSpec, ...]
    outputs: tuple[str, ...]
    calendar: CalendarSettings

    def of_kind(self, kind: str) -> tuple[FeatureSpec, ...]:
        """The inputs of one kind, in the order of the specification."""
        return tuple(spec for spec in self.inputs if spec.kind == kind)

    def to_json(self) -> str:
        """Canonical JSON (sorted keys, no spaces, ASCII) of all that decides a value; descriptions do not."""
        facts = {
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
        return json.dumps(facts, sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """sha256 of `to_json()`, worked out anew: after a formula changed it differs from the hash kept at training."""
        return hashlib.sha256(self.to_json().encode("ascii")).hexdigest()


def specify(
    calendar: CalendarSettings | None = None,
    numbers: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    optional: tuple[str, ...] = OPTIONAL,
    own: tuple[FeatureSpec, ...] = (),
) -> Specification:
    """The standard specification, with a CRM's own fields (`numbers`, `categories`: names in the maps of LeadState).

    `own` are further ones as `own_fields` reads them from a file; `optional` names the optional outputs to compute.
    Raises SettingsError for a name that cannot be an input.
    """
    for name in (*numbers, *categories, *(spec.name.partition(".")[2] for spec in own)):
        if not name or len(name) > LONGEST_CATEGORY or not name.isprintable():
            raise SettingsError(
                f"{name!r} cannot name a field: use 1 to {LONGEST_CATEGORY} printable characters"
            )
        if name.strip().casefold() in FORBIDDEN:
            raise SettingsError(
                f"{name!r} cannot be an input: it is an outcome, a prediction or personal"
            )
    if unknown := set(optional) - set(OPTIONAL):
        raise SettingsError(
            f"not an optional feature: {', '.join(sorted(unknown))}; there are {', '.join(OPTIONAL)}"
        )
    own = (
        *(
            FeatureSpec(
                f"numbers.{n}", NUMBER, -LARGEST_NUMBER, LARGEST_NUMBER, MEDIAN, "own field"
            )
            for n in numbers
        ),
        *(
            FeatureSpec(f"categories.{n}", CATEGORY, 1, LONGEST_CATEGORY, "missing", "own field")
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
