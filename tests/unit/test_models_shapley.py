"""Exact contributions against their definition, over every order of the features."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from models.serve.explain import contributions, in_points, strongest, team_sums
from models.serve.forest import Floats, Forest, Rows, pack

shapley = pytest.importorskip("models.train.shapley", reason="the extra fast is not installed")
FEATURES = 4


@pytest.fixture(scope="module")
def forest() -> tuple[Forest, Rows]:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(600, FEATURES)).astype(np.float32)
    wins = rows[:, 0] * rows[:, 1] + rows[:, 2] > rng.normal(size=600)
    model = RandomForestClassifier(5, max_depth=5, random_state=1).fit(rows, wins.astype(int))
    return pack(model), rows


def expected_score(forest: Forest, row: Rows, known: set[int], node: int) -> float:
    """The value of a tree if only some features are known: the others follow the training rows."""
    right, left = forest.children[2 * node], forest.children[2 * node + 1]
    if left == node:
        return float(forest.value[node])
    below = [expected_score(forest, row, known, int(child)) for child in (left, right)]
    feature = int(forest.feature[node])
    if feature in known:
        return below[0] if row[feature] <= forest.threshold[node] else below[1]
    share = float(shapley._left_shares(forest)[node])
    return share * below[0] + (1 - share) * below[1]


def test_contributions_are_the_mean_gain_over_all_orders(forest: tuple[Forest, Rows]) -> None:
    trees, rows = forest
    found = shapley.shapley_values(trees, rows[:2])
    orders = list(permutations(range(FEATURES)))
    for row, values in zip(rows[:2], found, strict=True):
        gains = np.zeros(FEATURES)
        for order in orders:
            for place, feature in enumerate(order):
                before, after = set(order[:place]), set(order[: place + 1])
                for root in trees.roots.tolist():
                    gains[feature] += expected_score(trees, row, after, root)
                    gains[feature] -= expected_score(trees, row, before, root)
        assert np.abs(gains / len(orders) / len(trees.roots) - values).max() < 1e-12


def test_a_fitted_table_comes_closer_to_exact_values_than_paths(
    forest: tuple[Forest, Rows],
) -> None:
    trees, rows = forest
    groups = np.eye(FEATURES)
    path = contributions(trees, groups)
    table = shapley.fit_table(trees, rows[:500], groups, path.table)
    fitted = contributions(trees, groups, table)
    leaves, exact = trees.leaves(rows[500:]), shapley.shapley_values(trees, rows[500:])
    errors = [np.abs(each.take(leaves) - exact).mean() for each in (path, fitted)]
    assert errors[1] < 0.7 * errors[0]
    sums = fitted.moved(fitted.take(leaves).sum(axis=1))
    assert np.abs(sums - trees.probability(leaves)).max() < 1e-5


def test_a_table_without_anything_to_fit_stays_as_it_is() -> None:
    rows = np.linspace(-1, 1, 200, dtype=np.float32)[:, None]
    model = RandomForestClassifier(3, max_depth=1, random_state=1).fit(rows, rows[:, 0] > 0)
    trees = pack(model)
    path = contributions(trees, np.ones((1, 1))).table
    assert np.abs(shapley.fit_table(trees, rows, np.ones((1, 1)), path) - path).max() < 1e-6
    nothing = shapley.fit_table(trees, rows, np.zeros((1, 1)), np.zeros_like(path))
    assert not nothing.any()


@pytest.mark.parametrize(
    "damage", [lambda t: t[1:], lambda t: t * np.nan, lambda t: t.astype(float)]
)
def test_a_table_that_does_not_fit_the_trees_is_refused(
    forest: tuple[Forest, Rows], damage: Callable[[Any], Any]
) -> None:
    trees, _ = forest
    table = contributions(trees, np.eye(FEATURES)).table
    with pytest.raises(ValueError, match="the reasons are not"):
        contributions(trees, np.eye(FEATURES), damage(table))


def test_points_add_up_and_keep_their_signs_through_any_rising_calibration() -> None:
    rng = np.random.default_rng(2)
    contributed = rng.normal(scale=0.1, size=(3_000, 5)) * (rng.random((3_000, 5)) < 0.6)
    calibrations: list[Callable[[Floats], Floats]] = [
        lambda change: np.clip(0.3 + change, 0.1, 0.9),
        lambda change: np.floor((0.3 + change) * 10) / 10,
        lambda change: 1 / (1 + np.exp(2 - 6 * change)),
    ]
    for stated in calibrations:
        base = float(stated(np.zeros(1))[0])
        probability = stated(contributed.sum(axis=1))
        factors = in_points(*team_sums(contributed), probability, base, stated)
        found = strongest(contributed, factors, 5)
        touched = contributed.any(axis=1)
        assert np.abs(base + found.points.sum(axis=1) - probability)[touched].max() < 1e-12
        signs = np.sign(np.take_along_axis(contributed, found.indices, axis=1))
        assert (found.points * signs >= -1e-15).all()
        assert np.abs(found.points).max() <= 1
