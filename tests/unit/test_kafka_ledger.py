"""The offsets of a member: each record that was deleted unread is reported, and nothing else is."""

import json
import random
from collections.abc import Iterable

import pytest

from leadstream.kafka.batch import Batch, ClosedBy, Message, Partition
from leadstream.kafka.ledger import OffsetLedger
from leadstream.kafka.losses import MAX_LOSSES, Loss, Losses, acknowledgment, read_metadata
from tests.fakes import FakeMessage

PLACE = ("changes", 0)


class _Observer:
    def __init__(self) -> None:
        self.foreign: list[tuple[Partition, int]] = []
        self.back: list[tuple[Partition, int, int]] = []
        self.unread: list[Partition] = []

    def no_offset(self, place: Partition) -> None:
        self.unread.append(place)

    def foreign_offset(self, place: Partition, offset: int) -> None:
        self.foreign.append((place, offset))

    def went_back(self, place: Partition, expected: int, found: int) -> None:
        self.back.append((place, expected, found))


class _Ledger:
    """A ledger that learned its partition, and what it reported."""

    def __init__(self, committed: int, low: int = 0, high: int = 1_000_000) -> None:
        self.observer, self.found = _Observer(), list[Loss]()
        self.losses = Losses(self.found.append)
        self.ledger = OffsetLedger(self.losses, self.observer)
        self.ledger.learn(PLACE, committed, self.losses.metadata(PLACE), low, high)

    def read(self, offsets: Iterable[int], low: int = 0) -> None:
        messages: list[Message] = [FakeMessage("changes", 0, offset) for offset in offsets]
        self.ledger.read(Batch.from_messages(messages, ClosedBy.DRAIN), lambda _: (low, 0))

    def spans(self) -> list[tuple[int, int]]:
        return [(loss.first, loss.last) for loss in self.found]


def test_changes_that_were_deleted_while_no_consumer_ran_are_reported_at_once() -> None:
    harness = _Ledger(committed=50, low=400)
    assert harness.spans() == [(50, 399)]
    harness.read([400, 401], low=400)
    assert harness.spans() == [(50, 399)], "once"


def test_a_new_group_has_lost_nothing() -> None:
    harness = _Ledger(committed=-1001, low=400)
    harness.read([400, 401], low=400)
    assert harness.spans() == []
    assert harness.observer.foreign == []
    assert harness.observer.unread == [PLACE]
    assert _Ledger(committed=-1001, low=0, high=0).observer.unread == []
    assert _Ledger(committed=0).observer.unread == []


def test_changes_that_were_deleted_while_running_are_reported() -> None:
    harness = _Ledger(committed=0)
    harness.read(range(10))
    harness.read([*range(10, 15), *range(80, 90)], low=80)
    assert harness.spans() == [(15, 79)]
    harness.ledger.read_to(PLACE, 200, lambda _: (200, 200))
    assert harness.spans() == [(15, 79), (90, 199)], "all that was left was deleted, too"


def test_markers_and_aborted_records_are_no_loss() -> None:
    harness = _Ledger(committed=0)
    harness.read([0, 1, 3, 4, 9, 10])
    harness.read([12, 13])
    harness.ledger.read_to(PLACE, 16, lambda _: (0, 16))
    harness.read([16, 17], low=17)
    assert harness.spans() == []


def test_a_batch_that_is_read_again_reports_what_was_deleted_meanwhile() -> None:
    harness = _Ledger(committed=0)
    harness.read(range(10))
    harness.ledger.rewind(PLACE, 0)
    harness.read(range(10))
    assert harness.spans() == []
    harness.ledger.rewind(PLACE, 4)
    harness.read(range(8, 12), low=8)
    assert harness.spans() == [(4, 7)]


