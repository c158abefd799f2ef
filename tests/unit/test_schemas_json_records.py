"""Lead changes in JSON: the record that Avro gives, or a sentence that names the field."""

import json
from dataclasses import replace
from typing import Any

import pytest

from consumer.dead_letters.current_scores import CurrentScores
from consumer.dead_letters.inspection import inspect
from consumer.dead_letters.letters import Letter, LetterId
from consumer.dead_letters.planner import PlannedAction, Planner, SkippedLetter
from leadstream.errors import Poison, Reason
from leadstream.kafka.config import Headers
from leadstream.kafka.dead_letter import dead_letter, fingerprint
from leadstream.kafka.topics import Topics
from leadstream.settings import load_settings
from schemas.codec import Reader, Writer
from schemas.json_records import decode_json
from tests.fakes import FakeMessage
from tests.faults.odd_values import CANARY
from tests.unit.pipelines import CHANGES, LETTERS, NOW_MS, batch, change, event, on, pipeline

JSON: Headers = [("content-type", b"application/json")]


def in_json(
    offset: int, record: dict[str, Any], headers: Headers | None = JSON, **dumps: Any
) -> FakeMessage:
    value = json.dumps(record, **dumps).encode()
    return FakeMessage(CHANGES, 0, offset, record["lead_id"].encode(), value, headers)


def in_avro(offset: int, record: dict[str, Any]) -> FakeMessage:
    value = Writer("LeadChanged").encode(record)
    return FakeMessage(CHANGES, 0, offset, record["lead_id"].encode(), value)


def refused(value: bytes) -> tuple[Reason, str]:
    with pytest.raises(Poison) as found:
        decode_json("LeadChanged", value)
    assert CANARY not in found.value.detail
    return found.value.reason, found.value.detail


def with_lead(**fields: Any) -> bytes:
    return json.dumps(event(state=fields)).encode()


def without(*path: str) -> bytes:
    record = event()
    part = record
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return json.dumps(record).encode()


@pytest.mark.parametrize("size", [1, 40])
def test_json_scores_to_the_same_bytes_as_avro_in_small_and_large_batches(
    model_store: str, size: int
) -> None:
    line = pipeline(model_store)
    own = {"numbers": {"gpa": 3}, "categories": {"country": "Österreich"}}
    records = [event(f"lead_{n}", own, event_id=f"event {n}") for n in range(size)]
    for record in records[1::3]:
        record["lead"] |= {"lead_score": None, "status": None}
    avro = [in_avro(n, record) for n, record in enumerate(records)]
    mixed = [in_json(n, record) if n % 2 == 0 else avro[n] for n, record in enumerate(records)]
    expected = line.process(batch(*avro))
    found = line.process(batch(*mixed))
    assert found.outputs == expected.outputs
    assert len(found.outputs) == size


def test_json_takes_the_defaults_of_the_schema_and_a_time_as_text(model_store: str) -> None:
    short = {
        "event_id": "e",
        "lead_id": "ada",
        "change_type": "UPDATED",
        "occurred_at": "2026-01-31T09:15:00.250+01:00",
        "lead": {"created_at": "2026-01-30T08:15:00Z"},
    }
    record = decode_json("LeadChanged", json.dumps(short).encode())
    assert (record["occurred_at"], record["lead"]["created_at"]) == (
        1_769_847_300_250,
        1_769_760_900_000,
    )
    assert (record["lead_version"], record["origin"]) == (0, "crm")
    assert record["lead"]["numbers"] == {}
    line = pipeline(model_store)
    [expected] = line.process(batch(in_avro(0, record))).outputs
    [found] = line.process(batch(in_json(0, short))).outputs
    assert found == expected


def test_json_in_the_style_of_other_languages_is_read() -> None:
    value = json.dumps(event(lead_version=3)).replace('"lead_version": 3', '"lead_version": 3.0e0')
    assert decode_json("LeadChanged", b"\xef\xbb\xbf " + value.encode())["lead_version"] == 3


