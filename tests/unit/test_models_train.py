import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features import specify
from leadstream.errors import UserError
from leadstream.lead_fields import CRM_FIELDS
from models.serve import artifact
from models.train import candidates
from models.train.table import TrainingPart, split
from models.train.training import TrainOptions, train

pytestmark = pytest.mark.slow

DAY = 86_400_000
START = 1_700_000_000_000
OPTIONS = TrainOptions(
    created_at=START + 1_000 * DAY,
    min_leads=200,
    min_conversions=20,
    recipe="audited",
    calibrator="venn_abers",
)


def leads(rows: int = 900, seed: int = 0, rate: float = 0.3) -> pd.DataFrame:
    """Leads, one row each, that convert by their score; nothing else tells anything."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0, 100, rows)
    as_of = START + np.arange(rows) * DAY // 10
    return pd.DataFrame(
        {
            "lead_id": [f"lead-{i}" for i in range(rows)],
            "as_of": as_of,
            "created_at": as_of - rng.integers(0, 40 * DAY, rows),
            "lead_score": score,
            "engagement_score": np.where(rng.random(rows) < 0.2, np.nan, rng.uniform(0, 100, rows)),
            "source": [("web", "fair", None)[i] for i in rng.integers(0, 3, rows)],
            "converted": rng.random(rows) < 2 * rate * score / 100,
        }
    )


def test_the_same_table_in_another_row_order_gives_the_same_bytes() -> None:
    table = leads()
    first = train(table, OPTIONS)
    second = train(table.sample(frac=1.0, random_state=3), OPTIONS)
    assert artifact.dump(first.artifact) == artifact.dump(second.artifact)
    assert first.manifest == second.manifest


def test_another_seed_gives_another_forest() -> None:
    table = leads(400)
    first, second = (train(table, replace(OPTIONS, seed=seed)) for seed in (0, 1))
    assert artifact.dump(first.artifact) != artifact.dump(second.artifact)


def test_the_artifact_has_the_audited_keys_and_what_was_missing() -> None:
    trained = train(leads(400), OPTIONS)
    audited = {
        "model",
        "scaler",
        "feature_selector",
        "feature_names",
        "performance",
        "feature_importance",
    }
    assert audited <= set(trained.artifact)
    assert set(trained.artifact) == set(artifact.KEYS)
    forest = trained.artifact["model"]
    assert (forest.n_estimators, forest.max_depth, forest.class_weight) == (100, 10, "balanced")
    assert trained.artifact["feature_selector"].k == 20
    assert forest.n_jobs == 1


def test_the_manifest_says_all_that_the_audit_asked_for() -> None:
    manifest = train(leads(), OPTIONS).manifest
    assert json.loads(json.dumps(manifest, allow_nan=False)) == manifest
    for judged in manifest["metrics"].values():
        assert {
            "roc_auc",
            "pr_auc",
            "log_loss",
            "brier",
            "ece",
            "lift_at_10_percent",
            "precision",
            "recall",
        } < set(judged)
    assert manifest["data"]["rows"] == 900
    assert manifest["data"]["base_rate"] == pytest.approx(0.3, abs=0.05)
    assert (manifest["label"]["horizon_days"], manifest["label"]["target"]) == (
        60,
        "has_application",
    )
    assert set(manifest["reasons"]["given_rates"]) <= {field.name for field in CRM_FIELDS}
    assert manifest["recipe"]["seed"] == 0
    assert manifest["created_at"] == "2026-08-10T22:13:20.000Z"
    assert len(manifest["features"]["specification_hash"]) == 64


def test_calibration_is_learnt_on_later_rows_than_the_forest_and_metrics_on_later_ones_still() -> (
    None
):
    data = train(leads(), OPTIONS).manifest["data"]
    assert all(before["to"] < after["from"] for before, after in pairwise(data["periods"]))
    assert data["judged"]["train"]["to"] == data["periods"][3]["to"]
    assert data["judged"]["test"] == data["periods"][4]
    assert data["used"]["train"]["to"] == data["to"]


def test_every_score_that_the_calibration_learns_from_is_of_trees_that_saw_only_older_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []
    full = candidates.fit_fold

    def watched(
        recipe: str, before: TrainingPart, period: TrainingPart, *rest: Any
    ) -> candidates.FoldResult:
        seen.append((int(before.as_of[-1]), int(period.as_of[0])))
        return full(recipe, before, period, *rest)

    monkeypatch.setattr(candidates, "fit_fold", watched)
    manifest = train(leads(), OPTIONS).manifest
    assert len(seen) > 4  # folds of the inputs, too
    assert all(before < after for before, after in seen)
    assert manifest["calibration"]["points"] == 720


def test_calibration_makes_a_balanced_forest_tell_rates_again() -> None:
    judged = train(leads(3000, rate=0.1), OPTIONS).manifest["metrics"]
    assert judged["raw"]["ece"] > 0.15
    assert judged["legacy_sigmoid"]["ece"] > 0.15
    assert judged["calibrated"]["ece"] < 0.05


def test_rows_of_one_moment_are_never_on_both_sides_of_a_boundary() -> None:
    table = leads(300).assign(as_of=START + np.arange(300) // 50 * DAY)
    number = split(table, (0.6, 0.2, 0.2))
    assert all(len(set(number[table["as_of"] == moment])) == 1 for moment in set(table["as_of"]))
    assert set(number) == {0, 1, 2}


def test_a_lead_is_on_one_side_of_a_boundary_only() -> None:
    table = leads(600).assign(lead_id=[f"lead-{i // 4 % 120}" for i in range(600)])
    number = split(table, (0.6, 0.2, 0.2))
    homes = pd.Series(number)[number >= 0].groupby(table["lead_id"][number >= 0]).nunique()
    assert homes.max() == 1
    assert (number == -1).any()


def test_leads_that_live_through_all_time_are_kept_rather_than_leaving_a_part_empty() -> None:
    table = leads(300).assign(lead_id="the only lead")
    assert set(split(table, (0.6, 0.2, 0.2))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (leads(150), "150 leads, of whom .* converted; at least 200 leads and 20 conversions"),
        (
            leads(400).assign(converted=[True] * 19 + [False] * 381),
            "400 leads, of whom 19 converted",
        ),
        (leads(400).assign(lead_id="the same"), "1 leads, of whom 1 converted"),
        (
            leads(400).assign(converted=[True, False] * 50 + [False] * 300),
            "the third of 5 periods, 80 rows .* no conversion",
        ),
        (
            leads(400).assign(converted=True),
            "the first of 5 periods, .* has no lead that did not convert",
        ),
        (leads(400).drop(columns=["as_of", "converted"]), "lacks as_of, converted"),
        (leads(400).assign(lead_id=[None] * 400), "rows without lead_id"),
        (leads(400).assign(as_of=2**60), "as_of is outside the years"),
        (leads(400).assign(created_at=-1), "no row has a valid created_at"),
        (leads(400).assign(lead_score=1e14), "of 80 rows only 0"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_one_sentence_not_a_stack_trace(
    table: pd.DataFrame, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(table, OPTIONS)


def test_by_default_a_thousand_leads_and_a_hundred_and_twenty_conversions_are_the_least() -> None:
    with pytest.raises(UserError, match="at least 1,000 leads and 120 conversions are needed"):
        train(leads(999), TrainOptions())


def test_rows_that_could_not_be_scored_are_not_trained_on_either() -> None:
    table = leads(600)
    table.loc[::10, "lead_score"] = 1e14
    table.loc[5::10, "created_at"] = -5
    judged = train(table, OPTIONS).manifest["metrics"]["calibrated"]
    assert judged["roc_auc"] > 0.6


def test_a_calibrator_that_costs_ranking_is_refused() -> None:
    # The score tells nothing in the calibration period and everything before and after it.
    table = leads(3000)
    middle = table.index[600:2400]
    table["converted"] = table["lead_score"] > 70
    table.loc[middle, "converted"] = np.random.default_rng(0).random(1800) < 0.3
    with pytest.raises(UserError, match="the calibration was refused: it lowers ROC-AUC"):
        train(table, replace(OPTIONS, allow_leaks=("lead_score",)))


def test_the_own_fields_of_a_crm_become_features_where_the_specification_names_them() -> None:
    table = leads(900)
    rng = np.random.default_rng(1)
    visits = rng.uniform(0, 1, 900)
    table["numbers"] = [{"visits": float(v)} for v in visits]
    table["converted"] = rng.random(900) < visits
    trained = train(table, replace(OPTIONS, specification=specify(numbers=("visits",))))
    assert (
        max(trained.manifest["features"]["importance"].items(), key=lambda item: item[1])[0]
        == "numbers.visits"
    )
    assert trained.manifest["metrics"]["calibrated"]["roc_auc"] > 0.75


def test_golden_rows_are_no_lead_of_the_table() -> None:
    table = leads(600)
    golden = train(table, OPTIONS).manifest["golden"]
    states = {
        (row["state"].get("lead_score"), row["state"].get("engagement_score")) for row in golden
    }
    pairs = set(zip(table["lead_score"], table["engagement_score"], strict=True))
    assert len(golden) == 9
    assert not states & pairs


def test_progress_is_told_from_start_to_done() -> None:
    steps: list[tuple[str, float]] = []
    train(leads(300), OPTIONS, lambda stage, share: steps.append((stage, share)))
    shares = [share for _, share in steps]
    assert shares == sorted(shares)
    assert (shares[0], steps[-1]) == (0.0, ("done", 1.0))
