"""The audit topic: one record for each letter that was decided on, each naming the hash of the one before it.

A letter is decided once, so no key is written twice and compaction takes nothing away. The chain of a partition shows
a decision that was altered, taken out or put in later. What it cannot show is an end that was cut off: whoever keeps
the heads that `verify` tells can.
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
from leadstream.kafka.topic_reader import Cluster, Log
from leadstream.settings import Settings
from schemas.codec import Reader, Writer
from schemas.registry import Registry


class Action(StrEnum):
    """What was decided on a letter."""

    REPLAYED = "REPLAYED"
    DISCARDED = "DISCARDED"
    SUPERSEDED = "SUPERSEDED"
    PARKED = "PARKED"


@dataclass(frozen=True, slots=True)
class Decision:
    """A record of the audit topic. `decided_at` is milliseconds UTC; `patch` is a JSON merge patch."""

    topic: str
    letter: LetterId
    action: Action
    decided_by: str
    decided_at: int
    because: str | None
    patch: str | None
    previous_hash: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Decision":
        """The decision in a decoded TriageDecision."""
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

    def record(self) -> dict[str, Any]:
        """The TriageDecision to encode."""
        return {
            "letter": {
                "topic": self.topic,
                "partition": self.letter.partition,
                "offset": self.letter.offset,
            },
            "action": self.action.value,
            "decided_by": self.decided_by,
            "decided_at": self.decided_at,
            "because": self.because,
            "patch": self.patch,
            "previous_hash": self.previous_hash,
        }

    def output(self, audit_topic: str, writer: Writer) -> Output:
        """Its record in the audit topic. Raises Transient."""
        return Output(audit_topic, str(self.letter).encode(), writer.encode(self.record()))


def value_hash(value: bytes) -> str:
    """What the next decision of a partition calls this one: SHA-256 of the value's bytes, in hexadecimal."""
    return hashlib.sha256(value).hexdigest()


def partition_for(letter: LetterId, partitions: int) -> int:
    """The audit partition of a letter. Given explicitly, so that who decides knows which chain goes on."""
    return letter.partition % partitions


@dataclass(slots=True)
class Decided:
    """What was decided on the letters of a topic, and the hash of the last decision in each audit partition."""

    topic: str
    actions: dict[int, dict[int, Action]] = field(default_factory=dict)
    heads: dict[int, str] = field(default_factory=dict)

    def get(self, letter: LetterId) -> Action | None:
        """What became of a letter; None while it is open."""
        return self.actions.get(letter.partition, {}).get(letter.offset)

    def add(self, decision: Decision, partition: int, value: bytes) -> None:
        """Take in the next decision of an audit partition, and the bytes it has there."""
        self.heads[partition] = value_hash(value)
        if decision.topic == self.topic:
            self.actions.setdefault(decision.letter.partition, {})[decision.letter.offset] = (
                decision.action
            )


class AuditLog:
    """Reads the audit topic, as far as it is committed and on from where it was read before."""

    def __init__(self, settings: Settings, registry: Registry | None, cluster: Cluster) -> None:
        self.topic = settings.topics.dead_letter_audit
        self._log = Log(settings, self.topic)
        self._reader = Reader("TriageDecision", registry)
        self._cluster = cluster

    def partitions(self) -> list[int]:
        """The partitions of the audit topic. Raises UserError where it is not there."""
        return self._log.partitions()

    def messages(self) -> Iterator[Message]:
        """What was not read yet, up to the present end."""
        partitions = self.partitions()
        starts = {partition: self._log.position.get(partition, 0) for partition in partitions}
        yield from self._log.read(starts, self._cluster.ends(self.topic, partitions))

    def decisions(self) -> Iterator[tuple[Message, Decision]]:
        """The same, decoded. Raises UserError at what is no decision: then nothing may be decided on what it hides."""
        for message in self.messages():
            yield message, decision_in(message, self._reader)

    def follow(self, decided: Decided) -> None:
        """Bring `decided` up to the present."""
        for message, decision in self.decisions():
            decided.add(decision, message.partition(), message.value() or b"")

    def verify(self) -> "Verdict":
        """Check every chain; to be called on a log of which nothing was read."""
        return verify(self.messages(), self._reader)

    def close(self) -> None:
        """Give up the connection."""
        self._log.close()


def decision_in(message: Message, reader: Reader) -> Decision:
    """The decision in a record of the audit topic. Raises UserError where there is none, and Transient."""
    value = message.value()
    try:
        if value is not None:
            return Decision.of(reader.decode(value))
        why = "it has no value"
    except Poison as poison:
        why = poison.detail
    raise UserError(
        f"{message.topic()} has a record at {message.partition()}-{message.offset()} that is no decision ({why}); "
        "`leadstream dead-letters audit verify` shows all that is wrong in it"
    )


@dataclass(slots=True)
class Verdict:
    """What `verify` found: decisions by action, the head of each partition's chain, and each break in a sentence."""

    actions: Counter[Action] = field(default_factory=Counter)
    heads: dict[int, str] = field(default_factory=dict)
    breaks: list[str] = field(default_factory=list)

    @property
    def decisions(self) -> int:
        """How many decisions there are."""
        return self.actions.total()


def verify(messages: Iterable[Message], reader: Reader) -> Verdict:
    """Follow the chain of each audit partition from its first record to its last."""
    verdict, seen = Verdict(), set[tuple[str, LetterId]]()
    for message in messages:
        place = f"{message.partition()}-{message.offset()}"
        value = message.value()
        try:
            decision = decision_in(message, reader)
        except UserError as error:
            verdict.breaks.append(str(error).partition(";")[0])
            verdict.heads[message.partition()] = value_hash(value or b"")
            continue
        if decision.previous_hash != verdict.heads.get(message.partition(), ""):
            verdict.breaks.append(
                f"the decision at {place} (on letter {decision.letter}) does not follow the one before it: "
                "one was altered, taken out or put in"
            )
        if message.key() != str(decision.letter).encode():
            verdict.breaks.append(
                f"the decision at {place} has the key of another letter than {decision.letter}"
            )
        if (decision.topic, decision.letter) in seen:
            verdict.breaks.append(
                f"letter {decision.letter} was decided twice, the second time at {place}"
            )
        seen.add((decision.topic, decision.letter))
        verdict.actions[decision.action] += 1
        verdict.heads[message.partition()] = value_hash(value or b"")
    return verdict
