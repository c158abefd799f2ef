"""The action for one letter."""

import json
from dataclasses import replace
from typing import Any

import pytest

from consumer.dead_letters.audit import Action
from consumer.dead_letters.current_scores import CurrentScores
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.planner import PlannedAction, Planner, SkippedLetter
from consumer.dead_letters.replay_times import ReplayTimes
from leadstream.kafka.batch import Output
from leadstream.kafka.config import Headers
from leadstream.kafka.topics import DAY_MS
from leadstream.settings import load_settings
from schemas.codec import Reader, Writer
from tests.fakes import FakeMessage
from tests.letters import letter
from tests.unit.pipelines import NOW_MS, PREDICTIONS, REQUESTS, event

CHANGE, PREDICTION = Writer("LeadChanged"), Writer("LeadPrediction")
PLANNER = Planner(load_settings({}, None), None)


def change(lead_id: str = "lead", **fields: Any) -> bytes:
    return CHANGE.encode(event(lead_id, **fields))


def scores(*predictions: FakeMessage) -> CurrentScores:
    found = CurrentScores([b"lead"], Reader("LeadPrediction"))
    for prediction in predictions:
        found.add(prediction)
    return found


def scored(version: int, occurred_at: int = NOW_MS) -> FakeMessage:
    """The prediction of a change of this version."""
    halves = (
        "probability",
        "probability_low",
        "probability_high",
        "confidence",
        "raw_score",
        "threshold",
    )
    words = (
        "prediction_id",
        "model_used",
        "model_version",
        "model_sha256",
        "source_topic",
        "event_id",
    )
    counts = ("coalesced_changes", "source_partition", "source_offset")
    record: dict[str, Any] = dict.fromkeys(halves, 0.5)
    record |= dict.fromkeys(words, "x") | dict.fromkeys(counts, 0) | {"reasons": [], "imputed": []}
    record |= {
        "lead_id": "lead",
        "prediction": True,
        "grade": "A",
        "feature_coverage": 1.0,
        "variant": "champion",
    }
    record |= {
        "change_type": "UPDATED",
        "lead_version": version,
        "occurred_at": occurred_at,
        "scored_at": NOW_MS,
    }
    return FakeMessage(PREDICTIONS, 0, 0, b"lead", PREDICTION.encode(record))


def erased(at: int) -> FakeMessage:
    return FakeMessage(PREDICTIONS, 0, 0, b"lead", None, timestamp_=at)


def planned(
    one: Letter, present: CurrentScores | None = None, planner: Planner = PLANNER
) -> PlannedAction:
    action = planner.plan(one, present or scores())
    assert isinstance(action, PlannedAction)
    return action


def sent(action: PlannedAction) -> Output:
    assert action.action is Action.REPLAYED
    assert action.output is not None
    return action.output


