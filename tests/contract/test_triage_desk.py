"""The desks, real and in memory, pass the same suite: letters are decided once, and not past a waiting change."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in its __all__

from consumer.dead_letters.audit import Action, decision_in, verify
from consumer.dead_letters.current_scores import Scores
from consumer.dead_letters.executor import Desk, KafkaDesk, Settled
from consumer.dead_letters.letters import Letter, LetterId
from consumer.dead_letters.planner import Judge, Verdict
from leadstream.errors import Fenced
from leadstream.kafka.batch import Message, Output
from leadstream.kafka.topics import CONFIGS, Topics
from leadstream.local.broker import Broker
from leadstream.settings import load_settings
from schemas.codec import Reader, Writer
from tests.fakes import MemoryBroker, MemoryDesk
from tests.integration.running import Stage
from tests.letters import letter_output
from tests.unit.pipelines import NOW_MS, event
from tests.unit.test_triage_judge import scored

CHANGE, CHANGE_READER = Writer("LeadChanged"), Reader("LeadChanged")
MANY = 1000


class World(Protocol):
    topics: Topics

    def desk(self) -> Desk: ...
    def send(self, *outputs: Output) -> None: ...
    def consume(self) -> None:
        """The consumers have processed all changes that there are."""

    def visible(self, topic: str, count: int) -> list[Message]: ...


@dataclass
class MemoryWorld:
    topics: Topics
    broker: MemoryBroker

    def desk(self) -> Desk:
        return MemoryDesk(self.broker, "leadstream", self.topics)

    def send(self, *outputs: Output) -> None:
        for output in outputs:
            self.broker.append(output)

    def consume(self) -> None:
        changes = self.topics.lead_changes
        self.broker.committed["leadstream", changes] = len(self.broker.records[changes])

    def visible(self, topic: str, count: int) -> list[Message]:
        return list(self.broker.records[topic])


@dataclass
class KafkaWorld:
    topics: Topics
    stage: Stage

    def desk(self) -> Desk:
        return KafkaDesk(load_settings(self.stage.environment, None), None, "me")

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
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "memory":
        return MemoryWorld(Topics(), MemoryBroker())
    return kafka_world(request.getfixturevalue("kafka"), tmp_path)


def kafka_world(kafka: Broker, folder: Path) -> KafkaWorld:
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
    return KafkaWorld(topics, stage)


@pytest.fixture
def desk(world: World) -> Iterator[Callable[[], Desk]]:
    desks: list[Desk] = []

    def taken() -> Desk:
        desks.append(world.desk())
        desks[-1].take()
        return desks[-1]

    yield taken
    for each in desks:
        each.close()


def change(world: World, lead: str, version: int) -> Output:
    return Output(
        world.topics.lead_changes, lead.encode(), CHANGE.encode(event(lead, lead_version=version))
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


def letters(world: World, *leads: str) -> list[Letter]:
    """A letter of each lead, at version 5, as read from the dead-letter topic."""
    topics = world.topics
    for i, lead in enumerate(leads):
        world.send(_letter(i, lead, 5, topics))
    return [Letter.of(message) for message in world.visible(topics.dead_letters, len(leads))]


def replays(world: World, found: list[Letter]) -> list[Verdict]:
    names = {f.name: getattr(world.topics, f.name) for f in fields(Topics)}
    settings = load_settings({}, None).model_copy(update={"topics": Topics(**names)})
    judge = Judge(settings, None)
    verdicts = [judge.judge(each, Scores((), Reader("LeadPrediction"))) for each in found]
    assert all(isinstance(each, Verdict) and each.action is Action.REPLAYED for each in verdicts)
    return [each for each in verdicts if isinstance(each, Verdict)]


def sent_back(world: World, count: int) -> list[bytes | None]:
    """The keys of the replayed records that consumers can see."""
    messages = world.visible(world.topics.lead_changes, count)
    return [
        message.key() for message in messages if ("dlq.replays", b"1") in (message.headers() or [])
    ]


def decisions(world: World, count: int) -> dict[LetterId, Action]:
    """What the audit topic says, of which the chain must hold."""
    messages = world.visible(world.topics.dead_letter_audit, count)
    verdict = verify(messages, Reader("TriageDecision"))
    assert verdict.breaks == []
    found = [decision_in(message, Reader("TriageDecision")) for message in messages]
    assert verdict.decisions == len(found)
    return {each.letter: each.action for each in found}


def test_a_decision_without_its_record_or_a_record_without_its_decision_is_half_a_replay(
    world: World, desk: Callable[[], Desk]
) -> None:
    found = letters(world, "a", "b", "c")
    one = desk()
    one.look(MANY)
    discarded = Verdict(found[2], Action.DISCARDED, "a test")
    assert one.settle([*replays(world, found[:2]), discarded]).done
    assert sent_back(world, 2) == [b"a", b"b"]
    ids = [each.id for each in found]
    assert decisions(world, 3) == dict(
        zip(ids, (Action.REPLAYED, Action.REPLAYED, Action.DISCARDED), strict=True)
    )
    another = desk()
    assert [another.decided.get(each) for each in ids] == [
        Action.REPLAYED,
        Action.REPLAYED,
        Action.DISCARDED,
    ]


def test_a_desk_that_somebody_else_took_decides_nothing_more(
    world: World, desk: Callable[[], Desk]
) -> None:
    found = letters(world, "a", "b")
    first, second = desk(), desk()
    for each in (first, second):
        each.look(MANY)
    with pytest.raises(Fenced):
        first.settle(replays(world, found))
    assert second.settle(replays(world, found[1:])).done
    first.take()
    assert first.decided.get(found[0].id) is None
    assert first.decided.get(found[1].id) is Action.REPLAYED
    first.look(MANY)
    world.consume()
    first.look(MANY)
    assert first.settle(replays(world, found[:1])).done
    assert sent_back(world, 2) == [b"b", b"a"]
    assert set(decisions(world, 2)) == {found[0].id, found[1].id}


def test_a_letter_decided_twice_by_one_desk_is_a_bug_and_not_a_record(
    world: World, desk: Callable[[], Desk]
) -> None:
    found = letters(world, "a")
    one = desk()
    one.look(MANY)
    assert one.settle(replays(world, found)).done
    with pytest.raises(AssertionError):
        one.settle(replays(world, found))


def test_a_change_that_came_in_before_a_replayed_one_of_its_lead_would_be_set_back(
    world: World, desk: Callable[[], Desk]
) -> None:
    found = letters(world, "a", "b")
    one = desk()
    one.look(MANY)
    world.send(change(world, "a", 6), change(world, "other", 1))
    assert one.settle(replays(world, found)) == Settled(crossed=frozenset({found[0].id}))
    assert sent_back(world, 2) == []
    assert one.decided.get(found[0].id) is one.decided.get(found[1].id) is None
    # What was aborted is in nobody's way, and the other letter goes.
    assert one.look(MANY).waiting == {b"a", b"other"}
    assert one.settle(replays(world, found[1:])).done
    assert sent_back(world, 3) == [b"b"]
    assert list(decisions(world, 1)) == [found[1].id]


def test_a_change_waits_until_the_consumers_have_committed_past_it(
    world: World, desk: Callable[[], Desk]
) -> None:
    one = desk()
    world.send(change(world, "a", 6), change(world, "b", 1))
    outlook = one.look(MANY)
    assert outlook.behind == 2
    assert outlook.waiting == {b"a", b"b"}
    assert one.look(1).behind == 2
    world.consume()
    after = one.look(MANY)
    assert (after.behind, after.waiting) == (0, frozenset())
    assert after.committed > outlook.committed


def test_scores_are_those_of_the_last_look_and_only_of_the_leads_that_are_watched(
    world: World, desk: Callable[[], Desk]
) -> None:
    topic = world.topics.lead_predictions
    one = desk()
    one.watch([b"lead"])
    world.send(Output(topic, b"lead", scored(6).value_), Output(topic, b"other", scored(6).value_))
    one.look(MANY)
    older = event("lead", lead_version=5)
    assert one.scores.supersedes(b"lead", NOW_MS, older)
    assert one.scores.supersedes(b"other", NOW_MS, older) is None
    world.send(Output(topic, b"lead", None))
    one.look(MANY)
    assert one.scores.supersedes(b"lead", 0, None) == "the lead was erased since"


def test_of_one_leads_letters_the_newest_must_come_last(
    world: World, desk: Callable[[], Desk]
) -> None:
    topics = world.topics
    for i, version in enumerate((6, 5)):
        world.send(_letter(i, "a", version, topics))
    found = [Letter.of(message) for message in world.visible(topics.dead_letters, 2)]
    one = desk()
    one.look(MANY)
    assert one.settle(replays(world, found)).done
    sent = [
        CHANGE_READER.decode(message.value() or b"")
        for message in world.visible(topics.lead_changes, 2)
    ]
    assert [record["lead_version"] for record in sent] == [5, 6]


@pytest.mark.broker
def test_a_record_that_no_broker_takes_holds_back_only_itself(
    kafka: Broker, tmp_path: Path
) -> None:
    world = kafka_world(kafka, tmp_path)
    stage = world.stage
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
    found = [Letter.of(message) for message in world.visible(topics.dead_letters, 2)]
    desk = world.desk()
    desk.take()
    desk.look(MANY)
    settled = desk.settle(replays(world, found))
    assert set(settled.refused) == {found[0].id}
    assert desk.settle(replays(world, found[1:])).done
    assert sent_back(world, 1) == [b"a1"]
    desk.close()
