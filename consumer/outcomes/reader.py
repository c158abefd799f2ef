"""Predictions and outcomes, read from their topics into the ledger."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

from leadstream.budgets import POLL_SECONDS
from leadstream.deadline import Deadline
from leadstream.errors import Poison, Reason, UserError
from leadstream.kafka.batch import Message
from leadstream.kafka.health import CREATE_TOPICS
from leadstream.kafka.topic_follower import TopicFollower
from leadstream.kafka.topics import Topics
from leadstream.lead_fields import END_TIME_MS, MIN_TIME_MS
from leadstream.log import configure
from leadstream.settings import Settings
from models.monitor.ledger import (
    DAY_MS,
    HorizonDaysOf,
    LabeledPrediction,
    LearnedUntilOf,
    Ledger,
    PublishedPrediction,
    known_at,
    read_horizon,
    read_learned_until,
)
from models.registry.versions import ModelRegistry
from schemas.codec import Reader
from schemas.registry import Registry

SILENT_SECONDS = 30.0
# A sender with a wrong clock must not make every prediction mature.
AHEAD_MS = DAY_MS


class OutcomeReader:
    """A reader of the records of three topics: predictions, shadow predictions and outcomes.

    `ledger` joins them; `records` counts the records of each topic.
    """

    def __init__(
        self,
        topics: Topics,
        horizon_days_of: HorizonDaysOf,
        registry: Registry | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.ledger = Ledger(horizon_days_of)
        self.records: Counter[str] = Counter()
        self._topics = topics
        self._predictions = Reader("LeadPrediction", registry)
        self._outcomes = Reader("LeadOutcome", registry)
        self._clock_ms = clock_ms

    def prepare(self, messages: Iterable[Message]) -> None:
        """Ask the registry for the schemas that these records name, several at a time.

        Raises Transient if it does not answer.
        """
        values: dict[bool, list[bytes | None]] = {True: [], False: []}
        for message in messages:
            values[message.topic() == self._topics.lead_outcomes].append(message.value())
        self._outcomes.prepare(values[True])
        self._predictions.prepare(values[False])

    def take(self, message: Message) -> list[LabeledPrediction]:
        """Take one record, and return the predictions that it evaluates.

        A null value erases the lead from the ledger. Raises Poison for an unreadable record.
        Raises Transient if the registry or the model store does not answer; take it again then.
        """
        topic, value = message.topic(), message.value()
        if value is None:
            self.ledger.forget(_text(message.key()))
            evaluated = []
        elif topic == self._topics.lead_outcomes:
            outcome = self._outcomes.decode(value)
            decided_at = self._time("decided_at", outcome["decided_at"])
            evaluated = self.ledger.decided(outcome["lead_id"], outcome["converted"], decided_at)
        else:
            evaluated = self.ledger.predicted(self._made(topic, self._predictions.decode(value)))
        self.records[topic] += 1
        return evaluated

    def _made(self, topic: str, record: dict[str, Any]) -> PublishedPrediction:
        probability, raw_score = record["probability"], record["raw_score"]
        if not (0 <= probability <= 1 and isfinite(raw_score)):
            raise _invalid(f"probability is {probability} and raw_score {raw_score}")
        return PublishedPrediction(
            lead_id=record["lead_id"],
            event_id=record["event_id"],
            occurred_at=self._time("occurred_at", record["occurred_at"]),
            # A million records share a few versions.
            model_version=sys.intern(record["model_version"]),
            variant=sys.intern(record["variant"]),
            shadow=topic == self._topics.shadow_predictions,
            probability=probability,
            raw_score=raw_score,
        )

    def _time(self, name: str, value: int) -> int:
        if not MIN_TIME_MS <= value < END_TIME_MS:
            raise _invalid(f"{name} is {value} ms, not a time between the years 1970 and 9999")
        if value > self._clock_ms() + AHEAD_MS:
            raise _invalid(f"{name} is more than a day ahead of this machine's clock")
        return value


def horizon_lookup(
    registry: ModelRegistry, unknown: Callable[[str], None] = lambda _version: None
) -> HorizonDaysOf:
    """Return a function from a version to its horizon in days, which reads each manifest once.

    A version that is not in the store has no horizon; `unknown` receives it. The function raises
    Transient if the store does not answer.
    """
    known: dict[str, float | None] = {}

    def horizon_days_of(version: str) -> float | None:
        if version not in known:
            try:
                known[version] = read_horizon(registry.show(version))
            except UserError:
                known[version] = None
                unknown(version)
        return known[version]

    return horizon_days_of


def learned_until_lookup(registry: ModelRegistry) -> LearnedUntilOf:
    """Return a function from a version to the newest moment that it may have learned from.

    It reads each manifest once; a version that is not in the store has no such moment.
    """
    known: dict[str, int | None] = {}

    def learned_until_of(version: str) -> int | None:
        if version not in known:
            try:
                known[version] = read_learned_until(registry.show(version))
            except UserError:
                known[version] = None
        return known[version]

    return learned_until_of


def read_all(
    settings: Settings,
    horizon_days_of: HorizonDaysOf,
    progress: Callable[[int], None] = lambda _records: None,
) -> tuple[OutcomeReader, list[LabeledPrediction], Counter[Reason]]:
    """Read the topics from their beginning to their present ends.

    Returns the reader, the evaluated predictions, and counts of records that could not be read.
    Raises UserError if a topic is missing, and Transient if a dependency does not answer.
    """
    configure(settings)
    topics = settings.topics
    registry = Registry(settings.schema_registry_url) if settings.schema_registry_url else None
    reader, skipped, evaluated = (
        OutcomeReader(topics, horizon_days_of, registry),
        Counter[Reason](),
        list[LabeledPrediction](),
    )
    follower = open_follower(settings)
    try:
        silence = Deadline.after(SILENT_SECONDS)
        while not follower.at_end:
            messages = follower.poll(POLL_SECONDS)
            if follower.absent:
                raise UserError(f"there is no topic {follower.absent[0]}; {CREATE_TOPICS}")
            reader.prepare(messages)
            for message in messages:
                try:
                    evaluated += reader.take(message)
                except Poison as poison:
                    skipped[poison.reason] += 1
            progress(len(messages))
            if messages:
                silence = Deadline.after(SILENT_SECONDS)
            if silence.expired:
                raise UserError(
                    f"the brokers stopped answering for {SILENT_SECONDS:g} s; try again"
                )
    finally:
        follower.close()
        if registry:
            registry.close()
    evaluated += reader.ledger.overdue(reader.ledger.decided_until)
    return reader, in_order(evaluated, horizon_days_of, reader.ledger.forgotten), skipped


def read_evaluated(
    settings: Settings,
    horizon_days_of: HorizonDaysOf,
    progress: Callable[[int], None] = lambda _records: None,
) -> list[LabeledPrediction]:
    """Return every evaluated prediction of the topics, in the order in which its label was known.

    Raises UserError if a topic is missing, and Transient if a dependency does not answer.
    """
    return read_all(settings, horizon_days_of, progress)[1]


def in_order(
    evaluated: list[LabeledPrediction], horizon_days_of: HorizonDaysOf, forgotten: set[str]
) -> list[LabeledPrediction]:
    """Return the predictions of leads that are not erased, ordered by when the label was known.

    The order does not depend on the order in which the topics were read.
    """
    kept = [one for one in evaluated if one.prediction.lead_id not in forgotten]
    return sorted(
        kept,
        key=lambda one: (
            known_at(one, horizon_days_of(one.prediction.model_version)),
            one.prediction.lead_id,
            one.prediction.event_id,
            one.prediction.model_version,
            one.prediction.variant,
        ),
    )


def open_follower(settings: Settings) -> TopicFollower:
    """Return a follower of predictions and outcomes, and of shadow predictions if there are any."""
    topics = settings.topics
    return TopicFollower(
        settings, [topics.lead_predictions, topics.lead_outcomes], [topics.shadow_predictions]
    )


def _text(key: bytes | None) -> str:
    try:
        return (key or b"").decode()
    except UnicodeDecodeError:
        raise _invalid("the key of a null value is not UTF-8") from None


def _invalid(detail: str) -> Poison:
    return Poison(Reason.INVALID_EVENT, "validate", detail)
