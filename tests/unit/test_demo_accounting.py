"""The accounting of the demo balances only if it is right: it reports every missing or extra
record.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from leadstream.cli.demo import display as view
from leadstream.cli.demo.accounting import (
    ConsumerCounts,
    Parcel,
    RecordId,
    SeenLetter,
    SeenPrediction,
    SeenRecords,
    SentParcel,
    calibration,
    latencies,
    problems,
    warm_latencies,
)
from leadstream.errors import Reason
from producer.simulator import DeliveryKind, Truth

CHANGES, REQUESTS = "crm.lead-changes", "crm.rescore-requests"


def balanced_run() -> tuple[dict[RecordId, SentParcel], SeenRecords, ConsumerCounts]:
    """Seven changes and two requests, each with what must become of it."""
    truth = Truth(probability=0.2, applied=False, converts=True)
    parcels = [
        Parcel(CHANGES, b"a", b"1", DeliveryKind.PLAIN, truth=truth),
        Parcel(
            CHANGES, b"a", b"2", DeliveryKind.PLAIN, truth=truth
        ),  # scored, and 1 coalesced into it
        Parcel(CHANGES, b"b", b"3", DeliveryKind.WITHOUT_STATE, truth=replace(truth, applied=True)),
        Parcel(CHANGES, b"c", b"4", DeliveryKind.LOOP),
        Parcel(CHANGES, b"d", None, DeliveryKind.TOMBSTONE),
        Parcel(CHANGES, None, b"{}", reason=Reason.INVALID_EVENT),
        Parcel(CHANGES, b"b", b"3", DeliveryKind.REPEATED, truth=truth),
        Parcel(REQUESTS, b"r1", b'["a", "x"]', asks=2),
        Parcel(REQUESTS, b"r2", b"{", reason=Reason.INVALID_REQUEST),
    ]
    sent = {
        (parcel.topic, 0, offset): SentParcel(parcel, float(offset))
        for offset, parcel in enumerate(parcels)
    }
    seen = SeenRecords(
        predictions=[
            SeenPrediction((CHANGES, 0, 1), "a", 0.25, 1.5),
            SeenPrediction((CHANGES, 0, 2), "b", 0.5, 2.25),
            SeenPrediction((CHANGES, 0, 6), "b", 0.5, 7.0),
            SeenPrediction((REQUESTS, 0, 7), "a", 0.25, 9.0),
        ],
        erasures=["d"],
        letters=[
            SeenLetter((CHANGES, 0, 5), None, b"{}", "INVALID_EVENT"),
            SeenLetter((REQUESTS, 0, 8), b"r2", b"{", "INVALID_REQUEST"),
        ],
        results=[result("r1")],
    )
    dispositions = {"scored": 3, "coalesced": 1, "dead_lettered": 1, "erased": 1, "ignored": 1}
    reasons = Counter({"INVALID_EVENT": 1, "INVALID_REQUEST": 1})
    return sent, seen, ConsumerCounts(7, dispositions, {"answered": 1, "dead_lettered": 1}, reasons)


def result(request_id: str) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "total_processed": 2,
        "successful_predictions": 1,
        "predictions": [{"lead_id": "a"}],
        "errors": [{"lead_id": "x"}],
    }


def found(sent: dict[RecordId, SentParcel], seen: SeenRecords, counted: ConsumerCounts) -> str:
    return " ".join(problems(sent, seen, counted, (CHANGES, REQUESTS)))


def test_an_accounting_that_balances_has_no_problem() -> None:
    assert found(*balanced_run()) == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"consumed": 8}, "changes sent and changes consumed differ: 7 and 8"),
        ({"dispositions": {"scored": 3}}, "the sum of their dispositions differ: 7 and 3"),
        ({"requests": {}}, "good requests sent and requests answered differ: 1 and 0"),
        ({"reasons": {}}, "dead letters counted and dead letters read differ: 0 and 2"),
    ],
)
def test_a_count_of_the_consumer_that_is_wrong_is_reported(
    change: dict[str, Any], sentence: str
) -> None:
    sent, seen, counted = balanced_run()
    assert sentence in found(sent, seen, replace(counted, **change))


def test_a_change_that_never_arrived_is_reported() -> None:
    sent, seen, counted = balanced_run()
    del seen.predictions[0]
    assert "changes scored and predictions read differ: 3 and 2" in found(sent, seen, counted)
    assert "1 leads have a good change, but no prediction" in found(sent, seen, counted)


def test_a_change_that_is_predicted_twice_is_reported_though_the_sum_is_right() -> None:
    sent, seen, counted = balanced_run()
    seen.predictions[2] = seen.predictions[1]
    assert "1 changes were predicted more than once" in found(sent, seen, counted)


@pytest.mark.parametrize(("offset", "lead_id"), [(3, "c"), (5, "b"), (99, "b"), (6, "a")])
def test_a_prediction_that_no_good_change_asked_for_is_reported(offset: int, lead_id: str) -> None:
    sent, seen, counted = balanced_run()
    seen.predictions[2] = replace(
        seen.predictions[2], record_id=(CHANGES, 0, offset), lead_id=lead_id
    )
    assert "1 predictions do not belong to a good change of their lead" in found(
        sent, seen, counted
    )


def test_the_wrong_lead_being_erased_is_reported_though_the_sum_is_right() -> None:
    sent, seen, counted = balanced_run()
    seen.erasures[0] = "b"
    assert "2 leads were to be erased and were not" in found(sent, seen, counted)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"record_id": (CHANGES, 0, 0)},
            "1 bad records have no dead letter. 1 dead letters are of good records",
        ),
        ({"record_id": (REQUESTS, 0, 8)}, "1 records have more than one dead letter"),
        ({"value": b"{} "}, "1 dead letters are not the original byte for byte"),
        ({"key": b""}, "1 dead letters are not the original byte for byte"),
        ({"reason": "DECODE_FAILED"}, "1 dead letters have the wrong reason"),
    ],
)
def test_a_dead_letter_that_is_not_the_bad_record_is_reported(
    change: dict[str, Any], sentence: str
) -> None:
    sent, seen, counted = balanced_run()
    seen.letters[0] = replace(seen.letters[0], **change)
    assert sentence in found(sent, seen, counted)


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ([], "1 requests and results do not match"),
        ([result("r1"), result("r1")], "1 requests and results do not match"),
        ([{**result("r1"), "errors": []}], "1 results do not name every requested lead"),
    ],
)
def test_a_request_without_its_one_whole_answer_is_reported(
    results: list[dict[str, Any]], sentence: str
) -> None:
    sent, seen, counted = balanced_run()
    seen.results[:] = results
    assert sentence in found(sent, seen, counted)


def test_the_first_seconds_do_not_make_the_latency_of_the_warm_system() -> None:
    def predicted(number: int, after: float) -> SeenPrediction:
        return SeenPrediction((CHANGES, 0, number), f"lead_{number}", 0.5, number + after)

    sent = {
        (CHANGES, 0, number): SentParcel(Parcel(CHANGES, b"", b""), float(number))
        for number in range(6)
    }
    predictions = [predicted(number, 1.5 if number < 3 else 0.25) for number in range(6)]
    first, warm = warm_latencies(sent, predictions, CHANGES)
    assert (first.tolist(), warm.tolist()) == ([1.5] * 3, [0.25] * 3)


def test_latency_counts_changes_only_and_calibration_each_event_of_undecided_leads_once() -> None:
    sent, seen, _ = balanced_run()
    assert latencies(sent, seen.predictions, CHANGES).tolist() == [0.5, 0.25, 1.0]
    points = calibration(sent, seen.predictions)
    assert (points.predicted.tolist(), points.true.tolist(), points.applied.tolist()) == (
        [0.25],
        [0.2],
        [True],
    )
    assert list(points.tenths()) == [(1, 0.25, 0.2, 1.0)]


def test_every_table_fits_80_columns_with_large_numbers_and_with_none() -> None:
    sent, seen, counted = balanced_run()
    large = ConsumerCounts(
        12_345_678,
        dict.fromkeys(counted.dispositions, 1_234_567),
        {"answered": 1_000},
        counted.reasons,
    )
    for records, numbers in ((seen, large), (SeenRecords(), ConsumerCounts())):
        console = Console(width=80, record=True, quiet=True)
        points = calibration(sent, records.predictions)
        recent = latencies(sent, records.predictions, CHANGES)
        snapshot = view.TrafficSnapshot(10.0, 20_073, 12_345, numbers, recent)
        for part in (
            view.live_view(replace(snapshot, at=8.0, counted=ConsumerCounts()), snapshot),
            view.traffic(sent, records, CHANGES, 10.0),
            view.calibration(points, "#"),
            view.calibration_line(points),
            view.dead_letters(records),
            view.accounting(numbers),
            view.evidence(sent, records, CHANGES),
        ):
            needed = console.measure(part).maximum
            if not isinstance(part, str):
                assert needed <= 78, part
            console.print(part)
        text = console.export_text()
        assert "…" not in text
