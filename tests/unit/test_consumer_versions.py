"""Versions that are remembered: what makes a change late, and how much is kept of what was
published.
"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.scoring.leads import Lead
from consumer.scoring.pipeline import Pipeline
from consumer.scoring.result import BatchResult, Disposition
from consumer.scoring.versions import Dictionary, Generation, Slots, Versions
from tests.fakes import FakeMessage
from tests.unit.pipelines import (
    CHANGES,
    PREDICTIONS,
    STATE,
    FakeLeads,
    batch,
    change,
    on,
    pipeline,
    predictions,
    raw,
    reasons,
)

KINDS = [pytest.param(Slots, id="slots"), pytest.param(Dictionary, id="dictionary")]
Kind = Callable[[int], Generation]


def keys(*numbers: int) -> list[bytes]:
    return [b"lead_%d" % number for number in numbers]


def put(versions: Versions, pairs: dict[int, int]) -> None:
    versions.put(keys(*pairs), np.array(list(pairs.values()), np.int64))


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_leads_are_remembered_and_memory_has_an_end(kind: Kind) -> None:
    versions = Versions(100, kind)
    for first in range(0, 1000, 10):
        put(versions, {number: number + 1 for number in range(first, first + 10)})
    known = versions.newest(keys(*range(1000)))
    assert known[900:].tolist() == list(range(901, 1001))
    assert not known[:800].any()


@pytest.mark.parametrize("kind", KINDS)
def test_more_leads_at_once_than_there_is_room_for_push_each_other_out_and_nothing_hangs(
    kind: Kind,
) -> None:
    versions = Versions(4, kind)
    put(versions, dict.fromkeys(range(50), 7))
    assert versions.newest(keys(*range(46, 50))).tolist() == [7, 7, 7, 7]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(-1, 5)), max_size=12), max_size=12),
    st.integers(1, 12),
)
def test_machine_code_and_dictionary_remember_the_same(
    puts: list[list[tuple[int, int]]], limit: int
) -> None:
    ways = [Versions(limit, Slots), Versions(limit, Dictionary)]
    for pairs in puts:
        for versions in ways:
            versions.put(
                keys(*(number for number, _ in pairs)), np.array([v for _, v in pairs], np.int64)
            )
        found = [versions.newest(keys(*range(13))).tolist() for versions in ways]
        assert found[0] == found[1]


class Consumer:
    """A pipeline, and what it remembers once a batch is committed."""

    def __init__(self, store: str, leads: FakeLeads | None = None, coalescing: bool = True) -> None:
        self.versions = Versions()
        self.line: Pipeline = pipeline(
            store, leads, versions=self.versions, LEADSTREAM_COALESCE=str(coalescing)
        )

    def commit(self, *messages: FakeMessage) -> BatchResult:
        outcome = self.line.process(batch(*messages))
        assert outcome.balances()
        self.line.commit_started(outcome)
        self.line.commit_finished(committed=True)
        return outcome


@pytest.fixture(params=[1, 1000], ids=["in columns", "one by one"])
def many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("schemas.columns.MIN_ROWS", request.param)
    return int(request.param)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("coalescing", [True, False])
def test_an_older_change_in_a_later_batch_must_not_take_the_place_of_a_newer_prediction(
    model_store: str, coalescing: bool
) -> None:
    consumer = Consumer(model_store, coalescing=coalescing)
    consumer.commit(change(0, lead_version=6))
    late = consumer.commit(change(1, lead_version=5), change(2, "lead_2", lead_version=1))
    assert [prediction["lead_id"] for prediction in predictions(late)] == ["lead_2"]
    assert (
        late.dispositions[Disposition.COALESCED],
        late.dispositions[Disposition.SCORED],
        late.late,
    ) == (
        1,
        1,
        1,
    )


@pytest.mark.usefixtures("many")
def test_an_equal_version_and_one_that_is_none_are_scored_for_a_rescore_has_the_old_one(
    model_store: str,
) -> None:
    consumer = Consumer(model_store)
    consumer.commit(change(0, lead_version=6))
    assert len(predictions(consumer.commit(change(1, lead_version=6)))) == 1
    assert len(predictions(consumer.commit(change(2, lead_version=0)))) == 1
    assert predictions(consumer.commit(change(3, lead_version=5))) == []


@pytest.mark.usefixtures("many")
def test_a_batch_that_was_not_committed_leaves_nothing_to_be_late_against(model_store: str) -> None:
    consumer = Consumer(model_store)
    consumer.line.process(batch(change(0, lead_version=6)))
    assert len(predictions(consumer.commit(change(1, lead_version=5)))) == 1


@pytest.mark.usefixtures("many")
def test_what_is_below_a_bad_change_must_not_come_back_where_it_is_late_itself(
    model_store: str,
) -> None:
    consumer = Consumer(model_store)
    consumer.commit(change(0, lead_version=6))
    outcome = consumer.commit(
        change(1, lead_version=5), change(2, state={"lead_score": 1e14}, lead_version=7)
    )
    assert reasons(outcome) == ["SCORING_FAILED"]
    assert predictions(outcome) == []
    assert (
        outcome.dispositions[Disposition.COALESCED],
        outcome.dispositions[Disposition.DEAD_LETTERED],
    ) == (
        1,
        1,
    )


@pytest.mark.usefixtures("many")
def test_a_late_change_that_is_bad_is_no_dead_letter_for_nobody_misses_it(model_store: str) -> None:
    consumer = Consumer(model_store)
    consumer.commit(change(0, lead_version=6))
    assert reasons(consumer.commit(change(1, state={"lead_score": 1e14}, lead_version=5))) == []


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("coalescing", [True, False])
@pytest.mark.parametrize("null", [True, False])
def test_an_erased_lead_must_not_come_back_with_a_change_from_before(
    model_store: str, null: bool, coalescing: bool
) -> None:
    consumer = Consumer(model_store, coalescing=coalescing)
    consumer.commit(change(0, lead_version=6))
    erasing = raw(1, None) if null else change(1, change_type="DELETED", lead_version=7)
    [gone] = on(consumer.commit(erasing), PREDICTIONS)
    assert gone.headers == [
        ("lead_version", b"6" if null else b"7"),
        ("source_topic", CHANGES.encode()),
        ("source_partition", b"0"),
        ("source_offset", b"1"),
    ]
    assert on(consumer.commit(change(2, lead_version=5)), PREDICTIONS) == []
    assert len(predictions(consumer.commit(change(3, lead_version=7)))) == 1


def test_a_deletion_with_a_lower_version_erases_all_the_same(model_store: str) -> None:
    consumer = Consumer(model_store)
    consumer.commit(change(0, lead_version=6))
    outcome = consumer.commit(change(1, change_type="DELETED", lead_version=5))
    assert [output.value for output in on(outcome, PREDICTIONS)] == [None]
    assert (outcome.dispositions[Disposition.ERASED], outcome.late) == (1, 0)


@pytest.mark.usefixtures("many")
def test_a_state_that_is_read_now_is_as_new_as_the_database_says(model_store: str) -> None:
    leads = FakeLeads({"lead_1": Lead(STATE, 8)})
    consumer = Consumer(model_store, leads)
    assert (
        predictions(consumer.commit(change(0, lead=None, lead_version=5)))[0]["lead_version"] == 8
    )
    assert len(predictions(consumer.commit(change(1, lead=None, lead_version=6)))) == 1
    assert predictions(consumer.commit(change(2, lead_version=7))) == [], (
        "the state of version 8 was scored"
    )
    leads.leads = {"lead_1": Lead(STATE, 4)}
    assert predictions(consumer.commit(change(3, lead=None, lead_version=6))) == [], (
        "a replica that lags"
    )


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("coalescing", [True, False])
@pytest.mark.parametrize("apart", [True, False], ids=["in the next batch", "in one batch"])
def test_a_change_without_a_version_is_as_new_as_the_newest_before_it(
    model_store: str, apart: bool, coalescing: bool
) -> None:
    consumer = Consumer(model_store, coalescing=coalescing)
    messages = [
        change(0, lead_version=5),
        change(1, lead_version=0, event_id="last"),
        change(2, lead_version=3),
    ]
    found = [
        consumer.commit(*some) for some in ([[each] for each in messages] if apart else [messages])
    ]
    published = [each for outcome in found for each in predictions(outcome)]
    assert (published[-1]["event_id"], published[-1]["lead_version"]) == ("last", 5)
    assert sum(outcome.inherited for outcome in found) == 1


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("apart", [True, False], ids=["in the next batch", "in one batch"])
def test_a_change_without_a_version_takes_none_from_a_change_that_is_a_dead_letter(
    model_store: str, apart: bool
) -> None:
    consumer = Consumer(model_store, FakeLeads({}))
    messages = [change(0, lead=None, lead_version=6), change(1, lead_version=0)]
    found = [
        consumer.commit(*some) for some in ([[each] for each in messages] if apart else [messages])
    ]
    [published] = [each for outcome in found for each in predictions(outcome)]
    assert published["lead_version"] == 0
    assert sum(len(outcome.letters) for outcome in found) == 1


@pytest.mark.usefixtures("many")
def test_a_lead_without_any_version_keeps_none(model_store: str) -> None:
    consumer = Consumer(model_store)
    outcome = consumer.commit(change(0, lead_version=0), change(1, "lead_2", lead_version=4))
    assert {each["lead_id"]: each["lead_version"] for each in predictions(outcome)} == {
        "lead_1": 0,
        "lead_2": 4,
    }
    assert outcome.inherited == 0


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("apart", [True, False], ids=["in the next batch", "in one batch"])
def test_a_state_that_is_older_than_its_change_has_its_own_version_and_replaces_nothing_newer(
    model_store: str, apart: bool
) -> None:
    consumer = Consumer(model_store, FakeLeads({"lead_1": Lead(STATE, 4)}))
    messages = [change(0, lead_version=5, event_id="newer"), change(1, lead=None, lead_version=9)]
    found = [
        consumer.commit(*some) for some in ([[each] for each in messages] if apart else [messages])
    ]
    published = [each for outcome in found for each in predictions(outcome)]
    assert [(each["event_id"], each["lead_version"]) for each in published] == [("newer", 5)]
    assert sum(outcome.stale for outcome in found) == 1
    alone = Consumer(model_store, FakeLeads({"lead_1": Lead(STATE, 4)}))
    [prediction] = predictions(alone.commit(change(0, lead=None, lead_version=9)))
    assert prediction["lead_version"] == 4, "a state of version 4 was scored"
    assert len(predictions(alone.commit(change(1, lead_version=6)))) == 1, "it can be corrected"


@pytest.mark.usefixtures("many")
def test_without_coalescing_a_late_change_within_the_batch_is_late_as_well(
    model_store: str,
) -> None:
    consumer = Consumer(model_store, coalescing=False)
    versions = [2, 4, 3, 4, 5]
    outcome = consumer.commit(
        *(change(i, lead_version=version) for i, version in enumerate(versions))
    )
    assert [prediction["lead_version"] for prediction in predictions(outcome)] == [2, 4, 4, 5]
    assert outcome.late == 1
    bad = consumer.commit(
        change(5, state={"lead_score": 1e14}, lead_version=9), change(6, lead_version=8)
    )
    assert [prediction["lead_version"] for prediction in predictions(bad)] == [8], (
        "nothing newer was published"
    )
