"""The executor of decisions: one writer at a time, one transaction for decisions and their records.

Why each letter is decided exactly once:

1. All executors share one transactional id. `acquire` initializes it. The brokers then fence the
   previous executor: they abort its open transaction or finish the one that it was committing.
2. `acquire` then reads the audit topic to its end. No other executor can append to it before it
   acquires the id itself. A letter without a decision in the topic is therefore open. The same
   holds for the chain of hashes of every audit partition.
3. `execute` writes replayed records and decisions in one transaction. If another executor acquired
   the id in the meantime, the brokers refuse the commit and nothing happened. If the answer to a
   commit is lost, the next `acquire` finds out.

Why an old state does not come back. The consumers remember the versions of some leads only, and
some changes have no version. A replayed change must therefore not follow a newer change of its lead
that is missing from the scores. Kafka has no conditional append, so the executor appends first and
checks afterwards:

4. `refresh` reads the committed offsets of the consumers, then the changes after these offsets,
   then the scores. In this order, a change that is not pending is in the scores. Letters of leads
   with a pending change wait.
5. `execute` appends inside its transaction, where no consumer sees the records. It then reads what
   arrived in front of each appended record since `refresh`. If it finds a change of the same lead,
   it aborts the transaction and the letter waits. A change that arrives later is processed later,
   too.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message

from consumer.dead_letters.audit import AuditLog, Decision, DecisionIndex, partition_for
from consumer.dead_letters.current_scores import CurrentScores
from consumer.dead_letters.letters import LetterId
from consumer.dead_letters.planner import PlannedAction
from leadstream.deadline import Deadline
from leadstream.error_table import About, about_kafka
from leadstream.errors import Fenced, UserError, error_text
from leadstream.kafka.config import producer_config
from leadstream.kafka.health import describe_error
from leadstream.kafka.topic_reader import TopicOffsets, TopicReader
from leadstream.kafka.transaction import PURGED, TransactionalProducer
from leadstream.log import client_logger
from leadstream.settings import Settings
from schemas.codec import Reader, Writer
from schemas.registry import Registry

FLUSH_SECONDS = 0.1
MAX_BYTES, BATCH_BYTES = 256 * 1024 * 1024, 16 * 1024
ACQUIRE_SECONDS = 30.0
EXECUTE_SECONDS = 8.0


# Reported for records that were not the ones that the brokers refused.
_OTHERS = PURGED | {KafkaError._INVALID_DIFFERENT_RECORD}


@dataclass(frozen=True, slots=True)
class LagSnapshot:
    """The backlog of the consumers: the number of changes and their keys.

    Both are cut at one change more than the limit of the caller. `committed` is the sum of the
    committed offsets, which rises whenever the consumers make progress.
    """

    lag: int
    waiting: frozenset[bytes]
    committed: int


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """The result of one transaction, which was committed if both collections are empty.

    `overtaken` has the letters whose lead got another change in front of the replayed record.
    `refused` has the letters whose record the brokers do not accept, with the reason.
    """

    overtaken: frozenset[LetterId] = frozenset()
    refused: dict[LetterId, str] = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        """Return whether the transaction was committed."""
        return not self.overtaken and not self.refused


class DecisionExecutor(Protocol):
    """The single writer of decisions.

    `decided` is up to date after `acquire`, `scores` after `refresh`.
    """

    decided: DecisionIndex
    scores: CurrentScores

    def acquire(self) -> None:
        """Become the only executor, and read the decisions of all others.

        Raises UserError, and Transient if the brokers do not answer.
        """

    def track(self, leads: Collection[bytes]) -> None:
        """Select the leads whose scores `refresh` keeps."""

    def refresh(self, max_lag: int) -> LagSnapshot:
        """Return the backlog of the consumers; update the scores unless it exceeds `max_lag`."""

    def execute(self, planned: Sequence[PlannedAction]) -> ExecutionResult:
        """Execute all planned actions or none.

        Raises Fenced if another executor took over or the result of the commit is unknown.
        """

    def close(self) -> None:
        """Release the connections."""


class KafkaDecisionExecutor:
    """The executor on real brokers; `decided_by` goes into the decisions."""

    def __init__(self, settings: Settings, registry: Registry | None, decided_by: str) -> None:
        topics = settings.topics
        self.decided = DecisionIndex(topics.dead_letters)
        self.scores = CurrentScores((), Reader("LeadPrediction", registry))
        self._registry = registry
        self._topics = topics
        self._decided_by = decided_by
        self._cluster = TopicOffsets(settings)
        self._audit = AuditLog(settings, registry, self._cluster)
        self._writer = Writer("TriageDecision", registry, topics.dead_letter_audit)
        self._predictions = TopicReader(settings, topics.lead_predictions)
        self._changes = TopicReader(settings, topics.lead_changes)
        self._uncommitted_changes = TopicReader(settings, topics.lead_changes, committed=False)
        self._config: dict[str, Any] = producer_config(settings, transactional=True) | {
            "transactional.id": f"leadstream-triage-{topics.dead_letter_audit}",
            "logger": client_logger(),
            # An original may be larger than a dead letter. A batch of several records must fit
            # into any topic: its refusal would not say which of them is too large.
            "message.max.bytes": MAX_BYTES,
            "batch.size": BATCH_BYTES,
        }
        self._producer: TransactionalProducer | None = None
        self._denied: str | None = None
        self._partitions = 0

    def acquire(self) -> None:
        self._writer.open()
        self._partitions = len(self._audit.partitions())
        if self._producer is not None:
            self._producer.close()
            self._producer = None
        producer = TransactionalProducer(
            self._config, granted_id=self._config["transactional.id"], report_all=True
        )
        producer.open(
            "without them a letter could be decided twice; letters can be viewed and exported "
            "here, but not decided",
            ACQUIRE_SECONDS,
        )
        self._producer = producer
        self._audit.update(self.decided)

    def track(self, leads: Collection[bytes]) -> None:
        self.scores = CurrentScores(leads, Reader("LeadPrediction", self._registry))
        self._predictions.position.clear()

    def refresh(self, max_lag: int) -> LagSnapshot:
        partitions = self._changes.partitions()
        committed = self._cluster.committed(self._topics.lead_changes, partitions)
        total, keys = sum(committed.values()), list[bytes]()
        for message in self._changes.read(
            {partition: committed.get(partition, 0) for partition in partitions}
        ):
            keys.append(message.key() or b"")
            if len(keys) > max_lag:
                return LagSnapshot(len(keys), frozenset(keys), total)
        partitions = self._predictions.partitions()
        starts = {
            partition: self._predictions.position.get(partition, 0) for partition in partitions
        }
        # Predictions can become visible after the offsets of their transaction. So read to the ends
        # of all records, committed or not, and wait for them.
        for message in self._predictions.read(
            starts, self._cluster.ends(self._topics.lead_predictions, partitions)
        ):
            self.scores.add(message)
        return LagSnapshot(len(keys), frozenset(keys), total)

    def execute(self, planned: Sequence[PlannedAction]) -> ExecutionResult:
        """Execute planned actions in one transaction.

        1. Begin a transaction.
        2. Append the replayed records, and learn their offsets.
        3. Read what arrived in front of them since `refresh`. Abort if it has a change of the same
           lead.
        4. Append the decisions, each with the hash of the decision before it.
        5. Commit. All records become visible together, or none does.
        """
        producer = self._producer
        if producer is None:
            raise Fenced("this executor was not acquired")
        if any(self.decided.get(each.letter.id) is not None for each in planned):
            raise AssertionError("a letter would be decided twice")
        deadline = Deadline.after(EXECUTE_SECONDS)
        # The newest letter of a lead comes last, because the consumers keep what they process last.
        ordered = sorted((each for each in planned if each.output), key=lambda each: each.version)
        try:
            producer.begin()
            places, refused = _append(producer, ordered, deadline, self._deny)
            overtaken = self._overtaken(ordered, places) if not refused else frozenset[LetterId]()
            if refused or overtaken:
                producer.abort(Deadline.after(EXECUTE_SECONDS))
                return ExecutionResult(overtaken, refused)
            written = self._decide(producer, planned, deadline)
            producer.commit(deadline)
        except KafkaException as error:
            self._deny(error.args[0], None)
            if self._denied is not None:
                raise UserError(self._denied) from None
            raise Fenced(error_text(error)) from error
        for partition, decision, value in written:
            self.decided.add(decision, partition, value)
        return ExecutionResult()

    def close(self) -> None:
        for reader in (self._audit, self._predictions, self._changes, self._uncommitted_changes):
            reader.close()
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def _deny(self, error: KafkaError | None, message: Message | None) -> None:
        """Keep the error of a delivery report that names a missing permission."""
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._denied = (
                describe_error(error, "Write", str(message.topic()))
                if message
                else error_text(error)
            )

    def _overtaken(
        self, planned: Sequence[PlannedAction], places: dict[LetterId, tuple[str, int, int]]
    ) -> frozenset[LetterId]:
        """Return the letters whose lead has a change in front of their record, since `refresh`."""
        ours = {
            place[1:]: each
            for each in planned
            if (place := places[each.letter.id])[0] == self._topics.lead_changes
        }
        if not ours:
            return frozenset()
        ends: dict[int, int] = {}
        for partition, offset in ours:
            ends[partition] = max(ends.get(partition, 0), offset)
        starts = {partition: self._changes.position.get(partition, 0) for partition in ends}
        arrived = [
            (message.partition(), message.key(), message.offset())
            for message in self._uncommitted_changes.read(starts, ends)
            if message.key() is not None and (message.partition(), message.offset()) not in ours
        ]
        return frozenset(
            each.letter.id
            for (partition, offset), each in ours.items()
            if any(
                p == partition and key == each.letter.key and arrived_at < offset
                for p, key, arrived_at in arrived
            )
        )

    def _decide(
        self, producer: TransactionalProducer, planned: Sequence[PlannedAction], deadline: Deadline
    ) -> list[tuple[int, Decision, bytes]]:
        heads, written = dict(self.decided.heads), []
        shadow = DecisionIndex(self.decided.topic, heads=heads)
        for item in planned:
            letter = item.letter.id
            partition = partition_for(letter, self._partitions)
            decision = Decision(
                self._topics.dead_letters,
                letter,
                item.action,
                self._decided_by,
                time.time_ns() // 1_000_000,
                item.comment,
                item.patch,
                heads.get(partition, ""),
            )
            output = decision.output(self._topics.dead_letter_audit, self._writer)
            value = output.value or b""
            producer.produce([output], deadline, partition=partition, on_delivery=self._deny)
            shadow.add(decision, partition, value)
            written.append((partition, decision, value))
        return written


def _append(
    producer: TransactionalProducer,
    planned: Sequence[PlannedAction],
    deadline: Deadline,
    deny: Callable[[KafkaError, Message], None],
) -> tuple[dict[LetterId, tuple[str, int, int]], dict[LetterId, str]]:
    """Produce the records; return their places and the refusals, by letter.

    A place is topic, partition and offset.
    """
    places: dict[LetterId, tuple[str, int, int]] = {}
    refused: dict[LetterId, str] = {}

    def reporter(letter: LetterId) -> Any:
        def report(error: KafkaError | None, message: Message) -> None:
            if error is None:
                places[letter] = (
                    str(message.topic()),
                    int(message.partition() or 0),
                    int(message.offset() or 0),
                )
            elif error.code() in _OTHERS:
                pass
            elif about_kafka(error.code()) is About.RECORD:
                refused[letter] = error_text(error)
            else:
                deny(error, message)

        return report

    for item in planned:
        letter = item.letter.id
        assert item.output is not None  # noqa: S101 -- the caller selects items with one
        try:
            producer.produce([item.output], deadline, on_delivery=reporter(letter))
        except KafkaException as error:
            if about_kafka(error.args[0].code()) is not About.RECORD:
                raise
            refused[letter] = error_text(error)
    try:
        # After a refusal, the producer sends no other record before the transaction aborts.
        while len(places) < len(planned) and not refused and not deadline.expired:
            producer.client.flush(FLUSH_SECONDS)
    # CPython wraps a fatal error of the client between two delivery reports in a SystemError.
    except SystemError as error:
        raise KafkaException(KafkaError(KafkaError._FATAL, "the producer was fenced")) from error
    if not refused and len(places) < len(planned):
        raise KafkaException(
            KafkaError(KafkaError._TIMED_OUT, "the brokers did not acknowledge the records in time")
        )
    return places, refused
