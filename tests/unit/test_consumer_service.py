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

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    warning = info

    def debug(self, event: str, **facts: Any) -> None:
        self.details.append((event, facts))

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

    def __init__(self, world: ServiceHarness) -> None:
        super().__init__(world.broker, "group", [CHANGES, REQUESTS], max_records=10)
        self.world = world
        self.idled: list[float] = []

    def poll(self, timeout: float) -> Batch | None:
        batch = super().poll(timeout)
        if batch is None and timeout:  # not while a commit is under way
            self.world.service.stop()
        return batch

    def idle(self, timeout: float) -> None:
        self.idled.append(timeout)
        self.world.now += timeout
        self.world.meanwhile()


def test_everything_that_is_sent_is_committed_and_counted(model_store: str) -> None:
    world = ServiceHarness(model_store)
    world.send(*[change(i, f"lead_{i}") for i in range(25)], raw(25, b"junk"))
    world.run()
    assert world.committed() == 26
    assert len(world.broker.records[PREDICTIONS]) == 25
    assert world.metric("changes_consumed_total") == 26
    assert world.metric("changes_total", fate="scored") == 25
    assert world.metric("changes_total", fate="dead_lettered") == 1
    assert world.metric("dead_letters_total", topic=CHANGES, reason="UNKNOWN_FRAMING") == 1
    assert world.log.events() == ["model.loaded", "batch", "batch", "batch"]


def test_a_dead_database_holds_the_offsets_and_everything_comes_through_when_it_is_back(
    model_store: str,
) -> None:
    leads = FakeLeads(None)
    world = ServiceHarness(model_store, leads)
    world.send(change(0), change(1, lead=None))
    held: list[Any] = []

    def mend() -> None:
        held.append(
            (world.committed(), dict(world.broker.records), world.status.missing()["postgres"])
        )
        if world.now > 1003:
            leads.leads = {"lead_1": Lead(STATE, 1)}

    world.meanwhile = mend
    world.run()
    assert held[0] == (
        0,
        {CHANGES: world.broker.records[CHANGES], REQUESTS: []},
        "connection refused",
    )
    assert world.committed() == 2
    assert LETTERS not in world.broker.records
    assert "postgres" not in world.status.missing()
    assert world.log.events() == ["model.loaded", "batch.held", "batch", "batch.resumed"]
    assert (world.metric("held_batches_total", dependency="postgres") or 0) >= 3
    assert world.metric("unavailable", dependency="postgres") is None


def test_waiting_grows_so_that_a_database_that_comes_up_is_not_stormed(model_store: str) -> None:
    leads = FakeLeads(None)
    world = ServiceHarness(model_store, leads)
    world.send(change(0, lead=None))
    world.meanwhile = lambda: world.service.stop() if world.now > 1060 else None
    world.run()
    assert 10 <= len(leads.queries) <= 25
    assert max(world.source.idled) <= 0.25


def test_a_loop_that_waits_must_still_say_that_it_turns(model_store: str) -> None:
    world = ServiceHarness(model_store, FakeLeads(None))
    world.send(change(0, lead=None))
    alive: list[bool] = []

    def look() -> None:
        alive.append(world.status.turns())
        if world.now > 1200:
            world.service.stop()

    world.meanwhile = look
    world.run()
    assert all(alive)


def test_too_many_dead_letters_stop_the_loop_and_commit_nothing(model_store: str) -> None:
    world = ServiceHarness(model_store, limit=Limit(1, 3))
    world.send(*[raw(i, b"junk") for i in range(5)])
    with pytest.raises(DeadLetterLimit):
        world.run()
    assert world.committed() == 0
    assert LETTERS not in world.broker.records
    assert world.metric("changes_consumed_total") == 0


def test_a_commit_that_fails_for_now_is_tried_again_and_nothing_is_counted_twice(
    model_store: str,
) -> None:
    world = ServiceHarness(model_store)
    world.send(change(0), raw(1, b"junk"))
    tries: list[int] = []

    class FailingTwice(MemoryPublisher):
        def commit(self, outputs: Iterable[Record], batch: Batch) -> None:
            tries.append(len(batch.messages))
            if len(tries) < 3:
                raise Transient("brokers", "the transaction was aborted")
            super().commit(outputs, batch)

    world.publisher = FailingTwice(world.broker, world.source)
    world.run()
    assert tries == [2, 2, 2]
    assert world.metric("changes_consumed_total") == 2
    assert len(world.broker.records[LETTERS]) == 1


class Beside(MemoryPublisher):
    """Ends batches in a thread; `before(n)` is called there before the n-th end, from 1 on."""

    def __init__(self, world: ServiceHarness, before: Callable[[int], None]) -> None:
        super().__init__(world.broker, world.source)
        self.before = before
        self.tries: list[int] = []

    def commit(self, outputs: Iterable[Record], batch: Batch) -> None:
        self.tries.append(batch.offsets[0])
        self.before(len(self.tries))
        super().commit(outputs, batch)


