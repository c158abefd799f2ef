"""What becomes of the messages of a batch."""

import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest

from consumer.scoring.leads import Lead
from consumer.scoring.result import Disposition
from consumer.scoring.versions import Versions
from leadstream.errors import Transient
from tests.trained_models import trained
from tests.unit.pipelines import (
    LETTERS,
    NOW_MS,
    PREDICTIONS,
    RESULTS,
    STATE,
    FakeLeads,
    avro_request,
    batch,
    change,
    on,
    pipeline,
    predictions,
    raw,
    reasons,
    request,
    results,
)


def test_a_prediction_that_does_not_tell_its_model_and_its_change_cannot_be_traced(
    model_store: str,
) -> None:
    outcome = pipeline(model_store).process(batch(change(7, lead_version=3)))
    [prediction] = predictions(outcome)
    assert prediction["lead_id"] == "lead_1"
    assert (
        prediction["probability_low"] <= prediction["probability"] <= prediction["probability_high"]
    )
    assert prediction["prediction"] is (prediction["probability"] >= prediction["threshold"])
    assert prediction["model_version"] == "1.0.0"
    assert len(prediction["model_sha256"]) == 64
    assert (prediction["event_id"], prediction["change_type"], prediction["lead_version"]) == (
        "event 7",
        "UPDATED",
        3,
    )
    assert (
        prediction["source_topic"],
        prediction["source_partition"],
        prediction["source_offset"],
    ) == (
        "crm.lead-changes",
        0,
        7,
    )
    assert (prediction["occurred_at"], prediction["scored_at"], prediction["variant"]) == (
        NOW_MS,
        NOW_MS,
        "champion",
    )
    assert len(prediction["reasons"]) == 3
    state = STATE | {"created_at": "2025-06-14T15:06:40Z"}
    for reason in prediction["reasons"]:
        value = state[reason["feature"]]
        assert reason["value"] == (f"{value:g}" if isinstance(value, int | float) else value)
        assert (reason["percentile"] is None) == (reason["feature"] in ("source", "status"))
        assert reason["given_rate"] is None
    assert (prediction["target"], prediction["horizon_days"]) == ("has_application", 60)
    assert NOW_MS < prediction["valid_until"] < NOW_MS + 365 * 86_400_000
    assert prediction["feature_coverage"] == 1.0
    assert prediction["imputed"] == []
    assert on(outcome, PREDICTIONS)[0].key == b"lead_1"


def test_a_missing_value_says_how_often_leads_with_one_convert(model_store: str) -> None:
    rates = trained().manifest["reasons"]["given_rates"]
    lead = change(1, state={"engagement_score": None, "source": None})
    every = pipeline(model_store, LEADSTREAM_REASONS="20")
    [prediction] = predictions(every.process(batch(lead)))
    found = {reason["feature"]: reason["given_rate"] for reason in prediction["reasons"]}
    assert found["engagement_score"] == rates["engagement_score"]
    assert 0.05 < rates["engagement_score"] < 0.5
    assert found["source"] == rates["source"]
    assert found["lead_score"] is None


def test_the_same_change_scored_again_must_have_the_same_prediction_id_or_repeats_cannot_be_dropped(
    model_store: str,
) -> None:
    [first] = predictions(pipeline(model_store).process(batch(change(1))))
    later = pipeline(model_store, clock_ms=lambda: NOW_MS + 5)
    [again] = predictions(later.process(batch(change(1))))
    [other] = predictions(later.process(batch(change(2))))
    assert first["prediction_id"] == again["prediction_id"] != other["prediction_id"]
    assert {**first, "scored_at": 0} == {**again, "scored_at": 0}


def test_a_bad_record_that_changes_its_neighbours_by_one_byte_is_not_isolated(
    model_store: str,
) -> None:
    good = [change(i, f"lead_{i}", {"lead_score": float(i)}) for i in range(20)]
    alone = on(pipeline(model_store).process(batch(*good)), PREDICTIONS)
    bad = [
        raw(100, b"{}"),
        change(101, "far", {"lead_score": 1e14}),
        change(102, "old", {"created_at": -5}),
        change(103, "unknown", lead=None),
    ]
    for place in range(0, 21, 5):
        outcome = pipeline(model_store).process(batch(*good[:place], *bad, *good[place:]))
        assert on(outcome, PREDICTIONS) == alone
        assert sorted(reasons(outcome)) == [
            "FEATURE_FAILED",
            "LEAD_NOT_FOUND",
            "SCORING_FAILED",
            "UNKNOWN_FRAMING",
        ]


