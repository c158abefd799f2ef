import numpy as np
import pytest

from models.evaluate import expected_calibration_error
from models.monitor import recent_calibration


def jump(n: int = 12_000) -> tuple[np.ndarray, np.ndarray]:
    """Stated probabilities that are right in the first half and far too low in the second; and the
    outcomes.
    """
    rng = np.random.default_rng(0)
    log_odds = rng.normal(-2.5, 1.0, n)
    now = log_odds + np.where(np.arange(n) < n // 2, 0.0, 2.0)
    return 1 / (1 + np.exp(-log_odds)), rng.random(n) < 1 / (1 + np.exp(-now))


@pytest.mark.parametrize("method", recent_calibration.METHODS)
def test_after_the_base_rate_jumps_a_fixed_calibration_fails_and_one_that_follows_does_not(
    method: str,
) -> None:
    stated, labels = jump()
    late = slice(9_000, None)
    followed = recent_calibration.simulate(stated, labels, 0, 500, method=method)
    assert expected_calibration_error(stated[late], labels[late]) > 0.15
    assert expected_calibration_error(followed[late], labels[late]) < 0.04
    assert expected_calibration_error(followed[:6000], labels[:6000]) < 0.04


def test_an_outcome_that_is_not_known_yet_is_never_looked_at() -> None:
    stated, labels = jump(3000)
    turned = labels.copy()
    turned[1500:] = ~turned[1500:]
    first, second = (recent_calibration.simulate(stated, some, 0, 500) for some in (labels, turned))
    assert first[:2000].tolist() == second[:2000].tolist()
    assert first[2100:].tolist() != second[2100:].tolist()


def test_the_intercept_brings_the_mean_to_the_rate_and_keeps_the_ranking() -> None:
    stated, labels = jump(2000)
    moved = recent_calibration.fit_recent(stated, labels)(stated)
    assert moved.mean() == pytest.approx(labels.mean(), abs=1e-9)
    assert (np.argsort(moved) == np.argsort(stated)).all()


@pytest.mark.parametrize("method", recent_calibration.METHODS)
def test_too_few_outcomes_or_only_one_kind_leave_the_probability_as_it_is(method: str) -> None:
    stated = np.linspace(0.1, 0.9, 200)
    for labels in (np.zeros(200, dtype=bool), np.ones(200, dtype=bool)):
        assert (
            recent_calibration.fit_recent(stated, labels, method)(stated).tolist()
            == stated.tolist()
        )
    assert (
        recent_calibration.fit_recent(stated[:9], stated[:9] > 0.11, method)(stated).tolist()
        == stated.tolist()
    )


def test_a_spread_that_would_invert_the_ranking_only_moves_the_base_rate() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.05, 0.95, 2000)
    labels = rng.random(2000) < 1 - stated
    moved = recent_calibration.fit_recent(stated, labels, "sigmoid")(stated)
    assert (np.argsort(moved) == np.argsort(stated)).all()
