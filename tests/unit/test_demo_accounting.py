"""The demo says that the books balance only if they do: every single thing that can be missing or too much is told."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from leadstream.cli.demo import display as view
from leadstream.cli.demo.accounting import (
    Counted,
    Letter,
    Parcel,
    Place,
    Prediction,
    Seen,
    Sent,
    calibration,
    latencies,
    problems,
)
from leadstream.errors import Reason
from producer.simulator import DeliveryKind, Truth

CHANGES, REQUESTS = "crm.lead-changes", "crm.rescore-requests"


def world() -> tuple[dict[Place, Sent], Seen, Counted]:
    """Seven changes and two requests, each with what must become of it."""
    truth = Truth(probability=0.2, applied=False, converts=True)
    parcels = [
        Parcel(CHANGES, b"a", b"1", DeliveryKind.PLAIN, truth=truth),
        Parcel(
            CHANGES, b"a", b"2", DeliveryKind.PLAIN, truth=truth
        ),  # scored, and 1 coalesced into it
        Parcel(CHANGES, b"b", b"3", DeliveryKind.THIN, truth=replace(truth, applied=True)),
        Parcel(CHANGES, b"c", b"4", DeliveryKind.LOOP),
        Parcel(CHANGES, b"d", None, DeliveryKind.TOMBSTONE),
        Parcel(CHANGES, None, b"{}", reason=Reason.INVALID_EVENT),
        Parcel(CHANGES, b"b", b"3", DeliveryKind.REPEATED, truth=truth),
        Parcel(REQUESTS, b"r1", b'["a", "x"]', asks=2),
        Parcel(REQUESTS, b"r2", b"{", reason=Reason.INVALID_REQUEST),
    ]
    sent = {
        (parcel.topic, 0, offset): Sent(parcel, float(offset))
        for offset, parcel in enumerate(parcels)
    }
    seen = Seen(
        predictions=[
            Prediction((CHANGES, 0, 1), "a", 0.25, 1.5),
            Prediction((CHANGES, 0, 2), "b", 0.5, 2.25),
            Prediction((CHANGES, 0, 6), "b", 0.5, 7.0),
            Prediction((REQUESTS, 0, 7), "a", 0.25, 9.0),
        ],
        erasures=["d"],
        letters=[
            Letter((CHANGES, 0, 5), None, b"{}", "INVALID_EVENT"),
            Letter((REQUESTS, 0, 8), b"r2", b"{", "INVALID_REQUEST"),
        ],
        results=[result("r1")],
    )
    fates = {"scored": 3, "coalesced": 1, "dead_lettered": 1, "erased": 1, "ignored": 1}
    reasons = Counter({"INVALID_EVENT": 1, "INVALID_REQUEST": 1})
    return sent, seen, Counted(7, fates, {"answered": 1, "dead_lettered": 1}, reasons)


def result(request_id: str) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "total_processed": 2,
        "successful_predictions": 1,
        "predictions": [{"lead_id": "a"}],
        "errors": [{"lead_id": "x"}],
    }


def found(sent: dict[Place, Sent], seen: Seen, counted: Counted) -> str:
    return " ".join(problems(sent, seen, counted, (CHANGES, REQUESTS)))


def test_books_that_balance_have_no_problem() -> None:
    assert found(*world()) == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"consumed": 8}, "changes sent and changes consumed differ: 7 and 8"),
        ({"fates": {"scored": 3}}, "the sum of their fates differ: 7 and 3"),
        ({"requests": {}}, "good requests sent and requests answered differ: 1 and 0"),
        ({"reasons": {}}, "dead letters counted and dead letters read differ: 0 and 2"),
    ],
)
def test_a_count_of_the_consumer_that_is_wrong_is_told(
    change: dict[str, Any], sentence: str
) -> None:
    sent, seen, counted = world()
    assert sentence in found(sent, seen, replace(counted, **change))


def test_a_change_that_never_arrived_is_told() -> None:
    sent, seen, counted = world()
    del seen.predictions[0]
    assert "changes scored and predictions read differ: 3 and 2" in found(sent, seen, counted)
    assert "1 leads have a good change and no prediction" in found(sent, seen, counted)


def test_a_change_that_is_predicted_twice_is_told_though_the_sum_is_right() -> None:
    sent, seen, counted = world()
    seen.predictions[2] = seen.predictions[1]
    assert "1 changes were predicted more than once" in found(sent, seen, counted)


@pytest.mark.parametrize(("offset", "lead_id"), [(3, "c"), (5, "b"), (99, "b"), (6, "a")])
def test_a_prediction_that_no_good_change_asked_for_is_told(offset: int, lead_id: str) -> None:
    sent, seen, counted = world()
    seen.predictions[2] = replace(seen.predictions[2], place=(CHANGES, 0, offset), lead_id=lead_id)
    assert "1 predictions are not of a good change of their lead" in found(sent, seen, counted)


def test_the_wrong_lead_being_erased_is_told_though_the_sum_is_right() -> None:
    sent, seen, counted = world()
    seen.erasures[0] = "b"
    assert "2 leads were to be erased and were not" in found(sent, seen, counted)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"place": (CHANGES, 0, 0)},
            "1 bad records have no dead letter. 1 dead letters are of good records",
        ),
        ({"place": (REQUESTS, 0, 8)}, "1 records have more than one dead letter"),
        ({"value": b"{} "}, "1 dead letters are not the original byte for byte"),
        ({"key": b""}, "1 dead letters are not the original byte for byte"),
        ({"reason": "DECODE_FAILED"}, "1 dead letters have another reason"),
    ],
)
def test_a_dead_letter_that_is_not_the_bad_record_is_told(
    change: dict[str, Any], sentence: str
) -> None:
    sent, seen, counted = world()
    seen.letters[0] = replace(seen.letters[0], **change)
    assert sentence in found(sent, seen, counted)


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ([], "1 requests and results do not belong together"),
        ([result("r1"), result("r1")], "1 requests and results do not belong together"),
        ([{**result("r1"), "errors": []}], "1 results do not name every lead"),
    ],
)
def test_a_request_without_its_one_whole_answer_is_told(
    results: list[dict[str, Any]], sentence: str
) -> None:
    sent, seen, counted = world()
    seen.results[:] = results
    assert sentence in found(sent, seen, counted)


def test_latency_counts_changes_only_and_calibration_each_event_of_undecided_leads_once() -> None:
    sent, seen, _ = world()
    assert latencies(sent, seen.predictions, CHANGES).tolist() == [0.5, 0.25, 1.0]
    facts = calibration(sent, seen.predictions)
    assert (facts.predicted.tolist(), facts.true.tolist(), facts.applied.tolist()) == (
        [0.25],
        [0.2],
        [True],
    )
    assert list(facts.tenths()) == [(1, 0.25, 0.2, 1.0)]


def test_every_table_fits_80_columns_with_large_numbers_and_with_none() -> None:
    sent, seen, counted = world()
    large = Counted(
        12_345_678, dict.fromkeys(counted.fates, 1_234_567), {"answered": 1_000}, counted.reasons
    )
    for books, numbers in ((seen, large), (Seen(), Counted())):
        console = Console(width=80, record=True, quiet=True)
        facts = calibration(sent, books.predictions)
        recent = latencies(sent, books.predictions, CHANGES)
        moment = view.Moment(10.0, 20_073, 12_345, numbers, recent)
        for part in (
            view.live_view(replace(moment, at=8.0, counted=Counted()), moment),
            view.traffic(sent, books, CHANGES, 10.0),
            view.calibration(facts, "#"),
            view.calibration_line(facts),
            view.dead_letters(books),
            view.accounting(numbers),
            view.evidence(sent, books, CHANGES),
        ):
            needed = console.measure(part).maximum
            if not isinstance(part, str):
                assert needed <= 78, part
            console.print(part)
        text = console.export_text()
        assert "…" not in text
