"""`leadstream run` as users meet it: processes with settings and topics of their own, and what they
make of both.
"""

import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    Producer,
    TopicPartition,
)

# not in its __all__
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from prometheus_client.parser import text_string_to_metric_families

from leadstream.deadline import Deadline
from leadstream.kafka.batch import Message, Output
from leadstream.kafka.topics import CONFIGS, SINGLE_PARTITION, Topics, variable
from leadstream.kafka.transaction import produce
from leadstream.local.process import Child
from schemas.codec import Reader, Writer
from tests.integration.forked import ForkedProcess
from tests.unit.pipelines import event

DISPOSITIONS = ("scored", "coalesced", "dead_lettered", "erased", "ignored")
# A killed process is missed after a second and a half, and its transaction aborted after two.
QUICK = {
    "LEADSTREAM_KAFKA_SESSION_TIMEOUT_MS": "1500",
    "LEADSTREAM_KAFKA_HEARTBEAT_INTERVAL_MS": "300",
    "LEADSTREAM_KAFKA_TRANSACTION_TIMEOUT_MS": "2000",
}
_SETTINGS = ("LEADSTREAM_", "KAFKA_", "SCHEMA_REGISTRY_URL", "DATABASE_URL", "MODEL_STORE")
_CHANGE, _REQUEST = Writer("LeadChanged"), Writer("RescoreRequest")
_PREDICTION, _RESULT = Reader("LeadPrediction"), Reader("RescoreResult")

# Seconds until a test gives up: what takes one here takes a minute where others use the machine.
PATIENCE = 150


def until(holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Ask until the answer is not empty, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return answer


class Running:
    """One `leadstream` process; it ends with the test, or when the tests are killed.

    It is forked from a process that has imported all but starts as users start it if `fresh`.
    """

    def __init__(
        self, environment: dict[str, str], folder: Path, *arguments: str, fresh: bool = True
    ) -> None:
        folder.mkdir()
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)
        }
        environ = clean | environment
        words = arguments or ("run",)
        self._log = folder / "log"
        self._child: Child | ForkedProcess
        if fresh:
            command = [sys.executable, "-m", "leadstream.cli.main", *words]
            self._child = Child(command, folder, self._log, environ=environ)
        else:
            self._child = ForkedProcess(words, folder, self._log, environ)

    @property
    def pid(self) -> int:
        return self._child.pid

    def alive(self) -> bool:
        return self._child.alive()

    def lines(self) -> list[str]:
        """Every whole line so far."""
        return [line for line in self._log.read_text("utf-8").split("\n")[:-1] if line]

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The structured lines so far, all or those of one event."""
        lines = [json.loads(line) for line in self.lines() if line.startswith("{")]
        return [line for line in lines if name in (None, line["event"])]

    def sentences(self) -> list[str]:
        """The lines for people."""
        return [line for line in self.lines() if not line.startswith("{")]

    def event(self, name: str, seconds: float = 60, **fields: Any) -> dict[str, Any]:
        """The first event of this name and with these facts, waited for."""

        def found() -> list[dict[str, Any]]:
            lines = [line for line in self.events(name) if fields.items() <= line.items()]
            assert lines or self.alive(), f"it ended without {name}: {self._child.log_tail()}"
            return lines

        line: dict[str, Any] = until(found, f"{name} {fields}", seconds)[0]
        return line

    def get(self, page: str) -> tuple[int, bytes]:
        """Status and body of an HTTP page."""
        address = self.event("started")["http"]
        try:
            with urlopen(address + page, timeout=10) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def missing(self) -> dict[str, str]:
        """What /readyz says is missing; empty where it is ready."""
        status, body = self.get("/readyz")
        missing: dict[str, str] = json.loads(body)["missing"]
        assert status == (503 if missing else 200)
        return missing

    def until_ready(self) -> "Running":
        until(lambda: not self.missing(), "ready")
        return self

    def metric(self, name: str, **labels: str) -> float:
        """One sample of /metrics; 0 where there is none."""
        return self._metrics().get((f"leadstream_{name}", tuple(sorted(labels.items()))), 0)

    def accounting(self) -> dict[str, int]:
        """The accounting as one reading of /metrics has it, which must balance."""
        metrics = self._metrics()
        accounting = {
            disposition: int(metrics.get(("leadstream_changes_total", (("fate", disposition),)), 0))
            for disposition in DISPOSITIONS
        }
        assert sum(accounting.values()) == metrics["leadstream_changes_consumed_total", ()], (
            accounting
        )
        return accounting

    def _metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        families = text_string_to_metric_families(self.get("/metrics")[1].decode())
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for family in families
            for s in family.samples
        }

    def signal(self, sign: signal.Signals) -> None:
        os.kill(self.pid, sign)

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM, and the exit code."""
        return self._child.end(signal.SIGTERM, seconds)

    def kill(self) -> None:
        self._child.end(signal.SIGKILL, 10)

    def exit_code(self, seconds: float = 30) -> int:
        """Wait for it to end by itself."""
        until(lambda: not self.alive(), "the process ends", seconds)
        return self._child.wait(seconds)


