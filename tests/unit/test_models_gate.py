from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.evaluate import mean_of_groups
from models.registry.gate import GateRefused, objections
from models.registry.versions import ModelRegistry
from models.serve.artifact import Trained
from models.serve.scorer import Model
from tests.trained_models import TRUST, train_once
from tests.unit.test_models_train import OPTIONS, leads

pytestmark = pytest.mark.slow

SURE = replace(OPTIONS, calibrator="sigmoid", recipe="forest")
YEAR = 365 * 86_400_000


def model(trained: Trained, version: str = "1.0.0") -> Model:
    return Model(
        trained.artifact, {**trained.manifest, "version": version, "artifact": {"sha256": version}}
    )


def later(table: pd.DataFrame, by: int = YEAR) -> pd.DataFrame:
    """The same kind of leads a year on."""
    return table.assign(
        lead_id=[f"later-{i}" for i in range(len(table))],
        as_of=table["as_of"] + by,
        created_at=table["created_at"] + by,
    )


def blind(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the one field that tells anything made worthless for most leads."""
    rng = np.random.default_rng(7)
    score = np.where(
        rng.random(len(table)) < 0.6, rng.permutation(table["lead_score"]), table["lead_score"]
    )
    return table.assign(lead_score=score)


@pytest.fixture(scope="module")
def champion() -> Model:
    return model(train_once(leads(1500), SURE))


def test_a_model_as_good_as_the_champion_on_newer_leads_passes(champion: Model) -> None:
    candidate = train_once(later(leads(1500, seed=1)), SURE, champion=champion)
    assert candidate.manifest["against"]["rows"] == 300
    assert objections(model(candidate, "1.1.0"), champion) == []


def test_a_model_that_learnt_from_leads_of_another_base_rate_loses_more_on_newer_leads(
    champion: Model,
) -> None:
    older, newer = later(leads(1500, seed=1, rate=0.48)), later(leads(1500, seed=1))
    candidate = train_once(
        pd.concat([older.iloc[:1200], newer.iloc[1200:]]), SURE, champion=champion
    )
    found = objections(model(candidate, "1.1.0"), champion)
    assert any("loses more than the champion on 300 later leads" in one for one in found), found


def test_a_model_that_ranks_worse_on_newer_leads_is_refused(champion: Model) -> None:
    newer = later(leads(1500, seed=1))
    # Trained on leads whose score tells little, judged on the same newer ones as the champion.
    spoilt = blind(newer).iloc[:1200]
    bad = train_once(pd.concat([spoilt, newer.iloc[1200:]]), SURE, champion=champion)
    assert any(
        "ranks worse than the champion" in one for one in objections(model(bad, "1.1.0"), champion)
    )


def test_leads_that_the_champion_has_learnt_from_are_not_held_against_the_candidate() -> None:
    table = leads(1500)
    overfit = model(train_once(table, SURE))
    again = train_once(table, replace(SURE, seed=1), champion=overfit)
    assert again.manifest["against"]["rows"] == 0
    assert (
        objections(model(again, "1.1.0"), overfit) == []
    )  # judged on the same period: by their manifests


def test_too_few_newer_leads_are_no_comparison(champion: Model) -> None:
    candidate = train_once(later(leads(900, seed=1)), SURE, champion=champion)
    assert candidate.manifest["against"]["rows"] == 180
    assert "log_loss" not in candidate.manifest["against"]
    (sentence,) = objections(model(candidate, "1.1.0"), champion)
    assert "only 180 rows with their outcome" in sentence


def test_a_comparison_with_another_champion_does_not_count(champion: Model) -> None:
    candidate = train_once(later(leads(1500, seed=1)), SURE, champion=champion)
    other = model(train_once(leads(1500, seed=2), SURE), "1.0.7")
    (sentence,) = objections(model(candidate, "1.1.0"), other)
    assert "it was not compared with the present champion 1.0.7" in sentence


def test_another_meaning_of_the_probability_is_named(champion: Model) -> None:
    candidate = train_once(
        later(leads(1500, seed=1)), replace(SURE, horizon_days=30), champion=champion
    )
    (sentence,) = objections(model(candidate, "1.1.0"), champion)
    assert "within 30 days" in sentence
    assert "within 60 days" in sentence


def test_an_allowed_leak_is_named_and_forcing_it_stays_in_the_log(tmp_path: Path) -> None:
    registry = ModelRegistry(str(tmp_path), TRUST, user="ada@crm")
    registry.promote(registry.publish(train_once(leads(1500), SURE)))
    table = later(leads(1500, seed=1))
    wrong = np.random.default_rng(2).random(len(table)) < 0.03
    table = table.assign(status=np.where(table["converted"] ^ wrong, "enrolled", "open"))
    present = registry.verify("1.0.0")
    leaking = registry.publish(
        train_once(table, replace(SURE, allow_leaks=("status",)), champion=present)
    )
    with pytest.raises(GateRefused, match="leak into status"):
        registry.promote(leaking)
    assert registry.resolve() == "1.0.0"
    assert registry.promote(leaking, force=True) == "1.0.0"
    assert registry.resolve() == leaking
    first, forced = registry.log()
    assert (first["by"], first["to"]) == ("ada@crm", "1.0.0")
    assert "forced" not in first
    assert (forced["from"], forced["to"]) == ("1.0.0", leaking)
    assert any("leak into status" in sentence for sentence in forced["forced"])


def test_a_challenger_alias_asks_for_no_gate(tmp_path: Path) -> None:
    registry = ModelRegistry(str(tmp_path), TRUST)
    registry.promote(registry.publish(train_once(leads(1500), SURE)))
    other = registry.publish(train_once(later(leads(1500, seed=1)), replace(SURE, horizon_days=30)))
    registry.promote(other, "challenger")
    assert registry.aliases() == {"champion": "1.0.0", "challenger": other}


def changed(trained: Trained, **parts: dict[str, Any]) -> Trained:
    """The model with other figures in its evidence."""
    evidence = trained.manifest["evidence"]
    merged = {name: {**evidence[name], **part} for name, part in parts.items()}
    return Trained(trained.artifact, {**trained.manifest, "evidence": {**evidence, **merged}})


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"log_loss": {"gain": 0.001, "standard_error": 0.001}}, "not know more than a constant"),
        ({"roc_auc": {"value": 0.56, "standard_error": 0.02}}, "its ranking may be chance"),
        ({"newest_period": {"gain": -0.05, "standard_error": 0.02}}, "newest period alone"),
    ],
)
def test_a_model_that_knows_nothing_beyond_chance_is_refused_even_as_the_first(
    parts: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    registry = ModelRegistry(str(tmp_path), TRUST)
    version = registry.publish(changed(train_once(leads(1500), SURE), **parts))
    with pytest.raises(GateRefused, match=sentence):
        registry.promote(version)
    assert registry.resolve() is None
    registry.promote(version, force=True)
    assert registry.resolve() == version


def test_a_version_without_evidence_is_judged_as_before(champion: Model) -> None:
    manifest = {name: part for name, part in champion.manifest.items() if name != "evidence"}
    assert objections(Model(train_once(leads(1500), SURE).artifact, manifest), None) == []
    metrics = manifest["metrics"]
    worse = {**metrics, "calibrated": {**metrics["calibrated"], "log_loss": 0.9}}
    old = Model(train_once(leads(1500), SURE).artifact, {**manifest, "metrics": worse})
    assert "no better than that of always saying" in objections(old, None)[0]


def test_a_row_from_the_future_does_not_stop_later_promotions() -> None:
    wrong = leads(1500)
    wrong.loc[1499, "as_of"] = 7_353_504_000_000  # 2203
    present = model(train_once(wrong, SURE))
    candidate = train_once(later(leads(1500, seed=1), 4 * YEAR), SURE, champion=present)
    assert candidate.manifest["against"]["rows"] == 300
    assert objections(model(candidate, "1.1.0"), present) == []


def test_a_permission_of_the_champion_lasts_although_its_leads_showed_no_leak(
    champion: Model,
) -> None:
    candidate = train_once(later(leads(1500, seed=1)), SURE, champion=champion)
    leaking = {**candidate.manifest, "leaks": {"found": {"source": "x"}, "allowed": ["source"]}}
    version = Model(candidate.artifact, {**leaking, "version": "1.1.0", "artifact": {"sha256": ""}})
    assert "leak into source" in objections(version, champion)[0]
    options = {**champion.manifest["options"], "allow_leaks": ["source"]}
    permitted = Model(
        train_once(leads(1500), SURE).artifact, {**champion.manifest, "options": options}
    )
    assert objections(version, permitted) == []


def test_golden_rows_that_the_candidate_reads_quite_differently_are_named(champion: Model) -> None:
    candidate = train_once(later(leads(1500, seed=1)), SURE, champion=champion)
    flipped: list[dict[str, Any]] = [
        {**row, "probability": 1.0 if row["probability"] < 0.5 else 0.0}
        for row in champion.manifest["golden"]
    ]
    other = Model(train_once(leads(1500), SURE).artifact, {**champion.manifest, "golden": flipped})
    (sentence,) = objections(model(candidate, "1.1.0"), other)
    assert "on the champion's golden rows" in sentence


def test_rows_of_one_lead_count_as_one_in_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    values, groups = np.repeat(rng.normal(size=500), 4), np.repeat(np.arange(500), 4)
    _, clustered = mean_of_groups(values, groups)
    _, alone = mean_of_groups(values, np.arange(2000))
    assert clustered == pytest.approx(2 * alone, rel=1e-6)
    assert alone == pytest.approx(values.std() / np.sqrt(2000), rel=1e-9)
