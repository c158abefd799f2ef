"""Bad records: each must be bad for the reason it names, or the tests that stand on them prove
nothing.
"""

from dataclasses import dataclass
from itertools import islice

import pytest

from consumer.scoring.events import EventKind, EventReader, EventTable
from consumer.scoring.requests import decode_request
from features.spec import INPUTS
from leadstream.errors import Poison, Reason
from leadstream.kafka.batch import Batch, ClosedBy
from leadstream.lead_fields import MAX_CHANGE_BYTES
from producer.bad_records import BUILDERS, BadRecord, bad_records
from schemas.codec import Reader, Writer

pytestmark = pytest.mark.slow

NOW = 1_760_000_000_000
ROUNDS = max(len(builders) for builders in BUILDERS.values())
DECODED = (
    Reason.UNKNOWN_FRAMING,
    Reason.UNKNOWN_SCHEMA,
    Reason.DECODE_FAILED,
    Reason.INVALID_EVENT,
    Reason.INVALID_REQUEST,
)


@dataclass(frozen=True)
class BadMessage:
    bad: BadRecord

    def topic(self) -> str:
        return self.bad.topic

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 0

    def key(self) -> bytes | None:
        return self.bad.key

    def value(self) -> bytes | None:
        return self.bad.value

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, NOW


def _all(seed: int = 1, rounds: int = ROUNDS) -> list[BadRecord]:
    events, requests = Writer("LeadChanged"), Writer("RescoreRequest")
    records = bad_records(seed, now=NOW, encode_event=events.encode, encode_request=requests.encode)
    return list(islice(records, rounds * len(Reason)))


def _read(bad: BadRecord) -> EventTable:
    """Read a bad change as a batch of its own; raise its poison, if it has one."""
    batch = Batch.from_messages([BadMessage(bad)], ClosedBy.DRAIN)
    table = EventReader(Reader("LeadChanged"), "rescore_requests").read(batch, INPUTS)
    for poison in table.poisons.values():
        raise poison
    return table


def _decoded(bad: BadRecord) -> object:
    if bad.topic == "lead_changes":
        return _read(bad)
    return decode_request(0, BadMessage(bad), Reader("RescoreRequest"), NOW)


def test_every_reason_has_a_bad_record_in_each_round() -> None:
    assert {bad.reason for bad in _all(rounds=1)} == set(Reason)


def test_every_builder_gets_its_turn() -> None:
    built = {(bad.reason, bad.what) for bad in _all()}
    assert built == {
        (reason, what) for reason, builders in BUILDERS.items() for _, what, _ in builders
    }


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert _all(5) == _all(5)
    assert _all(5) != _all(6)


@pytest.mark.parametrize(
    "bad", [bad for bad in _all() if bad.reason in DECODED], ids=lambda bad: bad.what
)
def test_the_consumer_refuses_it_for_this_reason(bad: BadRecord) -> None:
    with pytest.raises(Poison) as poison:
        _decoded(bad)
    assert poison.value.reason is bad.reason


@pytest.mark.parametrize("seed", range(30))
def test_a_truncated_value_never_happens_to_be_whole(seed: int) -> None:
    for bad in _all(seed):
        if bad.reason is Reason.DECODE_FAILED:
            with pytest.raises(Poison):
                _decoded(bad)


def test_a_bad_state_gets_as_far_as_the_features_and_the_score() -> None:
    for bad in _all():
        if bad.reason in {Reason.LEAD_NOT_FOUND, Reason.FEATURE_FAILED, Reason.SCORING_FAILED}:
            table = _read(bad)
            assert table.kind.tolist() == [EventKind.CHANGE]
            [has_state] = table.changes.has_state.tolist()
            assert has_state == (bad.reason is not Reason.LEAD_NOT_FOUND)
            if has_state:
                [created_at] = table.changes.created_at.tolist()
                [lead_score] = table.changes.states["lead_score"]
                assert created_at < 0 or lead_score**3 > 3.5e38


def test_an_oversized_change_is_over_the_limit_and_fits_through_a_broker() -> None:
    for bad in _all():
        if bad.reason is Reason.OVERSIZED:
            assert bad.value is not None
            assert MAX_CHANGE_BYTES < len(bad.value) < 1_000_000


def test_an_answer_that_cannot_be_encoded_comes_from_a_request_that_can_be_read() -> None:
    for bad in _all():
        if bad.reason is Reason.ENCODE_FAILED:
            request = decode_request(0, BadMessage(bad), Reader("RescoreRequest"), NOW)
            result = {
                "request_id": request.request_id,
                "predictions": [],
                "model_used": "m",
                "total_processed": 0,
            }
            with pytest.raises(Poison) as poison:
                Writer("RescoreResult").encode(
                    {**result, "successful_predictions": 0, "errors": []}
                )
            assert poison.value.reason is Reason.ENCODE_FAILED