def test_a_full_batch_with_bad_records_gives_the_bytes_that_each_change_has_alone(
    model_store: str,
) -> None:
    line = pipeline(model_store)
    good = [
        change(
            i,
            f"lead_{i}é",
            {"lead_score": None if i % 3 else float(i), "campus_name": None},
            change_type=kind,
        )
        for i, kind in enumerate(("CREATED", "UPDATED", "RESCORE") * 40)
    ]
    alone = [output for one in good for output in on(line.process(batch(one)), PREDICTIONS)]
    assert len(alone) == 120
    bad = [
        raw(200, b"{}"),
        change(201, "far", {"lead_score": 1e14}),
        change(202, "unknown", lead=None),
    ]
    mixed = [*good[:50], *bad, *good[50:]]
    assert on(line.process(batch(*mixed)), PREDICTIONS) == alone
    # One that cannot be written sends the others the slow way, and costs nothing but itself.
    asked = request(
        300, {"request_id": "half \ud83d", "lead_ids": [f"lead_{i}" for i in range(40)]}
    )
    leads = FakeLeads({f"lead_{i}": Lead(STATE, 1) for i in range(40)})
    outcome = pipeline(model_store, leads).process(batch(*good, asked))
    assert on(outcome, PREDICTIONS) == alone
    assert reasons(outcome) == ["ENCODE_FAILED"]


def test_a_change_with_two_fates_or_none_breaks_the_books(model_store: str) -> None:
    outcome = pipeline(model_store).process(
        batch(
            change(0, lead_version=1),
            change(1, lead_version=2),
            raw(2, None, b"lead_2"),
            raw(3, b"junk"),
            change(4, "lead_3", origin="leadstream"),
            change(5, "lead_4", change_type="DELETED"),
        )
    )
    assert outcome.consumed == 6
    assert outcome.dispositions == Counter(
        {
            Disposition.SCORED: 1,
            Disposition.COALESCED: 1,
            Disposition.ERASED: 2,
            Disposition.DEAD_LETTERED: 1,
            Disposition.IGNORED: 1,
        }
    )
    assert list(outcome.letters) == [3]
    assert [(o.key, o.value) for o in on(outcome, PREDICTIONS) if o.value is None] == [
        (b"lead_2", None),
        (b"lead_4", None),
    ]


def test_a_late_older_change_must_not_win_over_a_newer_one_of_the_same_batch(
    model_store: str,
) -> None:
    newer, older = change(0, state={"lead_score": 90.0}, lead_version=5), change(1, lead_version=4)
    [prediction] = predictions(pipeline(model_store).process(batch(newer, older)))
    assert (
        prediction["lead_version"],
        prediction["source_offset"],
        prediction["coalesced_changes"],
    ) == (5, 0, 1)


def test_changes_without_versions_are_ordered_by_their_offsets(model_store: str) -> None:
    [prediction] = predictions(
        pipeline(model_store).process(batch(*[change(i, lead_version=0) for i in range(3)]))
    )
    assert (prediction["source_offset"], prediction["coalesced_changes"]) == (2, 2)


def test_a_newer_change_that_fails_must_not_take_the_older_good_one_with_it(
    model_store: str,
) -> None:
    outcome = pipeline(model_store).process(
        batch(
            change(0, lead_version=1),
            change(1, lead_version=2),
            change(2, state={"lead_score": 1e14}, lead_version=3),
        )
    )
    [prediction] = predictions(outcome)
    assert (prediction["lead_version"], prediction["coalesced_changes"]) == (2, 1)
    assert reasons(outcome) == ["SCORING_FAILED"]
    assert outcome.dispositions == Counter(
        {Disposition.SCORED: 1, Disposition.COALESCED: 1, Disposition.DEAD_LETTERED: 1}
    )


def test_an_erased_lead_must_not_come_back_with_a_change_from_before(model_store: str) -> None:
    outcome = pipeline(model_store).process(
        batch(
            change(0, lead_version=1),
            change(1, change_type="DELETED", lead_version=3),
            change(2, lead_version=2),
        )
    )
    assert [output.value for output in on(outcome, PREDICTIONS)] == [None]
    assert outcome.dispositions == Counter({Disposition.ERASED: 1, Disposition.COALESCED: 2})