def overlapping(store: str, before: Callable[[int], None], **settings: Any) -> ServiceHarness:
    world = ServiceHarness(
        store, further={"run_in_background": Worker("commits")}, settings=settings
    )
    world.publisher = Beside(world, before)
    return world


def test_the_next_batch_is_processed_while_one_is_committed_and_begins_only_after_its_end(
    model_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processed = [threading.Event() for _ in range(4)]
    begun: list[int] = []
    ended: list[int] = []
    process, begin = Pipeline.process, Beside.begin

    def told(line: Pipeline, batch: Batch) -> BatchResult:
        outcome = process(line, batch)
        processed[batch.offsets[0] // 10].set()
        return outcome

    def beginning(publisher: Beside, outputs: Iterable[Record], batch: Batch) -> FinishCommit:
        assert begun == ended, "one transaction at a time"
        begun.append(batch.offsets[0])
        return begin(publisher, outputs, batch)

    def before(n: int) -> None:
        assert n == 4 or processed[n].wait(10), "the next batch was not processed meanwhile"
        ended.append(10 * n - 10)

    monkeypatch.setattr(Pipeline, "process", told)
    monkeypatch.setattr(Beside, "begin", beginning)
    world = overlapping(model_store, before)
    world.send(*[change(i, f"lead_{i}") for i in range(40)])
    world.run()
    assert ended == [0, 10, 20, 30]
    assert world.committed() == world.metric("changes_consumed_total") == 40


@pytest.mark.parametrize(("sent", "polls"), [(9, 1), (10, 2)])
def test_only_beside_the_commit_of_a_full_batch_is_more_polled(
    model_store: str, sent: int, polls: int
) -> None:
    polled: list[float] = []
    until_end: list[int] = []

    def before(_: int) -> None:
        time.sleep(0.2)
        until_end.append(len(polled))

    world = overlapping(model_store, before)
    poll = world.source.poll

    def counted(timeout: float) -> Batch | None:
        polled.append(timeout)
        return poll(timeout)

    world.source.poll = counted  # type: ignore[method-assign]
    world.send(*[change(i, f"lead_{i}") for i in range(sent)])
    world.run()
    assert until_end == [polls]
    assert world.committed() == sent


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_commit_that_fails_takes_the_batch_along_that_was_processed_meanwhile_and_both_come_again(
    model_store: str, fails: int
) -> None:
    def before(n: int) -> None:
        if n == fails:
            raise Transient("brokers", "the transaction was aborted")

    world = overlapping(model_store, before)
    world.send(*[change(i, f"lead_{i}") for i in range(30)])
    world.run()
    assert world.committed() == world.metric("changes_consumed_total") == 30
    assert [record.key_ for record in world.broker.records[PREDICTIONS]] == [
        b"lead_%d" % i for i in range(30)
    ]
    assert isinstance(world.publisher, Beside)
    assert world.publisher.tries == sorted([0, 10, 20, 10 * fails - 10])
    assert world.log.events().count("batch.held") == world.log.events().count("batch.resumed") == 1


def test_versions_of_a_commit_that_failed_make_nothing_late(model_store: str) -> None:
    def before(n: int) -> None:
        if n == 1:
            world.source._max_records = (
                5  # so the older changes of the batch come again without the newest
            )
            raise Transient("brokers", "the transaction was aborted")

    world = overlapping(model_store, before)
    versions = Versions()
    world.service._pipeline._versions = versions
    world.send(*[change(i, lead_version=i + 1) for i in range(10)], change(10, lead_version=3))
    world.run()
    assert world.committed() == 11
    assert [
        Reader("LeadPrediction").decode(r.value_ or b"")["lead_version"]
        for r in world.broker.records[PREDICTIONS]
    ] == [
        5,
        10,
    ]
    assert world.metric("late_changes_total") == 1
    assert versions.newest([b"lead_1"]).tolist() == [10]


def test_a_batch_that_stops_the_process_leaves_the_one_before_it_committed(
    model_store: str,
) -> None:
    world = overlapping(model_store, lambda _: time.sleep(0.05))
    world.service._limit = Limit(1, 3)
    world.send(
        *[change(i, f"lead_{i}") for i in range(10)], *[raw(i, b"junk") for i in range(10, 15)]
    )
    with pytest.raises(DeadLetterLimit):
        world.run()
    assert world.committed() == world.metric("changes_consumed_total") == 10
    assert LETTERS not in world.broker.records


def test_a_process_that_is_stopped_waits_for_the_commit_under_way_and_counts_it(
    model_store: str,
) -> None:
    world = overlapping(model_store, lambda _: world.service.stop())
    world.send(*[change(i, f"lead_{i}") for i in range(20)])
    world.run()
    assert world.committed() == world.metric("changes_consumed_total") == 10
    assert len(world.broker.records[PREDICTIONS]) == 10


def test_a_fenced_producer_ends_this_membership_uncommitted(model_store: str) -> None:
    world = ServiceHarness(model_store)
    world.send(change(0))

    class FencedOut(MemoryPublisher):
        def commit(self, outputs: Iterable[Record], batch: Batch) -> None:
            raise Fenced("a newer producer")

    world.publisher = FencedOut(world.broker, world.source)
    with pytest.raises(Fenced):
        world.run()
    assert world.committed() == 0


def test_a_bug_must_surface_and_not_be_taken_for_a_bad_record(
    model_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ServiceHarness(model_store)
    world.send(change(0))

    def broken(*_: Any) -> None:
        raise KeyError("a bug")

    world.slot.get()
    monkeypatch.setattr("models.serve.scorer.Model.score", broken)
    with pytest.raises(KeyError):
        world.run()
    assert world.committed() == 0
    assert LETTERS not in world.broker.records


def test_a_promoted_model_takes_over_between_two_batches_and_never_within_one(
    tmp_path: Path,
) -> None:
    store = promoted_store(tmp_path)
    registry = ModelRegistry(store, TRUST)
    world = ServiceHarness(store)
    world.send(*[change(i, f"lead_{i}") for i in range(30)])
    polled = world.source.poll
    version = registry.publish(trained(3))

    def poll_and_promote(timeout: float) -> Batch | None:
        world.now += 2
        if registry.resolve() != version and world.committed() == 10:
            registry.promote(version)
        return polled(timeout)

    world.source.poll = poll_and_promote  # type: ignore[method-assign]
    world.run()
    batches = [facts["model_version"] for event, facts in world.log.lines if event == "batch"]
    assert batches in (["1.0.0", "1.0.0", "1.1.0"], ["1.0.0", "1.1.0", "1.1.0"])
    assert world.metric("model_loads_total", variant="champion", result="loaded") == 2


def test_a_model_that_is_refused_leaves_the_old_one_in_service_and_says_so(tmp_path: Path) -> None:
    store = promoted_store(tmp_path)
    registry = ModelRegistry(store, TRUST)
    world = ServiceHarness(store)
    version = registry.publish(trained(3))
    world.send(change(0))
    world.run()
    registry.promote(version)
    (next(tmp_path.glob(f"**/{version}/model.joblib"))).write_bytes(b"tampered with")
    world.service._stop.clear()
    world.now += 5
    world.send(change(1))
    world.run()
    assert world.committed() == 2
    assert "model" in world.status.warnings()
    assert world.metric("model_loads_total", variant="champion", result="refused") == 1
    assert [facts["model_version"] for event, facts in world.log.lines if event == "batch"] == [
        "1.0.0",
        "1.0.0",
    ]


def test_a_store_that_goes_away_is_a_warning_until_it_answers_and_stops_nothing(
    model_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ServiceHarness(model_store)
    away = False
    alias = ModelRegistry.alias

    def asked(registry: ModelRegistry, name: str) -> Alias | None:
        if away:
            raise Transient("model store", "no route to it")
        return alias(registry, name)

    monkeypatch.setattr(ModelRegistry, "alias", asked)
    for offset, away in enumerate((False, True, True, False)):
        world.service._stop.clear()
        world.now += 60
        world.send(change(offset))
        world.run()
        assert ("model" in world.status.warnings()) == away
    assert world.committed() == 4
    assert world.metric("model_loads_total", variant="champion", result="unanswered") == 1


def test_a_lead_id_must_not_be_readable_in_the_log(model_store: str) -> None:
    world = ServiceHarness(model_store)
    world.send(change(0), raw(1, b"junk", b"jane.doe@example.org"), raw(2, b"junk", None))
    world.run()
    [(event, facts), (_, without_key)] = world.log.details
    assert (event, facts["reason"], facts["offset"]) == ("dead_letter", "UNKNOWN_FRAMING", 1)
    assert (
        facts["lead"]
        == id_hasher("key")(b"jane.doe@example.org")
        != id_hasher("other")(b"jane.doe@example.org")
    )
    assert without_key["lead"] is None
    assert "jane" not in str(world.log.lines + world.log.details)
    assert "lead_1" not in str(world.log.lines + world.log.details)


def test_leads_that_postgres_was_asked_for_are_counted(model_store: str) -> None:
    world = ServiceHarness(model_store, FakeLeads({"lead_1": Lead(STATE, 1)}))
    world.send(change(0, lead=None), change(1, "lead_2", lead=None), change(2, "lead_3"))
    world.run()
    assert world.metric("database_queries_total") == 1
    assert world.metric("database_leads_total", answer="found") == 1
    assert world.metric("database_leads_total", answer="missing") == 1
