"""When a training is asked for, and when it must not be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from models.monitor.ledger import DAY_MS, LabeledPrediction, PublishedPrediction
from models.monitor.triggers import (
    InService,
    Trigger,
    Triggers,
    due,
    in_service,
    mean_z,
    miscalibrated,
    parse_in_service,
    spiegelhalter,
)
from models.registry.versions import ModelRegistry
from models.serve.refused import Refused
from tests.trained_models import TRUST, trained

NOW = 1_750_000_000_000
SERVICE = InService("1.0.0", "0" * 64, NOW, 0.02)


def window(
    n: int, shift: float = 0.0, *, each: int = 1, a: float = 1, b: float = 9
) -> list[LabeledPrediction]:
    """Predictions of n leads, `each` of a lead, whose log-odds are `shift` too low."""
    rng = np.random.default_rng(0)
    stated = rng.beta(a, b, n)
    labels = rng.random(n) < expit(logit(stated) + shift)
    return [
        LabeledPrediction(
            PublishedPrediction(
                f"lead {i}", f"{i} {k}", 0, "1.0.0", "champion", False, float(p), float(p)
            ),
            bool(y),
            0,
        )
        for i, (p, y) in enumerate(zip(stated, labels, strict=True))
        for k in range(each)
    ]


def due_of(judged: list[LabeledPrediction], **fields: Any) -> dict[Trigger, str]:
    return due(SERVICE, judged, **({"new_outcomes": 0, "now_ms": NOW} | fields))


def test_probabilities_that_are_borne_out_ask_for_nothing() -> None:
    assert due_of(window(2000)) == {}


@pytest.mark.parametrize("shift", [0.7, -1.5])
def test_probabilities_that_are_too_low_or_too_high_ask_with_the_figures(shift: float) -> None:
    sentence = due_of(window(2000, shift))[Trigger.CALIBRATION]
    assert sentence.startswith("of 2,000 leads ")
    assert "% was stated" in sentence


def test_fewer_than_500_leads_are_no_evidence_however_many_predictions_they_had() -> None:
    assert miscalibrated(window(500, 2.0), 0.02) is not None
    assert miscalibrated(window(499, 2.0, each=4), 0.02) is None


def test_many_predictions_of_a_lead_are_no_more_evidence_than_one() -> None:
    once = window(600, 0.35)
    assert miscalibrated(once, 0.0) is None
    assert miscalibrated(window(600, 0.35, each=20), 0.0) is None
    assert miscalibrated(window(600 * 20, 0.35), 0.0) is not None


def test_a_difference_that_nobody_would_act_on_asks_for_nothing_however_certain() -> None:
    assert miscalibrated(window(60_000, 0.15), 0.02) is None


def test_an_ece_that_the_manifest_admits_already_asks_for_nothing() -> None:
    """Too wide a spread: the mean is right, only the ECE shows it."""
    rng = np.random.default_rng(1)
    true = rng.uniform(0.2, 0.8, 4000)
    stated = expit(2 * logit(true))
    judged = [
        LabeledPrediction(
            PublishedPrediction(f"lead {i}", "e", 0, "1.0.0", "champion", False, float(p), 0.0),
            bool(y),
            0,
        )
        for i, (p, y) in enumerate(zip(stated, rng.random(4000) < true, strict=True))
    ]
    assert miscalibrated(judged, 0.02) is not None
    assert miscalibrated(judged, 0.2) is None


def test_a_shift_around_one_half_that_spiegelhalter_cannot_see_is_seen_by_the_mean() -> None:
    judged = window(2000, 0.6, a=5, b=5)
    stated = np.array([one.prediction.probability for one in judged])
    labels = np.array([one.converted for one in judged])
    assert abs(spiegelhalter(stated, labels)) < 2
    assert mean_z(stated, labels) > 4
    assert miscalibrated(judged, 0.02) is not None


def test_spiegelhalters_z_is_standard_normal_where_probabilities_are_right() -> None:
    rng = np.random.default_rng(0)
    stated = rng.beta(1, 4, (2000, 500))
    labels = rng.random(stated.shape) < stated
    z = np.array([spiegelhalter(p, y) for p, y in zip(stated, labels, strict=True)])
    assert abs(z.mean()) < 0.1
    assert z.std() == pytest.approx(1, abs=0.06)


def test_age_and_outcomes_ask_by_their_limits_and_never_where_they_are_0() -> None:
    old = {"now_ms": NOW + round(90.5 * DAY_MS), "new_outcomes": 5000}
    assert due_of([], **old) == {
        Trigger.AGE: "made 90 days ago, more than 90",
        Trigger.OUTCOMES: "5,000 outcomes became known since it was made",
    }
    assert due_of([], now_ms=NOW + 90 * DAY_MS, new_outcomes=4999) == {}
    assert due_of([], **old, triggers=Triggers(0, 0)) == {}
    assert due_of([], **old, triggers=Triggers(91, 5001)) == {}


def test_the_facts_come_from_the_manifest_and_an_imported_one_lacks_some() -> None:
    manifest = trained().manifest | {"version": "1.0.0", "artifact": {"sha256": "ab"}}
    service = parse_in_service(manifest, manifest)
    assert service.created_at == 1_735_689_600_000
    assert service.ece == manifest["metrics"]["calibrated"]["ece"]
    minimum = {"version": "1.0.0", "artifact": {"sha256": "ab"}}
    assert parse_in_service(minimum, minimum) == InService("1.0.0", "ab", None, None)
    for broken in (
        {"version": "1.0.0"},
        {**manifest, "created_at": "yesterday"},
        {**manifest, "metrics": []},
    ):
        with pytest.raises(Refused, match="cannot be understood"):
            parse_in_service(broken, broken)


def test_another_calibration_makes_the_trees_no_younger(tmp_path: Path) -> None:
    registry = ModelRegistry(str(tmp_path), TRUST)
    base = trained()
    first = registry.publish(base)
    moved = replace(
        base, manifest=base.manifest | {"recalibrated": {}, "created_at": "2026-01-01T00:00:00Z"}
    )
    patch = registry.publish(moved, patch_of=first)
    service, manifest = in_service(registry, patch)
    assert (service.version, service.created_at) == ("1.0.1", 1_735_689_600_000)
    assert manifest["created_at"] == "2026-01-01T00:00:00Z"
