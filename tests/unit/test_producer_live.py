"""A simulated CRM at work, and leads sent to be scored again."""

import argparse
import io
from typing import Any

import pytest

from leadstream.cli import rescore, simulate
from leadstream.errors import Reason, SettingsError, UserError
from leadstream.kafka.topics import Topics
from producer.live import bad_for, paced, send_changes
from producer.publish import EventPublisher
from producer.rescore import read_ids, rescore_event, rescore_requests, unique
from producer.simulator import Shares, SimulatedCrm
from schemas.codec import Reader, Writer
from tests.unit.test_producer_publish import FakeProducer

START = 1_735_689_600_000


def test_the_pace_is_kept_from_the_first_change_on_even_if_one_was_slow() -> None:
    now, waits = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    for number, _ in enumerate(
        paced(
            SimulatedCrm(1, start=START, leads=20).changes(), 10, clock=lambda: now[0], sleep=sleep
        )
    ):
        now[0] += 0.25 if number == 0 else 0.0
        if number == 9:
            break
    assert now[0] == pytest.approx(0.9)
    assert len(waits) == 7  # the second and third were late and did not wait


def test_no_rate_means_no_waiting() -> None:
    changes = SimulatedCrm(1, start=START, leads=20).changes()
    assert len(list(paced(changes, 0, sleep=lambda _: pytest.fail("waited")))) > 20


def test_all_changes_are_sent_in_order_with_bad_ones_of_every_reason_between() -> None:
    fake, topics = FakeProducer(), Topics()
    publisher = EventPublisher(fake, None)  # type: ignore[arg-type]
    crm = SimulatedCrm(1, start=START, leads=100)
    changes = list(crm.deliveries(Shares(tombstone=0.1, loop=0.1)))
    sent = send_changes(
        publisher,
        topics,
        changes,
        bad=bad_for(publisher, topics, 1, START),
        bad_share=0.2,
        seed=1,
        advance=lambda _: None,
    )
    assert sent.kinds.total() == len(changes)
    assert set(sent.bad) == {str(reason) for reason in Reason}
    assert len(fake.sent) == len(changes) + sent.bad.total()
    values = iter(fake.sent)
    writer = Writer("LeadChanged")
    for change in changes:
        value = None if change.record is None else writer.encode(change.record)
        assert (topics.lead_changes, change.lead_id.encode(), value) in values


def test_blank_lines_comments_and_repeated_ids_are_skipped() -> None:
    assert list(read_ids(io.StringIO("# leads\n\nL1\n L2 \nL1\n  # end\nL3"))) == ["L1", "L2", "L3"]


@pytest.mark.parametrize("lead_id", ["", "x" * 257])
def test_an_id_that_no_lead_can_have_is_refused_before_it_is_sent(lead_id: str) -> None:
    with pytest.raises(UserError, match="number 2 has"):
        list(unique(["L1", lead_id]))


def test_a_rescoring_carries_no_state_and_can_be_written() -> None:
    event = rescore_event("L1", 4, event_id="e", now=START)
    decoded = Reader("LeadChanged").decode(Writer("LeadChanged").encode(event))
    assert decoded == event
    assert (decoded["change_type"], decoded["lead"], decoded["lead_version"]) == (
        "RESCORE",
        None,
        4,
    )


def test_requests_keep_the_order_of_the_leads_and_are_no_larger_than_their_answers_can_be() -> None:
    ids = [f"L{number}" for number in range(25_000)]
    numbers = iter(range(10))
    requests = list(rescore_requests(ids, new_id=lambda: f"r{next(numbers)}"))
    assert [len(request["lead_ids"]) for request in requests] == [10_000, 10_000, 5_000]
    assert [lead_id for request in requests for lead_id in request["lead_ids"]] == ids
    assert [request["request_id"] for request in requests] == ["r0", "r1", "r2"]
    assert (
        Reader("RescoreRequest").decode(Writer("RescoreRequest").encode(requests[0])) == requests[0]
    )
    long = list(rescore_requests(["é" * 125] * 4_001, new_id=lambda: "r"))
    assert [len(request["lead_ids"]) for request in long] == [2_000, 2_000, 1]


@pytest.mark.parametrize(
    "arguments", [[], ["L1", "--all"], ["--file", "ids", "--all"], ["L1", "--file", "ids"]]
)
def test_rescore_takes_exactly_one_kind_of_leads(arguments: list[str]) -> None:
    with pytest.raises(SettingsError, match="either lead ids, or --file, or --all"):
        _run(rescore, "rescore", *arguments)


def test_more_changes_than_the_crm_makes_are_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with pytest.raises(UserError, match="lower --count, or raise --leads"):
        _run(simulate, "simulate", "--leads", "10", "--count", "1000")


@pytest.mark.parametrize(
    "option", ["--rate=-1", "--rate=nan", "--count=0", "--bad-share=1.5", "--thin-share=x"]
)
def test_an_impossible_option_is_wrong_usage(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        _run(simulate, "simulate", option)
    assert exit_.value.code == 2
    assert "is not a" in capsys.readouterr().err


def _run(module: Any, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    given = parser.parse_args(arguments)
    return int(given.func(given))
