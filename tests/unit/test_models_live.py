"""The live figures against scikit-learn, and what is in a window."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from models.evaluate import expected_calibration_error
from models.monitor.ledger import DAY_MS, LabeledPrediction, PublishedPrediction
from models.monitor.live import LiveWindows, quality


def judged(
    number: int,
    probability: float,
    converted: bool,
    *,
    version: str = "1.0.0",
    at: int | None = None,
) -> LabeledPrediction:
    lead_id = f"lead {number}"
    made = PublishedPrediction(
        lead_id, "event", number * DAY_MS, version, "champion", False, probability, probability
    )
    return LabeledPrediction(made, converted, number * DAY_MS if at is None else at)


def test_the_figures_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(0, 1, 500)
    labels = rng.random(500) < stated**2
    found = quality(
        "1.0.0",
        "champion",
        [judged(i, p, y) for i, (p, y) in enumerate(zip(stated, labels, strict=True))],
    )
    assert found.brier == pytest.approx(brier_score_loss(labels, stated))
    assert found.log_loss == pytest.approx(log_loss(labels, stated))
    assert found.roc_auc == pytest.approx(roc_auc_score(labels, stated))
    assert found.ece == pytest.approx(expected_calibration_error(stated, labels))
    assert (found.base_rate, found.mean_probability) == pytest.approx(
        (labels.mean(), stated.mean())
    )


@pytest.mark.parametrize("label", [True, False])
def test_one_kind_of_outcome_has_no_ranking_but_all_other_figures(label: bool) -> None:
    found = quality("1.0.0", "champion", [judged(0, 0.0, label), judged(1, 1.0, label)])
    assert found.roc_auc is None
    assert found.brier == 0.5
    assert 0 < found.log_loss < 10


def test_early_conversions_must_not_push_the_losses_out_of_the_window_or_be_pushed_out() -> None:
    """By the time of decision conversions would come first, and a window of the newest would hold
    losses only.
    """
    live = LiveWindows(lambda _version: 60.0, max_size=4)
    live.add(judged(number, 0.5, True, at=number * DAY_MS + 1) for number in (0, 2, 4, 6))
    live.add(judged(number, 0.5, False, at=(number + 60) * DAY_MS) for number in (1, 3, 5, 7))
    assert [one.prediction.lead_id for one in live.window("1.0.0", "champion")] == [
        "lead 4",
        "lead 5",
        "lead 6",
        "lead 7",
    ]


def test_without_a_horizon_the_newest_are_those_decided_last() -> None:
    live = LiveWindows(lambda _version: None, max_size=2)
    live.add(
        [judged(1, 0.5, True, at=30), judged(2, 0.5, True, at=10), judged(3, 0.5, True, at=20)]
    )
    assert [one.prediction.lead_id for one in live.window("1.0.0", "champion")] == [
        "lead 3",
        "lead 1",
    ]


def test_an_erased_lead_leaves_the_window_and_versions_do_not_mix() -> None:
    live = LiveWindows(lambda _version: None)
    live.add([judged(1, 0.5, True), judged(2, 0.5, False), judged(1, 0.5, True, version="1.1.0")])
    assert [(each.model_version, each.judged) for each in live.qualities()] == [
        ("1.0.0", 2),
        ("1.1.0", 1),
    ]
    live.forget("lead 1")
    assert [(each.model_version, each.judged) for each in live.qualities()] == [("1.0.0", 1)]


def test_a_lead_whose_older_prediction_left_the_window_is_still_found_to_be_erased() -> None:
    live = LiveWindows(lambda _version: None, max_size=2)
    live.add([judged(1, 0.5, True, at=1), judged(1, 0.5, True, at=2), judged(2, 0.5, True, at=3)])
    live.forget("lead 1")
    assert [one.prediction.lead_id for one in live.window("1.0.0", "champion")] == ["lead 2"]
    live.add([judged(3, 0.5, True, at=4), judged(4, 0.5, True, at=5)])
    assert set(live._leads) == {"lead 3", "lead 4"}


def test_a_prediction_as_of_a_lead_that_the_model_learned_from_is_no_measure_of_it() -> None:
    live = LiveWindows(lambda _version: None, learned_until_of={"1.0.0": DAY_MS}.get)
    live.add(judged(day, 0.5, converted=True) for day in range(4))
    assert live.trained_on == 2
    assert [one.prediction.lead_id for one in live.window("1.0.0", "champion")] == [
        "lead 2",
        "lead 3",
    ]