@pytest.mark.parametrize("coalesce", ["true", "false"])
@pytest.mark.parametrize("apart", [True, False], ids=["in the next batch", "in one batch"])
def test_a_deletion_with_a_lower_version_must_not_leave_a_score_behind(
    model_store: str, coalesce: str, apart: bool
) -> None:
    versions = Versions()
    line = pipeline(model_store, versions=versions, LEADSTREAM_COALESCE=coalesce)
    messages = [change(0, lead_version=7), change(1, change_type="DELETED", lead_version=6)]
    results = []
    for some in [[message] for message in messages] if apart else [messages]:
        results.append(line.process(batch(*some)))
        line.commit_started(results[-1])
        line.commit_finished(committed=True)
    *_, last = on(results[-1], PREDICTIONS)
    assert last.value is None
    assert ("lead_version", b"7") in (last.headers or [])
    assert results[-1].dispositions[Disposition.ERASED] == 1
    again = line.process(batch(change(2, lead_version=5)))
    assert (again.outputs, again.late) == ([], 1)


def test_a_lead_with_a_version_out_of_reach_is_named(model_store: str) -> None:
    line = pipeline(model_store, versions=Versions())
    first = line.process(batch(change(0, "far", lead_version=2**63 - 1), change(1, lead_version=9)))
    line.commit_started(first)
    line.commit_finished(committed=True)
    later = line.process(batch(change(2, lead_version=8), change(3, "far", lead_version=10)))
    assert (later.late, later.frozen) == (2, [1])


def test_a_lead_that_is_created_again_after_its_erasure_is_scored_after_the_null(
    model_store: str,
) -> None:
    outcome = pipeline(model_store).process(
        batch(change(0), raw(1, None), change(2, lead_version=9))
    )
    values = [output.value for output in on(outcome, PREDICTIONS)]
    assert values[0] is None
    assert values[1] is not None
    assert outcome.dispositions == Counter(
        {Disposition.SCORED: 1, Disposition.ERASED: 1, Disposition.COALESCED: 1}
    )


def test_without_coalescing_every_change_has_a_prediction(model_store: str) -> None:
    outcome = pipeline(model_store, LEADSTREAM_COALESCE="false").process(
        batch(change(0), change(1), change(2))
    )
    assert [p["source_offset"] for p in predictions(outcome)] == [0, 1, 2]
    assert outcome.dispositions == Counter({Disposition.SCORED: 3})


def test_a_query_for_each_change_would_make_postgres_the_bottleneck(model_store: str) -> None:
    leads = FakeLeads({f"lead_{i}": Lead(STATE, 4) for i in range(10)})
    messages = [change(i, f"lead_{i % 10}", lead=None) for i in range(30)]
    outcome = pipeline(model_store, leads).process(
        batch(*messages, request(30, ["lead_3", "lead_4"]))
    )
    assert len(leads.queries) == 1
    assert len(leads.queries[0]) == 10
    assert len(predictions(outcome)) == 12


def test_a_thin_change_is_scored_as_the_same_change_with_its_state_would_be(
    model_store: str,
) -> None:
    leads = FakeLeads({"lead_1": Lead(STATE, 1)})
    without_state = pipeline(model_store, leads).process(batch(change(0, lead=None)))
    with_state = pipeline(model_store).process(batch(change(0)))
    assert on(without_state, PREDICTIONS) == on(with_state, PREDICTIONS)


@pytest.mark.parametrize("hours", [1, 5.5, 14])
def test_a_local_time_of_creation_without_its_zone_must_not_cost_a_new_lead_its_score(
    model_store: str, hours: float
) -> None:
    ahead = STATE | {"created_at": NOW_MS + int(hours * 3_600_000)}
    leads = FakeLeads({"lead_1": Lead(ahead, 1), "new": Lead(STATE | {"created_at": NOW_MS}, 1)})
    outcome = pipeline(model_store, leads).process(
        batch(change(0, lead=None), change(1, "new", lead=None), request(2, ["lead_1"]))
    )
    probabilities = {p["lead_id"]: p["probability"] for p in predictions(outcome)}
    assert probabilities["lead_1"] == probabilities["new"]
    assert outcome.dispositions == Counter({Disposition.SCORED: 2})
    later = FakeLeads({"lead_1": Lead(STATE | {"created_at": NOW_MS + 15 * 3_600_000}, 1)})
    [disposition] = pipeline(model_store, later).process(batch(change(0, lead=None))).dispositions
    assert disposition is Disposition.DEAD_LETTERED


