"""The checker is only worth what it finds: every single wrong that is done to a good history."""

import random
from pathlib import Path

import pytest

from models.registry.slot import ModelSlot
from models.registry.versions import ModelRegistry
from tests.faults.__main__ import main
from tests.faults.checker import violations
from tests.faults.history import RecordKind, RunHistory, load, save
from tests.faults.mutations import MUTATIONS
from tests.faults.simulated_run import simulate_run
from tests.faults.traffic import LEADS
from tests.trained_models import TRUST


@pytest.fixture(scope="module")
def slot(model_store: str) -> ModelSlot:
    return ModelSlot(ModelRegistry(model_store, TRUST))


@pytest.fixture(scope="module")
def good(slot: ModelSlot) -> RunHistory:
    return simulate_run(slot, seed=1, records=800)


@pytest.mark.parametrize("coalesce", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_checker_that_cries_at_the_pipeline_itself_would_be_switched_off(
    slot: ModelSlot, seed: int, coalesce: bool
) -> None:
    history = simulate_run(slot, seed, coalesce=coalesce)
    assert violations(history) == []
    assert {sent.truth.kind for sent in history.sent} == set(RecordKind)
    # So few that each batch has every lead many times, changed and erased in turn.
    assert (
        violations(
            simulate_run(slot, seed, records=1500, coalesce=coalesce, leads=8, max_records=300)
        )
        == []
    )


@pytest.mark.parametrize("wrong", MUTATIONS)
def test_a_wrong_that_is_done_to_a_good_history_must_be_found(good: RunHistory, wrong: str) -> None:
    assert violations(good) == []
    for seed in range(12):
        assert violations(MUTATIONS[wrong](good, random.Random(seed))), (wrong, seed)


@pytest.mark.parametrize("coalesce", [True, False])
@pytest.mark.parametrize("leads", [LEADS, 8])
def test_a_consumer_that_forgets_versions_is_seen_to_bring_back_older_predictions(
    slot: ModelSlot, leads: int, coalesce: bool
) -> None:
    found = violations(
        simulate_run(slot, seed=1, records=1500, coalesce=coalesce, leads=leads, remembers=False)
    )
    assert {violation.rule for violation in found} == {"order", "fates", "books"}
    assert any("goes back to version" in violation.what for violation in found)


def test_a_history_that_is_kept_reads_as_it_was_and_is_judged_alike(
    good: RunHistory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.json.gz"
    save(good, path)
    assert load(path) == good
    assert main(["--check", str(path)]) == 0
    save(MUTATIONS["of no transaction"](good, random.Random(1)), path)
    assert main(["--check", str(path)]) == 1
    assert "belongs to no committed transaction" in capsys.readouterr().out
