"""What all benchmarks of speed share: a real Kafka, a trained model in a store, topics, processes,
and a reader.

    with open_ground("throughput", say) as ground:
        changes = ground.topic("changes")
        ground.preload(changes, events(200_000))  # distinct leads, encoded once, read by every
        contender
        stage = ground.stage(changes)  # output topics and a group of its own
        with stage.leadstream(LEADSTREAM_REASONS="3") as process:
            flow = ground.watch(stage.predictions, 200_000, process)

Contenders read the same topic, each with a group and output topics of its own, one after the other
and interleaved: absolute figures move with the machine, ratios of one run far less.
"""

import contextlib
import gc
import os
import signal
import time
import uuid
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    Message,
    Producer,
    TopicPartition,
)

# not in __all__
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.leads import Event, trained
from benchmarks.process import BenchmarkProcess
from benchmarks.straightforward import FITTED
from leadstream.errors import UserError
from leadstream.kafka.topics import SINGLE_PARTITION, VARIABLES
from leadstream.local.broker import local_broker
from leadstream.local.process import Say, scratch
from leadstream.log import SILENT
from models.registry.signing import Trust, key_id, make_key
from models.registry.versions import ModelRegistry

ROOT = Path(__file__).parents[1]
STALL_SECONDS = 60.0
_OWN, _KAFKA = (
    ("LEADSTREAM_", "MODEL_STORE", "SCHEMA_REGISTRY_URL", "DATABASE_URL"),
    "LEADSTREAM_KAFKA_",
)
_MADE = ("rescore_requests", "lead_predictions", "dead_letters")
_QUIET_SECONDS, _LOOK_SECONDS = 1.0, 0.01


@dataclass(frozen=True, slots=True)
class Flow:
    """What became visible to a subscriber of committed records, from the first commit that it saw
    to the last.

    `records` and `leads` (different keys) count everything in the topic, read back; `per_second` is
    the rate of what came after the first commit; `first` is when that was (time.monotonic).
    `commits` are the markers of transactions, `progress` is how many records were visible when:
    (time.monotonic, records), each time that it changed.
    """

    records: int
    leads: int
    commits: int
    per_second: float
    seconds: float
    first: float
    progress: tuple[tuple[float, int], ...]

    def when(self, records: int) -> float:
        """When at least so many records were visible."""
        return next(moment for moment, visible in self.progress if visible >= records)

    def between(self, begin: float, end: float) -> float:
        """The rate of what became visible between two moments."""
        inside = [step for step in self.progress if begin <= step[0] <= end]
        if len(inside) < 2:
            raise UserError("too little became visible in the time that counts: give more events")
        (first, before), (last, after) = inside[0], inside[-1]
        return (after - before) / (last - first)


