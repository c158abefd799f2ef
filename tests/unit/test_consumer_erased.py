"""Erasures that were published: what a group that was set back reads again stays erased."""

import random
from dataclasses import replace

import pytest

from consumer.scoring.erased import AHEAD_MS, PublishedErasures, source_headers, source_in
from consumer.scoring.result import Disposition
from leadstream.kafka.config import Headers
from tests.fakes import FakeMessage
from tests.faults.odd_values import odd_headers
from tests.unit.pipelines import CHANGES, NOW_MS, PREDICTIONS, batch, change, on, pipeline, raw


def null(lead: str, headers: Headers | None, at: int = NOW_MS) -> FakeMessage:
    return FakeMessage(PREDICTIONS, 0, 0, lead.encode(), None, headers, at)


def erased(*nulls: FakeMessage) -> PublishedErasures:
    found = PublishedErasures()
    for each in nulls:
        found.note(each, CHANGES)
    return found


def scored(memory: PublishedErasures, store: str, *messages: FakeMessage) -> list[int]:
    """The offsets that are scored in one batch."""
    result = pipeline(store, erased=memory).process(batch(*messages))
    assert result.balances()
    sources = {each.key: each for each in on(result, PREDICTIONS) if each.value is not None}
    assert result.dispositions[Disposition.SCORED] == len(sources)
    return [m.offset_ for m in messages if m.key_ in sources]


def test_only_changes_before_the_erasure_of_their_lead_are_superseded(model_store: str) -> None:
    memory = erased(null("lead_1", source_headers(CHANGES, 0, 7)))
    messages = change(3), change(4, "lead_2"), change(9, "lead_3")
    assert scored(memory, model_store, *messages) == [4, 9]
    assert scored(memory, model_store, change(6), change(8)) == [6, 8]
    assert scored(memory, model_store, change(6)) == []
    assert scored(memory, model_store, change(7)) == [7], "the batch begins behind the erasure"
    assert scored(memory, model_store, change(3)) == [3], "then it is forgotten"


def test_an_erasure_of_another_topic_partition_or_time_supersedes_nothing(
    model_store: str,
) -> None:
    for headers in (source_headers("other", 0, 7), source_headers(CHANGES, 1, 7), None):
        assert scored(erased(null("lead_1", headers)), model_store, change(3)) == [3]
    # The topic was made again since: an offset that is lower is of a later change.
    old = null("lead_1", source_headers(CHANGES, 0, 7), NOW_MS - AHEAD_MS - 1)
    later = replace(change(3), timestamp_=NOW_MS)
    assert scored(erased(old), model_store, later) == [3]
    assert scored(erased(old), model_store, replace(later, timestamp_=NOW_MS - 1)) == []


def test_an_erasure_before_the_last_one_still_erases(model_store: str) -> None:
    memory = erased(null("lead_1", source_headers(CHANGES, 0, 7)))
    result = pipeline(model_store, erased=memory).process(batch(change(3), raw(4, None)))
    assert result.dispositions == {Disposition.COALESCED: 1, Disposition.ERASED: 1}
    assert [output.value for output in on(result, PREDICTIONS)] == [None]


@pytest.mark.parametrize("seed", range(20))
def test_headers_of_other_producers_are_read_as_none(seed: int) -> None:
    rng = random.Random(seed)
    names = ("source_topic", "source_partition", "source_offset")
    for _ in range(200):
        found = source_in(odd_headers(rng, names))
        assert found is None or (found[1] >= 0 and found[2] >= 0)
