"""InputDrift: what must alarm, what must not, and how often chance may."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, chi2_contingency

from features import FeatureMatrix, FittedFeatures, columns_of, specify
from models.monitor import drift, statistics
from models.monitor.drift import DriftCollector, DriftReference, InputDrift
from models.monitor.reference import reference

Floats = NDArray[np.float64]
DAY = 86_400_000
NOW = 1_700_000_000_000
SPECIFICATION = specify(numbers=("income",))
SOURCES = tuple(f"source {i}" for i in range(60))
SHARES = 1 / np.arange(1, 61) ** 1.3


@dataclass
class FakeScores:
    """All that the watch reads of the scores."""

    matrix: FeatureMatrix
    probability: Floats


def leads(rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    """Leads of one population: an own number without bounds, a number with gaps, a category with
    many values.
    """
    income, engagement, gaps = (
        rng.lognormal(10, 0.5, n),
        rng.uniform(0, 100, n),
        rng.random(n) < 0.1,
    )
    source = rng.choice(len(SOURCES), size=n, p=SHARES / SHARES.sum())
    return [
        {
            "created_at": NOW - DAY,
            "engagement_score": None if gaps[i] else float(engagement[i]),
            "touchpoint_count": 1,
            "source": SOURCES[source[i]],
            "numbers": {"income": float(income[i])},
        }
        for i in range(n)
    ]


TRAINING = leads(np.random.default_rng(1), 8_000)
FEATURES = FittedFeatures.fit(columns_of(TRAINING), np.full(len(TRAINING), NOW), SPECIFICATION)


def reference_() -> dict[str, Any]:
    probability = np.random.default_rng(2).beta(2, 8, 8_000)
    return reference(FEATURES, columns_of(TRAINING), len(TRAINING), probability)


def scored(states: list[dict[str, Any]]) -> FakeScores:
    matrix = FEATURES.transform(columns_of(states), np.full(len(states), NOW))
    return FakeScores(matrix, np.random.default_rng(3).beta(2, 8, len(states)))


def watch(size: int = 2_000, known: dict[str, Any] | None = None) -> DriftCollector:
    return DriftCollector(DriftReference(known or reference_(), SPECIFICATION.outputs), size)


def add(watch: DriftCollector, states: list[dict[str, Any]], ids: list[str] | None = None) -> None:
    ids = ids or [f"lead {i}" for i in range(len(states))]
    # all that it reads
    watch.add(ids, list(range(len(states))), scored(states))  # type: ignore[arg-type]


def judged(states: list[dict[str, Any]], ids: list[str] | None = None) -> dict[str, InputDrift]:
    watching = watch()
    add(watching, states, ids)
    window = watching.close_if_full()
    assert window is not None
    return window.drift


def alarms(found: dict[str, InputDrift]) -> set[str]:
    return {name for name, one in found.items() if one.alarm}


def with_income(states: list[dict[str, Any]], incomes: Floats) -> list[dict[str, Any]]:
    return [
        state | {"numbers": {"income": float(income)}}
        for state, income in zip(states, incomes.tolist(), strict=True)
    ]


def test_the_index_of_two_bins_worked_out_by_hand() -> None:
    # (.7 - .5) ln(.7 / .5) + (.3 - .5) ln(.3 / .5)
    assert statistics.psi(np.array([70.0, 30.0]), np.array([500.0, 500.0])) == pytest.approx(
        0.169460, abs=1e-6
    )
    assert statistics.psi(
        np.array([5.0, 3.0, 2.0]), np.array([500.0, 300.0, 200.0])
    ) == pytest.approx(0)


def test_a_bin_that_one_side_lacks_counts_as_half_a_row_and_not_as_infinity() -> None:
    with_half = statistics.psi(np.array([50.0, 50.0, 0.5]), np.array([40.0, 40.0, 20.0]))
    assert statistics.psi(
        np.array([50.0, 50.0, 0.0]), np.array([40.0, 40.0, 20.0])
    ) == pytest.approx(with_half)
    assert np.isfinite(statistics.psi(np.array([0.0, 100.0]), np.array([1000.0, 0.0])))


def test_a_bin_that_both_sides_lack_must_not_count_as_a_difference() -> None:
    few, many = np.array([10.0, 10.0]), np.array([9_000.0, 9_000.0])
    assert statistics.psi(np.append(few, [0, 0]), np.append(many, [0, 0])) == pytest.approx(0)


def test_the_test_is_pearsons_where_no_bin_is_rare() -> None:
    window, training = np.array([310.0, 190.0, 500.0]), np.array([1_400.0, 1_100.0, 2_500.0])
    expected = chi2_contingency([window, training], correction=False).pvalue
    assert statistics.chi_square(window, training) == pytest.approx(expected)


@pytest.mark.parametrize("window", [[5.0], [3.0, 2.0], [0.0, 5.0]])
def test_what_is_too_little_to_test_must_not_alarm(window: list[float]) -> None:
    assert statistics.chi_square(np.array(window), np.array([100.0, 100.0][: len(window)])) >= 0.05


def test_leads_like_those_of_training_must_not_alarm_and_the_index_must_be_small() -> None:
    found = judged(leads(np.random.default_rng(7), 2_000))
    assert alarms(found) == set()
    assert set(found) == {spec.name for spec in SPECIFICATION.inputs if spec.kind != "moment"} | {
        "probability"
    }
    assert all(one.psi < 0.1 for one in found.values())
    assert found["engagement_score"].missing == pytest.approx(0.1, abs=0.03)
    assert found["engagement_score"].unseen is None
    rare = reference_()["inputs"]["source"][
        "unseen"
    ]  # what hardly any lead has is unseen in training, too
    assert found["source"].unseen == pytest.approx(rare, abs=0.02)
    assert found["campus_name"].missing == 1
    assert found["probability"].p_value is None


def test_a_wave_of_an_unknown_category_and_of_gaps_alarms_by_the_name_of_the_input() -> None:
    rng = np.random.default_rng(8)
    states = leads(rng, 2_000)
    for state in states[:600]:
        state["source"] = "a new network"
    for state in states[500:1_400]:
        state["engagement_score"] = float("nan")
    found = judged(states)
    assert alarms(found) == {"source", "engagement_score"}
    rare = reference_()["inputs"]["source"]["unseen"]
    assert found["source"].unseen == pytest.approx(0.3 + 0.7 * rare, abs=0.02)
    assert found["engagement_score"].missing == pytest.approx(0.45 + 0.55 * 0.1, abs=0.03)


def test_drift_of_the_stated_probability_shows_in_its_index() -> None:
    watching, states = watch(), leads(np.random.default_rng(9), 2_000)
    high = FakeScores(scored(states).matrix, np.random.default_rng(4).beta(8, 2, 2_000))
    watching.add([f"lead {i}" for i in range(2_000)], list(range(2_000)), high)  # type: ignore[arg-type]
    window = watching.close_if_full()
    assert window is not None
    assert window.drift["probability"].psi > 1
    assert not window.drift["probability"].alarm


OUTLIERS = np.array([1e15, -1e15, np.inf, -np.inf, np.nan, 1e300])


def test_outliers_alone_must_not_raise_an_alarm() -> None:
    rng = np.random.default_rng(10)
    states = leads(rng, 2_000)
    odd = [states[6] | {"source": "\x00" * 300}, states[7] | {"source": []}]
    found = judged([*with_income(states[:6], OUTLIERS), *odd, *states[8:]])
    assert alarms(found) == set()


def test_outliers_must_not_mute_a_drift_as_they_do_in_bins_of_the_windows_own_range() -> None:
    rng = np.random.default_rng(11)
    states = leads(rng, 2_000)
    training = np.array([state["numbers"]["income"] for state in TRAINING])
    drifted = np.append(rng.lognormal(10.4, 0.5, 1_994), OUTLIERS)
    found = judged(with_income(states, drifted))
    assert alarms(found) == {"numbers.income"}
    assert found["numbers.income"].psi > 0.4

    usable = drifted[np.abs(drifted) <= 1e15]
    own_range = np.linspace(usable.min(), usable.max(), 11)
    wrong = [np.histogram(values, own_range)[0].astype(np.float64) for values in (usable, training)]
    assert statistics.psi(*wrong) < 0.1


def test_changes_of_one_lead_must_not_pass_for_a_drift_of_the_leads() -> None:
    rng = np.random.default_rng(12)
    states = leads(rng, 2_000)
    noisy = [states[0] | {"source": SOURCES[40], "engagement_score": 99.0}] * 6_000
    found = judged(noisy + states, ["noisy"] * 6_000 + [f"lead {i}" for i in range(2_000)])
    assert alarms(found) == set()
    assert found["source"].psi < 0.1


def test_a_lead_that_never_stops_changing_must_not_mute_a_drift_of_the_others() -> None:
    rng = np.random.default_rng(13)
    states = with_income(leads(rng, 500), rng.lognormal(10.6, 0.5, 500))
    found = judged(
        [states[0]] * 20_000 + states, ["noisy"] * 20_000 + [f"lead {i}" for i in range(500)]
    )
    assert alarms(found) == {"numbers.income"}


def test_a_window_is_full_by_leads_or_by_many_changes_and_then_begins_anew() -> None:
    watching, states = watch(50), leads(np.random.default_rng(14), 60)
    add(watching, states[:49])
    assert watching.close_if_full() is None
    add(watching, states[:49])
    assert watching.close_if_full() is None
    add(watching, states)
    window = watching.close_if_full()
    assert window is not None
    assert (window.leads, window.changes) == (60, 158)
    assert watching.close_if_full() is None
    for _ in range(10):
        add(watching, states[:50], ["the same lead"] * 50)
    window = watching.close_if_full()
    assert window is not None
    assert (window.leads, window.changes) == (1, 500)
    assert alarms(window.drift) == set()


def test_how_changes_come_in_batches_makes_no_difference() -> None:
    states = leads(np.random.default_rng(15), 400)
    ids = [f"lead {i // 2}" for i in range(400)]
    found = []
    for size in (1, 7, 400):
        watching = watch(200)
        for start in range(0, 400, size):
            add(watching, states[start : start + size], ids[start : start + size])
        window = watching.close_if_full()
        assert window is not None
        found.append({name: one for name, one in window.drift.items() if name != "probability"})
    assert found[0] == found[1] == found[2]


def population(
    rng: np.random.Generator, shares: Floats, leads: int, largest: int
) -> tuple[Floats, Floats]:
    """Count the changes of some leads, each with 1 to `largest` equal ones: weighted, and plain."""
    changes = rng.integers(1, largest + 1, leads)
    counts: Floats = np.bincount(
        rng.choice(len(shares), size=leads, p=shares), changes, len(shares)
    ).astype(np.float64)
    return counts * drift.independent(changes) / changes.sum(), counts


INPUTS = [
    np.array([0.03, *[0.097] * 10]),
    SHARES / SHARES.sum(),
    np.array([0.9, *[0.1 / 40] * 40]),
    np.array([0.999, 0.001]),
]


@pytest.mark.slow
def test_chance_must_not_alarm_more_often_than_is_stated() -> None:
    rng = np.random.default_rng(16)
    windows = 2_500
    p_values = np.array(
        [
            [
                statistics.chi_square(
                    population(rng, q, 2_000, 5)[0], population(rng, q, 3_000, 5)[0]
                )
                for q in INPUTS
            ]
            for _ in range(windows)
        ]
    )
    for level in (0.05, 0.01):
        largest = binom.ppf(0.9999, windows, level)
        assert ((p_values < level).sum(axis=0) <= largest).all(), level
    alarmed = (p_values < statistics.FALSE_ALARMS / len(INPUTS)).any(axis=1).sum()
    assert alarmed <= binom.ppf(0.9999, windows, statistics.FALSE_ALARMS)


def test_changes_taken_for_independent_leads_would_alarm_far_more_often() -> None:
    rng = np.random.default_rng(17)
    p_values = [
        statistics.chi_square(
            population(rng, INPUTS[0], 2_000, 5)[1], population(rng, INPUTS[0], 3_000, 5)[1]
        )
        for _ in range(200)
    ]
    assert np.mean(np.array(p_values) < 0.001) > 0.1


@pytest.mark.slow
def test_merging_is_what_keeps_the_test_valid_in_rare_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MIN_EXPECTED", 0.0)
    rng = np.random.default_rng(18)
    shares = np.array([0.95, *[0.05 / 60] * 60])
    p_values = [
        statistics.chi_square(
            population(rng, shares, 2_000, 5)[0], population(rng, shares, 100_000, 1)[0]
        )
        for _ in range(1_000)
    ]
    assert np.mean(np.array(p_values) < 0.001) > 0.005


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"inputs": {}},
        {
            "inputs": {
                "unheard of": {"kind": "number", "edges": [], "shares": [1.0], "missing": 0.0}
            }
        },
        {
            "inputs": {
                "source": {
                    "kind": "category",
                    "values": ["web"],
                    "shares": [],
                    "missing": 1.0,
                    "unseen": 0.0,
                }
            }
        },
        {
            "inputs": {
                "lead_score": {
                    "kind": "number",
                    "edges": [2.0, 1.0],
                    "shares": [1.0, 0.0, 0.0],
                    "missing": 0.0,
                }
            }
        },
        {
            "inputs": {
                "lead_score": {"kind": "number", "edges": [1.0], "shares": [1.0], "missing": 0.0}
            }
        },
        {
            "inputs": {
                "lead_score": {"kind": "number", "edges": [], "shares": [-1.0], "missing": 0.0}
            }
        },
        {"rows": 0},
        {"rows": float("inf")},
        {"probability": {"shares": [1.0], "rows": 10}},
    ],
    ids=str,
)
def test_a_reference_that_is_not_whole_is_refused_before_it_is_used(broken: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        DriftReference({**reference_(), **broken} if broken else {}, SPECIFICATION.outputs)


def test_a_code_that_the_reference_does_not_know_counts_as_unseen() -> None:
    known = reference_()
    known["inputs"]["source"]["values"] = known["inputs"]["source"]["values"][:2]
    known["inputs"]["source"]["shares"] = [0.6, 0.4]
    watching = watch(known=known)
    add(watching, leads(np.random.default_rng(19), 2_000))
    window = watching.close_if_full()
    assert window is not None
    assert (window.drift["source"].unseen or 0) > 0.3


def test_a_difference_that_is_sure_but_small_must_not_alarm() -> None:
    states = leads(np.random.default_rng(20), 2_000)
    income = np.array([state["numbers"]["income"] for state in states]) * 1.12
    found = judged(with_income(states, income))["numbers.income"]
    assert (found.p_value or 1) < 1e-6
    assert 0.02 < found.psi < 0.2
    assert not found.alarm


def test_an_index_that_is_large_by_chance_must_not_alarm() -> None:
    watching = watch(60)
    add(watching, leads(np.random.default_rng(21), 60))
    window = watching.close_if_full()
    assert window is not None
    assert window.drift["source"].psi > 0.2
    assert alarms(window.drift) == set()


def test_training_rows_of_few_leads_are_less_sure_than_those_of_many() -> None:
    states = leads(np.random.default_rng(22), 2_000)
    sure = []
    for worth in (8_000, 800):
        watching = watch(known={**reference_(), "independent_rows": worth})
        add(watching, with_income(states, np.random.default_rng(23).lognormal(10.08, 0.5, 2_000)))
        window = watching.close_if_full()
        assert window is not None
        sure.append(window.drift["numbers.income"].p_value or 0.0)
    assert sure[0] < sure[1] / 10