@dataclass(slots=True)
class Stage:
    """A broker with topics and a group of one test's own, and the settings that name them."""

    bootstrap: str
    folder: Path
    topics: Topics
    environment: dict[str, str]
    fresh: bool = False
    """Whether processes start as users start them (see `Running`)."""

    @classmethod
    def on(
        cls,
        bootstrap: str,
        folder: Path,
        model_store: str,
        *,
        partitions: int = 2,
        replication: int = 1,
        create: bool = True,
    ) -> "Stage":
        name = uuid.uuid4().hex[:8]
        topics = Topics(**{field.name: f"{field.default!s}.{name}" for field in fields(Topics)})
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "MODEL_STORE": model_store,
            "LEADSTREAM_MODEL_VERIFY_KEYS": f"{model_store}.pub",
            "LEADSTREAM_GROUP_ID": f"group-{name}",
            "LEADSTREAM_HTTP_PORT": "0",
            **{variable(field.name): getattr(topics, field.name) for field in fields(Topics)},
        }
        stage = cls(bootstrap, folder, topics, environment)
        if create:
            stage.create_topics(partitions, replication)
        return stage

    def create_topics(self, partitions: int, replication: int = 1) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        wanted = [
            NewTopic(
                getattr(self.topics, field),
                1 if field in SINGLE_PARTITION else partitions,
                replication,
                config=config,
            )
            for field, config in CONFIGS.items()
        ]
        for future in admin.create_topics(wanted).values():
            future.result(30)
        for topic in (
            self.topics.lead_changes,
            self.topics.rescore_requests,
            self.topics.lead_predictions,
        ):
            self.read(topic, 0)

    def ask_for_topics(self) -> None:
        """Have the mock cluster make them: it makes a topic when a producer first asks about it."""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for field in fields(Topics):
            producer.list_topics(getattr(self.topics, field.name), timeout=30)

    @contextlib.contextmanager
    def running(self, *arguments: str, **settings: str) -> Iterator[Running]:
        """A process with the stage's settings and these."""
        folder = self.folder / uuid.uuid4().hex
        fresh = self.fresh or "PYTHONPATH" in settings
        process = Running(self.environment | settings, folder, *arguments, fresh=fresh)
        try:
            yield process
        finally:
            process.kill()

    def send(self, outputs: Iterable[Output]) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "enable.idempotence": True,
            }
        )
        produce(producer, outputs, Deadline.after(60))
        assert producer.flush(30) == 0

    def change(self, lead_id: str, state: dict[str, Any] | None = None, **fields: Any) -> Output:
        """A change of a lead; with lead=None a thin one."""
        return Output(
            self.topics.lead_changes,
            lead_id.encode(),
            _CHANGE.encode(event(lead_id, state, **fields)),
        )

    def changes(self, prefix: str, count: int) -> list[Output]:
        """One change each of `count` leads."""
        return [self.change(f"{prefix}_{i}") for i in range(count)]

    def request(self, request_id: str, lead_ids: list[str]) -> Output:
        record = {"request_id": request_id, "lead_ids": lead_ids, "requested_by": None}
        return Output(self.topics.rescore_requests, request_id.encode(), _REQUEST.encode(record))

    def read(
        self, topic: str, count: int, *, committed: bool = True, seconds: float = PATIENCE
    ) -> list[Message]:
        """Everything in a topic, from the moment when it has at least `count` records."""
        isolation = "read_committed" if committed else "read_uncommitted"
        config = {
            "bootstrap.servers": self.bootstrap,
            "group.id": uuid.uuid4().hex,
            "isolation.level": isolation,
        }
        consumer = Consumer(
            {
                **config,
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
            }
        )
        # A broker may answer for a moment as if a topic just made were none.
        partitions = until(
            lambda: consumer.list_topics(topic, timeout=30).topics[topic].partitions, topic
        )
        consumer.assign(
            [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions]
        )
        messages: list[Any] = []
        unread = set(partitions)
        deadline = time.monotonic() + seconds
        try:
            while unread or len(messages) < count:
                assert time.monotonic() < deadline, (
                    f"{len(messages)} records in {topic}, not {count}"
                )
                for message in consumer.consume(1000, 0.05):
                    error = message.error()
                    if error is None:
                        messages.append(message)
                        unread.add(message.partition())
                    elif error.code() == KafkaError._PARTITION_EOF:
                        unread.discard(message.partition())
            return messages
        finally:
            consumer.close()

    def grows(self, topic: str, seconds: float = 60) -> None:
        """Return as soon as something is written to a topic, committed or not."""
        # A reader of committed data is told of a transaction's records only once it is over.
        isolation = {"isolation.level": "read_uncommitted"}
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": uuid.uuid4().hex, **isolation}
        )
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        places = [TopicPartition(topic, partition) for partition in partitions]

        def written() -> int:
            return sum(consumer.get_watermark_offsets(place, timeout=30)[1] for place in places)

        before = written()
        until(lambda: written() > before, f"something new in {topic}", seconds)
        consumer.close()

    def predictions(
        self, count: int, *, committed: bool = True, seconds: float = PATIENCE
    ) -> list[dict[str, Any]]:
        """The predictions, once there are `count` records in their topic; nulls are left out."""
        records = self.read(
            self.topics.lead_predictions, count, committed=committed, seconds=seconds
        )
        return [
            _PREDICTION.decode(value) for record in records if (value := record.value()) is not None
        ]

    def results(self, count: int) -> list[dict[str, Any]]:
        records = self.read(self.topics.rescore_results, count)
        return [
            _RESULT.decode(value) for record in records if (value := record.value()) is not None
        ]

    def letters(self, count: int) -> list[Message]:
        return self.read(self.topics.dead_letters, count)

    def committed(self, topic: str) -> int:
        """How many records of a topic the group has committed."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        group = ConsumerGroupTopicPartitions(self.environment["LEADSTREAM_GROUP_ID"])
        [future] = admin.list_consumer_group_offsets([group]).values()
        partitions = future.result(30).topic_partitions or []
        return sum(p.offset for p in partitions if p.topic == topic and p.offset > 0)


def headers_of(letter: Message) -> dict[str, str]:
    """The headers of a dead letter as text."""
    return {
        name: (value or b"").decode("utf-8", "replace") for name, value in letter.headers() or []
    }
