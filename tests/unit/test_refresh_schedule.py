"""A lead is due once for each score, and never because of what it was before."""

from typing import Any

import numpy as np

from consumer.refresh.schedule import HORIZON_MS, RefreshCause, RefreshSchedule
from tests.subscriber import prediction

NOW = 1_750_000_000_000


def scored(schedule: RefreshSchedule, lead: str, until: int | None, **fields: Any) -> None:
    record = prediction(lead, valid_until=until, occurred_at=NOW, **fields)
    schedule.add_prediction(lead.encode(), record)


def keys(schedule: RefreshSchedule, now: int, count: int = 100) -> list[bytes]:
    return [lead.key for lead in schedule.take(now, count)]


def test_what_is_due_first_is_requested_first_and_only_once() -> None:
    schedule = RefreshSchedule()
    for lead, until in (("b", NOW + 2), ("a", NOW + 1), ("c", NOW + 9)):
        scored(schedule, lead, until)
    assert keys(schedule, NOW) == []
    assert keys(schedule, NOW + 5, 1) == [b"a"]
    assert keys(schedule, NOW + 5) == [b"b"]
    assert keys(schedule, NOW + 5) == []


def test_a_newer_score_or_an_erasure_ends_what_was_due() -> None:
    schedule = RefreshSchedule()
    for lead in ("a", "b"):
        scored(schedule, lead, NOW + 1)
    scored(schedule, "a", NOW + 100)
    schedule.add_prediction(b"b", None)
    assert keys(schedule, NOW + 50) == []
    assert keys(schedule, NOW + 100) == [b"a"]
    assert schedule.leads == 1


def test_a_mark_of_the_process_before_keeps_a_request_from_being_repeated() -> None:
    first, second = RefreshSchedule(), RefreshSchedule()
    for schedule in (first, second):
        scored(schedule, "a", NOW + 1)
        schedule.promote("1.0.0")
    [lead] = first.take(NOW + 1, 9)
    second.add_request(lead.key, lead.event_id)
    assert keys(second, NOW + 1) == []
    assert second.overdue(NOW + 60_000) == NOW + 60_000
    # The next score of the lead is another request.
    scored(second, "a", NOW + 7)
    [again] = second.take(NOW + 7, 9)
    assert again.event_id != lead.event_id


def test_what_was_not_committed_is_requested_again_under_the_same_id() -> None:
    schedule = RefreshSchedule()
    scored(schedule, "a", NOW + 1)
    scored(schedule, "b", NOW + 900, model_version="0.9.0")
    schedule.promote("1.0.0")
    leads = schedule.take(NOW + 1, 9)
    assert [lead.cause for lead in leads] == [RefreshCause.TIME, RefreshCause.MODEL]
    schedule.give_back(leads)
    assert schedule.take(NOW + 1, 9) == leads


def test_after_a_promotion_every_lead_of_another_version_is_swept() -> None:
    schedule = RefreshSchedule()
    for i in range(10):
        scored(schedule, f"old {i}", None)
    scored(schedule, "new", None, model_version="2.0.0")
    scored(schedule, "challenged", None, model_version="1.5.0", variant="challenger")
    schedule.promote("2.0.0")
    assert schedule.outdated == 10
    assert keys(schedule, NOW, 4) == [b"old 0", b"old 1", b"old 2", b"old 3"]
    assert len(keys(schedule, NOW)) == 6
    assert keys(schedule, NOW) == []
    # A process that has not loaded the new model yet answers with the old one.
    scored(schedule, "old 3", None, scored_at=NOW + 500)
    assert keys(schedule, NOW) == [b"old 3"]
    for i in range(10):
        scored(schedule, f"old {i}", None, model_version="2.0.0")
    assert schedule.outdated == 0
    assert keys(schedule, NOW) == []


def test_a_score_that_never_changes_is_refreshed_at_the_end_of_the_search() -> None:
    schedule = RefreshSchedule()
    scored(schedule, "a", None)
    assert keys(schedule, NOW + HORIZON_MS - 1) == []
    assert keys(schedule, NOW + HORIZON_MS) == [b"a"]


def test_random_kills_neither_lose_nor_repeat_a_request() -> None:
    rng = np.random.default_rng(2)
    until = {f"lead {i}": int(NOW + rng.integers(1, 1000)) for i in range(200)}
    topic: list[tuple[bytes, str]] = []
    for _ in range(30):
        schedule = RefreshSchedule()  # a process that starts
        for lead, due in until.items():
            scored(schedule, lead, due)
        for key, mark in topic:
            schedule.add_request(key, mark)
        for now in sorted(rng.integers(NOW, NOW + 1001, 3).tolist()):
            leads = schedule.take(now, int(rng.integers(1, 20)))
            if rng.random() < 0.7:  # committed; else the process ends before
                topic += [(lead.key, lead.event_id) for lead in leads]
            else:
                break
    schedule = RefreshSchedule()
    for lead, due in until.items():
        scored(schedule, lead, due)
    for key, mark in topic:
        schedule.add_request(key, mark)
    topic += [(lead.key, lead.event_id) for lead in schedule.take(NOW + 1001, 1000)]
    assert sorted(key.decode() for key, _ in topic) == sorted(until)