@dataclass(frozen=True, slots=True)
class Contender:
    """One contender's output topics and group; `environ` hands them to a process."""

    environment: "BenchmarkEnvironment"
    environ: Mapping[str, str]

    @property
    def predictions(self) -> str:
        return self.environ["LEADSTREAM_TOPIC_LEAD_PREDICTIONS"]

    @property
    def topics(self) -> list[str]:
        """The topics that were made for it."""
        return [self.environ[variable] for variable, field in VARIABLES.items() if field in _MADE]

    @contextlib.contextmanager
    def leadstream(self, **settings: str) -> Iterator[BenchmarkProcess]:
        """`leadstream run` with these settings, for the block."""
        with self.program("leadstream.cli.main", "run", **settings) as process:
            yield process

    @contextlib.contextmanager
    def program(self, module: str, *arguments: str, **settings: str) -> Iterator[BenchmarkProcess]:
        """Run a module with the settings of the contender and these, for the block."""
        folder = self.environment.folder / f"process-{uuid.uuid4().hex[:8]}"
        process = BenchmarkProcess([module, *arguments], folder, {**self.environ, **settings})
        try:
            yield process
        finally:
            process.end(signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class BenchmarkEnvironment:
    """A broker with transactions, a folder, and a model store whose champion is `versions[0]`."""

    bootstrap: str
    folder: Path
    versions: tuple[str, ...]
    admin: AdminClient

    @property
    def registry(self) -> ModelRegistry:
        """The model store, to move its aliases."""
        return _registry(self.folder)

    def topic(self, name: str, partitions: int = 1, **config: str) -> str:
        """Make a topic of this name and a suffix of its own; its full name."""
        full = f"bench-{name}-{uuid.uuid4().hex[:8]}"
        for future in self.admin.create_topics(
            [NewTopic(full, partitions, 1, config=config)]
        ).values():
            future.result(30)
        return full

    def remove(self, *topics: str) -> None:
        """Remove topics: a given broker keeps nothing, and the disk stays small."""
        for future in self.admin.delete_topics(list(topics)).values():
            future.result(30)

    def preload(self, topic: str, events: Iterable[Event], per_second: float | None = None) -> int:
        """Produce events as fast as the broker takes them (or so many a second), all acknowledged;
        their number.
        """
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 20,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 200_000,
            },
            logger=SILENT,
        )
        count, began = 0, time.monotonic()
        for key, value in events:
            while True:
                try:
                    producer.produce(topic, value, key)
                    break
                except BufferError:
                    producer.poll(0.1)
            count += 1
            if count % 1000 == 0:
                producer.poll(0)
                if per_second and (ahead := count / per_second - (time.monotonic() - began)) > 0:
                    time.sleep(ahead)
        if left := producer.flush(60):
            raise UserError(f"{left} of {count} events were not acknowledged")
        return count

    def contender(self, changes: str, partitions: int = 1) -> Contender:
        """Return a contender that reads `changes`; its other topics are created."""
        names = {
            variable: self.topic(
                field.replace("_", "-"), 1 if field in SINGLE_PARTITION else partitions
            )
            for variable, field in VARIABLES.items()
            if field in _MADE
        }
        unused = {variable: f"bench-none-{field}" for variable, field in VARIABLES.items()}
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(_OWN) or k.startswith(_KAFKA)
        }
        environ = {
            **kept,
            **unused,
            **names,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "LEADSTREAM_TOPIC_LEAD_CHANGES": changes,
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "MODEL_STORE": str(self.folder / "store"),
            "LEADSTREAM_MODEL_VERIFY_KEYS": str(self.folder / "key.pem.pub"),
            "LEADSTREAM_GROUP_ID": f"bench-{uuid.uuid4().hex[:8]}",
            "LEADSTREAM_HTTP_PORT": "0",
            "LEADSTREAM_LOG_FORMAT": "json",
        }
        return Contender(self, environ)

    def watch(self, topic: str, expected: int, *processes: BenchmarkProcess) -> Flow:
        """Wait until `expected` records are visible to a subscriber of committed records, then read
        all of them back.

        Progress is asked for by the end of what is committed, which costs the machine nothing; what
        is there is then read and counted. UserError where it stalls, where a process ends, and
        where the count is another.
        """
        seen = self._progress(topic, expected, processes)
        keys: set[bytes | str | None] = set()
        offsets: dict[int, list[int]] = {}
        for message in self.read(topic):
            keys.add(message.key())
            offsets.setdefault(_partition(message), []).append(message.offset() or 0)
        records = sum(map(len, offsets.values()))
        if records != expected:
            raise UserError(f"{records:,} records are visible in {topic}, not {expected:,}")
        progress = tuple(
            (
                moment,
                sum(
                    bisect_left(known, ends.get(partition, 0))
                    for partition, known in offsets.items()
                ),
            )
            for moment, ends in seen
        )
        (first, early), (last, _) = progress[0], progress[-1]
        rate = (records - early) / (last - first) if last > first else float("nan")
        return Flow(
            records,
            len(keys),
            sum(seen[-1][1].values()) - records,
            rate,
            last - first,
            first,
            progress,
        )

    def ends(self, topic: str) -> dict[int, int]:
        """By partition the offset up to which records are committed: markers of transactions have
        one, too.
        """
        return _ends(self.admin, _partitions(self.admin, topic))

    def read(self, topic: str) -> Iterator[Message]:
        """Every committed record of a topic, each partition in its order."""
        config = {
            "bootstrap.servers": self.bootstrap,
            "group.id": "unused",
            "isolation.level": "read_committed",
        }
        consumer = Consumer(
            {**config, "enable.auto.commit": False, "enable.partition.eof": True}, logger=SILENT
        )
        try:
            places = consumer.list_topics(topic, timeout=30).topics[topic].partitions
            consumer.assign(
                [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in places]
            )
            unread = set(places)
            deadline = time.monotonic() + STALL_SECONDS
            while unread:
                for message in consumer.consume(10_000, 0.2):
                    deadline = time.monotonic() + STALL_SECONDS
                    error = message.error()
                    if error is None:
                        yield message
                    elif error.code() == KafkaError._PARTITION_EOF:
                        unread.discard(_partition(message))
                    else:
                        raise UserError(f"{topic} cannot be read: {error.str()}")
                if time.monotonic() > deadline:
                    raise UserError(f"{topic} could not be read to its end")
        finally:
            consumer.close()

    def _progress(
        self, topic: str, expected: int, processes: Sequence[BenchmarkProcess]
    ) -> list[tuple[float, dict[int, int]]]:
        """When the committed end of the topic moved, and to where; until it has not moved for a
        while.
        """
        places = _partitions(self.admin, topic)
        seen: list[tuple[float, dict[int, int]]] = []
        moved = time.monotonic()
        while True:
            ends = _ends(self.admin, places)
            now = time.monotonic()
            if sum(ends.values()) > (sum(seen[-1][1].values()) if seen else 0):
                seen.append((now, ends))
                moved = now
            enough = bool(seen) and sum(seen[-1][1].values()) >= expected
            if enough and now - moved > _QUIET_SECONDS:
                return seen
            if now - moved > STALL_SECONDS:
                raise UserError(
                    f"{topic} has not moved for {STALL_SECONDS:.0f} s: {ends} of "
                    f"{expected:,} records"
                )
            for process in processes:
                process.must_live()
            time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def open_environment(
    name: str, say: Say = print, models: int = 1
) -> Iterator[BenchmarkEnvironment]:
    """A real broker, given or started, and a store with `models` trained versions, the first of
    them the champion.

    Raises UserError where there is no broker with transactions: a benchmark on a mock proves
    nothing.
    """
    with scratch(f"bench-{name}") as folder, local_broker(say=say) as broker:
        if not broker.transactions:
            raise UserError(f"this needs a broker with transactions: {broker.limits}")
        say("training the model: the audited recipe on simulated leads")
        make_key(folder / "key.pem")
        registry = _registry(folder)
        fitted = [trained(seed) for seed in range(1, models + 1)]
        versions = tuple(registry.publish(each) for each in fitted)
        registry.promote(versions[0], force=True)
        joblib.dump((fitted[0].artifact, registry.show(versions[0])), folder / FITTED)
        admin = AdminClient({"bootstrap.servers": broker.bootstrap}, logger=SILENT)
        # What is there by now stays: a search of it for garbage would blind whoever measures for up
        # to 0.2 s.
        gc.collect()
        gc.freeze()
        try:
            yield BenchmarkEnvironment(broker.bootstrap, folder, versions, admin)
        finally:
            gc.unfreeze()


def _registry(folder: Path) -> ModelRegistry:
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return ModelRegistry(
        str(folder / "store"), Trust(key, {key_id(key.public_key()): key.public_key()})
    )


def _partition(message: Message) -> int:
    partition = message.partition()
    assert partition is not None
    return partition


def _partitions(admin: AdminClient, topic: str) -> list[TopicPartition]:
    deadline = time.monotonic() + 30
    while not (partitions := admin.list_topics(topic, timeout=30).topics[topic].partitions):
        if (
            time.monotonic() > deadline
        ):  # a broker may answer for a moment as if a topic just made were none
            raise UserError(f"{topic} does not exist")
        time.sleep(0.05)
    return [TopicPartition(topic, partition) for partition in partitions]


def _ends(admin: AdminClient, places: Sequence[TopicPartition]) -> dict[int, int]:
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = admin.list_offsets(
        dict.fromkeys(places, latest), isolation_level=IsolationLevel.READ_COMMITTED
    )
    return {place.partition: future.result(30).offset for place, future in asked.items()}
