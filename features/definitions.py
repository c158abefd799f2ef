"""The registry of features: each has a name, a formula in words, and a function.

A new feature is one more entry in `FEATURES`. Its place there is its place in the matrix. A number
needs a second entry, `…_missing`, which monitoring reads.

The formula in words is part of a specification's hash. When a function changes, change its words
too, so that the consumer refuses a model that was trained with the old formula.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from features.columns import FIRST, MISSING, Floats

ENGAGEMENT_LEVELS = {"low": FIRST, "medium": FIRST + 1, "high": FIRST + 2}


@dataclass(frozen=True, slots=True, eq=False)
class FeatureInputs:
    """The arrays that the features of n leads are computed from; each is float64 (n,).

    `numbers` are the numeric inputs with imputed values filled in, `missing` is 1 where a value was
    imputed, and `codes` are the codes of the categories, all by the name of the input.
    `percentiles` are the mid-rank shares of `numbers` in training. `calendar` is what
    `calendar_fields` returns. `days` is the age of a lead in days.
    """

    numbers: Mapping[str, Floats]
    missing: Mapping[str, Floats]
    codes: Mapping[str, Floats]
    percentiles: Mapping[str, Floats]
    calendar: Mapping[str, Floats]
    days: Floats


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the matrix; an `optional` one can be left out of a specification.

    `fields` are the fields of a lead that it is computed from: reasons name these. `input` is the
    field whose number or code this feature is, if it is one. Models read the fields that are an
    `input` here, and ignore the others.
    """

    name: str
    formula: str
    compute: Callable[[FeatureInputs], Floats]
    fields: tuple[str, ...]
    optional: bool = False
    input: str | None = None


def _number(name: str) -> Feature:
    return Feature(name, name, lambda inputs: inputs.numbers[name], (name,), input=name)


def _missing(name: str, number: str) -> Feature:
    words = f"1 if {number} was imputed, else 0"
    return Feature(name, words, lambda inputs: inputs.missing[number], (number,))


def _code(name: str, category: str) -> Feature:
    words = f"code of {category}"
    return Feature(name, words, lambda inputs: inputs.codes[category], (category,), input=category)


def _percentile(name: str, number: str) -> Feature:
    words = f"mid-rank share of {number} in training"
    return Feature(name, words, lambda inputs: inputs.percentiles[number], (number,))


def _calendar(name: str, formula: str) -> Feature:
    return Feature(name, formula, lambda inputs: inputs.calendar[name], ("created_at",))


def _engagement_level(inputs: FeatureInputs) -> Floats:
    engagement = inputs.numbers["engagement_score"]
    level = ENGAGEMENT_LEVELS["low"] + (engagement >= 50).astype(np.float64) + (engagement >= 80)
    return np.where(inputs.missing["engagement_score"] == 0, level, MISSING)


def _score_cubed(inputs: FeatureInputs) -> Floats:
    score = inputs.numbers["lead_score"]
    return score * score * score


FEATURES = (
    _number("lead_score"),
    _number("engagement_score"),
    _number("touchpoint_count"),
    Feature(
        "days_since_creation",
        "max(0, as_of - created_at) in days of 24 hours, with fractions",
        lambda inputs: inputs.days,
        ("created_at",),
    ),
    _calendar("created_month", "month of created_at, 1 to 12"),
    _calendar("created_day_of_week", "weekday of created_at, 0 = Monday to 6 = Sunday"),
    _calendar("created_hour", "hour of created_at, 0 to 23"),
    _calendar(
        "academic_week",
        "week of created_at in its academic year, 1 to 53; week 1 starts with the year's first day",
    ),
    _calendar("is_application_season", "1 if created_at lies in a month of the season, else 0"),
    Feature(
        "score_squared",
        "lead_score^2",
        lambda inputs: inputs.numbers["lead_score"] * inputs.numbers["lead_score"],
        ("lead_score",),
    ),
    Feature("score_cubed", "lead_score^3", _score_cubed, ("lead_score",), optional=True),
    Feature(
        "score_log",
        "ln(1 + lead_score)",
        lambda inputs: np.log1p(inputs.numbers["lead_score"]),
        ("lead_score",),
    ),
    _percentile("score_percentile", "lead_score"),
    Feature(
        "engagement_squared",
        "engagement_score^2",
        lambda inputs: inputs.numbers["engagement_score"] * inputs.numbers["engagement_score"],
        ("engagement_score",),
    ),
    _percentile("engagement_percentile", "engagement_score"),
    Feature(
        "touchpoint_log",
        "ln(1 + touchpoint_count)",
        lambda inputs: np.log1p(inputs.numbers["touchpoint_count"]),
        ("touchpoint_count",),
    ),
    _percentile("touchpoint_percentile", "touchpoint_count"),
    Feature(
        "days_squared",
        "days_since_creation^2",
        lambda inputs: inputs.days * inputs.days,
        ("created_at",),
        optional=True,
    ),
    Feature(
        "score_engagement_interaction",
        "lead_score * engagement_score",
        lambda inputs: inputs.numbers["lead_score"] * inputs.numbers["engagement_score"],
        ("lead_score", "engagement_score"),
    ),
    Feature(
        "score_time_interaction",
        "lead_score / (1 + days_since_creation)",
        lambda inputs: inputs.numbers["lead_score"] / (1.0 + inputs.days),
        ("lead_score", "created_at"),
    ),
    Feature(
        "score_engagement_score_interaction",
        "score_percentile * engagement_percentile",
        lambda inputs: inputs.percentiles["lead_score"] * inputs.percentiles["engagement_score"],
        ("lead_score", "engagement_score"),
    ),
    Feature(
        "score_touchpoint_interaction",
        "lead_score * touchpoint_count",
        lambda inputs: inputs.numbers["lead_score"] * inputs.numbers["touchpoint_count"],
        ("lead_score", "touchpoint_count"),
    ),
    _code("lifecycle_state", "lifecycle_state"),
    _code("status", "status"),
    Feature(
        "engagement_level",
        "code of the level: high from 80, medium from 50, else low; missing if engagement_score is",
        _engagement_level,
        ("engagement_score",),
    ),
    _code("source", "source"),
    _code("campus_preference", "campus_name"),
    _code("programme_name", "programme_name"),
    _missing("lead_score_missing", "lead_score"),
    _missing("engagement_score_missing", "engagement_score"),
    _missing("touchpoint_count_missing", "touchpoint_count"),
)
BY_NAME = {feature.name: feature for feature in FEATURES}
# The feature that is the number or the code of each input.
FEATURE_OF_INPUT = {feature.input: feature.name for feature in FEATURES if feature.input}
