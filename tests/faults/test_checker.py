"""The checker is only worth what it finds: every single wrong that is done to a good history."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.registry.slot import ModelSlot
from models.registry.versions import ModelRegistry
from tests.faults.__main__ import main
from tests.faults.checker import violations
from tests.faults.history import Ending, ProcessRun, RecordKind, RunHistory, Span, load, save
from tests.faults.mutations import MUTATIONS
from tests.faults.score_sink import differences, expected_scores, is_refused
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


def test_offsets_that_no_subscriber_sees_excuse_nothing_else(good: RunHistory) -> None:
    place = good.committed[0].place
    for hole in (Span(place, 0, 1), Span(place, 100_000, 100_001)):
        assert {each.rule for each in violations(replace(good, holes=(hole,)))} == {"offsets"}


def test_a_process_that_was_replaced_or_dropped_lines_is_excused_for_that_only(
    good: RunHistory,
) -> None:
    killed = next(each for each in good.processes if each.ending is Ending.KILLED)
    others = tuple(each for each in good.processes if each is not killed)

    def rules(process: ProcessRun) -> set[str]:
        found = violations(replace(good, processes=(*others, process)))
        return {violation.rule for violation in found}

    replaced = replace(killed, ending=Ending.REPLACED, exit_code=1)
    assert rules(replace(replaced, sentences=("another process joined",))) == set()
    assert rules(replaced) == {"processes"}
    assert rules(replace(replaced, sentences=("one", "Traceback"))) == {"processes"}
    assert rules(replace(replaced, sentences=("one",), exit_code=-6)) == {"processes"}
    mute = replace(killed, lines=killed.lines[:-3])
    assert rules(mute) == {"books"}
    assert rules(replace(mute, dropped=3)) == set()
    assert rules(replace(mute, dropped=2)) == {"books"}


def test_letters_have_the_place_of_a_record_without_a_key_and_no_other_key(
    good: RunHistory,
) -> None:
    letter = next(each for each in good.letters if each.record.key is None and each.source)
    place, offset = letter.source or (letter.record.place, 0)

    def rules(key: bytes) -> set[str]:
        headers = (*letter.record.headers, ("dlq.no_key", b"true"))
        named = replace(letter, record=replace(letter.record, key=key, headers=headers))
        letters = tuple(named if each is letter else each for each in good.letters)
        return {violation.rule for violation in violations(replace(good, letters=letters))}

    assert rules(f"{place.topic}-{place.partition}-{offset}".encode()) == set()
    assert rules(f"{place.topic}-{place.partition}-{offset + 1}".encode()) == {"letters"}


def test_scores_that_are_missing_old_or_of_an_erased_lead_are_found() -> None:
    def prediction(name: str, version: int, scored_at: int) -> dict[str, Any]:
        return {"prediction_id": name, "lead_version": version, "scored_at": scored_at}

    leads = [lead for number in range(40) if not is_refused(lead := f"lead_{number}")]
    refused = next(lead for number in range(4000) if is_refused(lead := f"lead_{number}"))
    newer, older, again, gone, back = leads[:5]
    records: list[tuple[str, dict[str, Any] | None]] = [
        (newer, prediction("a", 1, 5)),
        (newer, prediction("b", 2, 4)),
        (older, prediction("c", 2, 5)),
        (older, prediction("d", 1, 4)),
        (again, prediction("e", 2, 5)),
        (again, prediction("f", 1, 6)),
        (gone, prediction("g", 1, 5)),
        (gone, None),
        (back, None),
        (back, prediction("h", 1, 5)),
        (refused, prediction("i", 1, 5)),
    ]
    wanted = expected_scores((lead.encode(), found) for lead, found in records)
    assert wanted == {newer: "b", older: "c", again: "f", back: "h"}
    assert differences(wanted, dict(wanted)) == []
    for rows in (wanted | {older: "d"}, wanted | {gone: "g"}, {newer: "b"}):
        assert differences(wanted, rows)


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
