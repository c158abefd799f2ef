from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from benchmarks.stranger_files import signal_file
from features import columns_of, specify
from models.serve import artifact
from models.serve.artifact import Trained
from models.serve.explain import contributions
from models.serve.forest import Forest, pack_boosting
from models.serve.scorer import Model
from models.train import candidates
from models.train.candidates import RECIPES
from models.train.choice import BEST
from models.train.table import periods
from models.train.training import TrainOptions, train
from tests.unit.test_models_train import OPTIONS, START, leads

pytestmark = pytest.mark.slow

PUBLISHED = {"version": "1.0.0", "artifact": {"sha256": "00"}}


def boosting(rows: int = 1500, k: int = 6) -> tuple[HistGradientBoostingClassifier, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, k)).astype(np.float32)
    y = (rng.random(rows) < 1 / (1 + np.exp(-2 * X[:, 0] - X[:, 1] * X[:, 2]))).astype(int)
    model = HistGradientBoostingClassifier(max_iter=40, early_stopping=False, random_state=0)
    return model.fit(X.astype(np.float64), y), X


@pytest.fixture(scope="module")
def boosted() -> Trained:
    return train(leads(900), replace(OPTIONS, recipe="boosting", calibrator=BEST))


@pytest.mark.parametrize("size", [1, 7, 512, 513])
def test_boosting_scores_as_scikit_learn_does_to_the_bit_in_any_batch(size: int) -> None:
    model, X = boosting()
    forest = pack_boosting(model)
    expected = model.predict_proba(X.astype(np.float64))[:, 1]
    found = [
        forest.probability(forest.leaves(X[i : i + size]))
        for i in range(0, min(len(X), 20 * size), size)
    ]
    assert np.concatenate(found).tolist() == expected[: 20 * size].tolist()


def test_reasons_of_boosting_and_the_base_add_up_to_the_score_in_probability_points() -> None:
    model, X = boosting()
    forest = pack_boosting(model)
    explained = contributions(forest, np.eye(X.shape[1]))
    leaves = forest.leaves(X)
    raw = forest.probability(leaves)
    points = explained.take(leaves)
    assert np.abs(explained.moved(points.sum(axis=1)) - raw).max() < 1e-6
    assert explained.base == pytest.approx(raw.mean(), abs=0.05)
    strongest = np.abs(points).mean(axis=0)
    assert strongest.argmax() == 0
    assert strongest[3:].max() < strongest[0] / 5
    assert explained.take(leaves[:, 7:8]).tobytes() == points[7:8].tobytes()


def test_a_lead_at_the_base_value_has_reasons_and_no_division_by_zero() -> None:
    one_split = Forest(
        feature=np.array([0, 0, 0]),
        threshold=np.zeros(3),
        value=np.array([0.0, 0.0, 0.0]),
        children=np.array([2, 1, 1, 1, 2, 2]),
        roots=np.array([0]),
        depth=1,
        offset=0.3,
    )
    explained = contributions(one_split, np.eye(1))
    assert explained.take(np.array([[1, 2]])).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    "damage",
    [
        {"children": np.array([2, 1, 0, 0, 2, 2])},
        {"children": np.array([9, 1, 1, 1, 2, 2])},
        {"children": np.array([2, 1])},
        {"feature": np.array([5, 0, 0])},
        {"roots": np.array([3])},
        {"roots": np.array([], dtype=np.intp)},
        {"value": np.array([0.0, np.nan, 1.0])},
        {"depth": 10**9},
        {"offset": float("inf")},
    ],
)
def test_a_forest_whose_walk_would_not_end_well_is_refused_before_it_is_walked(
    damage: dict[str, Any],
) -> None:
    sound = Forest(
        feature=np.array([0, 0, 0]),
        threshold=np.zeros(3),
        value=np.array([0.0, -1.0, 1.0]),
        children=np.array([2, 1, 1, 1, 2, 2]),
        roots=np.array([0]),
        depth=1,
        offset=0.0,
    )
    sound.check(1)
    with pytest.raises(ValueError, match="a forest's"):
        replace(sound, **damage).check(1)


def test_a_boosted_model_serves_with_reasons_that_add_up(boosted: Trained) -> None:
    model = Model(boosted.artifact, {**boosted.manifest, **PUBLISHED})
    states = [
        {"created_at": START, "lead_score": float(score), "source": "web"}
        for score in range(0, 100, 10)
    ]
    scores = model.score(columns_of(states), np.full(10, START + 86_400_000), 1000)
    base = model.base_probability
    sums = [base + sum(points for _, points in reasons) for reasons in scores.reasons]
    assert np.abs(sums - scores.probability).max() < 1e-12
    assert scores.raw[-1] > scores.raw[0]
    assert (scores.low <= scores.probability).all()
    assert (scores.probability <= scores.high).all()
    assert model.name == "gradient_boosting"


