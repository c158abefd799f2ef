"""Where changes, letters and operators meet: in memory, and on a real Kafka, for examples that must
end alike.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import Producer

from consumer.dead_letters.executor import DecisionExecutor, ExecutionResult, KafkaDecisionExecutor
from consumer.dead_letters.planner import PlannedAction
from consumer.scoring.pipeline import Pipeline
from consumer.scoring.versions import Versions
from leadstream.kafka.batch import Message, Output
from leadstream.kafka.config import consumer_config, producer_config
from leadstream.kafka.publisher import TransactionalPublisher
from leadstream.kafka.source import KafkaSource
from leadstream.settings import Settings, load_settings
from models.registry.slot import ModelSlot
from models.registry.versions import ModelRegistry
from tests.fakes import MemoryBroker, MemoryDecisionExecutor, MemoryPublisher, MemorySource
from tests.integration.running import QUICK, Stage, until
from tests.trained_models import TRUST
from tests.unit.pipelines import pipeline

ALL = 1_000_000
_QUIET = {"log_level": 0}  # that the broker ends before its clients is no news


class Harness(Protocol):
    """Topics, consumers that go on when they are told to, and desks.

    `mark` ends the names of an example's leads.
    """

    settings: Settings
    mark: str

    def tick(self) -> int:
        """The time, milliseconds UTC: later than that of all that was published."""

    def append(self, output: Output) -> None:
        """Publish a record."""

    def executor(self, happens: Callable[[], None]) -> DecisionExecutor:
        """A desk for one operator; `happens` is called after it has looked and before its records
        count.
        """

    def steal(self) -> None:
        """Somebody else takes the desk, and leaves."""

    def consume(self, max_changes: int = ALL) -> None:
        """The consumers process all that is there, or one batch of at most so many changes."""

    def records(self, topic: str) -> Sequence[Message]:
        """What is in a topic, of this example and of others."""


class MemoryHarness:
    """A world of its own for each example."""

    mark = ""

    def __init__(self, model: ModelSlot) -> None:
        self.settings = load_settings({}, None)
        self._line = pipeline(model, versions=Versions(64))
        self._broker = MemoryBroker()
        self._source = MemorySource(
            self._broker, self.settings.group_id, [self.settings.topics.lead_changes]
        )
        self._publisher = MemoryPublisher(self._broker, self._source)

    def tick(self) -> int:
        self._broker.now += 1
        return self._broker.now

    def append(self, output: Output) -> None:
        self._broker.append(output)

    def executor(self, happens: Callable[[], None]) -> DecisionExecutor:
        return MemoryDecisionExecutor(
            self._broker, self.settings.group_id, self.settings.topics, happens
        )

    def steal(self) -> None:
        self._broker.executor = None

    def consume(self, max_changes: int = ALL) -> None:
        self._source._max_records = max_changes
        while (found := self._source.poll(0)) is not None:
            self.tick()
            outcome = self._line.process(found)
            self._publisher.commit(outcome.outputs, found)
            self._line.commit_started(outcome)
            self._line.commit_finished(committed=True)
            if max_changes < ALL:
                return

    def records(self, topic: str) -> Sequence[Message]:
        return self._broker.records[topic]


@dataclass(slots=True)
class SharedKafka:
    """Topics and one consumer on a real Kafka, which all examples share: to make them takes
    seconds.
    """

    stage: Stage
    settings: Settings
    line: Pipeline
    source: KafkaSource
    publisher: TransactionalPublisher
    producer: Producer
    examples: Iterator[int] = field(default_factory=itertools.count)
    changes: int = 0
    consumed: int = 0


@contextmanager
def shared_kafka(bootstrap: str, folder: Path, model_store: str) -> Iterator[SharedKafka]:
    """Topics of their own, and a consumer that has joined its group."""
    stage = Stage.on(bootstrap, folder, model_store)
    stage.environment |= QUICK
    settings = load_settings(stage.environment, None)
    environment: dict[str, Any] = stage.environment
    line = pipeline(
        ModelSlot(ModelRegistry(model_store, TRUST)), versions=Versions(), **environment
    )
    changes = settings.topics.lead_changes
    source = KafkaSource(
        consumer_config(settings) | _QUIET, [changes], max_records=ALL, linger_ms=0
    )
    publisher = TransactionalPublisher(
        producer_config(settings, transactional=True) | _QUIET, source
    )
    producer = Producer(
        {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 0, **_QUIET}
    )
    try:
        publisher.open()
        until(lambda: source.poll(0.1) or source.assigned(), "it has joined")
        yield SharedKafka(stage, settings, line, source, publisher, producer)
    finally:
        publisher.close()
        source.close()


class KafkaHarness:
    """One example on the ground, with leads of its own."""

    def __init__(self, shared_kafka: SharedKafka) -> None:
        self.settings = shared_kafka.settings
        self.mark = f" of {next(shared_kafka.examples)}"
        self._shared = shared_kafka
        self._now = 0

    def tick(self) -> int:
        while (now := time.time_ns() // 1_000_000) <= self._now:
            pass
        self._now = now
        return now

    def append(self, output: Output) -> None:
        extra: dict[str, Any] = {"headers": output.headers} if output.headers else {}
        if output.timestamp is not None:
            extra["timestamp"] = output.timestamp
        self._shared.producer.produce(output.topic, output.value, output.key, **extra)
        assert self._shared.producer.flush(30) == 0
        self._shared.changes += output.topic == self.settings.topics.lead_changes

    def executor(self, happens: Callable[[], None]) -> DecisionExecutor:
        return _Disturbed(self._shared, happens)

    def steal(self) -> None:
        thief = KafkaDecisionExecutor(self.settings, None, "a thief")
        thief.acquire()
        thief.close()

    def consume(self, max_changes: int = ALL) -> None:
        at = self._shared
        at.source._max_records = max_changes

        def batch() -> bool:
            found = at.source.poll(0.5)
            if found is not None:
                outcome = at.line.process(found)
                at.publisher.begin(outcome.outputs, found)()
                at.line.commit_started(outcome)
                at.line.commit_finished(committed=True)
                at.consumed += len(found.messages)
            return found is not None

        while at.consumed < at.changes:
            until(batch, "a batch")
            if max_changes < ALL:
                return

    def records(self, topic: str) -> Sequence[Message]:
        return self._shared.stage.read(topic, 0)


class _Disturbed(KafkaDecisionExecutor):
    """A real desk at which something happens before it settles."""

    def __init__(self, shared_kafka: SharedKafka, happens: Callable[[], None]) -> None:
        super().__init__(shared_kafka.settings, None, "a test")
        self._shared = shared_kafka
        self._happens = happens

    def execute(self, planned: Sequence[PlannedAction]) -> ExecutionResult:
        self._happens()
        result = super().execute(planned)
        if result.committed:
            self._shared.changes += sum(each.output is not None for each in planned)
        return result
