"""Own fields of a CRM, read in columns and one by one: a model that uses them must not see a
difference.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features import specify
from models.registry.versions import ModelRegistry
from models.train.training import TrainOptions, train
from producer.table import training_frame
from tests.trained_models import CREATED_MS, START_MS, TRUST
from tests.unit.pipelines import NOW_MS, batch, change, pipeline, predictions

DAY = 86_400_000
OWN: list[dict[str, Any]] = [
    {"numbers": {"visits": 3.0}, "categories": {"plan": "gold"}},
    {"numbers": {"visits": float("nan")}, "categories": {"plan": " GOLD "}},
    {
        "numbers": {"visit": 1.0, "visits": 9.5, "visits2": 2.0},
        "categories": {"pla": "x", "plan": "", "plané": "y"},
    },
    {"numbers": {}, "categories": {"plan": "never seen"}},
    {"numbers": {"visits": -1e20}, "categories": {}},
    {},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of 1,500 leads of which `visits` and `plan` say all that can be known."""
    random = np.random.default_rng(1)
    visits, gold = random.uniform(0, 10, 1500), random.random(1500) < 0.5
    converts = random.random(1500) < np.clip(visits / 15 + 0.2 * gold, 0, 1)
    as_of = [START_MS + i * DAY // 8 for i in range(1500)]
    states = [
        {
            "created_at": moment - DAY,
            "numbers": {"visits": visits[i]},
            "categories": {"plan": "gold" if gold[i] else "free"},
        }
        for i, moment in enumerate(as_of)
    ]
    own = specify(numbers=("visits",), categories=("plan",))
    options = TrainOptions(
        created_at=CREATED_MS, specification=own, recipe="audited", calibrator="venn_abers"
    )
    table = training_frame([f"lead_{i}" for i in range(1500)], as_of, states, converts.tolist())
    folder: Path = tmp_path_factory.mktemp("own") / "models"
    registry = ModelRegistry(str(folder), TRUST)
    registry.promote(registry.publish(train(table, options)), force=True)
    return str(folder)


@pytest.mark.slow
def test_own_fields_in_columns_are_those_of_the_maps(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [change(i, f"lead_{i}", own, occurred_at=NOW_MS) for i, own in enumerate(OWN)]
    found: list[list[dict[str, Any]]] = []
    for many in (1, len(OWN) + 1):
        monkeypatch.setattr("schemas.columns.MIN_ROWS", many)
        found.append(predictions(pipeline(store, LEADSTREAM_REASONS="5").process(batch(*changes))))
    assert found[0] == found[1]
    assert len({prediction["raw_score"] for prediction in found[0]}) >= 3
    imputed = ["numbers.visits" in prediction["imputed"] for prediction in found[0]]
    assert imputed == [False, True, False, True, True, True]
