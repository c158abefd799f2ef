import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.evaluate import expected_calibration_error
from models.train.curves import MAX_POINTS, curves, thinned


def scored(n: int = 3000, digits: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    probability = np.round(rng.beta(1, 2, n), digits)
    return probability, rng.random(n) < probability


@pytest.mark.parametrize("digits", [9, 1, 0])
def test_a_thinned_curve_that_encloses_another_area_shows_another_model(digits: int) -> None:
    probability, labels = scored(digits=digits)
    found = curves(probability, labels)
    roc, pr = found["roc"], found["pr"]
    area = np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"])
    assert area == pytest.approx(roc_auc_score(labels, probability), abs=1e-3)
    area = np.trapezoid(pr["precision"], pr["recall"])
    assert area == pytest.approx(average_precision_score(labels, probability), abs=2e-3)
    for curve in (roc, pr):
        assert {len(points) for points in curve.values()} <= set(range(2, MAX_POINTS + 1))
    assert (roc["true_positive_rate"][0], roc["false_positive_rate"][0]) == (0, 0)
    assert (roc["true_positive_rate"][-1], roc["false_positive_rate"][-1]) == (1, 1)
    assert (pr["recall"][0], pr["recall"][-1]) == (0, 1)


def test_the_reliability_bins_are_those_of_the_ece_and_an_empty_one_has_no_rate() -> None:
    probability, labels = scored()
    probability *= 0.9
    bins = curves(probability, labels)["reliability"]
    assert sum(bins["counts"]) == len(labels)
    assert bins["stated"][-1] is None
    assert bins["realised"][-1] is None
    gaps = [
        count * abs(stated - realised)
        for count, stated, realised in zip(*bins.values(), strict=True)
        if stated is not None
    ]
    assert sum(gaps) / len(labels) == pytest.approx(
        expected_calibration_error(probability, labels), abs=1e-4
    )


def test_every_lead_is_in_the_histogram_of_its_outcome_and_certain_ones_in_the_last_bin() -> None:
    probability, labels = scored()
    probability[:2] = 1.0
    counts = curves(probability, labels)["histogram"]
    assert sum(counts["converted"]) == labels.sum()
    assert sum(counts["not_converted"]) == (~labels).sum()
    assert counts["converted"][-1] + counts["not_converted"][-1] == (probability >= 0.95).sum()


def test_many_leads_do_not_make_a_manifest_large_and_it_is_the_same_again() -> None:
    probability, labels = scored(50_000)
    text = json.dumps(
        {name: curves(probability, labels) for name in ("a", "b", "c")}, indent=2, allow_nan=False
    )
    assert len(text) < 60_000
    order = np.random.default_rng(0).permutation(len(labels))
    again = curves(probability[order], labels[order])
    for name in ("roc", "pr", "histogram"):
        assert again[name] == json.loads(text)["a"][name]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30),
    st.integers(2, 40),
)
def test_thinning_keeps_the_ends_and_no_more_points_than_asked_for(
    line: list[tuple[float, float]], largest: int
) -> None:
    kept = thinned(np.array(line), largest).tolist()
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, len(line) - 1)
    assert len(kept) <= largest


def test_a_corner_that_thinning_cuts_off_is_a_decision_that_cannot_be_read() -> None:
    line = np.array(
        [[0, 0], *([0, y / 100] for y in range(1, 81)), *([x / 100, 0.8] for x in range(1, 101))]
    )
    assert line[thinned(line, 3)].tolist() == [[0, 0], [0, 0.8], [1, 0.8]]
