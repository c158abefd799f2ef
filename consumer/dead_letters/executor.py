"""Where letters are decided: one writer at a time, and every decision in one transaction with what it sends.

Why a letter is decided exactly once:

1. Every desk has the same transactional id. `take` initialises it, which fences whoever had it before: his open
   transaction is aborted, one that was being committed is finished, and only then does the call return.
2. Then the audit topic is read to its end. Nobody else can add to it until he takes the desk himself, so what is not
   in it is open. That holds for every audit partition, whatever letters it is for, and so does the chain of hashes.
3. `settle` writes replayed records and decisions in one transaction. If somebody took the desk meanwhile, the commit
   is refused and nothing of it happened. If the answer to a commit is lost, taking the desk anew finds out.

Why an old state does not come back. The consumers remember versions, but not of every lead, and not every change has
one, so nothing here counts on that: a replayed change must not stand in its topic behind a newer one of its lead that
is not in the scores yet. Nobody can append on a condition, so `settle` appends first and looks then:

4. `look` asks how far the consumers have committed, which changes wait beyond that, and what the scores are, in this
   order: what is not waiting is in the scores. Letters of leads with a waiting change are put off.
5. `settle` appends within its transaction, where no consumer sees it, and reads what came into the partitions before
   each appended record since `look`. If a change of the same lead did, the transaction is aborted and that letter is
   put off; what comes later is processed later, too.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.dead_letters.audit import AuditLog, Decided, Decision, partition_for
from consumer.dead_letters.current_scores import Scores
from consumer.dead_letters.letters import LetterId
from consumer.dead_letters.planner import Verdict
from leadstream.errors import Fenced, Transient, UserError
from leadstream.kafka.config import MOCK_CLUSTER, config_error, produce, producer_config, retrying
from leadstream.kafka.permission import told
from leadstream.kafka.topic_reader import Cluster, Log
from leadstream.log import client_logger
from leadstream.settings import Settings
from schemas.codec import Reader, Writer
from schemas.registry import Registry

CALL_SECONDS = 2.0
FLUSH_SECONDS = 0.1
TAKE_SECONDS = 30.0
SETTLE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """How many changes the consumers have before them, and the keys of these; at most one more than was asked for.

    `committed` rises whenever they get on.
    """

    behind: int
    waiting: frozenset[bytes]
    committed: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What kept a transaction from being committed, by letter: nothing of it happened, unless both are empty.

    `crossed` are letters before whose record another change of the lead came in; `refused` those that no broker takes.
    """

    crossed: frozenset[LetterId] = frozenset()
    refused: dict[LetterId, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether it was committed."""
        return not self.crossed and not self.refused


class Desk(Protocol):
    """Decides letters. `decided` is up to date after `take`, `scores` after `look`."""

    decided: Decided
    scores: Scores

    def take(self) -> None:
        """Become the one who decides. Raises UserError, and Transient where the brokers do not answer."""

    def watch(self, leads: Collection[bytes]) -> None:
        """Which leads' scores `look` is to keep."""

    def look(self, most: int) -> Outlook:
        """See what the consumers have before them; the scores are brought up to date unless that is over `most`."""

    def settle(self, verdicts: Sequence[Verdict]) -> Settled:
        """Carry out all verdicts or none. Raises Fenced where somebody else took the desk or the outcome is unknown."""

    def close(self) -> None:
        """Leave it to others."""


class KafkaDesk:
    """The desk on real brokers. `decided_by` and `clock_ms` go into the decisions."""

    def __init__(self, settings: Settings, registry: Registry | None, decided_by: str) -> None:
        topics = settings.topics
        self.decided = Decided(topics.dead_letters)
        self.scores = Scores((), Reader("LeadPrediction", registry))
        self._registry = registry
        self._topics = topics
        self._decided_by = decided_by
        self._cluster = Cluster(settings)
        self._audit = AuditLog(settings, registry, self._cluster)
        self._writer = Writer("TriageDecision", registry, topics.dead_letter_audit)
        self._predictions = Log(settings, topics.lead_predictions)
        self._changes = Log(settings, topics.lead_changes)
        self._arrived = Log(settings, topics.lead_changes, committed=False)
        self._config: dict[str, Any] = producer_config(settings, transactional=True) | {
            "transactional.id": f"leadstream-triage-{topics.dead_letter_audit}",
            "logger": client_logger(),
        }
        self._producer: Producer | None = None
        self._denied: str | None = None
        self._partitions = 0

    def take(self) -> None:
        self._writer.open()
        self._partitions = len(self._audit.partitions())
        if self._producer is not None:
            self._producer.purge()
        self._producer = _producer(self._config)
        self._audit.follow(self.decided)

    def watch(self, leads: Collection[bytes]) -> None:
        self.scores = Scores(leads, Reader("LeadPrediction", self._registry))
        self._predictions.position.clear()

    def look(self, most: int) -> Outlook:
        partitions = self._changes.partitions()
        committed = self._cluster.committed(self._topics.lead_changes, partitions)
        total, keys = sum(committed.values()), list[bytes]()
        for message in self._changes.read(
            {partition: committed.get(partition, 0) for partition in partitions}
        ):
            keys.append(message.key() or b"")
            if len(keys) > most:
                return Outlook(len(keys), frozenset(keys), total)
        partitions = self._predictions.partitions()
        starts = {
            partition: self._predictions.position.get(partition, 0) for partition in partitions
        }
        # Of a transaction whose offsets are committed the predictions may still be about to become visible: the ends
        # are those of all records, and are waited for.
        for message in self._predictions.read(
            starts, self._cluster.ends(self._topics.lead_predictions, partitions)
        ):
            self.scores.add(message)
        return Outlook(len(keys), frozenset(keys), total)

    def settle(self, verdicts: Sequence[Verdict]) -> Settled:
        """Carry out verdicts:

        1. Begin a transaction.
        2. Append the records that go back, and learn where they stand.
        3. Read what stands before them since `look`; if it is a change of the same lead, abort.
        4. Append the decisions, each with the hash of the one before.
        5. Commit: all of it becomes visible together, or nothing does.
        """
        producer = self._producer
        if producer is None:
            raise Fenced("the desk was not taken")
        if any(self.decided.get(each.letter.id) is not None for each in verdicts):
            raise AssertionError("a letter would be decided twice")
        deadline = time.monotonic() + SETTLE_SECONDS
        # Of a lead's letters the newest comes last: what the consumers process last is what stays.
        ordered = sorted((each for each in verdicts if each.output), key=lambda each: each.version)
        try:
            producer.begin_transaction()
            places, refused = _append(producer, ordered, deadline, self._deny)
            crossed = self._crossed(ordered, places) if not refused else frozenset[LetterId]()
            if refused or crossed:
                producer.abort_transaction(SETTLE_SECONDS)
                return Settled(crossed, refused)
            written = self._decide(producer, verdicts, deadline)
            retrying(lambda: producer.commit_transaction(CALL_SECONDS), deadline)
        except KafkaException as error:
            self._deny(error.args[0], None)
            if self._denied is not None:
                raise UserError(self._denied) from None
            raise Fenced(error.args[0].str()) from error
        for partition, decision, value in written:
            self.decided.add(decision, partition, value)
        return Settled()

    def close(self) -> None:
        for log in (self._audit, self._predictions, self._changes, self._arrived):
            log.close()
        if self._producer is not None:
            self._producer.purge()
            self._producer = None

    def _deny(self, error: KafkaError | None, message: Message | None) -> None:
        """Keep what a report says of a permission that is missing."""
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._denied = told(error, "Write", str(message.topic())) if message else error.str()

    def _crossed(
        self, verdicts: Sequence[Verdict], places: dict[LetterId, tuple[str, int, int]]
    ) -> frozenset[LetterId]:
        """The letters whose lead has another change before their record, after what `look` has seen."""
        ours = {
            place[1:]: each
            for each in verdicts
            if (place := places[each.letter.id])[0] == self._topics.lead_changes
        }
        if not ours:
            return frozenset()
        ends: dict[int, int] = {}
        for partition, offset in ours:
            ends[partition] = max(ends.get(partition, 0), offset)
        starts = {partition: self._changes.position.get(partition, 0) for partition in ends}
        earlier = [
            (message.partition(), message.key(), message.offset())
            for message in self._arrived.read(starts, ends)
            if message.key() is not None and (message.partition(), message.offset()) not in ours
        ]
        return frozenset(
            each.letter.id
            for (partition, offset), each in ours.items()
            if any(
                p == partition and key == each.letter.key and before < offset
                for p, key, before in earlier
            )
        )

    def _decide(
        self, producer: Producer, verdicts: Sequence[Verdict], deadline: float
    ) -> list[tuple[int, Decision, bytes]]:
        heads, written = dict(self.decided.heads), []
        shadow = Decided(self.decided.topic, heads=heads)
        for verdict in verdicts:
            letter = verdict.letter.id
            partition = partition_for(letter, self._partitions)
            decision = Decision(
                self._topics.dead_letters,
                letter,
                verdict.action,
                self._decided_by,
                time.time_ns() // 1_000_000,
                verdict.because,
                verdict.patch,
                heads.get(partition, ""),
            )
            output = decision.output(self._topics.dead_letter_audit, self._writer)
            value = output.value or b""
            produce(producer, [output], deadline, partition=partition, on_delivery=self._deny)
            shadow.add(decision, partition, value)
            written.append((partition, decision, value))
        return written


def _producer(config: dict[str, Any]) -> Producer:
    """A producer that has fenced all others of its id."""
    try:
        producer = Producer(config)
    except KafkaException as error:
        raise config_error(error) from None
    try:
        if str(producer.list_topics(timeout=TAKE_SECONDS).cluster_id or "").startswith(
            MOCK_CLUSTER
        ):
            raise UserError(
                "this broker has no transactions (it is librdkafka's mock cluster), and without them a letter could be "
                "decided twice: letters can be looked at and exported here, but not decided"
            )
    except KafkaException as error:
        raise Transient("brokers", error.args[0].str()) from error
    deadline = time.monotonic() + TAKE_SECONDS
    while True:
        try:
            # In short calls: Python hears of Ctrl-C only between them.
            producer.init_transactions(CALL_SECONDS)
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                why = told(error.args[0], "Write", config["transactional.id"])
                raise Transient("brokers", f"no transaction coordinator: {why}") from error
        else:
            return producer


def _append(
    producer: Producer,
    verdicts: Sequence[Verdict],
    deadline: float,
    deny: Callable[[KafkaError, Message], None],
) -> tuple[dict[LetterId, tuple[str, int, int]], dict[LetterId, str]]:
    """Write the records; where each stands now (topic, partition, offset), and which were refused and why."""
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
            elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                refused[letter] = error.str()
            else:
                deny(error, message)

        return report

    for verdict in verdicts:
        letter = verdict.letter.id
        assert verdict.output is not None  # noqa: S101 -- the caller has chosen those with one
        try:
            produce(producer, [verdict.output], deadline, on_delivery=reporter(letter))
        except KafkaException as error:
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            refused[letter] = error.args[0].str()
    try:
        # Once one is refused, the others do not leave before the transaction is aborted.
        while len(places) < len(verdicts) and not refused and time.monotonic() < deadline:
            producer.flush(FLUSH_SECONDS)
    except (
        SystemError
    ) as error:  # so Python calls a fatal error that the client raises between two reports
        raise KafkaException(KafkaError(KafkaError._FATAL, "the producer was fenced")) from error
    if not refused and len(places) < len(verdicts):
        raise KafkaException(
            KafkaError(KafkaError._TIMED_OUT, "the brokers did not acknowledge the records in time")
        )
    return places, refused