def test_a_replayed_record_that_differs_from_its_original_is_another_record() -> None:
    headers: Headers = [("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b""), ("null", None)]
    original = letter(7, b"lead", b"\x00junk", headers=headers)
    output = sent(planned(original))
    assert (output.topic, output.key, output.value) == ("crm.lead-changes", b"lead", b"\x00junk")
    assert output.timestamp == NOW_MS - 60_000 + 7
    assert (output.headers or [])[:-1] == [*headers, ("dlq.replays", b"1")]


@pytest.mark.parametrize(
    ("configs", "age_ms", "kept"),
    [
        ({}, 60_000, True),
        ({}, 7 * DAY_MS, False),
        ({}, -7_200_000, False),
        ({"retention.ms": "-1"}, 900 * DAY_MS, True),
        ({"retention.ms": "86400000"}, 3 * DAY_MS, False),
        ({"retention.ms": "86400000", "cleanup.policy": "compact"}, 3 * DAY_MS, True),
        ({"message.timestamp.after.max.ms": "9223372036854775807"}, -7_200_000, True),
        ({"message.timestamp.before.max.ms": "1000"}, 60_000, False),
    ],
    ids=str,
)
def test_a_replay_that_would_be_deleted_or_refused_for_its_time_gets_the_present_one(
    configs: dict[str, str], age_ms: int, kept: bool
) -> None:
    now = NOW_MS - 60_000 + 7 + age_ms
    times = ReplayTimes({"crm.lead-changes": configs}, lambda: now)
    action = planned(
        letter(7, b"lead", change()), planner=Planner(load_settings({}, None), None, times=times)
    )
    assert (sent(action).timestamp == NOW_MS - 60_000 + 7) is kept
    assert action.retimed is not kept


def test_a_cut_letter_without_its_original_must_not_be_sent_as_if_it_were_whole() -> None:
    cut: Headers = [("dlq.cut", b"value"), ("dlq.value_bytes", b"9000000")]
    full = letter(7, b"lead", b"begin")
    one = Letter.from_message(
        FakeMessage(key_=b"lead", value_=b"begin", headers_=[*full.headers, *cut])
    )
    found = PLANNER.plan(one, scores())
    assert isinstance(found, SkippedLetter)
    assert found.why == "it was cut, and its original is no longer in its topic"
    back = sent(
        planned(replace(one, value=change(), original_headers=[("trace", b"1")], restored=True))
    )
    assert (back.value, (back.headers or [])[0]) == (change(), ("trace", b"1"))


def test_a_request_goes_back_to_the_topic_of_requests() -> None:
    assert sent(planned(letter(1, None, b'{"ids": 1}', origin=REQUESTS))).topic == REQUESTS


def test_a_letter_of_a_topic_that_nobody_reads_here_must_not_be_sent_to_what_a_header_says() -> (
    None
):
    found = PLANNER.plan(letter(1, b"lead", b"", origin="orders"), scores())
    assert isinstance(found, SkippedLetter)
    assert "orders" in found.why


def test_a_letter_that_came_back_three_times_is_parked_and_not_sent_for_ever() -> None:
    def returned(times: bytes) -> PlannedAction:
        first = letter(1, b"lead", change())
        return planned(replace(first, parsed=replace(first.parsed, replays=int(times))))

    assert ("dlq.replays", b"3") in (sent(returned(b"2")).headers or [])
    assert returned(b"3").action is Action.PARKED
    assert returned(b"3").output is None


@pytest.mark.parametrize("fields", [{}, {"lead": None}], ids=["with state", "without"])
def test_a_newer_score_supersedes_a_letter_and_an_older_or_equal_one_does_not(
    fields: dict[str, Any],
) -> None:
    one = letter(1, b"lead", change(lead_version=5, **fields))
    assert planned(one, scores(scored(6))).action is Action.SUPERSEDED
    assert planned(one, scores(scored(5))).action is Action.REPLAYED
    assert planned(one, scores(scored(9), scored(4))).action is Action.REPLAYED


def test_without_versions_the_time_of_the_change_tells_old_from_new() -> None:
    one = letter(1, b"lead", change(lead_version=0, occurred_at=NOW_MS))
    assert planned(one, scores(scored(6, NOW_MS + 1))).action is Action.SUPERSEDED
    assert planned(one, scores(scored(6, NOW_MS))).action is Action.REPLAYED


def test_a_letter_must_not_bring_a_lead_back_that_was_erased_since() -> None:
    one = letter(1, b"lead", change(lead_version=5), failed_at=NOW_MS)
    assert planned(one, scores(erased(NOW_MS + 1))).action is Action.SUPERSEDED
    assert planned(one, scores(erased(NOW_MS - 1))).action is Action.REPLAYED
    # Nor one whose value cannot be read: who knows what it becomes with the next schema.
    assert (
        planned(letter(1, b"lead", b"junk"), scores(erased(NOW_MS + 1))).action is Action.SUPERSEDED
    )


def test_a_letter_is_planned_by_the_scores_of_its_own_lead() -> None:
    assert (
        planned(letter(1, b"other", change("other", lead_version=1)), scores(scored(6))).action
        is Action.REPLAYED
    )


def test_a_patched_value_has_the_present_schema_and_the_patch_is_recorded() -> None:
    planner = Planner(
        load_settings({}, None), None, {"lead": {"status": "won", "source": None}}, "a typo"
    )
    action = planned(letter(1, b"lead", change(lead_version=5)), planner=planner)
    record = Reader("LeadChanged").decode(sent(action).value or b"")
    assert record == event("lead", {"status": "won", "source": None}, lead_version=5)
    assert action.patch is not None
    assert json.loads(action.patch) == {"lead": {"status": "won", "source": None}}
    assert action.comment == "a typo"


@pytest.mark.parametrize(
    ("value", "patch", "why"),
    [
        (
            b"junk",
            {"lead_version": 3},
            "the patch cannot be applied, because the value cannot be read",
        ),
        (change(), {"lead_version": "x"}, "lead_version is of type str, not a long"),
        (change(), {"status": "won"}, "status is not a field of the schema"),
    ],
)
def test_a_letter_that_cannot_be_patched_stays_open_and_says_why(
    value: bytes, patch: dict[str, Any], why: str
) -> None:
    found = Planner(load_settings({}, None), None, patch).plan(letter(1, b"lead", value), scores())
    assert isinstance(found, SkippedLetter)
    assert why in found.why
