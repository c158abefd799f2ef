"""The loop: what it commits, what it holds back, and when it ends."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consumer.run.loop import Service
from consumer.scoring.leads import Lead
from consumer.scoring.pipeline import Pipeline
from consumer.scoring.result import BatchResult
from consumer.scoring.versions import Versions
from leadstream.background import Worker, inline
from leadstream.errors import DeadLetterLimit, Fenced, Transient
from leadstream.kafka.batch import Batch, Output
from leadstream.kafka.config import Record
from leadstream.kafka.dead_letter import Limit
from leadstream.kafka.publisher import FinishCommit
from leadstream.log import id_hasher
from leadstream.process.metrics import Metrics
from leadstream.process.status import Status
from models.registry.slot import ChallengerSlot, ModelSlot
from models.registry.versions import Alias, ModelRegistry
from schemas.codec import Reader
from tests.fakes import FakeMessage, MemoryBroker, MemoryPublisher, MemorySource
from tests.trained_models import TRUST, promoted_store, trained
from tests.unit.pipelines import (
    CHANGES,
    LETTERS,
    PREDICTIONS,
    REQUESTS,
    STATE,
    FakeLeads,
    change,
    pipeline,
    raw,
)


class RecordingLog:
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.details: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    warning = info

    def debug(self, event: str, **fields: Any) -> None:
        self.details.append((event, fields))

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


@dataclass
class ServiceHarness:
    """A service over a broker in memory; idling lets the time pass and then runs `meanwhile`."""

    store: str
    leads: FakeLeads | None = None
    limit: Limit = field(default_factory=lambda: Limit(1, 0))
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    metrics: Metrics = field(default_factory=Metrics)
    log: RecordingLog = field(default_factory=RecordingLog)
    now: float = 1000.0
    settings: dict[str, Any] = field(default_factory=dict)
    meanwhile: Callable[[], None] = lambda: None
    further: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.status = Status(lambda: self.now)
        registry = ModelRegistry(self.store, TRUST)
        self.slot = ModelSlot(registry, clock=lambda: self.now, run=inline)
        self.challenger = ChallengerSlot(registry, clock=lambda: self.now, run=inline)
        self.service = Service(
            pipeline=pipeline(self.slot, self.leads, challenger=self.challenger, **self.settings),
            slot=self.slot,
            challenger=self.challenger,
            limit=self.limit,
            metrics=self.metrics,
            status=self.status,
            log=self.log,  # type: ignore[arg-type]  # all that the service calls
            hash_id=id_hasher("key"),
            clock=lambda: self.now,
            **self.further,
        )
        self.source = _Idling(self)
        self.publisher = MemoryPublisher(self.broker, self.source)

    def send(self, *messages: FakeMessage) -> None:
        for message in messages:
            self.broker.append(Output(message.topic_, message.key_, message.value_))

    def run(self) -> None:
        self.service.run(self.source, self.publisher)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"leadstream_{name}", labels)

    def committed(self) -> int:
        return self.broker.committed.get(("group", CHANGES), 0)


class _Idling(MemorySource):
    """Ends the loop when there is nothing left to poll."""

    def __init__(self, harness: ServiceHarness) -> None:
        super().__init__(harness.broker, "group", [CHANGES, REQUESTS], max_records=10)
        self.harness = harness
        self.idled: list[float] = []

    def poll(self, timeout: float) -> Batch | None:
        batch = super().poll(timeout)
        if batch is None and timeout:  # not while a commit is under way
            self.harness.service.stop()
        return batch

    def idle(self, timeout: float) -> None:
        self.idled.append(timeout)
        self.harness.now += timeout
        self.harness.meanwhile()


def test_everything_that_is_sent_is_committed_and_counted(model_store: str) -> None:
    harness = ServiceHarness(model_store)
    harness.send(*[change(i, f"lead_{i}") for i in range(25)], raw(25, b"junk"))
    harness.run()
    assert harness.committed() == 26
    assert len(harness.broker.records[PREDICTIONS]) == 25
    assert harness.metric("changes_consumed_total") == 26
    assert harness.metric("changes_total", fate="scored") == 25
    assert harness.metric("changes_total", fate="dead_lettered") == 1
    assert harness.metric("dead_letters_total", topic=CHANGES, reason="UNKNOWN_FRAMING") == 1
    assert harness.log.events() == ["model.loaded", "batch", "batch", "batch"]


def test_a_dead_database_holds_the_offsets_and_everything_comes_through_when_it_is_back(
    model_store: str,
) -> None:
    leads = FakeLeads(None)
    harness = ServiceHarness(model_store, leads)
    harness.send(change(0), change(1, lead=None))
    held: list[Any] = []

    def fix() -> None:
        held.append(
            (
                harness.committed(),
                dict(harness.broker.records),
                harness.status.missing()["postgres"],
            )
        )
        if harness.now > 1003:
            leads.leads = {"lead_1": Lead(STATE, 1)}

    harness.meanwhile = fix
    harness.run()
    assert held[0] == (
        0,
        {CHANGES: harness.broker.records[CHANGES], REQUESTS: []},
        "connection refused",
    )
    assert harness.committed() == 2
    assert LETTERS not in harness.broker.records
    assert "postgres" not in harness.status.missing()
    assert harness.log.events() == ["model.loaded", "batch.held", "batch", "batch.resumed"]
    assert (harness.metric("held_batches_total", dependency="postgres") or 0) >= 3
    assert harness.metric("unavailable", dependency="postgres") is None


def test_waiting_grows_so_that_a_database_that_comes_up_is_not_stormed(model_store: str) -> None:
    leads = FakeLeads(None)
    harness = ServiceHarness(model_store, leads)
    harness.send(change(0, lead=None))
    harness.meanwhile = lambda: harness.service.stop() if harness.now > 1060 else None
    harness.run()
    assert 10 <= len(leads.queries) <= 25
    assert max(harness.source.idled) <= 0.25


def test_a_loop_that_waits_must_still_say_that_it_turns(model_store: str) -> None:
    harness = ServiceHarness(model_store, FakeLeads(None))
    harness.send(change(0, lead=None))
    alive: list[bool] = []

    def look() -> None:
        alive.append(harness.status.turns())
        if harness.now > 1200:
            harness.service.stop()

    harness.meanwhile = look
    harness.run()
    assert all(alive)


def test_too_many_dead_letters_stop_the_loop_and_commit_nothing(model_store: str) -> None:
    harness = ServiceHarness(model_store, limit=Limit(1, 3))
    harness.send(*[raw(i, b"junk") for i in range(5)])
    with pytest.raises(DeadLetterLimit):
        harness.run()
    assert harness.committed() == 0
    assert LETTERS not in harness.broker.records
    assert harness.metric("changes_consumed_total") == 0


def test_a_commit_that_fails_for_now_is_tried_again_and_nothing_is_counted_twice(
    model_store: str,
) -> None:
    harness = ServiceHarness(model_store)
    harness.send(change(0), raw(1, b"junk"))
    tries: list[int] = []

    class FailingTwice(MemoryPublisher):
        def commit(self, outputs: Iterable[Record], batch: Batch) -> None:
            tries.append(len(batch.messages))
            if len(tries) < 3:
                raise Transient("brokers", "the transaction was aborted")
            super().commit(outputs, batch)

    harness.publisher = FailingTwice(harness.broker, harness.source)
    harness.run()
    assert tries == [2, 2, 2]
    assert harness.metric("changes_consumed_total") == 2
    assert len(harness.broker.records[LETTERS]) == 1


class InBackground(MemoryPublisher):
    """Ends batches in a thread; `before(n)` is called there before the n-th end, from 1 on."""

    def __init__(self, harness: ServiceHarness, before: Callable[[int], None]) -> None:
        super().__init__(harness.broker, harness.source)
        self.before = before
        self.tries: list[int] = []

    def commit(self, outputs: Iterable[Record], batch: Batch) -> None:
        self.tries.append(batch.offsets[0])
        self.before(len(self.tries))
        super().commit(outputs, batch)


def overlapping(store: str, before: Callable[[int], None], **settings: Any) -> ServiceHarness:
    harness = ServiceHarness(
        store, further={"run_in_background": Worker("commits")}, settings=settings
    )
    harness.publisher = InBackground(harness, before)
    return harness


def test_the_next_batch_is_processed_while_one_is_committed_and_begins_only_after_its_end(
    model_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processed = [threading.Event() for _ in range(4)]
    started: list[int] = []
    ended: list[int] = []
    process, begin = Pipeline.process, InBackground.begin

    def reported(line: Pipeline, batch: Batch) -> BatchResult:
        outcome = process(line, batch)
        processed[batch.offsets[0] // 10].set()
        return outcome

    def beginning(
        publisher: InBackground, outputs: Iterable[Record], batch: Batch, _sources: object
    ) -> FinishCommit:
        assert started == ended, "one transaction at a time"
        started.append(batch.offsets[0])
        return begin(publisher, outputs, batch)

    def before(n: int) -> None:
        assert n == 4 or processed[n].wait(10), "the next batch was not processed meanwhile"
        ended.append(10 * n - 10)

    monkeypatch.setattr(Pipeline, "process", reported)
    monkeypatch.setattr(InBackground, "begin", beginning)
    harness = overlapping(model_store, before)
    harness.send(*[change(i, f"lead_{i}") for i in range(40)])
    harness.run()
    assert ended == [0, 10, 20, 30]
    assert harness.committed() == harness.metric("changes_consumed_total") == 40


@pytest.mark.parametrize(("sent", "polls"), [(9, 1), (10, 2)])
def test_only_beside_the_commit_of_a_full_batch_is_more_polled(
    model_store: str, sent: int, polls: int
) -> None:
    polled: list[float] = []
    until_end: list[int] = []

    def before(_: int) -> None:
        time.sleep(0.2)
        until_end.append(len(polled))

    harness = overlapping(model_store, before)
    poll = harness.source.poll

    def counted(timeout: float) -> Batch | None:
        polled.append(timeout)
        return poll(timeout)

    harness.source.poll = counted  # type: ignore[method-assign]
    harness.send(*[change(i, f"lead_{i}") for i in range(sent)])
    harness.run()
    assert until_end == [polls]
    assert harness.committed() == sent


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_commit_that_fails_takes_the_batch_along_that_was_processed_meanwhile_and_both_come_again(
    model_store: str, fails: int
) -> None:
    def before(n: int) -> None:
        if n == fails:
            raise Transient("brokers", "the transaction was aborted")

    harness = overlapping(model_store, before)
    harness.send(*[change(i, f"lead_{i}") for i in range(30)])
    harness.run()
    assert harness.committed() == harness.metric("changes_consumed_total") == 30
    assert [record.key_ for record in harness.broker.records[PREDICTIONS]] == [
        b"lead_%d" % i for i in range(30)
    ]
    assert isinstance(harness.publisher, InBackground)
    assert harness.publisher.tries == sorted([0, 10, 20, 10 * fails - 10])
    assert (
        harness.log.events().count("batch.held") == harness.log.events().count("batch.resumed") == 1
    )


def test_versions_of_a_commit_that_failed_make_nothing_late(model_store: str) -> None:
    def before(n: int) -> None:
        if n == 1:
            harness.source._max_records = (
                5  # so the older changes of the batch come again without the newest
            )
            raise Transient("brokers", "the transaction was aborted")

    harness = overlapping(model_store, before)
    versions = Versions()
    harness.service._pipeline._versions = versions
    harness.send(*[change(i, lead_version=i + 1) for i in range(10)], change(10, lead_version=3))
    harness.run()
    assert harness.committed() == 11
    assert [
        Reader("LeadPrediction").decode(r.value_ or b"")["lead_version"]
        for r in harness.broker.records[PREDICTIONS]
    ] == [
        5,
        10,
    ]
    assert harness.metric("late_changes_total") == 1
    assert versions.newest([b"lead_1"]).tolist() == [10]


def test_a_batch_that_stops_the_process_leaves_the_one_before_it_committed(
    model_store: str,
) -> None:
    harness = overlapping(model_store, lambda _: time.sleep(0.05))
    harness.service._limit = Limit(1, 3)
    harness.send(
        *[change(i, f"lead_{i}") for i in range(10)], *[raw(i, b"junk") for i in range(10, 15)]
    )
    with pytest.raises(DeadLetterLimit):
        harness.run()
    assert harness.committed() == harness.metric("changes_consumed_total") == 10
    assert LETTERS not in harness.broker.records


def test_a_process_that_is_stopped_waits_for_the_commit_under_way_and_counts_it(
    model_store: str,
) -> None:
    harness = overlapping(model_store, lambda _: harness.service.stop())
    harness.send(*[change(i, f"lead_{i}") for i in range(20)])
    harness.run()
    assert harness.committed() == harness.metric("changes_consumed_total") == 10
    assert len(harness.broker.records[PREDICTIONS]) == 10


def test_a_fenced_producer_ends_this_membership_uncommitted(model_store: str) -> None:
    harness = ServiceHarness(model_store)
    harness.send(change(0))

    class FencedOut(MemoryPublisher):
        def commit(self, outputs: Iterable[Record], batch: Batch) -> None:
            raise Fenced("a newer producer")

    harness.publisher = FencedOut(harness.broker, harness.source)
    with pytest.raises(Fenced):
        harness.run()
    assert harness.committed() == 0


def test_a_bug_must_surface_and_not_be_taken_for_a_bad_record(
    model_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = ServiceHarness(model_store)
    harness.send(change(0))

    def broken(*_: Any) -> None:
        raise KeyError("a bug")

    harness.slot.get()
    monkeypatch.setattr("models.serve.scorer.Model.score", broken)
    with pytest.raises(KeyError):
        harness.run()
    assert harness.committed() == 0
    assert LETTERS not in harness.broker.records


@pytest.mark.slow
def test_a_promoted_model_takes_over_between_two_batches_and_never_within_one(
    tmp_path: Path,
) -> None:
    store = promoted_store(tmp_path)
    registry = ModelRegistry(store, TRUST)
    harness = ServiceHarness(store)
    harness.send(*[change(i, f"lead_{i}") for i in range(30)])
    polled = harness.source.poll
    version = registry.publish(trained(3))

    def poll_and_promote(timeout: float) -> Batch | None:
        harness.now += 2
        if registry.resolve() != version and harness.committed() == 10:
            registry.promote(version)
        return polled(timeout)

    harness.source.poll = poll_and_promote  # type: ignore[method-assign]
    harness.run()
    batches = [fields["model_version"] for event, fields in harness.log.lines if event == "batch"]
    assert batches in (["1.0.0", "1.0.0", "1.1.0"], ["1.0.0", "1.1.0", "1.1.0"])
    assert harness.metric("model_loads_total", variant="champion", result="loaded") == 2


@pytest.mark.slow
def test_a_model_that_is_refused_leaves_the_old_one_in_service_and_says_so(tmp_path: Path) -> None:
    store = promoted_store(tmp_path)
    registry = ModelRegistry(store, TRUST)
    harness = ServiceHarness(store)
    version = registry.publish(trained(3))
    harness.send(change(0))
    harness.run()
    registry.promote(version)
    (next(tmp_path.glob(f"**/{version}/model.joblib"))).write_bytes(b"tampered with")
    harness.service._stop.clear()
    harness.now += 5
    harness.send(change(1))
    harness.run()
    assert harness.committed() == 2
    assert "model" in harness.status.warnings()
    assert harness.metric("model_loads_total", variant="champion", result="refused") == 1
    assert [fields["model_version"] for event, fields in harness.log.lines if event == "batch"] == [
        "1.0.0",
        "1.0.0",
    ]


def test_a_store_that_goes_away_is_a_warning_until_it_answers_and_stops_nothing(
    model_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = ServiceHarness(model_store)
    away = False
    alias = ModelRegistry.alias

    def asked(registry: ModelRegistry, name: str) -> Alias | None:
        if away:
            raise Transient("model store", "no route to it")
        return alias(registry, name)

    monkeypatch.setattr(ModelRegistry, "alias", asked)
    for offset, away in enumerate((False, True, True, False)):
        harness.service._stop.clear()
        harness.now += 60
        harness.send(change(offset))
        harness.run()
        assert ("model" in harness.status.warnings()) == away
    assert harness.committed() == 4
    assert harness.metric("model_loads_total", variant="champion", result="unanswered") == 1


def test_a_lead_id_must_not_be_readable_in_the_log(model_store: str) -> None:
    harness = ServiceHarness(model_store)
    harness.send(change(0), raw(1, b"junk", b"jane.doe@example.org"), raw(2, b"junk", None))
    harness.run()
    [(event, fields), (_, without_key)] = harness.log.details
    assert (event, fields["reason"], fields["offset"]) == ("dead_letter", "UNKNOWN_FRAMING", 1)
    assert (
        fields["lead"]
        == id_hasher("key")(b"jane.doe@example.org")
        != id_hasher("other")(b"jane.doe@example.org")
    )
    assert without_key["lead"] is None
    assert "jane" not in str(harness.log.lines + harness.log.details)
    assert "lead_1" not in str(harness.log.lines + harness.log.details)


def test_leads_that_postgres_was_asked_for_are_counted(model_store: str) -> None:
    harness = ServiceHarness(model_store, FakeLeads({"lead_1": Lead(STATE, 1)}))
    harness.send(change(0, lead=None), change(1, "lead_2", lead=None), change(2, "lead_3"))
    harness.run()
    assert harness.metric("database_queries_total") == 1
    assert harness.metric("database_leads_total", answer="found") == 1
    assert harness.metric("database_leads_total", answer="missing") == 1
