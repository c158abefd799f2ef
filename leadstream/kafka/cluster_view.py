"""A look at the topics and offsets around a group, for a thread in the background."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    IsolationLevel,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its __all__
    AdminClient,
    OffsetSpec,
)

from leadstream.errors import LeadstreamError
from leadstream.kafka.batch import Partition
from leadstream.kafka.config import client_config
from leadstream.kafka.health import UNKNOWN_TOPIC, is_mock
from leadstream.kafka.loss_acknowledgments import read_acknowledged
from leadstream.kafka.topic_reader import TopicReader
from leadstream.log import SILENT
from leadstream.settings import Settings

ASK_SECONDS = 2.0
QUIET_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that holds back a partition.

    `stable` is the offset before which everything is readable, `end` the end of the partition, and
    `since` when its first record was written, in milliseconds UTC, or None.
    """

    stable: int
    end: int
    since: int | None


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The answers of the brokers; what they did not answer is missing.

    `topics` holds the id and the number of partitions of each topic. `absent` are the topics that
    do not exist, `held` the partitions with a transaction that was open at the last look, too.
    `acknowledged` is up to when losses are acknowledged.
    """

    topics: dict[str, tuple[str, int]]
    absent: list[str]
    held: dict[Partition, OpenTransaction]
    acknowledged: dict[Partition, int]


class ClusterViewer:
    """Looks at the topics and offsets of a group."""

    def __init__(self, settings: Settings, topics: Collection[str]) -> None:
        self._settings = settings
        self._topics = list(topics)
        self._admin: AdminClient | None = None
        self._stable: dict[Partition, OpenTransaction] = {}

    def look(self, places: Collection[Partition], lost: Collection[Partition]) -> ClusterView:
        """Return the view of the topics, of these partitions, and of the losses of those."""
        try:
            return self._look(places, lost)
        except (KafkaException, TimeoutError):
            return ClusterView({}, [], {}, {})

    def _look(self, places: Collection[Partition], lost: Collection[Partition]) -> ClusterView:
        admin = self._admin or AdminClient(client_config(self._settings), logger=SILENT)
        self._admin = admin
        # A request that waits for a broker can abort the process once it comes back (librdkafka).
        if is_mock(admin.list_topics(timeout=ASK_SECONDS)):
            return ClusterView({}, [], {}, {})
        topics, absent = self._describe(admin)
        try:
            acknowledged = read_acknowledged(self._settings, lost) if lost else {}
        except LeadstreamError:
            acknowledged = {}
        return ClusterView(topics, absent, self._held(admin, places), acknowledged)

    def _describe(self, admin: AdminClient) -> tuple[dict[str, tuple[str, int]], list[str]]:
        found, absent = dict[str, tuple[str, int]](), list[str]()
        asked = admin.describe_topics(TopicCollection(self._topics), request_timeout=ASK_SECONDS)
        for topic, future in asked.items():
            try:
                description = future.result(2 * ASK_SECONDS)
                found[topic] = str(description.topic_id), len(description.partitions)
            except KafkaException as error:
                if error.args[0].code() in UNKNOWN_TOPIC:
                    absent.append(topic)
        return found, absent

    def _held(
        self, admin: AdminClient, places: Collection[Partition]
    ) -> dict[Partition, OpenTransaction]:
        """Return the partitions whose stable offset was behind their end at the last look, too."""
        stable = dict(_latest(admin, places, IsolationLevel.READ_COMMITTED))
        ends = dict(_latest(admin, places, IsolationLevel.READ_UNCOMMITTED))
        before, self._stable, held = self._stable, {}, {}
        for place, offset in stable.items():
            if offset >= ends.get(place, offset):
                continue
            earlier = before.get(place)
            same = earlier is not None and earlier.stable == offset
            since = earlier.since if earlier and same else None
            if same and since is None:
                since = self._written_at(place, offset)
            self._stable[place] = OpenTransaction(offset, ends[place], since)
            if same:
                held[place] = self._stable[place]
        return held

    def _written_at(self, place: Partition, offset: int) -> int | None:
        """Return the timestamp of a record that is not committed yet."""
        topic, partition = place
        reader = TopicReader(self._settings, topic, committed=False, quiet=QUIET_SECONDS)
        try:
            for message in reader.read({partition: offset}, limit=1):
                kind, timestamp = message.timestamp()
                return timestamp if kind else None
        except LeadstreamError:
            pass
        finally:
            reader.close()
        return None


def _latest(
    admin: AdminClient, places: Collection[Partition], isolation: IsolationLevel
) -> Iterator[tuple[Partition, int]]:
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked: dict[TopicPartition, Any] = {TopicPartition(*place): latest for place in places}
    if not asked:
        return
    found = admin.list_offsets(asked, isolation_level=isolation, request_timeout=ASK_SECONDS)
    for place, future in found.items():
        try:
            yield (place.topic, place.partition), future.result(2 * ASK_SECONDS).offset
        except (KafkaException, TimeoutError):
            continue
