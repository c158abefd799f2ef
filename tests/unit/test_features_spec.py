"""The specification: what may be an input, what its hash depends on, and the page that documents
it.
"""

import json
import pickle
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features import (
    FORMULAS,
    STATE_FIELDS,
    CalendarSettings,
    Columns,
    FittedFeatures,
    own_fields,
    specify,
)
from features.calendar import build_calendar, calendar_fields
from features.definitions import BY_NAME, FEATURE_OF_INPUT, FEATURES, Feature, FeatureInputs
from features.spec import CATEGORY, FORBIDDEN, INPUTS, MOMENT, NUMBER, OPTIONAL, FeatureSpec
from leadstream.errors import SettingsError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "features.md"

AUDITED = {
    "lead_score",
    "engagement_score",
    "touchpoint_count",
    "days_since_creation",
    "created_month",
    "created_day_of_week",
    "created_hour",
    "academic_week",
    "is_application_season",
    "score_squared",
    "score_log",
    "score_percentile",
    "score_cubed",
    "engagement_squared",
    "engagement_percentile",
    "touchpoint_log",
    "touchpoint_percentile",
    "days_squared",
    "score_engagement_interaction",
    "score_time_interaction",
    "score_engagement_score_interaction",
    "score_touchpoint_interaction",
    "lifecycle_state",
    "status",
    "engagement_level",
    "source",
    "campus_preference",
    "programme_name",
}


def test_no_audited_feature_is_dropped() -> None:
    assert set(specify().outputs) >= AUDITED


def test_each_feature_of_the_registry_has_a_name_of_its_own_and_computes_one_value_a_lead() -> None:
    assert len(BY_NAME) == len(FEATURES)
    assert len(FEATURE_OF_INPUT) == len([feature for feature in FEATURES if feature.input])
    assert {f"{spec.name}_missing" for spec in INPUTS if spec.kind == NUMBER} <= BY_NAME.keys()
    n, names = 5, [spec.name for spec in INPUTS]
    values = dict(zip(names, np.random.default_rng(1).uniform(1, 9, (len(names), n)), strict=True))
    calendar = calendar_fields(build_calendar(CalendarSettings()), np.zeros(n, np.int64))
    flags = dict.fromkeys(names, np.zeros(n))
    inputs = FeatureInputs(values, flags, values, values, calendar, np.arange(n, dtype=np.float64))
    for feature in FEATURES:
        assert feature.compute(inputs).shape == (n,), feature.name
        assert feature.compute(inputs).dtype == np.float64, feature.name


def test_a_new_entry_of_the_registry_is_computed_and_changes_no_other_feature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns: Columns = {"created_at": [0, 0, 0], "lead_score": [1.0, 2.0, 40.0]}
    as_of = np.zeros(3, np.int64)
    before = FittedFeatures.fit(columns, as_of, specify()).transform(columns, as_of)
    doubled = Feature(
        *("score_doubled", "2 lead_score", lambda all_: 2 * all_.numbers["lead_score"]),
        fields=("lead_score",),
    )
    monkeypatch.setitem(BY_NAME, doubled.name, doubled)
    monkeypatch.setitem(FORMULAS, doubled.name, doubled.formula)
    after = FittedFeatures.fit(columns, as_of, specify()).transform(columns, as_of)
    assert after.names == (*before.names, "score_doubled")
    assert after.values[:, -1].tolist() == [2.0, 4.0, 80.0]
    assert after.values[:, :-1].tolist() == before.values.tolist()


def test_no_input_comes_from_outside_the_lead_state() -> None:
    """The audited query read applications and conversion_probability: a leak, and a model that eats
    its own output.
    """
    specification = specify(numbers=("visits",), categories=("country",))
    fields = {spec.name.partition(".")[0] for spec in specification.inputs}
    assert fields <= set(STATE_FIELDS)
    assert fields == {"created_at", *FEATURE_OF_INPUT, "numbers", "categories"}
    assert not [
        name
        for name in specification.outputs
        if "application_source" in name or "conversion" in name
    ]


@pytest.mark.parametrize("name", [*FORBIDDEN, " Conversion_Probability "])
def test_an_outcome_a_prediction_or_personal_data_is_refused_as_a_field_of_ones_own(
    name: str,
) -> None:
    with pytest.raises(SettingsError, match="cannot be an input"):
        specify(numbers=(name,))
    with pytest.raises(SettingsError, match="cannot be an input"):
        specify(categories=(name,))


@pytest.mark.parametrize("name", ["", "line\nbreak", "lone \ud800 surrogate", "x" * 257])
def test_a_name_that_cannot_be_printed_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot name a field"):
        specify(numbers=(name,))


def test_two_features_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"numbers\.a_missing"):
        specify(numbers=("a", "a_missing"))
    with pytest.raises(SettingsError, match=r"categories\.b"):
        specify(categories=("b", "b"))


def test_optional_features_can_be_left_out_and_no_others() -> None:
    assert set(specify().outputs) - set(specify(optional=()).outputs) == set(OPTIONAL)
    with pytest.raises(SettingsError, match="score_log"):
        specify(optional=("score_log",))


@pytest.mark.parametrize(
    "zone", ["", "America", "../etc", "/etc/passwd", "Nowhere/Town", "\0", "\ud800", "x" * 300]
)
def test_an_unknown_time_zone_is_a_wrong_setting_and_not_a_crash(zone: str) -> None:
    with pytest.raises(SettingsError, match="time zone"):
        CalendarSettings(zone)


