"""A score must hold until it says so, to the millisecond, and not longer."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from features import columns_of
from features.calendar import DAY, HOUR
from models.serve import scorer
from models.serve.ageing import AGED, NEVER, Held, age_forest, bounds, first_change
from models.serve.calibrators import CALIBRATORS, Calibrator, fit
from models.serve.compiled import CompiledWalk
from models.serve.explain import contributions
from models.serve.forest import Floats, pack
from models.serve.scorer import HORIZON, Model, Scores
from producer.simulator import SimulatedCrm
from tests.trained_models import START_MS, trained

CHANGE = 0.01
HOURS = 90 * 24


def model_of(**changed: Any) -> Model:
    done = trained()
    manifest = {**done.manifest, "version": "1.0.0", "artifact": {"sha256": ""}}
    return Model({**done.artifact, **changed}, manifest)


def some_leads(count: int, seed: int) -> tuple[list[dict[str, Any]], Any]:
    """Return states and moments; some lack inputs, some are as of before their creation."""
    changes = [
        change.record
        for change in SimulatedCrm(seed, start=START_MS, leads=count).changes()
        if change.record and change.record["lead"]
    ]
    rng = np.random.default_rng(seed)
    picked = [dict(changes[i]) for i in rng.choice(len(changes), count)]
    states = [dict(each["lead"]) for each in picked]
    for i, state in enumerate(states):
        if i % 7 == 0:
            state[("lead_score", "engagement_score", "source")[i % 3]] = None
        if i % 11 == 0:
            state["lead_score"] = float(rng.choice([0.0, 1e-9, 99.5, 1e6]))
    late = rng.choice([0, 0, 0, 1, HOUR, 40 * DAY, -2 * DAY], count)
    return states, np.array([each["occurred_at"] for each in picked]) + late


def differs(scores: Scores, first: Scores, rows: Any) -> Any:
    """Return whether scores differ from the first ones of these rows by too much."""
    before = first.probability[rows]
    moved = (scores.probability > before + CHANGE) | (scores.probability < before - CHANGE)
    return moved | (scores.grade.codes != first.grade.codes[rows])


def check(model: Model, count: int, seed: int) -> float:
    """Compare `valid_until` with the scores of every hour; return the share that changes."""
    states, as_of = some_leads(count, seed)
    first = model.score(columns_of(states), as_of, 0, CHANGE)
    until, step = first.valid_until, max(1, 50_000 // HOURS)
    for start in range(0, count, step):
        rows = np.repeat(np.arange(start, min(start + step, count)), HOURS)
        moments = as_of[rows] + np.tile(np.arange(HOURS), len(rows) // HOURS) * HOUR
        columns = columns_of([states[row] for row in rows.tolist()])
        found = differs(model.score(columns, moments), first, rows)
        early = (until[rows] == NEVER) | (moments < until[rows])
        assert not (found & early).any()
    ends = np.flatnonzero(until != NEVER)
    assert (until[ends] > as_of[ends]).all()
    assert (until[ends] <= as_of[ends] + HORIZON).all()
    columns = columns_of([states[row] for row in ends.tolist()])
    assert differs(model.score(columns, until[ends]), first, ends).all()
    assert not differs(model.score(columns, until[ends] - 1), first, ends).any()
    return len(ends) / count


def test_a_score_that_changes_before_it_says_so_is_acted_on_too_late() -> None:
    assert check(model_of(), 120, 4) > 0.5


@pytest.mark.long
def test_10_000_leads_hold_at_every_hour_of_90_days() -> None:
    assert check(model_of(), 10_000, 5) > 0.5


def test_without_numba_the_moments_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    states, as_of = some_leads(300, 6)
    fast = model_of().score(columns_of(states), as_of, 0, CHANGE).valid_until
    monkeypatch.setattr(scorer, "CompiledWalk", None)
    plain = model_of().score(columns_of(states), as_of, 0, CHANGE).valid_until
    assert fast.tolist() == plain.tolist()


@pytest.mark.parametrize("change", [0.0, 0.2])
def test_boosting_and_other_changes_are_searched_alike(change: float) -> None:
    forest, names = pack(trained().artifact["model"]), model_of().features
    forest = replace(forest, offset=-1.0, value=(forest.value - 0.5) / 5)
    k, rng = len(names), np.random.default_rng(7)
    mean, scale = np.zeros(k), np.ones(k)
    ageing = age_forest(forest, names, mean, scale)
    walk = CompiledWalk(forest, contributions(forest, np.eye(k)), ageing)
    rows = rng.normal(size=(200, k)).astype(np.float32)
    score = rng.uniform(0, 3, 200)
    for place, column in enumerate(ageing.columns.tolist()):
        if column >= 0:
            rows[:, column] = 0.0 if place < 2 else score
    sums, _, reached = walk.sums(rows, explain=False, keep_leaves=True)
    held = Held(rows, np.full(200, 5.0 * DAY), score, sums - change, sums + change)
    found = walk.first_change(held, sums, reached)
    assert found.tolist() == first_change(forest, ageing, held, forest.leaves(rows)).tolist()
    assert (found != NEVER).any()


def test_a_new_feature_that_age_changes_would_be_forgotten() -> None:
    features = trained().artifact["features"]
    states, as_of = some_leads(50, 8)
    now, later = (
        features.transform(columns_of(states), as_of + moved).values for moved in (0, 9 * DAY)
    )
    changed = (now != later).any(axis=0)
    assert {
        name for name, one in zip(features.specification.outputs, changed, strict=True) if one
    } == (set(AGED) & set(features.specification.outputs))


@pytest.mark.parametrize("name", CALIBRATORS)
def test_the_bounds_of_each_calibrator_are_where_it_passes_them(name: str) -> None:
    rng = np.random.default_rng(9)
    raw = np.round(rng.beta(2, 5, 800), 3)
    calibrator = fit(name, raw, rng.random(800) < raw, 0.3)
    for each in (calibrator, replace(calibrator, shift=0.7)):
        passes_at_its_bounds(each, rng.uniform(0, 1, 300))


def passes_at_its_bounds(calibrator: Calibrator, raw: Floats) -> None:
    cuts = np.array([0.1, 0.25, 0.5])
    probability = calibrator.probability(raw)
    low, high = bounds(calibrator, cuts).around(probability, CHANGE)
    assert (low <= raw).all()
    assert (raw <= high).all()

    def changes(at: Floats, rows: Any) -> Any:
        stated, before = calibrator.probability(at), probability[rows]
        grade = np.searchsorted(cuts, stated, side="right")
        return (np.abs(stated - before) > CHANGE) | (
            grade != np.searchsorted(cuts, before, side="right")
        )

    for bound, outward in ((low, -1e-9), (high, 1e-9)):
        rows = np.flatnonzero(np.isfinite(bound))
        assert changes(bound[rows] + outward, rows).all()
        assert not changes(bound[rows] - outward, rows).any()
        open_ = np.flatnonzero(~np.isfinite(bound))
        assert not changes(np.full(len(open_), 0.0 if outward < 0 else 1.0), open_).any()
