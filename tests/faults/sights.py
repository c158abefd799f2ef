"""Looks at a group while faults go on: which processes say that they are ready, and what waits."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from urllib.error import HTTPError
from urllib.request import urlopen

from confluent_kafka import Consumer, KafkaException, TopicPartition

from leadstream.log import SILENT
from tests.faults.members import ConsumerMember
from tests.faults.schedule import PARTITIONS
from tests.faults.testimony import Sight
from tests.integration.running import Running, Stage

LOOK_SECONDS = 2.0
ASK_SECONDS = 2.0


@contextlib.contextmanager
def watching(stage: Stage, members: Sequence[ConsumerMember]) -> Iterator[list[Sight]]:
    """Look at the group every two seconds during the block; the list grows meanwhile."""
    sights: list[Sight] = []
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(stage, members, sights, over))
    watch.start()
    try:
        yield sights
    finally:
        over.set()
        watch.join()


def _watch(
    stage: Stage, members: Sequence[ConsumerMember], sights: list[Sight], over: threading.Event
) -> None:
    # Transactions are open nearly always: what is committed counts without them.
    consumer = Consumer(
        {
            "bootstrap.servers": stage.bootstrap,
            "group.id": stage.environment["LEADSTREAM_GROUP_ID"],
            "isolation.level": "read_uncommitted",
        },
        logger=SILENT,
    )
    with contextlib.closing(consumer):
        while not over.wait(LOOK_SECONDS):
            # A look that the brokers do not answer shows nothing.
            with contextlib.suppress(KafkaException):
                waiting = _waiting(consumer, stage.topics.lead_changes)
                running = [(str(i), member.running) for i, member in enumerate(members)]
                ready = {name: _is_ready(each) for name, each in running if each is not None}
                answered = {name: well for name, well in ready.items() if well is not None}
                sights.append(Sight(time.monotonic(), answered, waiting))


def _waiting(consumer: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    return {
        each.partition: (
            max(0, each.offset),
            consumer.get_watermark_offsets(each, timeout=ASK_SECONDS)[1],
        )
        for each in consumer.committed(places, timeout=ASK_SECONDS)
    }


def _is_ready(process: Running) -> bool | None:
    """Whether a process says that it is ready; None where it does not answer."""
    started = process.events("started")
    if not started or not process.alive():
        return None
    try:
        with urlopen(started[0]["http"] + "/readyz", timeout=ASK_SECONDS) as answer:
            return bool(answer.status == 200)
    except HTTPError:
        return False
    except OSError:
        return None
