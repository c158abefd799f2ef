"""The desks, real and in memory, pass the same suite: letters are decided once, and not past a
waiting change.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

# not in its __all__
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from consumer.dead_letters.audit import Action, decode_decision, verify
from consumer.dead_letters.current_scores import CurrentScores
from consumer.dead_letters.executor import DecisionExecutor, ExecutionResult, KafkaDecisionExecutor
from consumer.dead_letters.letters import Letter, LetterId
from consumer.dead_letters.planner import PlannedAction, Planner
from leadstream.errors import Fenced
from leadstream.kafka.batch import Message, Output
from leadstream.kafka.topics import CONFIGS, Topics
from leadstream.local.broker import Broker
from leadstream.settings import load_settings
from schemas.codec import Reader, Writer
from tests.fakes import MemoryBroker, MemoryDecisionExecutor
from tests.integration.running import Stage
from tests.letters import letter_output
from tests.unit.pipelines import NOW_MS, event
from tests.unit.test_triage_planner import scored

CHANGE, CHANGE_READER = Writer("LeadChanged"), Reader("LeadChanged")
MANY = 1000


class TriageHarness(Protocol):
    topics: Topics

    def executor(self) -> DecisionExecutor: ...
    def send(self, *outputs: Output) -> None: ...
    def consume(self) -> None:
        """The consumers have processed all changes that there are."""

    def visible(self, topic: str, count: int) -> list[Message]: ...


@dataclass
class MemoryTriageHarness:
    topics: Topics
    broker: MemoryBroker

    def executor(self) -> DecisionExecutor:
        return MemoryDecisionExecutor(self.broker, "leadstream", self.topics)

    def send(self, *outputs: Output) -> None:
        for output in outputs:
            self.broker.append(output)

    def consume(self) -> None:
        changes = self.topics.lead_changes
        self.broker.committed["leadstream", changes] = len(self.broker.records[changes])

    def visible(self, topic: str, count: int) -> list[Message]:
        return list(self.broker.records[topic])


@dataclass
class KafkaTriageHarness:
    topics: Topics
    stage: Stage

    def executor(self) -> DecisionExecutor:
        return KafkaDecisionExecutor(load_settings(self.stage.environment, None), None, "me")

    def send(self, *outputs: Output) -> None:
        self.stage.send(outputs)

    def consume(self) -> None:
        group = {
            "bootstrap.servers": self.stage.bootstrap,
            "group.id": self.stage.environment["LEADSTREAM_GROUP_ID"],
        }
        consumer = Consumer(group)
        place = TopicPartition(self.topics.lead_changes, 0)
        end = consumer.get_watermark_offsets(place, timeout=10)[1]
        consumer.commit(offsets=[TopicPartition(place.topic, 0, end)], asynchronous=False)
        consumer.close()

    def visible(self, topic: str, count: int) -> list[Message]:
        return self.stage.read(topic, count)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.broker)])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> TriageHarness:
    if request.param == "memory":
        return MemoryTriageHarness(Topics(), MemoryBroker())
    return kafka_harness(request.getfixturevalue("kafka"), tmp_path)


def kafka_harness(kafka: Broker, folder: Path) -> KafkaTriageHarness:
    """With the topics that a desk knows, and no others: making them all takes a second."""
    stage = Stage.on(kafka.bootstrap, folder, "", create=False)
    topics = stage.topics
    names = (
        topics.lead_changes,
        topics.dead_letters,
        topics.dead_letter_audit,
        topics.lead_predictions,
    )
    wanted = [
        NewTopic(name, 1, 1, config=CONFIGS["dead_letters"] if name == topics.dead_letters else {})
        for name in names
    ]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.create_topics(wanted).values():
        future.result(30)
    return KafkaTriageHarness(topics, stage)


@pytest.fixture
def executor(harness: TriageHarness) -> Iterator[Callable[[], DecisionExecutor]]:
    executors: list[DecisionExecutor] = []

    def taken() -> DecisionExecutor:
        executors.append(harness.executor())
        executors[-1].acquire()
        return executors[-1]

    yield taken
    for each in executors:
        each.close()


def change(harness: TriageHarness, lead: str, version: int) -> Output:
    return Output(
        harness.topics.lead_changes, lead.encode(), CHANGE.encode(event(lead, lead_version=version))
    )


def _letter(i: int, lead: str, version: int, topics: Topics) -> Output:
    value, now = CHANGE.encode(event(lead, lead_version=version)), time.time_ns() // 1_000_000
    return letter_output(
        i,
        lead.encode(),
        value,
        origin=topics.lead_changes,
        topic=topics.dead_letters,
        sent_at=now,
        failed_at=now,
    )


def letters(harness: TriageHarness, *leads: str) -> list[Letter]:
    """A letter of each lead, at version 5, as read from the dead-letter topic."""
    topics = harness.topics
    for i, lead in enumerate(leads):
        harness.send(_letter(i, lead, 5, topics))
    return [
        Letter.from_message(message) for message in harness.visible(topics.dead_letters, len(leads))
    ]


def replays(harness: TriageHarness, found: list[Letter]) -> list[PlannedAction]:
    names = {f.name: getattr(harness.topics, f.name) for f in fields(Topics)}
    settings = load_settings({}, None).model_copy(update={"topics": Topics(**names)})
    planner = Planner(settings, None)
    planned = [planner.plan(each, CurrentScores((), Reader("LeadPrediction"))) for each in found]
    assert all(
        isinstance(each, PlannedAction) and each.action is Action.REPLAYED for each in planned
    )
    return [each for each in planned if isinstance(each, PlannedAction)]


def sent_back(harness: TriageHarness, count: int) -> list[bytes | None]:
    """The keys of the replayed records that consumers can see."""
    messages = harness.visible(harness.topics.lead_changes, count)
    return [
        message.key() for message in messages if ("dlq.replays", b"1") in (message.headers() or [])
    ]


def decisions(harness: TriageHarness, count: int) -> dict[LetterId, Action]:
    """What the audit topic says, of which the chain must hold."""
    messages = harness.visible(harness.topics.dead_letter_audit, count)
    verification = verify(messages, Reader("TriageDecision"))
    assert verification.breaks == []
    found = [decode_decision(message, Reader("TriageDecision")) for message in messages]
    assert verification.decisions == len(found)
    return {each.letter: each.action for each in found}


def test_a_decision_without_its_record_or_a_record_without_its_decision_is_half_a_replay(
    harness: TriageHarness, executor: Callable[[], DecisionExecutor]
) -> None:
    found = letters(harness, "a", "b", "c")
    one = executor()
    one.refresh(MANY)
    discarded = PlannedAction(found[2], Action.DISCARDED, "a test")
    assert one.execute([*replays(harness, found[:2]), discarded]).committed
    assert sent_back(harness, 2) == [b"a", b"b"]
    ids = [each.id for each in found]
    assert decisions(harness, 3) == dict(
        zip(ids, (Action.REPLAYED, Action.REPLAYED, Action.DISCARDED), strict=True)
    )
    another = executor()
    assert [another.decided.get(each) for each in ids] == [
        Action.REPLAYED,
        Action.REPLAYED,
        Action.DISCARDED,
    ]


def test_a_desk_that_somebody_else_took_decides_nothing_more(
    harness: TriageHarness, executor: Callable[[], DecisionExecutor]
) -> None:
    found = letters(harness, "a", "b")
    first, second = executor(), executor()
    for each in (first, second):
        each.refresh(MANY)
    with pytest.raises(Fenced):
        first.execute(replays(harness, found))
    assert second.execute(replays(harness, found[1:])).committed
    first.acquire()
    assert first.decided.get(found[0].id) is None
    assert first.decided.get(found[1].id) is Action.REPLAYED
    first.refresh(MANY)
    harness.consume()
    first.refresh(MANY)
    assert first.execute(replays(harness, found[:1])).committed
    assert sent_back(harness, 2) == [b"b", b"a"]
    assert set(decisions(harness, 2)) == {found[0].id, found[1].id}


def test_a_letter_decided_twice_by_one_desk_is_a_bug_and_not_a_record(
    harness: TriageHarness, executor: Callable[[], DecisionExecutor]
) -> None:
    found = letters(harness, "a")
    one = executor()
    one.refresh(MANY)
    assert one.execute(replays(harness, found)).committed
    with pytest.raises(AssertionError):
        one.execute(replays(harness, found))


def test_a_change_that_came_in_before_a_replayed_one_of_its_lead_would_be_set_back(
    harness: TriageHarness, executor: Callable[[], DecisionExecutor]
) -> None:
    found = letters(harness, "a", "b")
    one = executor()
    one.refresh(MANY)
    harness.send(change(harness, "a", 6), change(harness, "other", 1))
    assert one.execute(replays(harness, found)) == ExecutionResult(
        overtaken=frozenset({found[0].id})
    )
    assert sent_back(harness, 2) == []
    assert one.decided.get(found[0].id) is one.decided.get(found[1].id) is None
    # What was aborted is in nobody's way, and the other letter goes.
    assert one.refresh(MANY).waiting == {b"a", b"other"}
    assert one.execute(replays(harness, found[1:])).committed
    assert sent_back(harness, 3) == [b"b"]
    assert list(decisions(harness, 1)) == [found[1].id]


def test_a_change_waits_until_the_consumers_have_committed_past_it(
    harness: TriageHarness, executor: Callable[[], DecisionExecutor]
) -> None:
    one = executor()
    harness.send(change(harness, "a", 6), change(harness, "b", 1))
    snapshot = one.refresh(MANY)
    assert snapshot.lag == 2
    assert snapshot.waiting == {b"a", b"b"}
    assert one.refresh(1).lag == 2
    harness.consume()
    after = one.refresh(MANY)
    assert (after.lag, after.waiting) == (0, frozenset())
    assert after.committed > snapshot.committed


def test_scores_are_those_of_the_last_look_and_only_of_the_leads_that_are_watched(
    harness: TriageHarness, executor: Callable[[], DecisionExecutor]
) -> None:
    topic = harness.topics.lead_predictions
    one = executor()
    one.track([b"lead"])
    harness.send(
        Output(topic, b"lead", scored(6).value_), Output(topic, b"other", scored(6).value_)
    )
    one.refresh(MANY)
    older = event("lead", lead_version=5)
    assert one.scores.why_superseded(b"lead", NOW_MS, older)
    assert one.scores.why_superseded(b"other", NOW_MS, older) is None
    harness.send(Output(topic, b"lead", None))
    one.refresh(MANY)
    assert one.scores.why_superseded(b"lead", 0, None) == "the lead was erased since"


def test_of_one_leads_letters_the_newest_must_come_last(
    harness: TriageHarness, executor: Callable[[], DecisionExecutor]
) -> None:
    topics = harness.topics
    for i, version in enumerate((6, 5)):
        harness.send(_letter(i, "a", version, topics))
    found = [Letter.from_message(message) for message in harness.visible(topics.dead_letters, 2)]
    one = executor()
    one.refresh(MANY)
    assert one.execute(replays(harness, found)).committed
    sent = [
        CHANGE_READER.decode(message.value() or b"")
        for message in harness.visible(topics.lead_changes, 2)
    ]
    assert [record["lead_version"] for record in sent] == [5, 6]


@pytest.mark.broker
def test_a_record_that_no_broker_takes_holds_back_only_itself(
    kafka: Broker, tmp_path: Path
) -> None:
    harness = kafka_harness(kafka, tmp_path)
    stage = harness.stage
    big = random.Random(1).randbytes(1_048_500)
    topics = stage.topics
    # Idempotent, or a first request that has to be sent again would come after the second.
    producer = Producer(
        {
            "bootstrap.servers": stage.bootstrap,
            "message.max.bytes": 2_000_000,
            "enable.idempotence": True,
        }
    )
    for i, value in enumerate((big, b"small")):
        one = letter_output(
            i, b"a%d" % i, value, origin=topics.lead_changes, topic=topics.dead_letters
        )
        producer.produce(one.topic, one.value, one.key, headers=dict(one.headers or []))
    assert producer.flush(30) == 0
    found = [Letter.from_message(message) for message in harness.visible(topics.dead_letters, 2)]
    executor = harness.executor()
    executor.acquire()
    executor.refresh(MANY)
    result = executor.execute(replays(harness, found))
    assert set(result.refused) == {found[0].id}
    assert executor.execute(replays(harness, found[1:])).committed
    assert sent_back(harness, 1) == [b"a1"]
    executor.close()