def test_a_topic_that_was_made_again_is_noticed() -> None:
    harness = _Ledger(committed=0)
    harness.read(range(10))
    harness.ledger.read_to(PLACE, 0, lambda _: (0, 0))
    harness.read(range(3))
    assert harness.observer.back == [(PLACE, 10, 0)]
    assert harness.spans() == []
    behind_the_end = _Ledger(committed=70, high=5)
    assert behind_the_end.observer.back == [(PLACE, 70, 0)]
    assert behind_the_end.ledger.next[PLACE] == 0


@pytest.mark.parametrize("metadata", ["", None, "hello", "[]", "{}", '{"by": "me"}', "[" * 9999])
def test_an_offset_that_an_operator_set_is_noticed(metadata: str | None) -> None:
    harness = _Ledger(committed=-1)
    harness.ledger.learn(PLACE, 7, metadata, 0, 100)
    assert harness.observer.foreign == [(PLACE, 7)]


def test_any_sequence_of_reads_deletions_and_rewinds_reports_what_was_not_read() -> None:
    """A seeded model: a partition with markers and aborted records, whose beginning is deleted."""
    for seed in range(400):
        draw = random.Random(seed)
        readable = [draw.random() < 0.8 for _ in range(300)]
        harness, low, position, lost = _Ledger(committed=0), 0, 0, set[int]()
        while position < 300:
            if draw.random() < 0.4:
                low = max(low, min(300, position + draw.randint(-20, 30)))
            if position < low:
                lost |= set(range(position, low))
                position = low
            upto = min(300, position + draw.randint(1, 25))
            batch = [offset for offset in range(position, upto) if readable[offset]]
            if batch:
                harness.read(batch, low)
                position = batch[-1] + 1
            else:
                harness.ledger.read_to(PLACE, upto, lambda _, low=low: (low, 0))  # type: ignore[misc]
                position = upto
        found = {offset for loss in harness.found for offset in range(loss.first, loss.last + 1)}
        missed = {offset for offset in lost - found if readable[offset]}
        assert not missed, seed
        assert not (found - lost) & {o for o in range(300) if readable[o]}, seed


def test_losses_travel_with_the_committed_offset_until_they_are_acknowledged() -> None:
    now = 1000.0
    first = Losses(clock=lambda: now)
    first.lost(PLACE, 5, 9)
    changes: list[list[Loss]] = []
    second = Losses(on_change=changes.append, clock=lambda: now)
    assert second.restore(PLACE, first.metadata(PLACE))
    assert second.restore(PLACE, first.metadata(PLACE))
    assert changes == [[Loss(*PLACE, 5, 9, 1_000_000)]]
    second.acknowledge({PLACE: 999_999})
    second.acknowledge({("other", 0): 2_000_000})
    assert second.all
    second.acknowledge({PLACE: 1_000_000})
    assert second.all == []
    assert changes[-1] == []
    assert read_metadata(PLACE, second.metadata(PLACE)) == []


def test_the_metadata_of_many_losses_still_fits_into_an_offset() -> None:
    losses = Losses()
    for start in range(0, 100_000, 100):
        losses.lost(PLACE, 10**15 + start, 10**15 + start + 9)
    metadata = losses.metadata(PLACE)
    assert len(metadata) < 4096
    found = read_metadata(PLACE, metadata)
    assert found is not None
    assert len(found) == MAX_LOSSES
    assert found[0].first == 10**15, "the span covers all of them"


@pytest.mark.parametrize("lost", [None, 3, [1], [[1]], [["a", 2, 3]], [[1, 2, 3, 4]], [{"a": 1}]])
def test_odd_metadata_ends_no_process(lost: object) -> None:
    assert read_metadata(PLACE, json.dumps({"by": "leadstream", "lost": lost})) == []


def test_an_acknowledgment_is_no_loss_and_odd_ones_acknowledge_nothing() -> None:
    from leadstream.kafka.losses import acknowledged_at

    assert acknowledged_at(acknowledgment(17)) == 17
    assert [acknowledged_at(odd) for odd in (None, "", "x", "3", '{"acknowledged": "5"}')] == [
        0
    ] * 5