def test_a_prediction_must_not_claim_an_older_version_than_the_state_it_was_made_from(
    model_store: str,
) -> None:
    leads = FakeLeads({"lead_1": Lead(STATE, 8)})
    [prediction] = predictions(
        pipeline(model_store, leads).process(batch(change(0, lead=None, lead_version=5)))
    )
    assert prediction["lead_version"] == 8


def test_a_database_that_is_down_must_never_become_a_dead_letter(model_store: str) -> None:
    with pytest.raises(Transient, match="postgres"):
        pipeline(model_store, FakeLeads(None)).process(batch(change(0), change(1, lead=None)))


def test_a_batch_without_thin_changes_does_not_need_the_database(model_store: str) -> None:
    assert len(predictions(pipeline(model_store, FakeLeads(None)).process(batch(change(0))))) == 1


@pytest.mark.parametrize(
    "body", [["lead_1", "lead_2"], {"lead_ids": ["lead_1", "lead_2"]}], ids=["list", "object"]
)
def test_both_legacy_forms_of_a_request_are_answered_in_the_one_response_form(
    model_store: str, body: Any
) -> None:
    leads = FakeLeads({"lead_1": Lead(STATE, 1), "lead_2": Lead(STATE, 1)})
    outcome = pipeline(model_store, leads).process(batch(request(5, body, key=b"request 5")))
    [result] = results(outcome)
    assert result["request_id"] == "request 5"
    assert [p["lead_id"] for p in result["predictions"]] == ["lead_1", "lead_2"]
    assert (result["total_processed"], result["successful_predictions"], result["errors"]) == (
        2,
        2,
        [],
    )
    assert [p["lead_id"] for p in predictions(outcome)] == ["lead_1", "lead_2"]
    assert on(outcome, RESULTS)[0].key == b"request 5"


def test_one_bad_id_must_not_fail_its_neighbours_and_duplicates_are_answered_once(
    model_store: str,
) -> None:
    leads = FakeLeads(
        {"b": Lead(STATE, 1), "a": Lead(STATE, 1), "far": Lead(STATE | {"lead_score": 1e14}, 1)}
    )
    outcome = pipeline(model_store, leads).process(
        batch(
            request(
                0,
                {"request_id": "r", "lead_ids": ["b", "nobody", "a", 7, "", "b", "far", "\ud800"]},
            )
        )
    )
    [result] = results(outcome)
    assert [p["lead_id"] for p in result["predictions"]] == ["b", "a"]
    assert [(e["lead_id"], e["code"]) for e in result["errors"]] == [
        ("nobody", "LEAD_NOT_FOUND"),
        ("7", "INVALID_ID"),
        ("", "INVALID_ID"),
        ("far", "SCORING_FAILED"),
        ("\\ud800", "INVALID_ID"),
    ]
    assert (result["total_processed"], result["successful_predictions"]) == (7, 2)
    assert outcome.consumed == 0
    assert outcome.requests_answered == 1
    assert on(outcome, LETTERS) == []


def test_a_number_that_reads_like_an_id_must_not_make_that_id_bad(model_store: str) -> None:
    leads = FakeLeads({"1": Lead(STATE, 1)})
    for ids in (["1", 1], [1, "1"]):
        [result] = results(pipeline(model_store, leads).process(batch(request(0, ids))))
        assert [p["lead_id"] for p in result["predictions"]] == ["1"]
        assert result["errors"] == []


def test_an_avro_request_without_ids_is_answered_with_none(model_store: str) -> None:
    [result] = results(pipeline(model_store).process(batch(avro_request(0, "r", []))))
    assert (result["request_id"], result["total_processed"]) == ("r", 0)


def test_a_request_that_cannot_be_answered_is_a_dead_letter_without_half_an_answer(
    model_store: str,
) -> None:
    leads = FakeLeads({"lead_1": Lead(STATE, 1)})
    outcome = pipeline(model_store, leads).process(
        batch(
            request(0, {"request_id": "\ud800", "lead_ids": ["lead_1"]}),
            request(1, {"ids": []}),
            raw(2, None, b"k"),
        )
    )
    assert reasons(outcome) == ["ENCODE_FAILED", "INVALID_REQUEST"]
    assert on(outcome, RESULTS) == []
    assert outcome.requests_dead_lettered == 2
    assert predictions(outcome) == []


