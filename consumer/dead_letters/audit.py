"""The audit topic: one record for each decided letter, with the hash of the decision before it.

A letter is decided once, so no key occurs twice and compaction removes nothing. The hash chain of a
partition reveals a decision that was altered, removed or inserted. The chain cannot reveal a
removed tail: to detect that, keep the heads that `verify` reports.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from consumer.dead_letters.letters import LetterId
from leadstream.errors import Poison, UserError
from leadstream.kafka.batch import Message, Output
from leadstream.kafka.topic_reader import TopicOffsets, TopicReader
from leadstream.settings import Settings
from schemas.codec import Reader, Writer
from schemas.registry import Registry


class Action(StrEnum):
    """The decision on a letter."""

    REPLAYED = "REPLAYED"
    DISCARDED = "DISCARDED"
    SUPERSEDED = "SUPERSEDED"
    PARKED = "PARKED"


@dataclass(frozen=True, slots=True)
class Decision:
    """A record of the audit topic; `decided_at` is milliseconds UTC, `patch` a JSON merge patch."""

    topic: str
    letter: LetterId
    action: Action
    decided_by: str
    decided_at: int
    comment: str | None
    patch: str | None
    previous_hash: str

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Decision":
        """Return the decision of a decoded TriageDecision."""
        place = record["letter"]
        return cls(
            place["topic"],
            LetterId(place["partition"], place["offset"]),
            Action(record["action"]),
            record["decided_by"],
            record["decided_at"],
            record["because"],
            record["patch"],
            record["previous_hash"],
        )

    def to_record(self) -> dict[str, Any]:
        """Return the TriageDecision to encode."""
        return {
            "letter": {
                "topic": self.topic,
                "partition": self.letter.partition,
                "offset": self.letter.offset,
            },
            "action": self.action.value,
            "decided_by": self.decided_by,
            "decided_at": self.decided_at,
            "because": self.comment,
            "patch": self.patch,
            "previous_hash": self.previous_hash,
        }

    def output(self, audit_topic: str, writer: Writer) -> Output:
        """Return the record for the audit topic. Raises Transient."""
        return Output(audit_topic, str(self.letter).encode(), writer.encode(self.to_record()))


def value_hash(value: bytes) -> str:
    """Return the link of the hash chain: SHA-256 of the value, in hexadecimal."""
    return hashlib.sha256(value).hexdigest()


def partition_for(letter: LetterId, partitions: int) -> int:
    """Return the audit partition of a letter.

    The partition is explicit, so that the executor knows which chain it extends.
    """
    return letter.partition % partitions


@dataclass(slots=True)
class DecisionIndex:
    """The decisions on the letters of a topic.

    `heads` has the hash of the last decision of each audit partition.
    """

    topic: str
    actions: dict[int, dict[int, Action]] = field(default_factory=dict)
    heads: dict[int, str] = field(default_factory=dict)

    def get(self, letter: LetterId) -> Action | None:
        """Return the decision on a letter, or None while the letter is open."""
        return self.actions.get(letter.partition, {}).get(letter.offset)

    def add(self, decision: Decision, partition: int, value: bytes) -> None:
        """Add the next decision of an audit partition, with the bytes of its value."""
        self.heads[partition] = value_hash(value)
        if decision.topic == self.topic:
            self.actions.setdefault(decision.letter.partition, {})[decision.letter.offset] = (
                decision.action
            )


class AuditLog:
    """A reader of the committed decisions, which continues where its last read ended."""

    def __init__(
        self, settings: Settings, registry: Registry | None, cluster: TopicOffsets
    ) -> None:
        self.topic = settings.topics.dead_letter_audit
        self._log = TopicReader(settings, self.topic)
        self._reader = Reader("TriageDecision", registry)
        self._cluster = cluster

    def partitions(self) -> list[int]:
        """Return the partitions of the audit topic. Raises UserError if the topic is missing."""
        return self._log.partitions()

    def new_messages(self) -> Iterator[Message]:
        """Yield the unread messages up to the present end."""
        partitions = self.partitions()
        starts = {partition: self._log.position.get(partition, 0) for partition in partitions}
        yield from self._log.read(starts, self._cluster.ends(self.topic, partitions))

    def new_decisions(self) -> Iterator[tuple[Message, Decision]]:
        """Yield the unread messages with their decisions.

        Raises UserError for a record that is not a decision: it could hide a decision on any
        letter.
        """
        for message in self.new_messages():
            yield message, decode_decision(message, self._reader)

    def update(self, index: DecisionIndex) -> None:
        """Bring an index up to date."""
        for message, decision in self.new_decisions():
            index.add(decision, message.partition(), message.value() or b"")

    def verify(self) -> "AuditReport":
        """Check every chain. Call it on a log that has read nothing."""
        return verify(self.new_messages(), self._reader)

    def close(self) -> None:
        """Close the connection."""
        self._log.close()


def decode_decision(message: Message, reader: Reader) -> Decision:
    """Return the decision of an audit record. Raises UserError if it has none, and Transient."""
    value = message.value()
    try:
        if value is not None:
            return Decision.from_record(reader.decode(value))
        why = "it has no value"
    except Poison as poison:
        why = poison.detail
    raise UserError(
        f"{message.topic()} has a record at {message.partition()}-{message.offset()} "
        f"that is not a decision ({why}); "
        "`leadstream dead-letters audit verify` lists everything that is wrong in the topic"
    )


@dataclass(slots=True)
class AuditReport:
    """The result of `verify`: decisions by action, the head of each partition, and every break."""

    actions: Counter[Action] = field(default_factory=Counter)
    heads: dict[int, str] = field(default_factory=dict)
    breaks: list[str] = field(default_factory=list)

    @property
    def decisions(self) -> int:
        """Return the number of decisions."""
        return self.actions.total()


def verify(messages: Iterable[Message], reader: Reader) -> AuditReport:
    """Follow the chain of each audit partition from its first record to its last."""
    report, seen = AuditReport(), set[tuple[str, LetterId]]()
    for message in messages:
        place = f"{message.partition()}-{message.offset()}"
        value = message.value()
        try:
            decision = decode_decision(message, reader)
        except UserError as error:
            report.breaks.append(str(error).partition(";")[0])
            report.heads[message.partition()] = value_hash(value or b"")
            continue
        if decision.previous_hash != report.heads.get(message.partition(), ""):
            report.breaks.append(
                f"the decision at {place} (on letter {decision.letter}) does not follow the "
                "decision before it: a decision was altered, removed or inserted"
            )
        if message.key() != str(decision.letter).encode():
            report.breaks.append(
                f"the decision at {place} is on letter {decision.letter}, but has another key"
            )
        if (decision.topic, decision.letter) in seen:
            report.breaks.append(
                f"letter {decision.letter} was decided twice, the second time at {place}"
            )
        seen.add((decision.topic, decision.letter))
        report.actions[decision.action] += 1
        report.heads[message.partition()] = value_hash(value or b"")
    return report
