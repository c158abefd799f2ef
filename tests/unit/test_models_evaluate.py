import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.evaluate import (
    auc_loss,
    best_f1_threshold,
    calibration_line,
    expected_calibration_error,
    legacy_sigmoid,
    lift,
    metrics,
)


def test_the_audited_formula_narrows_instead_of_spreading() -> None:
    assert legacy_sigmoid(np.array([0.0, 0.06, 0.5, 1.0])) == pytest.approx(
        [0.269, 0.293, 0.5, 0.731], abs=1e-3
    )


def test_ece_is_the_distance_between_what_is_said_and_what_happens() -> None:
    labels = np.array([True] * 30 + [False] * 70)
    assert expected_calibration_error(np.full(100, 0.3), labels) == pytest.approx(0.0)
    assert expected_calibration_error(np.full(100, 0.5), labels) == pytest.approx(0.2)


def test_a_probability_of_one_falls_into_the_last_bin_not_past_it() -> None:
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0


def test_lift_of_a_constant_score_is_one_in_any_order_of_the_rows() -> None:
    labels = np.array([True] * 10 + [False] * 90)
    assert lift(np.full(100, 0.1), labels) == pytest.approx(1.0)
    assert lift(np.full(100, 0.1), labels[::-1]) == pytest.approx(1.0)


def test_lift_of_a_perfect_ranking_is_one_over_the_base_rate() -> None:
    labels = np.array([True] * 20 + [False] * 80)
    assert lift(np.linspace(1, 0, 100), labels) == pytest.approx(5.0)


def test_the_threshold_is_the_best_of_all_cuts_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    probability = rng.integers(0, 20, 300) / 20
    labels = rng.random(300) < probability

    def f1(cut: float) -> float:
        stated = probability >= cut
        return 2 * float((stated & labels).sum()) / float(stated.sum() + labels.sum())

    assert f1(best_f1_threshold(probability, labels)) == pytest.approx(
        max(map(f1, np.unique(probability)))
    )


def test_the_calibration_line_finds_the_distortion_that_was_put_in() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=50_000)
    labels = rng.random(50_000) < 1 / (1 + np.exp(-(0.5 + 2.0 * logit)))
    intercept, slope = calibration_line(1 / (1 + np.exp(-logit)), labels)
    assert intercept == pytest.approx(0.5, abs=0.05)
    assert slope == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("probability", [[0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.3, 0.3]])
def test_a_line_that_cannot_be_fitted_is_none_not_a_warning_or_nan(
    probability: list[float],
) -> None:
    assert calibration_line(np.array(probability), np.array([False, False, True, True])) == (
        None,
        None,
    )


def test_a_certain_and_wrong_probability_costs_much_but_not_infinitely() -> None:
    judged = metrics(np.array([1.0, 0.0, 0.5]), np.array([False, True, False]), 0.5)
    assert judged["log_loss"] is not None
    assert 5 < judged["log_loss"] < 20


def test_precision_without_any_positive_prediction_is_none_not_a_division_by_zero() -> None:
    judged = metrics(np.array([0.1, 0.2, 0.3]), np.array([False, True, False]), 0.9)
    assert judged["precision"] is None
    assert judged["recall"] == 0.0
    assert judged["accuracy"] == pytest.approx(2 / 3)


def test_the_loss_of_ranking_is_the_difference_of_the_areas_with_an_error_that_shrinks() -> None:
    errors = []
    for size in (300, 30_000):
        rng = np.random.default_rng(0)
        labels = rng.random(size) < 0.3
        before = labels + rng.normal(size=size)
        after = np.round(before + rng.normal(size=size))
        lost, error = auc_loss(before, after, labels)
        assert lost == pytest.approx(roc_auc_score(labels, before) - roc_auc_score(labels, after))
        assert lost > 2 * error
        errors.append(error)
    assert errors[0] > 5 * errors[1]


def test_a_calibration_line_far_from_the_start_is_found_all_the_same() -> None:
    rng = np.random.default_rng(0)
    stated = 1 / (1 + np.exp(-8 * rng.normal(size=400)))
    labels = rng.random(400) < 0.4
    intercept, slope = calibration_line(stated, labels)
    assert slope == pytest.approx(0.0, abs=0.05)
    assert intercept == pytest.approx(np.log(0.4 / 0.6), abs=0.3)