@pytest.mark.slow
def test_requests_of_a_batch_are_scored_in_slices_or_one_of_10000_ids_takes_all_the_memory(
    model_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.scoring.requests.SLICE", 5)
    leads = FakeLeads({f"lead_{i}": Lead(STATE | {"lead_score": float(i)}, 1) for i in range(12)})
    bodies = [["lead_0", "lead_1"], [f"lead_{i}" for i in range(12)], ["nobody", "lead_3"]]
    requests = [request(i, body, b"request %d" % i) for i, body in enumerate(bodies)]
    outcome = pipeline(model_store, leads).process(
        batch(*requests, change(9, "lead_11", lead=None))
    )
    assert [len(query) for query in leads.queries] == [4, 5, 5, 1]
    assert (outcome.queries, outcome.leads_asked, outcome.leads_found) == (4, 15, 14)
    for i, one in enumerate(requests):
        alone = pipeline(model_store, leads).process(batch(one))
        assert [o for o in on(outcome, RESULTS) if o.key == b"request %d" % i] == on(alone, RESULTS)
    answered = [
        (p["event_id"], p["lead_id"]) for p in predictions(outcome) if p["change_type"] == "RESCORE"
    ]
    assert answered == [
        (f"request {i}", id_) for i, ids in enumerate(bodies) for id_ in ids if id_ != "nobody"
    ]


@pytest.mark.slow
def test_a_request_of_more_than_10000_ids_is_refused_as_a_whole(model_store: str) -> None:
    largest = [f"lead_{i}" for i in range(10_000)]
    outcome = pipeline(model_store).process(
        batch(request(0, largest), request(1, [*largest, "one more"]))
    )
    assert [result["total_processed"] for result in results(outcome)] == [10_000]
    assert reasons(outcome) == ["INVALID_REQUEST"]


@pytest.mark.slow
def test_an_answer_too_large_for_a_message_is_a_dead_letter_that_says_what_to_do(
    model_store: str,
) -> None:
    largest = [f"{i:0100}" for i in range(10_000)]
    outcome = pipeline(model_store, FakeLeads({})).process(batch(request(0, largest)))
    assert reasons(outcome) == ["OVERSIZED"]
    assert "ask for fewer leads" in outcome.letters[0].detail
    fits = pipeline(model_store, FakeLeads({})).process(
        batch(request(0, [f"{i:050}" for i in range(10_000)]))
    )
    assert fits.requests_answered == 1


def test_reasons_can_be_switched_off(model_store: str) -> None:
    [prediction] = predictions(
        pipeline(model_store, LEADSTREAM_REASONS="0").process(batch(change(0)))
    )
    assert prediction["reasons"] == []


def test_a_batch_that_goes_through_too_many_modules_cannot_be_followed(model_store: str) -> None:
    line = pipeline(model_store)
    messages = [change(i, f"lead_{i}") for i in range(20)]
    line.process(batch(*messages))
    visited: set[str] = set()

    def visit(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            visited.add(frame.f_globals.get("__name__", ""))

    sys.setprofile(visit)
    try:
        line.process(batch(*messages))
    finally:
        sys.setprofile(None)
    ours = {name for name in visited if name.startswith("consumer.")}
    assert "consumer.scoring.predictions" in ours
    assert len(ours) <= 15, sorted(ours)


def test_a_row_that_leaves_the_columns_is_counted_and_costs_no_other_row(model_store: str) -> None:
    line = pipeline(model_store)
    good = [change(i, f"lead_{i}") for i in range(20)]
    assert line.process(batch(*good)).fallbacks == Counter()
    mixed = line.process(batch(*good, raw(20, b"junk")))
    assert mixed.fallbacks == Counter({"decode": 1})
    assert on(mixed, PREDICTIONS) == on(line.process(batch(*good)), PREDICTIONS)
    ids = [f"lead_{i}" for i in range(20)]
    leads = FakeLeads({id_: Lead(STATE, 1) for id_ in ids})
    asked = request(0, {"request_id": "half \ud83d", "lead_ids": ids})
    assert pipeline(model_store, leads).process(batch(asked)).fallbacks == Counter({"encode": 1})
