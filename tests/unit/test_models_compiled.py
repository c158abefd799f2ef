"""The compiled walk and the one in numpy must be told apart by the clock alone."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from models.serve import scorer
from models.serve.compiled import CompiledWalk, _not_above
from models.serve.explain import Factors, contributions, strongest
from models.serve.forest import Forest, pack
from models.train.training import train
from tests.unit.test_models_train import OPTIONS, leads

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["audited", "forest", "boosting"])
def walked(request: pytest.FixtureRequest) -> tuple[Forest, int]:
    """The trees of a recipe, and how many features they take."""
    artifact = train(
        leads(900), replace(OPTIONS, recipe=request.param, calibrator="sigmoid")
    ).artifact
    return pack(artifact["model"]), int(artifact["feature_selector"].get_support().sum())


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 1, 2, 127, 128, 129, 700])
def test_scores_and_contributions_are_the_same_bits_for_any_number_of_rows(
    walked: tuple[Forest, int], n: int
) -> None:
    forest, k = walked
    explained = contributions(forest, np.eye(k))
    rows = np.random.default_rng(n).normal(size=(n, k)).astype(np.float32)
    sums, changes, _ = CompiledWalk(forest, explained).sums(rows, explain=True)
    leaves = forest.leaves(rows)
    assert forest.score_of(sums).tobytes() == forest.probability(leaves).tobytes()
    assert changes.tobytes() == explained.take(leaves).tobytes()
    assert CompiledWalk(forest, explained).sums(rows, explain=False)[0].tobytes() == sums.tobytes()


def test_reasons_are_picked_in_the_same_order_whatever_the_ties() -> None:
    rng = np.random.default_rng(0)
    contributed = rng.choice([0.0, -0.0, 0.1, -0.1, 0.2], size=(500, 9))
    factors = Factors(rng.uniform(size=500), rng.uniform(size=500))
    walk = object.__new__(CompiledWalk)  # picking asks for nothing of the trees
    for count in (0, 1, 3, 9, 50):
        picked = walk.strongest(contributed, factors, count)
        ordered = strongest(contributed, factors, count)
        assert picked.indices.tolist() == ordered.indices.tolist()
        assert picked.points.tobytes() == ordered.points.tobytes()


def test_a_row_on_a_threshold_goes_the_same_way(walked: tuple[Forest, int]) -> None:
    """Rows made of the thresholds themselves and their neighbours in float32: where a rounded one
    would err.
    """
    forest, k = walked
    inner = np.flatnonzero(forest.children[1::2] != np.arange(len(forest.value)))
    rng = np.random.default_rng(0)
    near = forest.threshold[rng.choice(inner, size=(600, k))].astype(np.float32)
    rows = np.nextafter(near, near + rng.integers(-1, 2, near.shape).astype(np.float32))
    walk = CompiledWalk(forest, contributions(forest, np.eye(k)))
    expected = forest.probability(forest.leaves(rows))
    assert forest.score_of(walk.sums(rows, explain=False)[0]).tobytes() == expected.tobytes()


def test_a_threshold_in_float32_parts_the_float32_numbers_as_the_float64_does() -> None:
    rng = np.random.default_rng(0)
    threshold = np.concatenate(
        [rng.normal(size=2000), np.float32(rng.normal(size=500)), [0.0, -0.0, 1e-50, -1e-50]]
    )
    rounded = _not_above(threshold)
    for x in (
        rounded,
        np.nextafter(rounded, np.float32(np.inf)),
        np.nextafter(rounded, np.float32(-np.inf)),
    ):
        assert ((x <= rounded) == (x.astype(np.float64) <= threshold)).all()


def test_nodes_that_two_parents_share_are_refused_before_they_are_laid_out() -> None:
    shared = np.array([1, 1, 2, 2, 2, 2], dtype=np.intp)
    diamond = Forest(
        feature=np.zeros(3, dtype=np.intp),
        threshold=np.zeros(3),
        value=np.zeros(3),
        children=shared,
        roots=np.array([0], dtype=np.intp),
        depth=2,
    )
    with pytest.raises(ValueError, match="do not make trees"):
        CompiledWalk(
            diamond,
            contributions(replace(diamond, children=np.array([2, 1, 1, 1, 2, 2])), np.eye(1)),
        )


@pytest.mark.slow
def test_without_numba_a_model_scores_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = train(leads(900), OPTIONS)
    manifest = {**trained.manifest, "version": "1.0.0", "artifact": {"sha256": "0"}}
    table = leads(50, seed=9)
    columns = {
        name: table[name].tolist()
        for name in ("created_at", "lead_score", "engagement_score", "source")
    }
    scores = []
    for walk in (CompiledWalk, None):
        monkeypatch.setattr(scorer, "CompiledWalk", walk)
        scores.append(
            scorer.Model(trained.artifact, manifest).score(columns, table["as_of"].to_numpy(), 3)
        )
    assert scores[0].raw.tobytes() == scores[1].raw.tobytes()
    assert scores[0].reasons == scores[1].reasons
    assert scores[0].percentiles.tobytes() == scores[1].percentiles.tobytes()
    assert scores[0].high.tobytes() == scores[1].high.tobytes()


def test_a_machine_without_numba_imports_the_scorer_all_the_same() -> None:
    code = (
        "import sys; sys.modules['numba'] = None; from models.serve import scorer; "
        "print(scorer.CompiledWalk)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
