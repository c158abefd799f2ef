"""Predictions of given leads, from only those partitions of the topic that hold them."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from leadstream.deadline import Deadline
from leadstream.errors import Poison, UserError
from leadstream.kafka.connection_check import ConnectionCheck
from leadstream.kafka.partitioner import partition_of
from leadstream.kafka.topic_reader import TopicReader
from leadstream.log import configure
from leadstream.settings import Settings
from schemas.codec import Reader
from schemas.registry import Registry


@dataclass(frozen=True, slots=True)
class LeadRecord:
    """A record of a lead: its prediction, or None if it erased the lead, and its place.

    `at` is the time of the record in milliseconds UTC.
    """

    prediction: dict[str, Any] | None
    at: int
    partition: int
    offset: int


def newest_record(
    topic: TopicReader, decoder: Reader, lead_id: str, seconds: float
) -> LeadRecord | None:
    """Return the newest committed record of a lead, or None if there is none.

    Raises UserError if the partition is not read within `seconds`.
    """
    key, deadline = lead_id.encode(), Deadline.after(seconds)
    partition = partition_of(key, len(topic.partitions()))
    low, high = topic.bounds(partition)
    found = None
    if low < high:
        for message in topic.read({partition: low}):
            if message.key() == key:
                found = message
            if deadline.expired:
                raise UserError(
                    f"partition {partition} of {topic.topic} was not read within {seconds:g} s: "
                    "give it more time with --timeout"
                )
    if found is None:
        return None
    value = found.value()
    prediction = None if value is None else decoder.decode(value)
    return LeadRecord(prediction, found.timestamp()[1], partition, int(found.offset() or 0))


def leads_with_inputs(
    topic: TopicReader,
    decoder: Reader,
    made_with: Callable[[dict[str, Any]], bool],
    lead_ids: Collection[str] | None = None,
) -> int:
    """Return how many leads have a current score of which `made_with` is true.

    With `lead_ids`, only these leads count, and only their partitions are read.
    """
    partitions = topic.partitions()
    keys = None if lead_ids is None else {each.encode(errors="replace") for each in lead_ids}
    if keys is not None:
        partitions = sorted({partition_of(key, len(partitions)) for key in keys})
    found: set[bytes | None] = set()
    for message in topic.read({each: topic.bounds(each)[0] for each in partitions}):
        key, value = message.key(), message.value()
        if keys is not None and key not in keys:
            continue
        try:
            made = value is not None and made_with(decoder.decode(value))
        except Poison:
            continue  # no prediction of ours
        (found.add if made else found.discard)(key)
    return len(found)


def leads_as_of_before(topic: TopicReader, decoder: Reader, moment: int) -> list[str]:
    """Return the leads whose current score is as of a time before `moment`, ms UTC."""
    found: dict[str, bool] = {}
    for message in topic.read({each: topic.bounds(each)[0] for each in topic.partitions()}):
        key, value = message.key(), message.value()
        try:
            lead_id = (key or b"").decode()
            record = None if value is None else decoder.decode(value)
        except (Poison, UnicodeDecodeError):
            continue  # no prediction of ours
        found.pop(lead_id, None)
        if record is not None and record["occurred_at"] < moment:
            found[lead_id] = True
    return list(found)


class AnsweringPredictions:
    """The predictions that answer requests: make this object before a request is sent."""

    def __init__(self, topic: TopicReader, decoder: Reader) -> None:
        self._topic = topic
        self._decoder = decoder
        self._starts = {partition: topic.bounds(partition)[1] for partition in topic.partitions()}

    def read(
        self, request_ids: Collection[str], lead_ids: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        """Return the newest LeadPrediction of each lead that answers one of these requests.

        A request's result is committed together with its predictions: after it, all are there.
        """
        keys = {lead_id.encode() for lead_id in lead_ids}
        partitions = {partition_of(key, len(self._starts)) for key in keys}
        found = {}
        for message in self._topic.read({each: self._starts[each] for each in partitions}):
            value = message.value()
            if message.key() not in keys or value is None:
                continue
            prediction = self._decoder.decode(value)
            if prediction["event_id"] in request_ids:
                found[prediction["lead_id"]] = prediction
        return found


@contextmanager
def reading_predictions(settings: Settings) -> Iterator[tuple[TopicReader, Reader]]:
    """Open the predictions topic for the block. Raises as TopicReader does."""
    configure(settings)
    ConnectionCheck(settings).check()
    registry = Registry(settings.schema_registry_url) if settings.schema_registry_url else None
    topic = TopicReader(settings, settings.topics.lead_predictions)
    try:
        yield topic, Reader("LeadPrediction", registry)
    finally:
        topic.close()
        if registry is not None:
            registry.close()
