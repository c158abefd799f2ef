"""A broker in memory, with the source and the publisher that pass the same suite as the real ones
(tests/contract).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from consumer.dead_letters.audit import Decision, DecisionIndex, decode_decision
from consumer.dead_letters.current_scores import CurrentScores
from consumer.dead_letters.executor import ExecutionResult, LagSnapshot
from consumer.dead_letters.planner import PlannedAction
from leadstream.errors import Fenced
from leadstream.kafka.acknowledged import Sources
from leadstream.kafka.batch import Batch, ClosedBy, Message, Output, Partition
from leadstream.kafka.config import Headers, Record
from leadstream.kafka.publisher import FinishCommit
from leadstream.kafka.topics import Topics
from schemas.codec import Reader, Writer


class ManualClock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class FakeMessage:
    """A record as confluent-kafka presents it."""

    topic_: str = "crm.lead-changes"
    partition_: int = 0
    offset_: int = 0
    key_: bytes | None = None
    value_: bytes | None = None
    headers_: Headers | None = None
    timestamp_: int | None = 1_700_000_000_000

    def topic(self) -> str:
        return self.topic_

    def partition(self) -> int:
        return self.partition_

    def offset(self) -> int:
        return self.offset_

    def key(self) -> bytes | None:
        return self.key_

    def value(self) -> bytes | None:
        return self.value_

    def headers(self) -> Headers | None:
        return self.headers_

    def timestamp(self) -> tuple[int, int]:
        return (0, -1) if self.timestamp_ is None else (1, self.timestamp_)


@dataclass(slots=True)
class MemoryBroker:
    """Topics of one partition each, the committed offsets of each group, its clock, and who may
    decide letters.
    """

    records: dict[str, list[FakeMessage]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[tuple[str, str], int] = field(default_factory=dict)
    now: int = 1_700_000_000_000
    executor: object = None

    def append(self, output: Output) -> None:
        log = self.records[output.topic]
        timestamp = self.now if output.timestamp is None else output.timestamp
        log.append(
            FakeMessage(
                output.topic, 0, len(log), output.key, output.value, output.headers, timestamp
            )
        )


class MemorySource:
    """The only member of its group, so it owns every partition."""

    def __init__(
        self, broker: MemoryBroker, group: str, topics: list[str], max_records: int = 2000
    ) -> None:
        self._broker = broker
        self.group = group
        self._max_records = max_records
        self._positions = {topic: broker.committed.get((group, topic), 0) for topic in topics}

    def poll(self, timeout: float) -> Batch | None:
        messages: list[Message] = []
        for topic, position in self._positions.items():
            fresh = self._broker.records[topic][
                position : position + self._max_records - len(messages)
            ]
            messages += fresh
            self._positions[topic] += len(fresh)
        closed_by = ClosedBy.SIZE if len(messages) == self._max_records else ClosedBy.DRAIN
        return Batch.from_messages(messages, closed_by) if messages else None

    def rewind(self, batch: Batch) -> None:
        for (topic, _), offset in batch.first.items():
            self._positions[topic] = offset

    def idle(self, timeout: float) -> None:
        """Nothing to keep alive."""

    def assigned(self) -> frozenset[Partition]:
        return frozenset((topic, 0) for topic in self._positions)

    def lag(self) -> dict[Partition, int]:
        return {
            (topic, 0): len(self._broker.records[topic]) - position
            for topic, position in self._positions.items()
        }

    def close(self) -> None:
        self._positions = {}


class MemoryPublisher:
    """Appends and commits in one step, as a transaction does."""

    def __init__(self, broker: MemoryBroker, source: MemorySource) -> None:
        self._broker = broker
        self._source = source

    def open(self) -> None:
        """Always ready."""

    def topic_problem(self, topic: str) -> str | None:
        """Every topic is there."""
        return None

    def begin(
        self, outputs: Iterable[Record], batch: Batch, sources: Sources | None = None
    ) -> FinishCommit:
        return lambda: self.commit(outputs, batch)

    def commit(self, outputs: Iterable[Record], batch: Batch) -> None:
        """The end of a batch: what a test overrides."""
        for record in outputs:
            self._broker.append(Output._make(record))
        for (topic, _), offset in batch.next.items():
            self._broker.committed[self._source.group, topic] = offset

    def close(self) -> None:
        """Nothing is left over."""


class MemoryDecisionExecutor:
    """Decides letters in one step.

    `arrives` is called before each record: what it appends stands before that one.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        group: str,
        topics: Topics,
        arrives: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._group = group
        self._topics = topics
        self._arrives = arrives
        self._decisions, self._predictions = Writer("TriageDecision"), Reader("LeadPrediction")
        self._read = self._seen = 0
        self.decided = DecisionIndex(topics.dead_letters)
        self.scores = CurrentScores((), self._predictions)

    def acquire(self) -> None:
        self._broker.executor = self
        for message in self._broker.records[self._topics.dead_letter_audit]:
            self.decided.add(
                decode_decision(message, Reader("TriageDecision")), 0, message.value() or b""
            )

    def track(self, leads: Collection[bytes]) -> None:
        self.scores, self._read = CurrentScores(leads, self._predictions), 0

    def refresh(self, max_records: int) -> LagSnapshot:
        committed = self._broker.committed.get((self._group, self._topics.lead_changes), 0)
        changes = self._broker.records[self._topics.lead_changes]
        self._seen = len(changes)
        waiting = [
            message.key() or b"" for message in changes[committed : committed + max_records + 1]
        ]
        predictions = self._broker.records[self._topics.lead_predictions]
        for message in predictions[self._read :] if len(waiting) <= max_records else ():
            self.scores.add(message)
            self._read += 1
        return LagSnapshot(len(waiting), frozenset(waiting), committed)

    def execute(self, planned: Sequence[PlannedAction]) -> ExecutionResult:
        assert all(self.decided.get(each.letter.id) is None for each in planned)
        changes = self._broker.records[self._topics.lead_changes]
        start, overtaken = len(changes), set()
        mixed = changes[start:]
        for each in sorted(
            (each for each in planned if each.output), key=lambda each: each.version
        ):
            before = len(changes)
            self._arrives()
            mixed += changes[before:]
            assert each.output is not None
            if each.output.topic == self._topics.lead_changes:
                if any(message.key() == each.letter.key for message in changes[self._seen :]):
                    overtaken.add(each.letter.id)
                message = FakeMessage(each.output.topic, 0, 0, each.output.key, each.output.value)
                timestamp = (
                    self._broker.now if each.output.timestamp is None else each.output.timestamp
                )
                mixed.append(replace(message, headers_=each.output.headers, timestamp_=timestamp))
        if self._broker.executor is not self:
            raise Fenced("somebody else took the desk")
        if overtaken:
            return ExecutionResult(frozenset(overtaken))
        changes[start:] = [
            replace(message, offset_=start + place) for place, message in enumerate(mixed)
        ]
        for each in planned:
            if each.output and each.output.topic != self._topics.lead_changes:
                self._broker.append(each.output)
            self._decide(each)
        return ExecutionResult()

    def _decide(self, planned: PlannedAction) -> None:
        topic, letter = self._topics.dead_letters, planned.letter.id
        head = self.decided.heads.get(0, "")
        fields = (planned.action, "memory", self._broker.now, planned.comment, planned.patch)
        decision = Decision(topic, letter, *fields, head)
        output = decision.output(self._topics.dead_letter_audit, self._decisions)
        self._broker.append(output)
        self.decided.add(decision, 0, output.value or b"")

    def close(self) -> None:
        """Nothing is left over."""