@pytest.mark.parametrize(("month", "day"), [(2, 29), (2, 30), (13, 1), (0, 1), (9, 0)])
def test_an_academic_year_cannot_start_on_a_day_that_some_year_lacks(month: int, day: int) -> None:
    with pytest.raises(SettingsError, match="academic year"):
        CalendarSettings(academic_year_month=month, academic_year_day=day)


def test_a_month_of_the_season_must_exist() -> None:
    with pytest.raises(SettingsError, match="season"):
        CalendarSettings(season_months=(12, 13))


def test_the_order_of_the_seasons_months_does_not_change_the_hash() -> None:
    one, other = (
        CalendarSettings(season_months=(1, 12)),
        CalendarSettings(season_months=(12, 1, 12)),
    )
    assert specify(one).hash == specify(other).hash


def test_the_hash_changes_with_everything_that_decides_a_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = specify()
    first: FeatureSpec = base.inputs[1]
    hashes = {
        base.hash,
        specify(CalendarSettings("Europe/London")).hash,
        specify(CalendarSettings(academic_year_month=10)).hash,
        specify(CalendarSettings(season_months=(1,))).hash,
        specify(numbers=("x",)).hash,
        specify(categories=("x",)).hash,
        specify(optional=()).hash,
        replace(base, inputs=(replace(first, high=5.0), *base.inputs[1:])).hash,
        replace(base, outputs=base.outputs[::-1]).hash,
    }
    pickled = pickle.dumps(base)
    monkeypatch.setitem(FORMULAS, "score_log", "log10(lead_score)")
    hashes.add(pickle.loads(pickled).hash)
    assert len(hashes) == 10


def test_the_hash_survives_pickling_and_a_description_does_not_change_it() -> None:
    base = specify(numbers=("x",))
    assert pickle.loads(pickle.dumps(base)) == base
    reworded = replace(
        base, inputs=(replace(base.inputs[0], description="other words"), *base.inputs[1:])
    )
    assert reworded.hash == base.hash
    assert base.to_json() == json.dumps(
        json.loads(base.to_json()), sort_keys=True, separators=(",", ":")
    )


def _rows(heading: str) -> list[list[str]]:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table[2:]]


def _range(spec: FeatureSpec) -> str:
    if spec.kind == MOMENT:
        return "years 1970 to 9999"
    high = "1e15" if spec.high == 1e15 else f"{spec.high:,.0f}"
    return f"{spec.low:.0f} to {high}" + (" characters" if spec.kind == CATEGORY else "")


def test_the_page_lists_every_input_as_the_code_has_it() -> None:
    assert _rows("Inputs") == [
        [s.name, s.kind, _range(s), s.imputation, s.description] for s in specify().inputs
    ]


def test_the_page_lists_every_output_with_its_formula_in_the_order_of_the_matrix() -> None:
    assert _rows("Outputs") == [[name, FORMULAS[name]] for name in specify().outputs]


def test_the_page_lists_the_calendar_with_its_defaults_and_the_refused_names() -> None:
    settings = CalendarSettings()
    defaults = {name: getattr(settings, name) for name in settings.__slots__}
    displayed = {
        name: ", ".join(map(str, v)) if isinstance(v, tuple) else str(v)
        for name, v in defaults.items()
    }
    assert {name: value for name, value, _ in _rows("Calendar")} == displayed
    assert set(FORBIDDEN) <= set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))


def test_a_specification_file_gives_own_fields_their_range_and_what_stands_in_for_them() -> None:
    document = tomllib.loads("""
        [[feature]]
        name = "visits"
        type = "number"
        range = [0, 100]
        imputation = 7
        [[feature]]
        name = "country"
        type = "category"
    """)
    specification = specify(own=own_fields(document))
    assert specification.outputs[-3:] == (
        "numbers.visits",
        "categories.country",
        "numbers.visits_missing",
    )
    columns: Columns = {"created_at": [0, 0, 0], "numbers": [{"visits": 50}, {"visits": 101}, {}]}
    matrix = FittedFeatures.fit(columns, np.zeros(3, dtype=np.int64), specification).transform(
        columns, np.zeros(3, dtype=np.int64)
    )
    assert matrix.values[:, matrix.names.index("numbers.visits")].tolist() == [50, 7, 7]
    assert [("numbers.visits" in row) for row in matrix.imputed] == [False, True, True]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "list of tables"),
        ("feature = 1", "list of tables"),
        ("[other]\n[[feature]]\nname = 'x'\ntype = 'number'", "nothing else"),
        ("[[feature]]\ntype = 'number'", "feature 1: name is missing"),
        ("[[feature]]\nname = 'x'", r"feature 1 \(x\): type must be"),
        ("[[feature]]\nname = 'x'\ntype = 'number'\nrnage = [0, 1]", "rnage is not known"),
        ("[[feature]]\nname = 'x'\ntype = 'category'\nrange = [0, 1]", "range is not known"),
        ("[[feature]]\nname = 'x'\ntype = 'number'\nrange = [1, 1]", "low below high"),
        ("[[feature]]\nname = 'x'\ntype = 'number'\nrange = [0, nan]", "low below high"),
        (
            "[[feature]]\nname = 'x'\ntype = 'number'\nrange = [0, 1]\nimputation = 2",
            "a number in its range",
        ),
        (
            "[[feature]]\nname = 'x'\ntype = 'category'\nimputation = 'x'",
            "imputation of a category",
        ),
        ("[[feature]]\nname = 'email'\ntype = 'category'", "personal"),
    ],
)
def test_a_mistake_in_a_specification_file_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        specify(own=own_fields(tomllib.loads(text)))
