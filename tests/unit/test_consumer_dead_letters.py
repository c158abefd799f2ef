"""Dead letters and the limit on how many there may be."""

import pytest

from leadstream.errors import DeadLetterLimit, Poison, Reason
from leadstream.kafka.config import Headers
from leadstream.kafka.dead_letter import Limit, dead_letter, fingerprint
from tests.fakes import FakeMessage


def letter_of(message: FakeMessage, poison: Poison) -> dict[str, bytes | None]:
    letter = dead_letter(
        "dlq", message, poison, failed_at=1_700_000_000_001, group_id="group", model_version="1.2.0"
    )
    assert (letter.key, letter.value) == (message.key_, message.value_)
    assert letter.timestamp == message.timestamp_
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
    }


def test_a_letter_that_failed_before_must_not_pile_up_headers_nor_forget_its_replays() -> None:
    errors: Headers = [
        ("dlq.reason", b"OLD"),
        ("dlq.replays", b"2"),
        ("__connect.errors.stage", b"OLD"),
    ]
    before: Headers = [("trace", b"\x00"), *errors]
    message = FakeMessage(headers_=before)
    letter = dead_letter("dlq", message, poison(), failed_at=0, group_id="g", model_version="1.0.0")
    names = [name for name, _ in letter.headers or []]
    assert len(names) == len(set(names)) == 13
    headers = dict(letter.headers or [])
    assert (headers["trace"], headers["dlq.reason"], headers["dlq.replays"]) == (
        b"\x00",
        b"DECODE_FAILED",
        b"2",
    )


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
    assert letter.timestamp is None


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
