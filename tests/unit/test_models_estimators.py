"""What serving reads of scikit-learn's parts has the bits of scikit-learn, and a consumer does
without it.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_selection import SelectKBest
from sklearn.tree._tree import NODE_DTYPE

from models.registry.signing import Trust
from models.registry.versions import ModelRegistry
from models.serve import artifact
from models.serve.allowed import _NODE
from models.serve.artifact import Trained
from models.serve.estimators import Selector
from models.serve.forest import Forest, pack
from models.serve.refused import Refused
from models.train.legacy import inspect
from models.train.training import train
from tests import malicious_artifacts as malicious
from tests.unit.test_models_legacy import FORMULAS, NOW, UTC, audited, dumped
from tests.unit.test_models_train import OPTIONS, leads

pytestmark = pytest.mark.slow


def legacy() -> Trained:
    trained = inspect(dumped(audited(FORMULAS, k=8)), UTC, NOW).trained
    assert trained is not None
    return trained


KINDS: dict[str, Callable[[], Trained]] = {
    **{
        name: lambda name=name: train(leads(), replace(OPTIONS, recipe=name))  # type: ignore[misc]
        for name in ("audited", "forest", "boosting")
    },
    "legacy": legacy,
}


@pytest.fixture(scope="module", params=KINDS)
def payload(request: pytest.FixtureRequest) -> bytes:
    return artifact.dump(KINDS[request.param]().artifact)


def test_what_is_served_has_the_bits_of_scikit_learn_s_own_parts(payload: bytes) -> None:
    served, own = artifact.unpack(payload), artifact.unpack(payload, scikit=True)
    assert type(own["scaler"]).__module__.startswith("sklearn")
    assert type(served["scaler"]).__module__ == "models.serve.estimators"
    for part, name in (("scaler", "mean_"), ("scaler", "scale_"), ("feature_selector", "scores_")):
        assert getattr(served[part], name).tobytes() == getattr(own[part], name).tobytes()
    taken = own["feature_selector"].get_support()
    assert served["feature_selector"].get_support().tolist() == taken.tolist()
    one, other = pack(served["model"]), pack(own["model"])
    for name in ("feature", "threshold", "value", "children", "roots"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
    assert (one.depth, one.offset) == (other.depth, other.offset)
    if not isinstance(own["model"], Forest):
        rows = np.random.default_rng(0).normal(size=(500, taken.sum())).astype(np.float32)
        expected = own["model"].predict_proba(rows)[:, 1]
        assert one.probability(one.leaves(rows)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("k", [0, 1, 3, 7, 12, 50, "all"])
def test_the_selector_takes_what_scikit_learn_s_takes_whatever_ties_and_gaps_its_scores_have(
    k: int | str,
) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.choice(
            [0.0, 1.0, 2.5, -1.0, np.nan, np.inf, -np.inf, np.finfo(float).min], size=12
        )
        own = SelectKBest(k=k)
        own.scores_ = scores
        assert Selector(scores, k).get_support().tolist() == own.get_support().tolist()


@pytest.mark.parametrize("case", malicious.trees())
@pytest.mark.parametrize("scikit", [False, True])
def test_a_tree_that_is_none_is_refused_whoever_would_walk_it(case: str, scikit: bool) -> None:
    with pytest.raises(Refused, match="its artifact cannot be read"):
        artifact.unpack(malicious.trees()[case], scikit=scikit)


def test_the_fields_that_are_read_of_a_node_are_those_of_the_installed_scikit_learn() -> None:
    assert {name: NODE_DTYPE[name] for name in _NODE} == _NODE


SERVE = """
import json, sys
import numpy as np
import consumer.run.app
from features import columns_of
from models.registry.versions import ModelRegistry
from models.registry.signing import Trust

registry = ModelRegistry(sys.argv[1], Trust(unsigned=True))
for version in registry.versions():
    model = registry.verify(version)
    rows = model.manifest["golden"]
    states = columns_of([row["state"] for row in rows])
    model.score(states, np.array([row["as_of"] for row in rows]), 3)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_second_and_200_mb_for_a_library_that_nobody_calls_are_not_paid(tmp_path: Path) -> None:
    registry = ModelRegistry(str(tmp_path), Trust(unsigned=True))
    for kind in KINDS.values():
        registry.publish(kind())
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert {"numpy", "scipy", "confluent_kafka"} <= loaded
    assert not loaded & {"sklearn", "pandas", "joblib", "psycopg"}
