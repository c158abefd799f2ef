"""Each formula against values worked out by hand, and what bad inputs become."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from features import (
    MISSING,
    STATE_FIELDS,
    UNKNOWN,
    CalendarSettings,
    FittedFeatures,
    columns_of,
    specify,
)
from features.columns import as_codes, as_numbers, fit_vocabulary
from features.distribution import GRID_POINTS, fit_distribution, percentile
from features.fitted import FeatureMatrix
from leadstream.errors import UserError

DAY = 86_400_000
CREATED = 1_757_930_400_000  # Monday 15 September 2025, 10:00 UTC

TRAINING: list[dict[str, Any]] = [
    {
        "created_at": CREATED - day * DAY,
        "lead_score": score,
        "engagement_score": engagement,
        "touchpoint_count": touchpoints,
        "lifecycle_state": state,
        "status": "open",
        "source": source,
        "numbers": {"visits": -score},
        "categories": {"country": "PL"},
    }
    for day, score, engagement, touchpoints, state, source in [
        (0, 10.0, 20.0, 1, "new", "Web"),
        (1, 20.0, 40.0, 1, "new", "fair"),
        (2, 30.0, 60.0, 3, "old", " WEB "),
        (3, 40.0, 80.0, 7, "mid", "web"),
    ]
]
SPECIFICATION = specify(numbers=("visits",), categories=("country",))
FITTED = FittedFeatures.fit(columns_of(TRAINING), np.full(4, CREATED), SPECIFICATION)


def transform(*states: Mapping[str, Any], days: float = 0.0) -> FeatureMatrix:
    return FITTED.transform(columns_of(states), np.full(len(states), CREATED + round(days * DAY)))


def row(days: float = 0.0, **state: object) -> dict[str, float]:
    matrix = transform({"created_at": CREATED, **state}, days=days)
    assert not matrix.failed
    return dict(zip(matrix.names, matrix.values[0].tolist(), strict=True))


def test_every_formula_gives_what_the_hand_gives() -> None:
    computed = row(
        days=2.5,
        lead_score=20.0,
        engagement_score=50.0,
        touchpoint_count=7,
        lifecycle_state="old",
        status="Open",
        source="fair",
        programme_name="MSc Data",
        numbers={"visits": 4.0},
        categories={"country": "pl"},
    )
    expected = {
        "lead_score": 20.0,
        "engagement_score": 50.0,
        "touchpoint_count": 7.0,
        "days_since_creation": 2.5,
        "created_month": 9.0,
        "created_day_of_week": 0.0,
        "created_hour": 10.0,
        "academic_week": 3.0,
        "is_application_season": 1.0,
        "score_squared": 400.0,
        "score_cubed": 8000.0,
        "score_log": math.log(21),
        "score_percentile": 0.375,  # one of four below, and half of the one that is equal
        "engagement_squared": 2500.0,
        "engagement_percentile": 0.5,  # between 40 (0.375) and 60 (0.625)
        "touchpoint_log": math.log(8),
        "touchpoint_percentile": 0.875,
        "days_squared": 6.25,
        "score_engagement_interaction": 1000.0,
        "score_time_interaction": 20 / 3.5,
        "score_engagement_score_interaction": 0.1875,
        "score_touchpoint_interaction": 140.0,
        "lifecycle_state": 4.0,  # new 2, then mid 3 and old 4, which are equally frequent
        "status": 2.0,
        "engagement_level": 3.0,
        "source": 3.0,
        "campus_preference": MISSING,
        "programme_name": UNKNOWN,
        "lead_score_missing": 0.0,
        "engagement_score_missing": 0.0,
        "touchpoint_count_missing": 0.0,
        "numbers.visits": 4.0,
        "numbers.visits_missing": 0.0,
        "categories.country": 2.0,
    }
    assert list(computed) == list(SPECIFICATION.outputs)
    assert computed == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("engagement", "level"),
    [(None, MISSING), (0, 2), (49.999, 2), (50, 3), (79.999, 3), (80, 4), (100, 4), (101, MISSING)],
)
def test_an_absent_engagement_is_missing_and_not_low(
    engagement: float | None, level: float
) -> None:
    assert row(engagement_score=engagement)["engagement_level"] == level


@pytest.mark.parametrize(
    "value",
    [
        None,
        math.nan,
        math.inf,
        -math.inf,
        -0.001,
        1.1e15,
        1e308,
        10**400,
        -(10**400),
        "12",
        "",
        b"1",
        "nan",
        [],
        {},
        object(),
    ],
)
def test_a_number_that_is_none_becomes_the_training_median_and_says_so(value: object) -> None:
    """A score over 1e15 or as text is as absent as NULL, also when only one value of the column is
    odd.
    """
    matrix = transform(
        {"created_at": CREATED, "lead_score": value}, {"created_at": CREATED, "lead_score": 30.0}
    )
    scores = matrix.values[
        :, [matrix.names.index(n) for n in ("lead_score", "score_percentile", "lead_score_missing")]
    ]
    assert scores.tolist() == [[25.0, 0.5, 1.0], [30.0, 0.625, 0.0]]
    assert matrix.imputed == [
        ("lead_score", "engagement_score", "touchpoint_count", "numbers.visits"),
        ("engagement_score", "touchpoint_count", "numbers.visits"),
    ]


@pytest.mark.parametrize("value", [30, 30.0, np.float64(30), np.int32(30), Decimal(30)])
def test_a_number_of_any_type_is_the_same_number(value: object) -> None:
    assert row(lead_score=value)["lead_score"] == 30.0
    assert row(lead_score=value)["lead_score_missing"] == 0.0


def test_numbers_beyond_float64_do_not_disturb_their_neighbours() -> None:
    assert as_numbers([1, None, 10**400, 2.5]).tolist()[::3] == [1.0, 2.5]


@pytest.mark.parametrize("value", [None, "", "  \t", math.nan, 3, b"new", ["new"], {}])
def test_a_category_that_is_not_text_is_missing(value: object) -> None:
    assert row(lifecycle_state=value, categories={"country": value})["lifecycle_state"] == MISSING
    assert (
        row(lifecycle_state=value, categories={"country": value})["categories.country"] == MISSING
    )


@pytest.mark.parametrize(
    "value", ["never seen", "new" + "\0", "new" * 100, " " * 300, "\ud800", "x" * 1_000_000]
)
def test_a_category_that_training_never_saw_is_unknown_and_not_missing(value: str) -> None:
    assert row(lifecycle_state=value)["lifecycle_state"] == UNKNOWN


@pytest.mark.parametrize("value", ["new", "NEW", " new\n", "New"])
def test_case_and_outer_white_space_do_not_make_another_category(value: str) -> None:
    assert row(lifecycle_state=value)["lifecycle_state"] == 2.0


@pytest.mark.parametrize(
    "value",
    ["Cafe\u0301", "Caf\u00e9\u200b", "\ufeffCaf\u00e9", "\uff23af\u00e9\u00a0", "CAF\u00c9"],
)
def test_texts_that_look_the_same_are_one_category_also_for_models_of_before(value: str) -> None:
    known = {"caf\u00e9": 2, "o\u0308l": 3}  # the second one as models of before may have it
    assert as_codes([value, "O\u0308l", "\u200b"], known).tolist() == [2.0, 3.0, MISSING]
    assert list(fit_vocabulary([value] * 100)) == ["caf\u00e9"]


def test_case_is_folded_as_unicode_has_it_and_not_only_for_english() -> None:
    states = [
        {"created_at": CREATED, "campus_name": name}
        for name in ("Großstraße", "GROSSSTRASSE", "Σίσυφος")
    ]
    fitted = FittedFeatures.fit(columns_of(states), np.full(3, CREATED), specify())
    assert fitted.vocabularies["campus_name"] == {"grossstrasse": 2, "σίσυφοσ": 3}


def test_the_vocabulary_is_bounded_and_keeps_the_most_frequent() -> None:
    names = [f"p{i:03}" for i in range(100) for _ in range(22 if i >= 90 else 21)]
    states = [{"created_at": CREATED, "programme_name": name} for name in [*names, "x" * 257]]
    fitted = FittedFeatures.fit(columns_of(states), np.full(len(states), CREATED), specify())
    vocabulary = fitted.vocabularies["programme_name"]
    assert list(vocabulary) == [f"p{i:03}" for i in (*range(90, 100), *range(54))]
    assert list(vocabulary.values()) == list(range(2, 66))


def test_a_rare_category_is_unknown_and_not_a_number_that_trees_learn_by_heart() -> None:
    names = ["often"] * 2000 + ["enough"] * 20 + ["rare"] * 19
    states = [{"created_at": CREATED, "source": name} for name in names]
    fitted = FittedFeatures.fit(columns_of(states), np.full(len(states), CREATED), specify())
    assert fitted.vocabularies["source"] == {"often": 2, "enough": 3}
    asked = [{"created_at": CREATED, "source": name} for name in ("rare", "never seen", None)]
    made = fitted.transform(columns_of(asked), np.full(3, CREATED))
    assert made.values[:, made.names.index("source")].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "created_at", [None, math.nan, -1, 253_402_300_800_000, 10**30, -(10**400), "2025", math.inf]
)
def test_a_row_without_a_usable_created_at_fails_alone(created_at: object) -> None:
    good = {"created_at": CREATED, "lead_score": 12.0}
    matrix = transform(good, {**good, "created_at": created_at}, good)
    assert set(matrix.failed) == {1}
    absent = (
        created_at is None or created_at == "2025" or created_at != created_at
    )  # the last is NaN
    assert (
        matrix.failed[1]
        == f"created_at is {'missing' if absent else 'outside the years 1970 to 9999'}"
    )
    assert not matrix.values[1].any()
    assert (matrix.coverage[1], matrix.unusual[1], matrix.imputed[1]) == (0.0, 0.0, ())
    assert matrix.values[[0, 2]].tobytes() == transform(good, good).values.tobytes()


def test_a_moment_of_prediction_outside_the_calendar_fails_its_row() -> None:
    matrix = FITTED.transform({"created_at": [CREATED, CREATED]}, np.array([-5, CREATED]))
    assert matrix.failed == {0: "as_of is outside the years 1970 to 9999"}


def test_the_first_and_last_moment_are_valid_and_a_lead_from_the_future_has_age_zero() -> None:
    moments = np.array([0, 253_402_300_799_999, CREATED])
    matrix = FITTED.transform({"created_at": [0, 253_402_300_799_999, CREATED + DAY]}, moments)
    assert not matrix.failed
    assert matrix.values[:, matrix.names.index("days_since_creation")].tolist() == [0.0, 0.0, 0.0]


def test_coverage_counts_the_inputs_that_are_present_and_valid() -> None:
    full = {
        "lead_score": 20,
        "engagement_score": 40,
        "touchpoint_count": 1,
        "lifecycle_state": "new",
        "status": "open",
    }
    full |= {"source": "web", "programme_name": "x", "campus_name": "y"}
    own = {"numbers": {"visits": -20.0}, "categories": {"country": "PL"}}
    matrix = transform(
        {"created_at": CREATED},
        {"created_at": CREATED, **full, **own},
        {
            "created_at": CREATED,
            **full,
            "lead_score": math.nan,
            "source": "",
            "numbers": None,
            "categories": {},
        },
    )
    assert matrix.coverage.tolist() == [1 / 11, 1.0, 7 / 11]


def test_unusual_is_the_share_of_present_inputs_that_training_did_not_see() -> None:
    matrix = transform(
        {"created_at": CREATED, "lead_score": 10.0, "status": "open"},
        {"created_at": CREATED, "lead_score": 9.0, "status": "closed"},  # too low, never seen
        {"created_at": CREATED, "lead_score": math.nan, "status": None},  # absent is not unusual
        {
            "created_at": CREATED - 9 * DAY,
            "campus_name": "North",
        },  # too old, and no campus was ever seen
    )
    assert matrix.unusual.tolist() == [0.0, 2 / 3, 0.0, 1.0]


def test_a_percentile_does_not_depend_on_the_batch_but_on_training() -> None:
    """The audited pipeline ranked inside the request: a lead alone always came out in the
    middle.
    """
    scores = [5.0, 10.0, 12.0, 15.0, 40.0, 41.0]
    expected = [0.0, 0.125, 0.175, 0.25, 0.875, 1.0]
    assert [row(lead_score=s)["score_percentile"] for s in scores] == pytest.approx(
        expected, rel=1e-12
    )


def test_a_distribution_of_many_values_is_bounded_and_close_to_the_mid_rank() -> None:
    random = np.random.default_rng(3)
    values = np.where(random.random(50_000) < 0.3, 0.0, random.lognormal(size=50_000))
    kept = fit_distribution(values, 0.0)
    assert len(kept.grid) <= GRID_POINTS
    assert (kept.grid[0], kept.grid[-1]) == (values.min(), values.max())
    ordered = np.sort(values)
    exact = (
        (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right"))
        / 2
        / len(values)
    )
    assert np.abs(percentile(kept, values) - exact).max() < 0.001


def test_a_training_set_of_one_value_has_percentiles_below_at_and_above_it() -> None:
    kept = fit_distribution(np.array([3.0, 3.0]), 0.0)
    assert percentile(kept, np.array([2.0, 3.0, 4.0])).tolist() == [0.0, 0.5, 1.0]


def test_values_that_differ_by_the_least_possible_do_not_divide_by_zero() -> None:
    kept = fit_distribution(np.array([0.0, 5e-324]), 0.0)
    assert percentile(kept, np.array([0.0, 5e-324])).tolist() == [0.25, 0.75]


def test_an_input_that_training_never_had_is_constant_and_unusual_when_it_comes() -> None:
    fitted = FittedFeatures.fit(
        {"created_at": [CREATED]}, np.array([CREATED]), specify(numbers=("n",))
    )
    matrix = fitted.transform(
        {"created_at": [CREATED] * 2, "lead_score": [None, 3.0]}, np.full(2, CREATED)
    )
    columns = [matrix.names.index(name) for name in ("lead_score", "score_percentile", "numbers.n")]
    assert matrix.values[:, columns].tolist() == [[0.0, 0.5, 0.0], [3.0, 0.5, 0.0]]
    assert matrix.unusual.tolist() == [0.0, 0.5]


def test_failed_rows_teach_nothing_and_a_table_of_only_those_is_refused() -> None:
    spoilt = [*TRAINING, {**TRAINING[0], "created_at": None, "lead_score": 1e6, "status": "spoilt"}]
    fitted = FittedFeatures.fit(columns_of(spoilt), np.full(5, CREATED), SPECIFICATION)
    assert fitted.distributions["lead_score"].median == 25.0
    assert fitted.vocabularies == FITTED.vocabularies
    with pytest.raises(UserError, match="created_at"):
        FittedFeatures.fit({"created_at": [None]}, np.array([CREATED]), SPECIFICATION)


def test_an_empty_batch_gives_an_empty_matrix() -> None:
    matrix = transform()
    assert matrix.values.shape == (0, len(SPECIFICATION.outputs))
    assert (list(matrix.imputed), matrix.failed) == ([], {})


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="lead_score has 2 values, not 1"):
        FITTED.transform({"created_at": [CREATED], "lead_score": [1.0, 2.0]}, np.array([CREATED]))


def test_a_state_without_a_field_has_none_in_its_column() -> None:
    columns = columns_of(
        [{"created_at": 1, "numbers": {"a": 1.0}, "email": "never read"}, {"status": "open"}]
    )
    assert tuple(columns) == STATE_FIELDS
    assert columns["created_at"] == (1, None)
    assert columns["status"] == (None, "open")


def test_a_field_that_the_specification_does_not_name_changes_nothing() -> None:
    """conversion_probability and the fields of an application may arrive; they are not
    looked at.
    """
    state = {"created_at": CREATED, "lead_score": 12.0, "numbers": {"visits": 3.0}}
    extra = {"conversion_probability": 0.99, "application_source": "x", "applications": [1]}
    numbers = {"visits": 3.0, "conversion_probability": 0.99}
    assert (
        transform(state).values.tobytes()
        == transform({**state, **extra, "numbers": numbers}).values.tobytes()
    )


def test_the_largest_valid_inputs_are_finite() -> None:
    matrix = transform(
        {
            "created_at": 0,
            "lead_score": 1e15,
            "engagement_score": 100,
            "touchpoint_count": 1e6,
            "numbers": {"visits": -1e15},
        },
        days=2_900_000,
    )
    assert np.isfinite(matrix.values).all()
    assert matrix.values[0, matrix.names.index("score_cubed")] == 1e15 * 1e15 * 1e15
    assert matrix.imputed == [()]


def test_the_zone_of_the_calendar_travels_with_the_fitted_features() -> None:
    specification = specify(CalendarSettings("Asia/Tokyo"))
    fitted = FittedFeatures.fit(columns_of(TRAINING), np.full(4, CREATED), specification)
    matrix = fitted.transform(columns_of(TRAINING[:1]), np.array([CREATED]))
    assert matrix.values[0, matrix.names.index("created_hour")] == 19.0
    assert fitted.specification_hash == specification.hash
