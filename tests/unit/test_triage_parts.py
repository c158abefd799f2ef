"""Filters, groups, merge patches, moments, exports and the chain of decisions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.dead_letters.audit import Action, Decision, DecisionIndex, verify
from consumer.dead_letters.export import export
from consumer.dead_letters.groups import group_letters
from consumer.dead_letters.inspection import fields, hex_window, inspect
from consumer.dead_letters.letters import LetterId
from consumer.dead_letters.patch import load_patch, merge, parse_assignments
from consumer.dead_letters.selection import Filter
from leadstream.cli.dead_letters.times import parse_time
from leadstream.errors import SettingsError, UserError
from leadstream.kafka.topics import Topics
from schemas.codec import Reader, Writer
from tests.fakes import FakeMessage
from tests.letters import letter
from tests.unit.pipelines import NOW_MS, REQUESTS, event

LETTERS = [letter(i, b"lead_%d" % (i % 5), b"value", failed_at=NOW_MS + i) for i in range(60)]
TOPIC = "crm.lead-changes.dlq"


def ids(wanted: Filter, decided: DecisionIndex | None = None) -> list[int]:
    return [each.id.offset for each in wanted.select(LETTERS, decided or DecisionIndex(TOPIC))]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(reason="oversized"), list(range(5, 60, 6))),
        (Filter(fingerprint=LETTERS[3].parsed.fingerprint), list(range(3, 60, 6))),
        (Filter(lead="lead_2"), list(range(2, 60, 5))),
        (Filter(since=NOW_MS + 50, until=NOW_MS + 53), [50, 51, 52]),
        (Filter(partition=1), []),
        (Filter(partition=0, offset=17), [17]),
        (Filter(reason="OVERSIZED", limit=2), [5, 11]),
    ],
)
def test_a_filter_that_lets_others_pass_would_decide_letters_that_nobody_meant(
    wanted: Filter, found: list[int]
) -> None:
    assert ids(wanted) == found


def test_a_letter_that_was_decided_on_is_left_out_unless_all_are_asked_for() -> None:
    decided = DecisionIndex(TOPIC, {0: {0: Action.DISCARDED, 2: Action.REPLAYED}})
    assert ids(Filter(limit=2), decided) == [1, 3]
    assert ids(Filter(limit=2, everything=True), decided) == [0, 1]


def test_six_causes_make_six_groups_with_their_first_and_last_letter() -> None:
    groups = group_letters(LETTERS)
    assert [each.count for each in groups] == [10] * 6
    one = next(each for each in groups if each.reason == "OVERSIZED")
    assert (one.first_seen, one.last_seen, str(one.example)) == (NOW_MS + 5, NOW_MS + 59, "0-59")
    assert (one.partitions, one.model_versions, one.topics) == (
        {0},
        {"1.0.0"},
        {"crm.lead-changes"},
    )
    assert "59 bytes" in one.message


# The examples of RFC 7396, appendix A.
@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_is_what_its_rfc_says(original: Any, patch: Any, result: Any) -> None:
    before = json.dumps(original)
    assert merge(original, patch) == result
    assert json.dumps(original) == before


def test_words_become_a_patch_with_dots_and_json_or_text() -> None:
    words = [
        "lead.status=won",
        "lead.touchpoint_count=3",
        'origin="5"',
        "lead.source=null",
        "event_id=a=b",
    ]
    assert parse_assignments(words) == {
        "lead": {"status": "won", "touchpoint_count": 3, "source": None},
        "origin": "5",
        "event_id": "a=b",
    }


@pytest.mark.parametrize(
    "words", [["status"], ["=1"], ["lead..status=1"], ["lead=1", "lead.status=2"]]
)
def test_words_that_are_no_patch_are_one_sentence(words: list[str]) -> None:
    with pytest.raises(SettingsError, match="--set"):
        parse_assignments(words)


@pytest.mark.parametrize("text", ["[1]", "{}", "{", "3"])
def test_a_file_that_is_no_patch_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "patch").write_text(text)
    with pytest.raises(SettingsError, match="--patch"):
        load_patch(str(tmp_path / "patch"))
    with pytest.raises(SettingsError, match="No such file"):
        load_patch(str(tmp_path / "nowhere"))


def test_moments_are_utc_unless_they_say_otherwise() -> None:
    assert (
        parse_time("--since", "2026-11-24T08:00")
        == parse_time("--since", "2026-11-24T09:00+01:00")
        == 1_795_507_200_000
    )
    assert parse_time("--since", None) is None
    with pytest.raises(SettingsError, match="--until yesterday"):
        parse_time("--until", "yesterday")


@pytest.mark.parametrize("text", ["17", "0-", "-17", "a-b", "0-1-2", "²-1"])
def test_an_id_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(SettingsError, match="partition-offset"):
        LetterId.parse(text)


def test_a_decoded_value_stands_beside_its_schema() -> None:
    value = Writer("LeadChanged").encode(event("lead_1"))
    inside = inspect(letter(1, b"lead_1", value), Topics(), None)
    assert inside.failure is None
    format_time = {
        field.name: (field.type, field.value) for field in fields("LeadChanged", inside.value)
    }
    assert format_time["change_type"] == ("CREATED | UPDATED | DELETED | RESCORE", "UPDATED")
    assert format_time["lead.touchpoint_count"] == ("int or null", 4)
    without_state = inspect(
        letter(1, b"lead_1", Writer("LeadChanged").encode(event("lead_1", lead=None))),
        Topics(),
        None,
    )
    assert {f.name: f.type for f in fields("LeadChanged", without_state.value)}[
        "lead"
    ] == "LeadState or null"


@pytest.mark.parametrize(
    ("value", "origin", "offset", "field"),
    [
        (b"4711;new", "crm.lead-changes", 0, "the framing"),
        (b"\xc3\x01" + bytes(9), "crm.lead-changes", 2, "the schema's number"),
        (b"\x00\x00\x00\x00\x07abc", "crm.lead-changes", 1, "the schema's number"),
        (b'{"lead_ids": ["a", }', REQUESTS, 19, "the request"),
        (b'["\xff"]', REQUESTS, 2, "the request"),
    ],
)
def test_where_a_value_stops_being_what_it_should_is_a_byte_and_a_part(
    value: bytes, origin: str, offset: int, field: str
) -> None:
    failure = inspect(letter(1, b"lead", value, origin=origin), Topics(), None).failure
    assert failure is not None
    assert (failure.offset, failure.field) == (offset, field)


def test_a_value_of_a_topic_that_is_not_ours_is_not_guessed_at() -> None:
    inside = inspect(letter(1, b"lead", b"{}", origin="orders"), Topics(), None)
    assert (inside.record, inside.value, inside.failure) == (None, None, None)


def test_the_neighbourhood_holds_the_byte_and_ends_with_the_value() -> None:
    value = bytes(range(200))
    rows = dict(hex_window(value, 100))
    assert 100 in rows[96]
    assert min(rows) == 64
    assert b"".join(rows.values()) == value[64:144]
    assert dict(hex_window(b"abc", 3)) == {0: b"abc"}


def test_an_export_is_the_letters_byte_for_byte_and_says_so_in_its_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    one, null = letter(3, b"\xff", b"\x00\x01"), letter(4, None, None)
    manifest = export(
        [one, null], DecisionIndex(TOPIC, {0: {4: Action.PARKED}}), folder, {"topic": TOPIC}
    )
    assert (folder / "values" / "0-3.bin").read_bytes() == b"\x00\x01"
    assert not (folder / "values" / "0-4.bin").exists()
    lines = [json.loads(line) for line in (folder / "letters.jsonl").read_text().splitlines()]
    assert [(line["id"], line["decided"]) for line in lines] == [("0-3", None), ("0-4", "PARKED")]
    assert lines[0]["key"] == "/w=="
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert manifest["letters"] == 2
    assert folder.stat().st_mode & 0o077 == 0
    with pytest.raises(UserError, match="is there already"):
        export([one], DecisionIndex(TOPIC), folder, {})


def chain(count: int) -> list[FakeMessage]:
    """Decisions on the letters 0 to `count` of two partitions, as they stand in an audit topic of
    two.
    """
    decided, writer, records = DecisionIndex(TOPIC), Writer("TriageDecision"), []
    for i in range(count):
        place = i % 2
        letter_id, head = LetterId(place, i), decided.heads.get(place, "")
        decision = Decision(TOPIC, letter_id, Action.REPLAYED, "me", NOW_MS, None, None, head)
        output = decision.output("audit", writer)
        records.append(FakeMessage("audit", place, i // 2, output.key, output.value))
        decided.add(decision, place, output.value or b"")
    return records


def broken(records: list[FakeMessage]) -> list[str]:
    return verify(records, Reader("TriageDecision")).breaks


def test_a_chain_that_nobody_touched_holds_and_has_a_head_for_each_partition() -> None:
    planned = verify(chain(9), Reader("TriageDecision"))
    assert (planned.breaks, planned.decisions, set(planned.heads)) == ([], 9, {0, 1})


def test_a_decision_taken_out_altered_put_in_or_moved_breaks_the_chain() -> None:
    records = chain(9)
    value = records[4].value_ or b""
    assert broken(records[:4] + records[5:])
    assert broken(
        [*records[:4], replace(records[4], value_=value.replace(b"me", b"ma")), *records[5:]]
    )
    assert broken([*records[:4], records[4], records[4], *records[5:]])
    assert broken([records[2], records[1], records[0], *records[3:]])
    assert broken([*records[:4], replace(records[4], value_=None), *records[5:]])
    assert broken([*records[:4], replace(records[4], value_=b"junk"), *records[5:]])
    assert broken([*records[:4], replace(records[4], key_=b"0-1"), *records[5:]])


def test_a_letter_decided_twice_is_told_even_where_the_chain_goes_on() -> None:
    records = chain(3)
    decided, writer = DecisionIndex(TOPIC), Writer("TriageDecision")
    for record in (records[0], records[2]):
        decided.add(
            Decision.from_record(Reader("TriageDecision").decode(record.value_ or b"")),
            0,
            record.value_ or b"",
        )
    again = Decision(
        TOPIC, LetterId(0, 0), Action.DISCARDED, "me", NOW_MS, "why", None, decided.heads[0]
    )
    output = again.output("audit", writer)
    found = broken([*records, FakeMessage("audit", 0, 2, output.key, output.value)])
    assert found == ["letter 0-0 was decided twice, the second time at 0-2"]
