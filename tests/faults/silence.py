"""`python -m tests.faults.silence --seed N` runs schedules of what a process could be silent about.

Two consumers of one group; in turn and at random: changes that are deleted unread, transactions
that a producer leaves open, twins of static members, switches of the group protocol, offsets that
an operator sets back, and of three brokers one that goes away. Exit code 1 where something was
silent or was not done in the end.
"""

import argparse
import contextlib
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from leadstream.local.kafka import KafkaProcess
from leadstream.log import SILENT
from tests.faults.checker import Violation
from tests.faults.cluster import kafka_cluster
from tests.faults.testimony import LostSpan, Sight, Witnessed, untold
from tests.integration.running import QUICK, Running, Stage, until
from tests.trained_models import promoted_store

MEMBERS = 2
PARTITIONS = 3
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 60.0
_PROTOCOLS: tuple[dict[str, str], ...] = (QUICK, {"LEADSTREAM_KAFKA_GROUP_PROTOCOL": "consumer"})
_WARNED = re.compile(r"partition (\d+): offsets (\d+) to (\d+)")


class Silence:
    """One run: its processes, what they said, and what was done to them."""

    def __init__(
        self,
        bootstrap: str,
        store: str,
        folder: Path,
        seed: int,
        nodes: Sequence[KafkaProcess] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stage = Stage.on(
            bootstrap, folder, store, partitions=PARTITIONS, replication=len(nodes) or 1
        )
        self._nodes = nodes
        self._draw = random.Random(seed)
        self._admin = AdminClient({"bootstrap.servers": bootstrap}, logger=SILENT)
        self._group = self.stage.environment["LEADSTREAM_GROUP_ID"]
        self._topic = self.stage.topics.lead_changes
        self._protocol = self._draw.randrange(2)
        self._processes: dict[str, Running] = {}
        self._past: list[Running] = []
        self._instances: dict[str, str] = {}
        self._sent = 0
        self._deleted: list[LostSpan] = []
        self._sights: list[Sight] = []
        self._measured: set[LostSpan] = set()
        self._warned: set[LostSpan] = set()
        self._over = threading.Event()
        self.done: list[str] = []
        self.kinds: dict[str, Callable[[], None]] = {
            "lose": self._lose,
            "hold open": self._hold_open,
            "twin": self._twin,
            "switch": self._switch,
            "set back": self._set_back,
        }
        if len(nodes) > 1:
            self.kinds["broker loss"] = self._lose_broker

    def run(self, seconds: float) -> list[Violation]:
        """Do things for some seconds, let everything recover, and return what was silent."""
        watching = threading.Thread(target=self._watch)
        watching.start()
        try:
            self._begin()
            deadline = time.monotonic() + seconds
            while not self.done or time.monotonic() < deadline:
                # Each kind once before any comes again.
                kinds = self._draw.sample(sorted(self.kinds), len(self.kinds))
                for kind in kinds:
                    if not self.done or time.monotonic() < deadline:
                        self._send(self._draw.randint(1, 60))
                        self.kinds[kind]()
                        self.done.append(kind)
            found = self._recovered()
        finally:
            self._over.set()
            watching.join()
            for process in self._processes.values():
                process.kill()
        return [*found, *untold(self._testimony())]

    def _begin(self) -> None:
        """Start, and wait until the group has read of every partition: a new one loses nothing."""
        self._start()
        self._send(60)
        until(
            lambda: all(committed > 0 for committed, _ in self._waiting().values()),
            "every partition is read",
        )

    def _start(self) -> None:
        for number in range(MEMBERS):
            self._start_one(f"member-{number}", f"static-{number}")

    def _start_one(self, name: str, instance: str) -> None:
        folder = self.stage.folder / f"{name}-{len(self._past)}-{len(self._processes)}"
        settings = {"LEADSTREAM_KAFKA_GROUP_INSTANCE_ID": instance, **_PROTOCOLS[self._protocol]}
        process = Running(self.stage.environment | settings, folder)
        self._processes = {**self._processes, name: process}
        self._instances[name] = instance
        self._past.append(process)

    def _end_all(self, *, orderly: bool) -> None:
        processes, self._processes = self._processes, {}
        for process in processes.values():
            if orderly and process.alive():
                _stop(process)
            else:
                process.kill()

    def _send(self, count: int) -> None:
        self.stage.send(self.stage.changes(f"lead_{self._sent}", count))
        self._sent += count

    def _lose(self) -> None:
        """No consumer runs, changes arrive, and the oldest of a partition are deleted."""
        self._end_all(orderly=bool(self._draw.randrange(2)))
        self._send(60)
        for partition, (committed, end) in self._waiting().items():
            if committed < end and self._draw.random() < 0.7:
                upto = self._draw.randint(committed + 1, end)
                place = TopicPartition(self._topic, partition, upto)
                [future] = self._admin.delete_records([place]).values()
                future.result(30)
                self._deleted.append(LostSpan(partition, committed, upto - 1))
        self._start()

    def _hold_open(self) -> None:
        """A producer begins a transaction in the input, and ends it late, in one way or another."""
        producer = Producer(
            {
                "bootstrap.servers": self.stage.bootstrap,
                "transactional.id": f"foreign-{len(self.done)}-{self._group}",
            },
            logger=SILENT,
        )
        producer.init_transactions(30)
        producer.begin_transaction()
        change = self.stage.change(f"open_{self._sent}")
        producer.produce(self._topic, change.value, change.key)
        producer.flush(30)
        self._send(40)
        time.sleep(self._draw.uniform(5, 40))
        producer.commit_transaction(30) if self._draw.randrange(2) else producer.abort_transaction(
            30
        )

    def _twin(self) -> None:
        """A second process with the name of a member: one of the two ends, or waits."""
        number = self._draw.randrange(MEMBERS)
        instance = self._instances[f"member-{number}"]
        self._start_one("twin", instance)
        self._send(30)
        time.sleep(self._draw.uniform(4, 12))
        twins = self._processes[f"member-{number}"], self._processes["twin"]
        for name in (f"member-{number}", "twin"):
            self._processes[name].kill()
        assert any(process.sentences() or process.events("rejoining") for process in twins) or not (
            twins[1].events("rebalance")
        ), "neither of two processes with one name says so"
        self._processes = {k: v for k, v in self._processes.items() if v not in twins}
        self._start_one(f"member-{number}", instance)

    def _switch(self) -> None:
        """The new processes are started next to the old ones, which are stopped afterwards."""
        self._protocol = 1 - self._protocol
        old, self._processes = self._processes, {}
        for number in range(MEMBERS):
            self._start_one(f"member-{number}", f"new-{len(self.done)}-{number}")
        self._send(30)
        for process in old.values():
            if process.alive():
                _stop(process)
        self._send(30)

    def _set_back(self) -> None:
        """An operator sets the offset of a partition back while no consumer runs."""
        self._end_all(orderly=True)
        partition = self._draw.randrange(PARTITIONS)
        committed, _ = self._waiting()[partition]
        # Not behind what was deleted: that would be a loss that nobody has.
        low = max(
            (each.last + 1 for each in self._deleted if each.partition == partition), default=0
        )
        offset = self._draw.randint(min(low, committed), committed)
        until(lambda: self._alter(partition, offset), "the group is empty")
        self._start()

    def _lose_broker(self) -> None:
        """One of several brokers is killed, and comes back after a while."""
        node = self._draw.choice(self._nodes)
        node.kill()
        try:
            self._send(60)
            time.sleep(self._draw.uniform(2, 8))
        finally:
            node.start(seconds=120)

    def _alter(self, partition: int, offset: int) -> bool:
        place = TopicPartition(self._topic, partition, offset)
        asked = [ConsumerGroupTopicPartitions(self._group, [place])]
        [future] = self._admin.alter_consumer_group_offsets(asked).values()
        try:
            return all(each.error is None for each in future.result(30).topic_partitions)
        except Exception:  # noqa: BLE001  # the last member may not have left yet
            return False

    def _recovered(self) -> list[Violation]:
        """Every change is answered within a minute once nothing fails any more."""
        try:
            until(
                lambda: all(committed == end for committed, end in self._readable().values()),
                "everything is consumed",
                ANSWER_SECONDS,
            )
            for process in self._processes.values():
                until(lambda process=process: not process.missing(), "ready", ANSWER_SECONDS)  # type: ignore[misc]
        except AssertionError as error:
            return [Violation("progress", f"{error}: {self._readable()}")]
        self._look()
        return []

    def _readable(self) -> dict[int, tuple[int, int]]:
        """The committed offset and the end of each partition; one without a lag counts as done."""
        lags: dict[int, float] = {}
        for process in self._processes.values():
            for labels, value in _samples(process, "leadstream_lag_records"):
                if labels["topic"] == self._topic:
                    lags[int(labels["partition"])] = value
        return {
            partition: (end, end) if lags.get(partition) == 0 else (committed, end)
            for partition, (committed, end) in self._waiting().items()
        }

    def _waiting(self) -> dict[int, tuple[int, int]]:
        """The committed offset and the end of each partition, once the brokers answer."""

        def asked() -> dict[int, tuple[int, int]] | None:
            with contextlib.suppress(KafkaException):
                return self._ask_waiting()
            return None

        found: dict[int, tuple[int, int]] = until(asked, "the brokers answer", ANSWER_SECONDS)
        return found

    def _ask_waiting(self) -> dict[int, tuple[int, int]]:
        consumer = Consumer(
            {"bootstrap.servers": self.stage.bootstrap, "group.id": self._group}, logger=SILENT
        )
        try:
            places = [TopicPartition(self._topic, number) for number in range(PARTITIONS)]
            return {
                each.partition: (
                    max(0, each.offset),
                    consumer.get_watermark_offsets(each, timeout=30)[1],
                )
                for each in consumer.committed(places, timeout=30)
            }
        finally:
            consumer.close()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            with contextlib.suppress(Exception):
                self._look()

    def _look(self) -> None:
        ready: dict[str, bool] = {}
        for name, process in self._processes.items():
            with contextlib.suppress(OSError, AssertionError, IndexError, KeyError):
                if not process.events("started") or not process.alive():
                    continue
                status, body = process.get("/readyz")
                ready[name] = status == 200
                warning = json.loads(body)["warnings"].get("lost changes", "")
                self._warned |= {LostSpan(*map(int, found)) for found in _WARNED.findall(warning)}
                self._measured |= {
                    LostSpan(int(each["partition"]), int(each["first"]), int(each["last"]))
                    for each, _ in _samples(process, "leadstream_lost_records")
                }
        self._sights.append(Sight(time.monotonic(), ready, self._ask_waiting()))

    def _testimony(self) -> Witnessed:
        logged = [
            LostSpan(line["partition"], line["first"], line["last"])
            for process in self._past
            for line in process.events("changes.lost")
        ]
        return Witnessed(
            tuple(self._sights),
            tuple(self._deleted),
            tuple(logged),
            tuple(self._measured),
            # The warning names a few of them, the newest process all that are left in the metric.
            tuple(self._warned) if len(self._deleted) <= 3 else tuple(self._measured),
        )


def _stop(process: Running) -> None:
    # Before it has started, a process does not hear signals.
    well = {0} if process.events("started") else {0, -signal.SIGTERM}
    code = process.stop(40)
    assert code in well, (code, process.lines()[-5:])


def _samples(process: Running, name: str) -> Iterator[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(process.get("/metrics")[1].decode())
    return (
        (dict(sample.labels), sample.value)
        for family in families
        for sample in family.samples
        if sample.name == name
    )


def main() -> int:
    """Run one schedule, or many."""
    parser = argparse.ArgumentParser("python -m tests.faults.silence", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--schedules", type=int, default=1, help="how many (default 1)")
    parser.add_argument("--seconds", type=float, default=60, help="of each (default 60)")
    parser.add_argument(
        "--brokers",
        type=int,
        choices=(1, 3),
        help="instead of one for even and three for odd seeds",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "leadstream-silence"
    )
    options = parser.parse_args()
    wrong, done = 0, Counter[str]()
    for seed in range(options.seed, options.seed + options.schedules):
        brokers = options.brokers or (3 if seed % 2 else 1)
        folder = options.folder / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        kinds, found = _one(seed, brokers, options.seconds, folder)
        wrong += len(found)
        done.update(kinds)
        print(f"seed {seed} on {brokers}: {', '.join(kinds)}: {len(found)} violations", flush=True)
        for violation in found:
            print(f"  {violation.rule}: {violation.what}", flush=True)
        if found:
            print(f"  kept: {folder}", flush=True)
        else:
            shutil.rmtree(folder)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(done.items()))
    print(f"{options.schedules} schedules, {wrong} violations: {counts}")
    return int(wrong > 0)


def _one(
    seed: int, brokers: int, seconds: float, folder: Path
) -> tuple[list[str], list[Violation]]:
    """Run a schedule on brokers of its own; return what was done, and what was silent."""
    store = folder / "models"
    store.mkdir(parents=True)
    promoted = promoted_store(store)
    with kafka_cluster(brokers, print) as cluster:
        run = Silence(cluster.bootstrap, promoted, folder / "run", seed, cluster.nodes)
        try:
            return run.done, run.run(seconds)
        # hours of schedules do not end with one that could not be done
        except Exception as error:  # noqa: BLE001
            return run.done, [Violation("harness", f"{type(error).__name__}: {error}")]


if __name__ == "__main__":
    sys.exit(main())
