import time
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from models.serve.venn_abers import VennAbers

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]


def isotonic_at(scores: Floats, labels: Labels, score: float, label: int) -> float:
    """The definition: isotonic regression with the point added, read at the point."""
    fitted = IsotonicRegression().fit(
        np.append(scores, score), np.append(labels, label).astype(float)
    )
    return float(fitted.predict([score])[0])


def around(scores: Floats) -> Floats:
    """Scores at, between and beyond the calibration scores."""
    distinct = np.unique(scores)
    between = (distinct[1:] + distinct[:-1]) / 2
    return np.concatenate(
        [[-1.0, distinct[0] - 1e-9], distinct, between, [distinct[-1] + 1e-9, 2.0]]
    )


def with_ties(seed: int, size: int, steps: int) -> tuple[Floats, Labels]:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, steps, size) / steps
    labels = rng.random(size) < 0.1 + 0.8 * scores
    labels[:2] = [True, False]
    return scores, labels


@pytest.mark.parametrize(
    ("seed", "size", "steps"), [(1, 2, 5), (2, 10, 3), (3, 40, 8), (4, 60, 1000), (5, 60, 15)]
)
def test_the_steps_are_those_of_two_isotonic_fits_for_each_score(
    seed: int, size: int, steps: int
) -> None:
    scores, labels = with_ties(seed, size, steps)
    asked = around(scores)
    _, low, high = VennAbers.fit(scores, labels).interval(asked)
    assert low == pytest.approx([isotonic_at(scores, labels, s, 0) for s in asked], abs=1e-12)
    assert high == pytest.approx([isotonic_at(scores, labels, s, 1) for s in asked], abs=1e-12)


def test_the_answers_are_those_of_the_venn_abers_package() -> None:
    # The package silences numpy's floating-point warnings for the whole process when it is
    # imported.
    with np.errstate(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from venn_abers import VennAbers as Reference

        scores, labels = with_ties(7, 300, 50)
        asked = around(scores)
        reference = Reference()
        reference.fit(np.stack([1 - scores, scores], axis=1), labels.astype(int))
        stated, bounds = reference.predict_proba(np.stack([1 - asked, asked], axis=1))
    probability, low, high = VennAbers.fit(scores, labels).interval(asked)
    assert low == pytest.approx(bounds[:, 0], abs=1e-12)
    assert high == pytest.approx(bounds[:, 1], abs=1e-12)
    assert probability == pytest.approx(stated[:, 1], abs=1e-12)


def test_a_score_below_or_above_all_of_calibration_has_a_bound_of_its_own() -> None:
    _, low, high = VennAbers.fit(np.array([0.4, 0.6]), np.array([False, True])).interval(
        np.array([0.1, 0.9])
    )
    assert low[0] == 0.0
    assert high[1] == 1.0


def test_one_class_alone_is_refused_instead_of_a_certainty() -> None:
    with pytest.raises(ValueError, match="converted"):
        VennAbers.fit(np.array([0.1, 0.2]), np.array([True, True]))


def test_a_hundred_thousand_points_take_seconds_not_a_hundred_thousand_fits() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(100_000)
    started = time.perf_counter()
    fitted = VennAbers.fit(scores, rng.random(100_000) < scores**2)
    probability, _, _ = fitted.interval(np.array([0.5]))
    assert time.perf_counter() - started < 20
    assert probability[0] == pytest.approx(0.25, abs=0.05)


def test_more_calibration_makes_the_interval_narrower() -> None:
    widths = []
    for size in (50, 500, 5000):
        rng = np.random.default_rng(1)
        scores = rng.random(size)
        _, low, high = VennAbers.fit(scores, rng.random(size) < scores).interval(
            np.linspace(0, 1, 101)
        )
        widths.append(float((high - low).mean()))
    assert widths[0] > 2 * widths[1] > 4 * widths[2]
