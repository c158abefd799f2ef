"""The watch over what others do to the topics of the group, between two batches."""

import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from leadstream.background import Background, Run
from leadstream.kafka.batch import Partition
from leadstream.kafka.cluster_view import ClusterView, OpenTransaction
from leadstream.kafka.health import CREATE_TOPICS
from leadstream.kafka.losses import Losses
from leadstream.log import Logger
from leadstream.process.metrics import Metrics
from leadstream.process.status import Status

LOOK_SECONDS = 5.0
# Transactions of producers are shorter; one that is open for that long holds the partition back.
OPEN_SECONDS = 15.0
_TOOL = 'kafka-transactions.sh --bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS"'

# Gets the partitions that are read, and those with losses that nobody acknowledged.
Look = Callable[[Collection[Partition], Collection[Partition]], ClusterView]


class ClusterWatch:
    """Looks at the cluster in the background, and reports what changed.

    `inputs` are the topics that are read, `outputs` those that are written. `clock` is a monotonic
    clock in seconds.
    """

    def __init__(
        self,
        look: Look,
        run: Run,
        *,
        outputs: Collection[str],
        losses: Losses,
        metrics: Metrics,
        status: Status,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._run = run
        self._outputs = outputs
        self._losses = losses
        self._metrics = metrics
        self._status = status
        self._logger = logger
        self._clock = clock
        self._looking = Background[ClusterView]()
        self._look_at = 0.0
        self._topics: dict[str, tuple[str, int]] = {}
        self._absent: list[str] = []
        self._open_since: dict[tuple[Partition, int], float] = {}
        self._reported: set[tuple[Partition, int]] = set()

    def follow(self, places: Collection[Partition]) -> None:
        """Take what the last look found, and begin the next one if it is time."""
        view = self._looking.poll()
        if view is not None:
            self._report_topics(view)
            self._report_transactions(view, places)
            self._losses.acknowledge(view.acknowledged)
        if self._looking.idle and self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_SECONDS
            asked = tuple(places)
            lost = {(loss.topic, loss.partition) for loss in self._losses.all}
            self._looking.start(lambda: self._look(asked, lost), self._run)

    def _report_topics(self, view: ClusterView) -> None:
        absent = [topic for topic in view.absent if topic in self._outputs]
        if absent != self._absent:
            self._absent = absent
            names = ", ".join(absent)
            why = f"no {names}: nothing can be published there; {CREATE_TOPICS}" if absent else None
            if why:
                self._logger.warning("topics.absent", detail=why)
            self._status.warn("output topics", why)
        for topic, (topic_id, partitions) in view.topics.items():
            known_id, known = self._topics.get(topic, (topic_id, partitions))
            if topic_id != known_id:
                self._logger.warning(
                    "topic.made_again", topic=topic, topic_id=topic_id, before=known_id
                )
            elif partitions != known:
                self._logger.warning(
                    "topic.partitions", topic=topic, partitions=partitions, before=known
                )
        self._topics |= view.topics

    def _report_transactions(self, view: ClusterView, places: Collection[Partition]) -> None:
        now = self._clock()
        held = {place: found for place, found in view.held.items() if place in places}
        keys = {(place, found.stable): now for place, found in held.items()}
        self._open_since = {key: self._open_since.get(key, now) for key in keys}
        long = {
            place: found
            for place, found in held.items()
            if now - self._open_since[place, found.stable] >= OPEN_SECONDS - LOOK_SECONDS
        }
        with self._metrics.lock:
            self._metrics.open_transaction.clear()
            for (topic, partition), found in long.items():
                age = time.time() - found.since / 1000 if found.since else 0.0
                gauge = self._metrics.open_transaction.labels(topic, str(partition))
                gauge.set(max(age, now - self._open_since[(topic, partition), found.stable]))
        self._log_transactions(long)
        sentences = [_sentence(place, found) for place, found in long.items()]
        self._status.block("open transaction", "; ".join(sentences) or None)

    def _log_transactions(self, long: dict[Partition, OpenTransaction]) -> None:
        keys = {(place, found.stable) for place, found in long.items()}
        for place, found in long.items():
            if (place, found.stable) not in self._reported:
                self._logger.warning(
                    "transaction.open",
                    topic=place[0],
                    partition=place[1],
                    stable_offset=found.stable,
                    end=found.end,
                    since=_time(found.since),
                    detail=_sentence(place, found),
                )
        for place, stable in self._reported - keys:
            self._logger.info(
                "transaction.ended", topic=place[0], partition=place[1], stable_offset=stable
            )
        self._reported = keys


def _sentence(place: Partition, found: OpenTransaction) -> str:
    topic, partition = place
    since = f" since {_time(found.since)}" if found.since else ""
    return (
        f"{topic} partition {partition}: a producer has left a transaction open{since}; offsets "
        f"{found.stable} to {found.end - 1} cannot be read before it ends: "
        f"`{_TOOL} describe-producers --topic {topic} --partition {partition}` names the producer"
    )


def _time(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