def test_a_tree_of_a_forest_reads_a_bounded_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, y = rng.random((400, 3)).astype(np.float32), rng.integers(0, 2, 400)
    monkeypatch.setattr(candidates, "TREES", 2)

    def drawn() -> set[int]:
        forest, _ = candidates._fit_forest(rows, y, 0)
        assert isinstance(forest, RandomForestClassifier)
        sizes = (tree.tree_.weighted_n_node_samples[0] for tree in forest.estimators_)
        return {round(size) for size in sizes}

    assert drawn() == {400}
    monkeypatch.setattr(candidates, "TREE_ROWS", 100)
    assert drawn() == {100}


@pytest.mark.parametrize("recipe", [*RECIPES, BEST])
def test_the_same_table_gives_the_same_bytes_by_every_recipe_whatever_the_date(recipe: str) -> None:
    table = leads(500)
    options = replace(OPTIONS, recipe=recipe, calibrator=BEST)
    first = train(table, options)
    second = train(table.sample(frac=1.0, random_state=1), replace(options, created_at=START + 1))
    assert artifact.dump(first.artifact) == artifact.dump(second.artifact)
    assert first.manifest | {"created_at": ""} == second.manifest | {"created_at": ""}


def test_the_proposed_recipe_loses_least_in_time_ordered_folds_and_all_metrics_are_kept() -> None:
    manifest = train(leads(900), replace(OPTIONS, recipe=BEST)).manifest["candidates"]
    assert set(manifest["folds"]) == set(RECIPES)
    best = min(manifest["log_loss"], key=lambda name: manifest["log_loss"][name])
    assert manifest["proposed"] in (best, "additive")
    for results in manifest["folds"].values():
        assert len(results) == 2
        assert {
            "roc_auc",
            "pr_auc",
            "log_loss",
            "brier",
            "ece",
            "calibration_slope",
            "accuracy",
        } < set(results[0])
        assert manifest["log_loss"]["forest"] == pytest.approx(
            np.mean([fold["log_loss_at_own_rate"] for fold in manifest["folds"]["forest"]])
        )


def test_a_recipe_that_gains_by_chance_only_is_not_preferred_to_the_simplest() -> None:
    file = signal_file(8)
    rows = pd.DataFrame(
        {
            "lead_id": file.rows["id"],
            "as_of": file.rows["created"],
            "created_at": file.rows["created"],
            "lead_score": file.rows["visits"],
            "engagement_score": file.rows["score"],
            "source": file.rows["source"],
            "converted": file.rows["won"] == 1,
        }
    )
    assert train(rows, TrainOptions()).manifest["recipe"]["name"] == "additive"


def test_recipes_are_compared_by_what_they_know_not_by_the_base_rate_they_answer_for() -> None:
    cut, cumulative = periods(leads(3000, rate=0.1), 5)
    losses = []
    for recipe in ("audited", "forest"):
        steps = [
            candidates.fit_fold(recipe, cumulative[i - 1], cut[i], specify(), 0) for i in (1, 2, 3)
        ]
        found = candidates.fold_metrics(steps)
        assert len(found) == 2
        losses.append(candidates.mean_log_loss(found) or 9)
    assert abs(losses[0] - losses[1]) < 0.03
    assert max(losses) < 0.35


def test_without_a_fold_that_can_be_judged_the_audited_recipe_is_proposed() -> None:
    assert candidates.best({"audited": [], "forest": [], "boosting": []}) == "audited"


def test_the_drift_reference_holds_every_input_in_shares_that_add_up(boosted: Trained) -> None:
    drift = boosted.manifest["drift"]
    inputs = drift["inputs"]
    assert {"lead_score", "engagement_score", "source", "status"} < set(inputs)
    for name, known in inputs.items():
        total = sum(known["shares"]) + known["missing"] + known.get("unseen", 0.0)
        assert total == pytest.approx(1.0), name
    assert inputs["engagement_score"]["missing"] == pytest.approx(0.2, abs=0.05)
    assert inputs["lead_score"]["shares"] == pytest.approx([0.1] * 10, abs=0.01)
    assert inputs["source"]["values"] in (["web", "fair"], ["fair", "web"])
    assert sum(drift["probability"]["shares"]) == pytest.approx(1.0)
