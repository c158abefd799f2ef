"""Dead letters and the limit on how many there may be."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.dead_letters.headers import own_headers
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.planner import replayed
from leadstream.errors import DeadLetterLimit, Poison, Reason
from leadstream.kafka.config import Headers
from leadstream.kafka.dead_letter import Limit, dead_letter, fingerprint, replays
from leadstream.kafka.topic_config import RecordLimits, record_size
from tests.examples import examples
from tests.fakes import FakeMessage
from tests.letters import letter

COMPACTED = {"cleanup.policy": "compact"}


def letter_of(message: FakeMessage, poison: Poison) -> dict[str, bytes | None]:
    letter = dead_letter(
        "dlq", message, poison, failed_at=1_700_000_000_001, group_id="group", model_version="1.2.0"
    )
    assert (letter.key, letter.value) == (message.key_, message.value_)
    return dict(letter.headers or [])


def poison(
    detail: str = "the value ends at byte 7", reason: Reason = Reason.DECODE_FAILED
) -> Poison:
    return Poison(reason, "decode", detail)


BAD = poison()


def test_a_letter_without_these_facts_cannot_be_triaged() -> None:
    headers = letter_of(FakeMessage("crm.lead-changes", 3, 17, b"key", b"value"), poison())
    assert {name: (value or b"").decode() for name, value in headers.items()} == {
        "__connect.errors.topic": "crm.lead-changes",
        "__connect.errors.partition": "3",
        "__connect.errors.offset": "17",
        "__connect.errors.stage": "decode",
        "__connect.errors.exception.class.name": "leadstream.errors.Poison",
        "__connect.errors.exception.message": "the value ends at byte 7",
        "dlq.reason": "DECODE_FAILED",
        "dlq.fingerprint": fingerprint(poison()),
        "dlq.failed_at": "1700000000001",
        "dlq.consumer_group": "group",
        "dlq.model_version": "1.2.0",
        "dlq.replays": "0",
        "dlq.original_timestamp": "1700000000000",
        "dlq.original_timestamp_type": "CreateTime",
    }


def test_a_letter_with_an_old_timestamp_would_be_deleted_and_one_of_tomorrow_refused() -> None:
    for at in (0, 1_700_000_000_000, 2**62):
        letter = dead_letter(
            "dlq", FakeMessage(timestamp_=at), poison(), failed_at=0, group_id="g", model_version=""
        )
        assert letter.timestamp is None
        assert dict(letter.headers or [])["dlq.original_timestamp"] == str(at).encode()


def test_a_letter_that_failed_before_must_not_pile_up_headers_nor_keep_old_ones() -> None:
    errors: Headers = [
        ("dlq.reason", b"OLD"),
        ("dlq.replays", b"2"),
        ("__connect.errors.stage", b"OLD"),
    ]
    before: Headers = [("trace", b"\x00"), *errors]
    message = FakeMessage(headers_=before)
    output = dead_letter("dlq", message, poison(), failed_at=0, group_id="g", model_version="1.0.0")
    names = [name for name, _ in output.headers or []]
    assert len(names) == len(set(names)) == 15
    headers = dict(output.headers or [])
    assert (headers["trace"], headers["dlq.reason"], headers["dlq.replays"]) == (
        b"\x00",
        b"DECODE_FAILED",
        b"0",
    )


@pytest.mark.parametrize("secret", [None, "secret"])
def test_a_count_of_replays_that_triage_did_not_write_is_not_believed(secret: str | None) -> None:
    original = letter(1, b"lead", b"junk")
    output = replayed(original, original.value, secret)
    message = FakeMessage(output.topic, 0, 7, output.key, output.value, output.headers)

    def counted(one: FakeMessage, key: str | None = secret) -> int:
        again = dead_letter(
            "dlq", one, BAD, failed_at=0, group_id="g", model_version="", replay_key=key
        )
        return replays(again.headers or [])

    assert counted(message) == 1
    assert counted(replace(message, value_=b"another value")) == 0
    assert counted(replace(message, key_=b"another lead")) == 0
    assert counted(replace(message, topic_="another topic")) == 0
    assert counted(message, "another secret") == 0
    foreign: Headers = [
        (name, b"3" if name == "dlq.replays" else value) for name, value in output.headers or []
    ]
    assert counted(replace(message, headers_=foreign)) == 0
    assert counted(FakeMessage(headers_=[("dlq.replays", b"3")])) == 0


@pytest.mark.parametrize("value", [b"many", b"", None, b"-1", b"9" * 5000])
def test_a_replay_count_that_is_no_number_must_not_stop_the_process(value: bytes | None) -> None:
    assert (
        letter_of(FakeMessage(headers_=[("dlq.replays", value)]), poison())["dlq.replays"] == b"0"
    )


def test_a_message_without_end_is_cut_at_a_thousand_characters() -> None:
    headers = letter_of(FakeMessage(), poison("é" * 5000))
    assert (headers["__connect.errors.exception.message"] or b"").decode() == "é" * 1000


def test_a_record_without_timestamp_must_not_get_one_from_1970() -> None:
    letter = dead_letter(
        "dlq", FakeMessage(timestamp_=None), poison(), failed_at=0, group_id="g", model_version="1"
    )
    assert "dlq.original_timestamp" not in dict(letter.headers or [])


_headers = st.lists(
    st.tuples(st.text(max_size=40), st.none() | st.binary(max_size=900)), max_size=4
)


@settings(max_examples=examples(200))
@given(
    st.none() | st.binary(max_size=4000),
    st.none() | st.binary(max_size=9000),
    _headers,
    st.integers(1_400, 6_000),
    st.text(max_size=1200),
)
def test_a_letter_that_does_not_fit_its_topic_would_hold_every_partition(
    key: bytes | None, value: bytes | None, headers: Headers, max_bytes: int, detail: str
) -> None:
    message = FakeMessage("crm.lead-changes", 3, 17, key, value, headers)
    limits = RecordLimits(["dlq"], max_bytes)
    output = dead_letter(
        "dlq", message, poison(detail), failed_at=0, group_id="g", model_version="1", limits=limits
    )
    assert record_size(*output[1:4]) <= max_bytes
    read = Letter.from_message(FakeMessage("dlq", 0, 0, output.key, output.value, output.headers))
    assert (read.parsed.topic, read.parsed.partition, read.parsed.offset) == (
        "crm.lead-changes",
        3,
        17,
    )
    own = own_headers(output.headers or [], "Leadstream")
    cut = read.parsed.cut
    if cut is None:
        assert (output.key, output.value, own) == (key, value, own_headers(headers, "Leadstream"))
        return
    assert ("value" in cut.parts) == (output.value != value)
    assert ("key" in cut.parts) == (output.key != key)
    assert ("headers" in cut.parts) == (own != own_headers(headers, "Leadstream"))
    assert (value or b"").startswith(output.value or b"")
    if "value" in cut.parts:
        assert cut.value_bytes == len(value or b"")
        assert cut.value_sha256 == hashlib.sha256(value or b"").hexdigest()


@pytest.mark.parametrize("key", [None, b"", b"lead"])
@pytest.mark.parametrize("value", [None, b"", b"junk"])
def test_a_topic_that_takes_no_letter_at_all_is_held_and_ends_no_process(
    key: bytes | None, value: bytes | None
) -> None:
    message = FakeMessage("crm.lead-changes", 3, 17, key, value, None)
    limits = RecordLimits(["dlq"], 100)
    output = dead_letter(
        "dlq", message, poison(), failed_at=0, group_id="g", model_version="1", limits=limits
    )
    assert output.topic == "dlq"


def test_a_topic_that_needs_keys_must_not_refuse_the_letter_of_a_record_without_one() -> None:
    limits = RecordLimits(["dlq"], read=lambda _config, _topics: {"dlq": COMPACTED})
    limits.update({})
    output = dead_letter(
        "dlq", FakeMessage(), BAD, failed_at=0, group_id="g", model_version="", limits=limits
    )
    assert output.key == b"crm.lead-changes-0-0"
    assert Letter.from_message(FakeMessage(headers_=output.headers, key_=output.key)).key is None


def test_a_limit_that_the_brokers_do_not_tell_is_found_by_their_refusals() -> None:
    limits = RecordLimits(["dlq", "out"], 8_000_000, read=lambda _config, _topics: {})
    limits.update({})
    assert limits.max_bytes("dlq") == 8_000_000
    sizes = []
    for _ in range(20):
        limits.refused("dlq", limits.max_bytes("dlq"))
        limits.update({})
        sizes.append(limits.max_bytes("dlq"))
    assert sizes[:2] == [4_000_000, 2_000_000]
    assert min(sizes) == sizes[-1] == 1_024
    assert limits.max_bytes("out") == 8_000_000


def test_a_limit_that_was_lowered_while_running_is_learned_by_the_refusal() -> None:
    configs = {"dlq": {"max.message.bytes": "2000000"}}
    limits = RecordLimits(["dlq"], 8_000_000, read=lambda _config, _topics: configs)
    limits.update({})
    assert (limits.max_bytes("dlq"), limits.batch_bytes()) == (2_000_000, 1_000_000)
    configs["dlq"] = {"max.message.bytes": "50000"}
    limits.refused("dlq", 60_000)
    limits.update({})
    assert (limits.max_bytes("dlq"), limits.batch_bytes()) == (50_000, 49_900)


def test_letters_of_one_cause_must_share_a_fingerprint_whatever_varies_in_their_text() -> None:
    assert fingerprint(poison("'abc' ends at byte 7")) == fingerprint(
        poison("'xyz' ends at byte 1234")
    )
    assert fingerprint(poison("no schema c301ab00ff")) == fingerprint(
        poison("no schema 77aa00bb11")
    )
    assert fingerprint(poison("the key is empty")) != fingerprint(poison("the key is not UTF-8"))
    assert fingerprint(poison()) != fingerprint(poison(reason=Reason.INVALID_EVENT))


def test_a_fingerprint_that_changes_with_a_restart_would_split_the_groups() -> None:
    assert fingerprint(poison("the key is empty")) == "c2a51b8929b80d07"


def test_the_limit_must_not_fire_on_the_first_bad_record_of_a_quiet_topic() -> None:
    limit = Limit(0.1, 10)
    limit.check([BAD])
    limit.check([None] * 20)
    limit.check([BAD])


def test_more_bad_records_in_a_row_than_allowed_stop_the_process_even_over_batches() -> None:
    limit = Limit(1, 5)
    limit.check([BAD] * 3)
    limit.check([BAD] * 2)
    with pytest.raises(
        DeadLetterLimit, match=r"6 records in a row .* LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE=5"
    ):
        limit.check([BAD])


def test_a_good_record_between_bad_ones_ends_the_row() -> None:
    limit = Limit(1, 2)
    for _ in range(10):
        limit.check([BAD, BAD, None])


def test_a_share_of_bad_records_over_the_ratio_stops_the_process() -> None:
    limit = Limit(0.2, 0)
    limit.check([None] * 80 + [BAD] * 20)
    with pytest.raises(DeadLetterLimit, match=r"LEADSTREAM_DEAD_LETTER_MAX_RATIO=0\.2"):
        limit.check([BAD])


def test_old_good_records_must_not_excuse_bad_ones_for_ever() -> None:
    limit = Limit(0.5, 0)
    limit.check([None] * 100_000)
    with pytest.raises(DeadLetterLimit):
        limit.check([BAD] * 501)


def test_a_batch_that_was_refused_must_not_count_when_it_is_tried_again() -> None:
    limit = Limit(1, 5)
    for _ in range(3):
        with pytest.raises(DeadLetterLimit, match="6 records in a row"):
            limit.check([BAD] * 6)


def test_a_limit_of_zero_or_one_is_none() -> None:
    Limit(1, 0).check([BAD] * 5000)


def test_a_stop_names_its_cause_because_its_letters_are_not_written() -> None:
    limit = Limit(0.5, 0)
    odd = poison("the key is 'secret'", reason=Reason.INVALID_EVENT)
    letters = [None, odd, BAD, odd] + [odd] * 56
    messages = [FakeMessage("changes", 3, 100 + index) for index in range(60)]
    with pytest.raises(DeadLetterLimit) as stopped:
        limit.check(letters, messages)
    sentence = str(stopped.value)
    assert f"98% of them are INVALID_EVENT in the step {odd.stage}" in sentence
    assert f"dlq.fingerprint {fingerprint(odd)}, for example changes partition 3 offset 101" in (
        sentence
    )
    assert "secret" not in sentence
    rows = Limit(1, 3)
    with pytest.raises(DeadLetterLimit, match=r"100% of them are .* offset 100"):
        rows.check([BAD] * 4, messages)
