"""One suite for every source and publisher: in memory, on librdkafka's mock cluster, and on real
Kafka both ways.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from leadstream.errors import Transient
from leadstream.kafka.batch import Batch, Message, Output
from leadstream.kafka.config import Headers, consumer_config, producer_config
from leadstream.kafka.publisher import (
    AcknowledgedPublisher,
    FinishCommit,
    Publisher,
    TransactionalPublisher,
)
from leadstream.kafka.source import KafkaSource, Source
from leadstream.local.broker import Broker
from leadstream.settings import load_settings
from tests.fakes import MemoryBroker, MemoryPublisher, MemorySource

Member = tuple[Source, Publisher]


class TopicPair(Protocol):
    """A broker with one input and one output topic."""

    source_topic: str
    target_topic: str

    def send(self, *outputs: Output) -> None: ...
    def join(self) -> Member: ...
    def read(self, count: int) -> list[Message]: ...


class MemoryTopicPair:
    def __init__(self) -> None:
        self.source_topic, self.target_topic = "in", "out"
        self._broker = MemoryBroker()

    def send(self, *outputs: Output) -> None:
        for output in outputs:
            self._broker.append(output)

    def join(self) -> Member:
        source = MemorySource(self._broker, "group", [self.source_topic])
        return source, MemoryPublisher(self._broker, source)

    def read(self, count: int) -> list[Message]:
        return list(self._broker.records[self.target_topic])


@dataclass
class KafkaTopicPair:
    bootstrap: str
    transactional: bool
    source_topic: str
    target_topic: str
    group: str

    def _settings(self) -> dict[str, str]:
        # Longer than the mock cluster waits for members (3 s), and else as short as can be.
        quick = {
            "LEADSTREAM_KAFKA_SESSION_TIMEOUT_MS": "5000",
            "LEADSTREAM_KAFKA_HEARTBEAT_INTERVAL_MS": "300",
        }
        return {
            **quick,
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "LEADSTREAM_GROUP_ID": self.group,
        }

    def send(self, *outputs: Output) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True})
        for output in outputs:
            extra: dict[str, Any] = (
                {} if output.timestamp is None else {"timestamp": output.timestamp}
            )
            if output.headers:
                extra["headers"] = output.headers
            producer.produce(output.topic, value=output.value, key=output.key, partition=0, **extra)
        assert producer.flush(10) == 0

    def join(self) -> Member:
        settings = load_settings(self._settings(), None)
        source = KafkaSource(
            consumer_config(settings), [self.source_topic], max_records=2000, linger_ms=20
        )
        publisher: Publisher = (
            TransactionalPublisher(producer_config(settings, transactional=True), source)
            if self.transactional
            else AcknowledgedPublisher(producer_config(settings), source)
        )
        publisher.open()
        return source, publisher

    def read(self, count: int) -> list[Message]:
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": uuid.uuid4().hex,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        consumer.subscribe([self.target_topic])
        deadline = time.monotonic() + (10 if count else 3)
        messages: list[Message] = []
        while time.monotonic() < deadline and (len(messages) < count or not count):
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                # a record without error has all its parts
                messages.append(message)  # type: ignore[arg-type]
        consumer.close()
        return messages


@pytest.fixture(params=["memory", "mock", "kafka-at-least-once", "kafka-exactly-once"])
def pair(request: pytest.FixtureRequest) -> TopicPair:
    if request.param == "memory":
        return MemoryTopicPair()
    name = uuid.uuid4().hex[:8]
    broker: Broker = request.getfixturevalue("mock_broker" if request.param == "mock" else "kafka")
    kafka = KafkaTopicPair(
        broker.bootstrap,
        request.param.endswith("exactly-once"),
        f"in-{name}",
        f"out-{name}",
        f"group-{name}",
    )
    if request.param != "mock":
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for future in admin.create_topics(
            [NewTopic(t, 1, 1) for t in (kafka.source_topic, kafka.target_topic)]
        ).values():
            future.result()
    return kafka


@pytest.fixture
def join(pair: TopicPair) -> Iterator[Callable[[], Member]]:
    members: list[Member] = []

    def joined() -> Member:
        members.append(pair.join())
        return members[-1]

    yield joined
    for source, publisher in members:
        publisher.close()
        source.close()


def batches(source: Source, count: int) -> list[Batch]:
    """Poll until `count` messages came."""
    found: list[Batch] = []
    deadline = time.monotonic() + 20
    while sum(len(batch.messages) for batch in found) < count:
        assert time.monotonic() < deadline, "the messages did not come"
        batch = source.poll(0.1)
        if batch is not None:
            found.append(batch)
    return found


def values(*batches_: Batch) -> list[bytes | None]:
    return [message.value() for batch in batches_ for message in batch.messages]


def test_a_batch_in_another_order_than_its_offsets_would_let_an_older_change_win(
    pair: TopicPair, join: Callable[[], Member]
) -> None:
    pair.send(*[Output(pair.source_topic, b"lead", b"%d" % i) for i in range(50)])
    source, _ = join()
    found = batches(source, 50)
    assert values(*found) == [b"%d" % i for i in range(50)]
    assert found[0].first[pair.source_topic, 0] == 0
    assert found[-1].next[pair.source_topic, 0] == 50


def test_outputs_that_are_visible_without_their_offsets_would_be_published_twice(
    pair: TopicPair, join: Callable[[], Member]
) -> None:
    pair.send(*[Output(pair.source_topic, b"lead", b"%d" % i) for i in range(5)])
    source, publisher = join()
    for batch in batches(source, 5):
        publisher.begin(
            [Output(pair.target_topic, m.key(), m.value()) for m in batch.messages], batch
        )()
    source.close()
    pair.send(Output(pair.source_topic, b"lead", b"later"))
    second, _ = join()
    assert values(*batches(second, 1)) == [b"later"]
    assert [message.value() for message in pair.read(5)] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_batch_that_nobody_committed_is_not_lost_with_the_process(
    pair: TopicPair, join: Callable[[], Member]
) -> None:
    pair.send(Output(pair.source_topic, b"lead", b"first"))
    source, _ = join()
    assert values(*batches(source, 1)) == [b"first"]
    source.close()
    second, _ = join()
    assert values(*batches(second, 1)) == [b"first"]
    assert pair.read(0) == []


def test_a_rewound_batch_that_comes_back_incomplete_would_lose_records(
    pair: TopicPair, join: Callable[[], Member]
) -> None:
    pair.send(*[Output(pair.source_topic, b"lead", b"%d" % i) for i in range(10)])
    source, publisher = join()
    found = batches(source, 10)
    for batch in reversed(found):
        source.rewind(batch)
    again = batches(source, 10)
    assert values(*again) == values(*found)
    for batch in again:
        publisher.begin([], batch)()


def test_a_client_that_closes_while_it_owns_partitions_may_freeze_the_process(
    pair: TopicPair,
) -> None:
    pair.send(Output(pair.source_topic, b"lead", b"first"))
    source, publisher = pair.join()
    batches(source, 1)
    client = _Closing(source) if isinstance(source, KafkaSource) else None
    publisher.close()
    source.close()
    assert source.assigned() == frozenset()
    assert client is None or client.owned == frozenset()


class _Closing:
    """A client that remembers what was owned when it was closed."""

    def __init__(self, source: KafkaSource) -> None:
        self._source, self._client = source, source.consumer
        self.owned: frozenset[tuple[str, int]] | None = None
        source.consumer = self  # type: ignore[assignment]  # all that the source calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def close(self) -> None:
        self.owned = self._source.assigned()
        self._client.close()


def test_idling_that_consumes_would_skip_what_came_meanwhile(
    pair: TopicPair, join: Callable[[], Member]
) -> None:
    pair.send(Output(pair.source_topic, b"lead", b"first"))
    source, _ = join()
    first = batches(source, 1)[0]
    source.rewind(first)
    pair.send(Output(pair.source_topic, b"lead", b"second"))
    for _ in range(5):
        source.idle(0.1)
    assert values(*batches(source, 2)) == [b"first", b"second"]


def test_a_dead_letter_that_differs_from_its_original_in_one_byte_cannot_be_replayed(
    pair: TopicPair, join: Callable[[], Member]
) -> None:
    headers: Headers = [("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b""), ("null", None)]
    pair.send(Output(pair.source_topic, b"\xffkey", b"\x00\xfe", headers, 1_234_567_890_123))
    source, publisher = join()
    batch = batches(source, 1)[0]
    original = batch.messages[0]
    _, timestamp = original.timestamp()
    publisher.begin(
        [
            Output(
                pair.target_topic, original.key(), original.value(), original.headers(), timestamp
            )
        ],
        batch,
    )()
    letter = pair.read(1)[0]
    assert (letter.key(), letter.value(), letter.headers()) == (b"\xffkey", b"\x00\xfe", headers)
    assert letter.timestamp()[1] == 1_234_567_890_123


def test_a_null_that_is_published_as_empty_bytes_would_not_erase_the_lead(
    pair: TopicPair, join: Callable[[], Member]
) -> None:
    pair.send(Output(pair.source_topic, b"lead", None), Output(pair.source_topic, b"lead", b""))
    source, publisher = join()
    for batch in batches(source, 2):
        assert set(values(batch)) <= {None, b""}
        publisher.begin(
            [Output(pair.target_topic, m.key(), m.value()) for m in batch.messages], batch
        )()
    assert [message.value() for message in pair.read(2)] == [None, b""]


def test_a_topic_that_is_there_lacks_nothing(pair: TopicPair, join: Callable[[], Member]) -> None:
    _, publisher = join()
    pair.send(Output(pair.target_topic, None, b"makes the topic where topics appear on first use"))
    assert publisher.topic_problem(pair.target_topic) is None


def test_lag_that_counts_what_was_polled_and_not_what_is_left_would_hide_a_backlog(
    pair: TopicPair, join: Callable[[], Member]
) -> None:
    pair.send(*[Output(pair.source_topic, b"lead", b"%d" % i) for i in range(10)])
    source, _ = join()
    found = batches(source, 10)
    assert source.lag()[pair.source_topic, 0] == 0
    source.rewind(found[0])
    assert source.lag()[pair.source_topic, 0] == 10 - found[0].first[pair.source_topic, 0]


def test_a_commit_that_is_overtaken_by_a_rebalance_counts_for_nothing_and_its_batch_comes_again(
    kafka: Broker,
) -> None:
    name = uuid.uuid4().hex[:8]
    pair = KafkaTopicPair(kafka.bootstrap, True, f"in-{name}", f"out-{name}", f"group-{name}")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.create_topics(
        [NewTopic(pair.source_topic, 2, 1), NewTopic(pair.target_topic, 1, 1)]
    ).values():
        future.result()
    pair.send(*[Output(pair.source_topic, b"lead", b"%d" % i) for i in range(5)])
    members = [pair.join()]
    try:
        (source, publisher), found = members[0], list[Batch]()

        def started(batch: Batch, publisher: Publisher) -> FinishCommit:
            return publisher.begin(
                [Output(pair.target_topic, m.key(), m.value()) for m in batch.messages], batch
            )

        [batch] = batches(source, 5)
        end = started(batch, publisher)
        members.append(pair.join())
        deadline = time.monotonic() + 30
        while not members[1][0].assigned():
            assert time.monotonic() < deadline, "the second member owns nothing"
            assert source.poll(0.1) is None
            assert members[1][0].poll(0.1) is None
        with pytest.raises(Transient, match="generation"):
            end()
        source.rewind(batch)
        while sum(len(again.messages) for again in found) < 5:
            assert time.monotonic() < deadline, "the batch did not come again"
            for member, its in members:
                if (again := member.poll(0.1)) is not None:
                    started(again, its)()
                    found.append(again)
        assert sorted(m.value() or b"" for m in pair.read(5)) == [b"%d" % i for i in range(5)]
    finally:
        for member, its in members:
            its.close()
            member.close()


@pytest.mark.parametrize("transactional", [False, True])
def test_a_topic_that_is_not_there_is_a_sentence_and_no_wait(
    kafka: Broker, transactional: bool
) -> None:
    name = uuid.uuid4().hex[:8]
    source, publisher = KafkaTopicPair(
        kafka.bootstrap, transactional, f"in-{name}", f"out-{name}", f"group-{name}"
    ).join()
    started = time.monotonic()
    assert f"topic out-{name}: " in (publisher.topic_problem(f"out-{name}") or "")
    assert "leadstream topics create" in (publisher.topic_problem(f"out-{name}") or "")
    assert time.monotonic() - started < 5
    publisher.close()
    source.close()
