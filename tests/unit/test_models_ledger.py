"""Predictions and outcomes in any order, late, twice, corrected and erased."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.monitor.ledger import DAY_MS, GRACE_MS, LabeledPrediction, Ledger, PublishedPrediction

START = 1_700_000_000_000
HORIZONS = {"1.0.0": 10.0, "2.0.0": 30.0, "imported": None}


def made(
    lead_id: str = "a", day: float = 0, version: str = "1.0.0", event: str = "", **fields: Any
) -> PublishedPrediction:
    return PublishedPrediction(
        lead_id=lead_id,
        event_id=event or f"{lead_id} {day}",
        occurred_at=START + round(day * DAY_MS),
        model_version=version,
        variant=fields.get("variant", "champion"),
        shadow=fields.get("shadow", False),
        probability=0.5,
        raw_score=0.5,
    )


def at(day: float) -> int:
    return START + round(day * DAY_MS)


def ledger(max_entries: int = 1000) -> Ledger:
    return Ledger(HORIZONS.__getitem__, max_entries)


def test_a_conversion_that_is_known_early_must_wait_for_the_losses_that_are_known_late() -> None:
    book = ledger()
    assert book.predicted(made("a")) == []
    assert book.decided("a", True, at(2)) == []
    assert book.decided("other", False, at(9.9)) == []
    assert book.decided("other", False, at(10)) == [LabeledPrediction(made("a"), True, at(2))]


def test_a_conversion_after_the_horizon_is_the_loss_that_training_calls_it() -> None:
    book = ledger()
    book.predicted(made("a"))
    book.predicted(made("b"))
    assert book.decided("a", True, at(10)) == [LabeledPrediction(made("a"), True, at(10))]
    assert book.decided("b", True, at(10.1)) == [LabeledPrediction(made("b"), False, at(10.1))]


def test_the_horizon_is_that_of_the_version_that_made_the_prediction() -> None:
    book = ledger()
    book.predicted(made("a"))
    book.predicted(made("a", version="2.0.0"))
    assert [one.prediction.model_version for one in book.decided("a", True, at(20))] == ["1.0.0"]
    later = book.decided("z", False, at(30))
    assert [(one.prediction.model_version, one.converted) for one in later] == [("2.0.0", True)]


def test_without_a_horizon_a_prediction_is_judged_when_it_is_decided() -> None:
    book = ledger()
    assert book.predicted(made("a", version="imported")) == []
    assert book.decided("a", False, at(1)) == [
        LabeledPrediction(made("a", version="imported"), False, at(1))
    ]
    book.decided("b", True, at(2))
    assert book.predicted(made("b", version="imported")) == [
        LabeledPrediction(made("b", version="imported"), True, at(2))
    ]


@pytest.mark.parametrize("version", ["1.0.0", "imported"])
def test_a_prediction_made_after_the_decision_would_be_judged_by_what_it_could_have_seen(
    version: str,
) -> None:
    book = ledger()
    book.decided("a", True, at(1))
    assert book.predicted(made("a", 2, version)) == []
    assert book.decided("z", False, at(100)) == []
    assert book.overdue(book.decided_until) == []


def test_a_repeat_counts_once_before_and_after_it_was_judged() -> None:
    book = ledger()
    book.predicted(made("a"))
    book.predicted(made("a"))
    assert len(book.decided("a", True, at(10))) == 1
    assert book.predicted(made("a")) == []
    assert book.pending == 0


def test_one_change_scored_by_two_versions_or_variants_is_two_predictions() -> None:
    book = ledger()
    for one in (made("a"), made("a", variant="challenger"), made("a", version="2.0.0")):
        book.predicted(one)
    assert len(book.decided("a", True, at(30))) == 3


def test_a_corrected_outcome_counts_where_nothing_is_judged_yet_and_an_older_one_never() -> None:
    book = ledger()
    book.predicted(made("a"))
    book.decided("a", False, at(3))
    book.decided("a", True, at(5))
    book.decided("a", False, at(4))
    assert book.decided("z", False, at(10)) == [LabeledPrediction(made("a"), True, at(5))]
    assert book.decided("a", False, at(11)) == []


def test_silence_is_a_loss_only_once_the_outcomes_have_come_a_day_past_the_horizon() -> None:
    book = ledger()
    book.decided("old", True, at(-1))
    book.predicted(made("a"))
    book.predicted(made("new", 50))
    assert (
        book.overdue(book.decided_until) == []
    )  # predictions go on, but the outcomes have not come that far
    book.decided("y", True, at(10.9))
    assert book.overdue(book.decided_until) == []
    book.decided("z", True, at(11))
    assert book.overdue(book.decided_until) == [LabeledPrediction(made("a"), False, at(10))]
    assert book.overdue(book.decided_until) == []
    assert book.decided("a", True, at(9)) == []


def test_silence_before_the_first_outcome_says_nothing() -> None:
    book = ledger()
    book.predicted(made("a"))
    book.decided("y", True, at(0.1))
    book.decided("z", True, at(100))
    assert book.overdue(book.decided_until) == []
    assert book.decided("a", False, at(3)) == [
        LabeledPrediction(made("a"), False, at(3))
    ]  # a late word does


def test_an_erased_lead_is_forgotten_whatever_comes_of_it_later() -> None:
    book = ledger()
    book.decided("old", False, at(-1))
    book.predicted(made("a"))
    book.decided("b", True, at(1))
    for lead_id in "ab":
        book.forget(lead_id)
    assert book.pending == 0
    book.predicted(made("a", 1))
    book.predicted(made("b"))
    assert book.decided("a", True, at(40)) == []
    assert book.overdue(book.decided_until) == []
    assert book.forgotten == {"a", "b"}


def test_more_predictions_than_fit_are_judged_by_a_sample_of_the_leads() -> None:
    book, count = ledger(max_entries=1_000), 10_000
    for number in range(count):
        book.predicted(made(f"lead {number}"))
    assert 1 / 32 <= book.share <= 1 / 8
    assert book.pending <= 1_000
    assert book.pending + book.dropped == count
    labeled = [
        one
        for number in range(count)
        for one in book.decided(f"lead {number}", number % 4 == 0, at(10))
    ]
    labeled += book.decided("another", True, at(100))
    assert len(labeled) > 200
    assert book.pending == 0
    rate = sum(one.converted for one in labeled) / len(labeled)
    assert abs(rate - 0.25) < 4 * (0.25 * 0.75 / len(labeled)) ** 0.5


def test_judged_predictions_make_room_without_a_smaller_sample() -> None:
    book = ledger(max_entries=1_000)
    for number in range(5_000):
        book.predicted(made(f"lead {number}", number))
        book.decided(f"lead {number}", True, at(number))
    assert (book.share, book.dropped) == (1.0, 0)


def test_what_was_dropped_does_not_stay_in_memory_until_its_horizon_ends() -> None:
    book = ledger(max_entries=10)
    for number in range(1000):
        book.predicted(made(f"lead {number}"))
        book.decided(f"lead {number}", True, at(1))
    assert len(book._maturing) <= 20
    assert len(book._outcomes) <= 10
    assert len(book._of_lead) <= 10


def test_a_store_that_does_not_answer_leaves_the_ledger_as_it_was() -> None:
    horizons: dict[str, float | None] = {}
    book = Ledger(horizons.__getitem__)
    with pytest.raises(KeyError):
        book.predicted(made("a"))
    assert book.pending == 0
    horizons["1.0.0"] = 10.0
    book.predicted(made("a"))
    assert book.pending == 1


Step = Callable[[Ledger], list[LabeledPrediction]]


def steps(kind: str, number: int, day: float, converted: bool, version: str) -> Step:
    lead_id = f"lead {number}"
    if kind == "predicted":
        one = made(lead_id, day, version)
        return lambda book: book.predicted(one)
    if kind == "decided":
        return lambda book: book.decided(lead_id, converted, at(number * 3 + day / 2))

    def erased(book: Ledger) -> list[LabeledPrediction]:
        book.forget(lead_id)
        return []

    return erased


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["predicted"] * 6 + ["decided"] * 4 + ["erased"]),
        st.integers(0, 7),
        st.integers(0, 40),
        st.booleans(),
        st.sampled_from(sorted(HORIZONS)),
    ),
    max_size=40,
)


@given(RECORDS, st.randoms(use_true_random=False))
def test_any_order_of_the_same_records_judges_the_same_predictions_in_the_same_way(
    records: list[tuple[str, int, int, bool, str]], random: Any
) -> None:
    """One outcome a lead: of several, the one that counts depends on earlier labels."""
    kept, decided = [], set()
    for record in records:
        if record[0] != "decided" or record[1] not in decided:
            kept.append(record)
            decided |= {record[1]} if record[0] == "decided" else set()
    shuffled = kept + [record for record in kept if random.random() < 0.2]
    random.shuffle(shuffled)
    assert outcome_of(kept) == outcome_of(shuffled)


def outcome_of(records: list[tuple[str, int, int, bool, str]]) -> set[LabeledPrediction]:
    """What is judged in the end, of leads that are not erased."""
    book = ledger()
    judged = [one for record in records for one in steps(*record)(book)] + book.overdue(
        book.decided_until
    )
    assert len(judged) == len(set(judged))
    return {one for one in judged if one.prediction.lead_id not in book.forgotten}


def test_the_property_above_is_not_about_nothing() -> None:
    records = [
        ("decided", 0, 0, True, ""),
        ("predicted", 1, 1, True, "1.0.0"),
        ("decided", 7, 40, True, ""),
    ]
    assert [one.converted for one in outcome_of(records)] == [False]  # by silence
    assert len(outcome_of([*records, ("decided", 1, 2, True, "")])) == 1
    assert GRACE_MS == DAY_MS
