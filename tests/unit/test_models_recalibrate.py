from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leadstream.errors import UserError
from models.monitor.ledger import LabeledPrediction, PublishedPrediction
from models.registry.versions import ModelRegistry
from models.serve.artifact import Trained
from models.serve.calibrators import log_odds
from models.train.recalibrate import recalibrate_champion
from tests.trained_models import TRUST, train_once
from tests.unit.test_models_train import OPTIONS, leads

pytestmark = pytest.mark.slow

SURE = replace(OPTIONS, calibrator="sigmoid", recipe="forest")
NOW = 1_800_000_000_000


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """A champion 1.0.0."""
    registry = ModelRegistry(str(tmp_path), TRUST)
    registry.promote(registry.publish(train_once(leads(1500), SURE)))
    return registry


def outcomes(
    registry: ModelRegistry, added: float, n: int = 2000, version: str = "1.0.0", seed: int = 0
) -> list[LabeledPrediction]:
    """Leads that convert with the odds that version 1.0.0 states times exp(`added`)."""
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0.05, 0.6, n)
    stated = registry.verify("1.0.0").calibrator.interval(raw)[0]
    truth = 1 / (1 + np.exp(-(log_odds(stated) + added)))
    converted = rng.random(n) < truth
    return [
        LabeledPrediction(
            PublishedPrediction(
                f"lead-{i}",
                f"event-{i}",
                NOW + i,
                version,
                "champion",
                False,
                float(stated[i]),
                float(raw[i]),
            ),
            bool(converted[i]),
            NOW + i,
        )
        for i in range(n)
    ]


def test_a_base_rate_that_has_fallen_makes_a_patch_version_that_says_so_and_passes_the_gate(
    registry: ModelRegistry,
) -> None:
    made = recalibrate_champion(registry, outcomes(registry, -0.8), promote=True, now_ms=NOW)
    assert made is not None
    assert (made.version, made.promoted, made.objections) == ("1.0.1", True, [])
    assert made.shift == pytest.approx(-0.8, abs=0.15)
    assert registry.resolve() == "1.0.1"
    old, new = registry.verify("1.0.0"), registry.verify("1.0.1")
    raw = np.linspace(0.05, 0.6, 50)
    moved = log_odds(new.calibrator.interval(raw)[0]) - log_odds(old.calibrator.interval(raw)[0])
    assert moved == pytest.approx(np.full(50, made.shift))
    assert new.manifest["recalibrated"]["from"] == "1.0.0"
    bins = new.manifest["curves"]["calibrated"]["reliability"]["counts"]
    assert (
        sum(bins) == new.manifest["data"]["judged"]["test"]["rows"]
    )  # curves of the metrics before would mislead
    assert (
        new.manifest["metrics"]["calibrated"]["log_loss"]
        < new.manifest["against"]["log_loss"]["champion"]
    )
    # The same leads are called and graded as before: cuts move with the probabilities.
    assert new.manifest["threshold"]["value"] < old.manifest["threshold"]["value"]
    assert new.manifest["grades"]["cuts"]["A"] < old.manifest["grades"]["cuts"]["A"]


def test_outcomes_that_bear_the_champion_out_change_nothing(registry: ModelRegistry) -> None:
    assert recalibrate_champion(registry, outcomes(registry, 0.0), promote=True, now_ms=NOW) is None
    assert registry.versions() == ["1.0.0"]


def test_a_second_patch_moves_on_from_the_first_and_counts_what_either_of_them_said(
    registry: ModelRegistry,
) -> None:
    recalibrate_champion(registry, outcomes(registry, -0.8), promote=True, now_ms=NOW)
    mixed = outcomes(registry, 0.5, 1000) + outcomes(registry, 0.5, 1000, "1.0.1", seed=1)
    made = recalibrate_champion(registry, mixed, promote=True, now_ms=NOW)
    assert made is not None
    assert made.version == "1.0.2"
    assert made.shift == pytest.approx(
        0.5, abs=0.15
    )  # from the trees' own calibration, not from the patch


def test_what_other_trees_have_said_does_not_count(registry: ModelRegistry) -> None:
    assert (
        recalibrate_champion(
            registry, outcomes(registry, -0.8, version="0.9.0"), promote=True, now_ms=NOW
        )
        is None
    )


def test_few_outcomes_prove_nothing(registry: ModelRegistry) -> None:
    assert (
        recalibrate_champion(registry, outcomes(registry, -0.8, 100), promote=True, now_ms=NOW)
        is None
    )


def test_a_shift_that_was_over_before_the_newer_half_is_published_but_does_not_pass(
    registry: ModelRegistry,
) -> None:
    # All of the fall lies in the older half: a shift learnt there is wrong for the newer one.
    passing = outcomes(registry, -2.0, 1000) + outcomes(registry, 0.3, 1000, seed=1)
    made = recalibrate_champion(registry, passing, promote=True, now_ms=NOW)
    assert made is not None
    assert not made.promoted
    assert any("loses more than the champion" in sentence for sentence in made.objections)
    assert registry.resolve() == "1.0.0"
    # The same outcomes again make no second version.
    again = recalibrate_champion(registry, passing, promote=True, now_ms=NOW)
    assert again == made
    assert registry.versions() == ["1.0.0", "1.0.1"]


def test_without_promote_the_patch_waits_for_a_person(registry: ModelRegistry) -> None:
    made = recalibrate_champion(registry, outcomes(registry, -0.8), promote=False, now_ms=NOW)
    assert made is not None
    assert not made.promoted
    assert registry.resolve() == "1.0.0"
    # Asked again and again, it is proposed once; when outcomes have moved on, again.
    assert (
        recalibrate_champion(registry, outcomes(registry, -0.8, seed=1), promote=False, now_ms=NOW)
        is None
    )
    again = recalibrate_champion(registry, outcomes(registry, 0.6), promote=False, now_ms=NOW)
    assert again is not None
    assert (made.version, again.version) == ("1.0.1", "1.0.2")
    assert registry.promote(again.version) == "1.0.0"


def test_a_champion_that_does_not_say_how_it_was_trained_is_one_sentence_and_no_crash(
    registry: ModelRegistry,
) -> None:
    trained = train_once(leads(1500), SURE)
    manifest = {name: part for name, part in trained.manifest.items() if name != "options"}
    imported = registry.publish(Trained(trained.artifact, manifest))
    registry.promote(imported)
    stated = outcomes(registry, -0.8, version=imported)
    with pytest.raises(
        UserError, match="does not say how it was trained and cannot be recalibrated"
    ):
        recalibrate_champion(registry, stated, promote=True, now_ms=NOW)
