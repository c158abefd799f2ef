from typing import Any

import numpy as np
import pytest

from features import columns_of
from leadstream.errors import Reason
from models.serve.scorer import Model
from producer.simulator import SimulatedCrm
from tests.trained_models import START_MS, trained

PUBLISHED = {"version": "1.0.0", "artifact": {"sha256": "00"}}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(trained().artifact, {**trained().manifest, **PUBLISHED})


@pytest.fixture(scope="module")
def leads() -> tuple[list[dict[str, Any]], np.ndarray[Any, np.dtype[np.int64]]]:
    changes = [
        c
        for c in SimulatedCrm(9, start=START_MS, leads=400).changes()
        if c.state is not None and c.record
    ]
    states = [dict(change.state or {}) for change in changes[:700]]
    states[3] = {"created_at": START_MS}
    states[4] |= {
        "lead_score": float("nan"),
        "touchpoint_count": None,
        "source": "never seen before",
    }
    return states, np.array([(change.record or {})["occurred_at"] for change in changes[:700]])


def test_the_raw_score_is_scikit_learns_to_the_bit(model: Model, leads: Any) -> None:
    states, as_of = leads
    artifact = trained().artifact
    X = artifact["features"].transform(columns_of(states), as_of).values
    scaled = artifact["feature_selector"].transform(artifact["scaler"].transform(X))
    expected = artifact["model"].predict_proba(scaled)[:, 1]
    assert model.score(columns_of(states), as_of).raw.tolist() == expected.tolist()


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513])
def test_a_lead_scores_the_same_bits_in_any_batch(model: Model, leads: Any, size: int) -> None:
    states, as_of = leads
    if size == 1:
        states, as_of = states[:40], as_of[:40]
    full = model.score(columns_of(states), as_of, 3)
    for start in range(0, len(states), size):
        part = model.score(columns_of(states[start : start + size]), as_of[start : start + size], 3)
        rows = slice(start, start + size)
        for name in ("raw", "probability", "low", "high", "confidence", "coverage"):
            assert getattr(part, name).tobytes() == getattr(full, name)[rows].tobytes()
        assert part.reasons == full.reasons[rows]
        assert part.grade == full.grade[rows]


def test_reasons_and_base_add_up_to_the_probability(model: Model, leads: Any) -> None:
    states, as_of = leads
    scores = model.score(columns_of(states), as_of, 1000)
    base = scores.base_probability
    sums = [base + sum(points for _, points in reasons) for reasons in scores.reasons]
    assert np.abs(sums - scores.probability).max() < 1e-12
    assert model.base == pytest.approx(trained().artifact["explain_base"])
    assert model.base == pytest.approx(0.5, abs=0.01)  # class_weight="balanced"


def test_reasons_are_the_strongest_first_whichever_way_they_push(model: Model, leads: Any) -> None:
    states, as_of = leads
    everything = model.score(columns_of(states), as_of, 1000).reasons
    three = model.score(columns_of(states), as_of, 3).reasons
    assert all(short == full[:3] for short, full in zip(three, everything, strict=True))
    strengths = [[abs(points) for _, points in reasons] for reasons in everything]
    assert all(row == sorted(row, reverse=True) for row in strengths)
    assert {np.sign(points) for reasons in three for _, points in reasons} == {-1.0, 1.0}
    assert all(name in model.fields for reasons in three for name, _ in reasons)
    assert set(model.fields) <= {spec.name for spec in model.specification.inputs}


def test_a_percentile_says_how_many_training_leads_have_less(model: Model, leads: Any) -> None:
    states, as_of = leads
    states = [{**state, "touchpoint_count": None} for state in states]
    scores = model.score(columns_of(states), as_of, 1000)
    row, rank = np.nonzero(scores.strongest.indices == model.fields.index("lead_score"))
    numbers = np.array([states[i].get("lead_score") for i in row], np.float64)
    known = ~np.isnan(scores.percentiles[row, rank])
    assert known.sum() > 20
    shares = scores.percentiles[row, rank][known][np.argsort(numbers[known])]
    assert (np.diff(shares) >= 0).all()
    assert 0 <= shares[0] < 0.2 < 0.8 < shares[-1] <= 1
    absent = scores.strongest.indices == model.fields.index("touchpoint_count")
    assert np.isnan(scores.percentiles[absent]).all()
    assert not np.isnan(
        scores.percentiles[scores.strongest.indices == model.fields.index("created_at")]
    ).any()


def test_without_reasons_asked_for_there_are_none(model: Model, leads: Any) -> None:
    states, as_of = leads
    assert model.score(columns_of(states), as_of).reasons == [()] * len(states)


@pytest.mark.slow
def test_a_row_that_cannot_be_scored_leaves_its_neighbours_the_same_bits(
    model: Model, leads: Any
) -> None:
    states, as_of = leads
    bad = [dict(state) for state in states]
    bad[10] |= {"lead_score": 1e14}
    bad[20] |= {"created_at": -1}
    bad[30] |= {"lead_score": 1e14, "created_at": None}
    good, mixed = (model.score(columns_of(rows), as_of, 3) for rows in (states, bad))
    assert good.failed == {}
    assert {row: (poison.reason, poison.stage) for row, poison in mixed.failed.items()} == {
        10: (Reason.SCORING_FAILED, "score"),
        20: (Reason.FEATURE_FAILED, "features"),
        30: (Reason.FEATURE_FAILED, "features"),
    }
    assert mixed.failed[10].detail == "score_cubed is too large for the model's 32-bit numbers"
    others = [i for i in range(len(states)) if i not in mixed.failed]
    for name in ("raw", "probability", "low", "high", "confidence"):
        assert getattr(good, name)[others].tobytes() == getattr(mixed, name)[others].tobytes()
    assert [good.reasons[i] for i in others] == [mixed.reasons[i] for i in others]


def test_probability_lies_in_its_interval_and_decides_prediction_and_grade(
    model: Model, leads: Any
) -> None:
    states, as_of = leads
    scores = model.score(columns_of(states), as_of)
    assert (scores.low <= scores.probability).all()
    assert (scores.probability <= scores.high).all()
    assert (scores.prediction == (scores.probability >= scores.threshold)).all()
    cuts = trained().artifact["grades"]
    assert scores.grade == [
        "A" if p >= cuts["A"] else "B" if p >= cuts["B"] else "C" if p >= cuts["C"] else "D"
        for p in scores.probability
    ]
    assert set(scores.grade) == {"A", "B", "C", "D"}


def test_confidence_falls_with_what_is_missing_and_what_is_unusual(
    model: Model, leads: Any
) -> None:
    states, as_of = leads
    scores = model.score(columns_of(states), as_of)
    assert scores.confidence[3] < 0.2  # nothing but created_at is known
    assert ((scores.confidence >= 0) & (scores.confidence <= 1)).all()
    strange = [{**states[0], "source": "never seen before", "status": "neither"}]
    assert model.score(columns_of(strange), as_of[:1]).confidence[0] < scores.confidence[0]


def test_an_empty_batch_is_no_error(model: Model) -> None:
    scores = model.score(columns_of([]), np.array([], dtype=np.int64), 3)
    assert (len(scores.raw), list(scores.grade), scores.reasons, scores.failed) == (0, [], [], {})