@pytest.mark.parametrize(
    ("headers", "setting", "read"),
    [
        (JSON, "header", True),
        ([("Content-Type", b"Application/JSON; charset=utf-8")], "header", True),
        ([("content-type", b"text/plain")], "header", False),
        ([("content-type", b"text/plain")], "accept", True),
        (None, "header", False),
        (None, "accept", True),
    ],
)
def test_json_is_read_where_the_header_or_the_setting_says_so(
    model_store: str, headers: Headers | None, setting: str, read: bool
) -> None:
    line = pipeline(model_store, LEADSTREAM_JSON=setting)
    result = line.process(batch(in_json(0, event(), headers)))
    if read:
        assert result.letters == {}
    else:
        assert result.letters[0].reason is Reason.UNKNOWN_FRAMING
        assert "content-type: application/json" in result.letters[0].detail


def test_the_header_of_json_does_not_spoil_a_change_in_avro_or_an_erasure(
    model_store: str,
) -> None:
    avro = replace(change(0), headers_=JSON)
    null = FakeMessage(CHANGES, 0, 1, b"gone", None, JSON)
    assert pipeline(model_store).process(batch(avro, null)).letters == {}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (without("event_id"), "event_id is missing"),
        (without("lead", "created_at"), "lead.created_at is missing"),
        (json.dumps({**event(), "lead_id": 7}).encode(), "lead_id is a number, not text"),
        (json.dumps(event(event_id=None)).encode(), "event_id is null, not text: leave it out"),
        (json.dumps(event(lead=[])).encode(), "lead is an array, not an object of fields"),
        (
            json.dumps(event(change_type="updated")).encode(),
            "change_type is none of CREATED, UPDATED, DELETED, RESCORE",
        ),
        (json.dumps(event(lead_version=1.5)).encode(), "lead_version is a fraction"),
        (json.dumps(event(lead_version=2**63)).encode(), "lead_version is a number beyond 64 bits"),
        (json.dumps(event(occurred_at=CANARY)).encode(), "occurred_at is text that is no time"),
        (json.dumps(event(occurred_at=True)).encode(), "occurred_at is true or false, not a time"),
        (with_lead(touchpoint_count=2**31), "lead.touchpoint_count is a number beyond 32 bits"),
        (with_lead(touchpoint_count="3"), "lead.touchpoint_count is text, not an integer"),
        (with_lead(lead_score=CANARY), "lead.lead_score is text, not a number"),
        (with_lead(lead_score=True), "lead.lead_score is true or false, not a number"),
        (with_lead(status={"a": CANARY}), "lead.status is an object, not text"),
        (with_lead(status="\ud800"), "lead.status holds half of a surrogate pair"),
        (with_lead(numbers={"gpa": None}), "lead.numbers.gpa is null, not a number: leave it out"),
        (with_lead(numbers={"gpa": "3"}), "lead.numbers.gpa is text, not a number"),
        (with_lead(categories={"country": 1}), "lead.categories.country is a number, not text"),
        (with_lead(categories={"\udfff": "a"}), "lead.categories has a name that is not Unicode"),
        (with_lead(numbers={CANARY + " x": "a"}), "lead.numbers.a field with an odd name is text"),
        (with_lead(gpa=3.0), "lead.gpa is not a field of the schema; a CRM's own fields go into"),
        (json.dumps(event(Lead=1)).encode(), "Lead is not a field of the schema"),
    ],
)
def test_a_field_that_does_not_fit_is_named(value: bytes, sentence: str) -> None:
    reason, detail = refused(value)
    assert reason is Reason.INVALID_EVENT
    assert detail.startswith(sentence)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (b"{", "The JSON ends or breaks at character 1"),
        (b"{} {}", "The JSON ends or breaks at character 3: Extra data"),
        (b"[]", "The JSON is an array, not an object of fields"),
        (b'"text"', "The JSON is text, not an object of fields"),
        (b'{"lead_version": NaN}', "The JSON holds NaN or Infinity"),
        (b'{"lead_version": -Infinity}', "The JSON holds NaN or Infinity"),
        (b'{"event_id": "\xff"}', "The JSON is not UTF-8 text, from byte 14 on"),
        ("{}".encode("utf-16"), "The JSON is not UTF-8 text, from byte 0 on"),
        (b'{"lead":' * 50_000, "The JSON is nested too deeply"),
        (b"[" * 100_000, "The JSON is nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_place(value: bytes, sentence: str) -> None:
    reason, detail = refused(value)
    assert reason is Reason.DECODE_FAILED
    assert detail.startswith(sentence)


def test_a_field_that_is_there_twice_is_refused_not_guessed() -> None:
    value = json.dumps(event()).replace('"event_id"', '"lead_id": "eve", "event_id"')
    assert refused(value.encode()) == (
        Reason.INVALID_EVENT,
        "lead_id is there twice in one object",
    )


def test_numbers_without_end_are_refused_at_once() -> None:
    digits = b"9" * 200_000
    for field in (b"lead_score", b"touchpoint_count", b"created_at"):
        value = with_lead().replace(b'"lead": {', b'"lead": {"' + field + b'": ' + digits + b", ")
        value = value.replace(b'"created_at": ' + str(NOW_MS - 86_400_000).encode() + b", ", b"")
        assert refused(value)[0] is Reason.INVALID_EVENT
    assert (
        "beyond the range of a double"
        in refused(with_lead(lead_score=1.0).replace(b'"lead_score": 1.0', b'"lead_score": 1e999'))[
            1
        ]
    )


def test_the_rules_of_a_change_hold_for_json_with_the_same_sentence(model_store: str) -> None:
    line = pipeline(model_store)
    late = event("ada", {"created_at": NOW_MS + 1})
    other = event("ada") | {"event_id": ""}
    for record in (late, other):
        [avro] = line.process(batch(in_avro(0, record))).letters.values()
        [found] = line.process(batch(in_json(0, record))).letters.values()
        assert (found.reason, found.detail, found.stage) == (avro.reason, avro.detail, avro.stage)
        assert fingerprint(found) == fingerprint(avro)


def test_the_answer_of_a_neighbor_does_not_depend_on_bad_json(model_store: str) -> None:
    line = pipeline(model_store)
    good = [in_json(n, event(f"lead_{n}", event_id=f"e{n}")) for n in range(0, 24, 2)]
    bad = [FakeMessage(CHANGES, 0, n, b"x", b'{"lead": 1', JSON) for n in range(1, 24, 2)]
    both = [each for pair in zip(good, bad, strict=True) for each in pair]
    alone, result = line.process(batch(*good)), line.process(batch(*both))
    assert [each for each in result.outputs if each.topic != LETTERS] == alone.outputs
    assert len(result.letters) == len(bad)


def letter_of(value: bytes, headers: Headers = JSON) -> Letter:
    message = FakeMessage(CHANGES, 0, 0, b"lead_1", value, headers)
    poison = Poison(Reason.INVALID_EVENT, "decode", "a sentence")
    output = dead_letter(
        LETTERS, message, poison, failed_at=NOW_MS, group_id="g", model_version="1"
    )
    return Letter.from_message(
        FakeMessage(LETTERS, 0, 0, output.key, output.value, output.headers, NOW_MS)
    )


def test_a_letter_in_json_is_shown_by_its_fields_or_with_what_is_wrong() -> None:
    assert letter_of(b"{}").id == LetterId(0, 0)
    good = inspect(letter_of(json.dumps(event()).encode()), Topics(), None)
    assert (good.record, good.value) == ("LeadChanged", event())
    wrong = inspect(letter_of(with_lead(lead_score="x")), Topics(), None)
    assert (wrong.record, wrong.detail) == ("JSON", "lead.lead_score is text, not a number")
    assert wrong.value["lead"]["lead_score"] == "x"
    broken = inspect(letter_of(b'{"a":'), Topics(), None)
    assert broken.failure is not None
    assert (broken.failure.offset, broken.failure.field) == (5, "the change")


def test_a_letter_in_json_is_patched_and_replayed_as_json(model_store: str) -> None:
    planner = Planner(load_settings({}, None), None, {"lead": {"lead_score": 60.5}})
    scores = CurrentScores((), Reader("LeadPrediction"))
    planned = planner.plan(letter_of(with_lead(lead_score="x")), scores)
    assert isinstance(planned, PlannedAction)
    assert planned.output is not None
    replayed = FakeMessage(CHANGES, 0, 0, b"lead_1", planned.output.value, planned.output.headers)
    assert pipeline(model_store).process(batch(replayed)).letters == {}
    refusing = Planner(load_settings({}, None), None, {"lead": {"gpa": 3}})
    skipped = refusing.plan(letter_of(with_lead()), scores)
    assert isinstance(skipped, SkippedLetter)
    assert "lead.gpa is not a field" in skipped.why


def test_a_letter_in_json_keeps_its_header(model_store: str) -> None:
    message = in_json(0, event(lead=5))
    [letter] = on(pipeline(model_store).process(batch(message)), LETTERS)
    assert ("content-type", b"application/json") in (letter.headers or [])
    assert letter.value == message.value_
