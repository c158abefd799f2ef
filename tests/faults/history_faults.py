"""Seeded schedules of faults for `history write`, and a checker of topics against tables.

`python -m tests.faults.history_faults --schedules 3` runs some on a small file system of its own,
which is filled and made read-only: that needs root. `--store s3` puts an S3 server behind a proxy
that is slow, silent or away. The exit code is 1 where a promise was broken.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deltalake import DeltaTable

from leadstream.errors import Transient
from leadstream.kafka.batch import Message, Output
from leadstream.local.kafka import KafkaProcess, local_kafka
from schemas.codec import Reader, Writer
from tests.conftest import S3_ENVIRONMENT
from tests.faults.proxy import Proxy
from tests.integration.running import QUICK, Running, Stage, until
from tests.subscriber import prediction
from tests.unit.pipelines import NOW_MS

Store = Literal["folder", "s3"]
FAULTS = ("kill", "freeze", "stop", "brokers", "store full", "store away", "store slow")
PARTITIONS = 2
MEMBERS = 2
FILE_SYSTEM = "size=48m"
BALLAST = "ballast"
_PREDICTION, _OUTCOME = Writer("LeadPrediction"), Writer("LeadOutcome")
_DECODERS = {
    name: Reader(record)
    for name, record in (
        ("changes", "LeadChanged"),
        ("predictions", "LeadPrediction"),
        ("outcomes", "LeadOutcome"),
    )
}
JUNK = b"junk"
# A worker thread of delta-rs prints this if a write fails in the middle; the writer gets an error.
_PANIC = re.compile(
    r"panicked at|Already shut down|stack backtrace|RUST_BACKTRACE|^ +(\d+:|at ) ?|^\s*$"
)


@dataclass(slots=True)
class HistoryRun:
    """One schedule: what was done, and what was wrong afterwards."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    records: int = 0
    rows: int = 0
    conflicts: int = 0
    violations: list[str] = field(default_factory=list)


class HistoryStore:
    """A store that can be made to fail; every fault is undone by `heal`."""

    def __init__(self, url: str, settings: dict[str, str], folder: Path | None) -> None:
        self.url = url
        self.settings = settings
        self.folder = folder
        self.proxy: Proxy | None = None

    def fail(self, fault: str, rng: random.Random) -> None:
        if self.proxy is not None:
            mode: dict[str, Any] = {"store away": "refuse", "store full": "stall"}
            self.proxy.set(mode.get(fault, "slow"), rng.uniform(0.05, 1.0))
        elif fault == "store full":
            self._fill()
        elif fault == "store away":
            self._remount("ro")

    def heal(self) -> None:
        if self.proxy is not None:
            self.proxy.set("pass")
            return
        self._remount("rw")
        with contextlib.suppress(FileNotFoundError):
            (self._mount() / BALLAST).unlink()

    def options(self) -> dict[str, str] | None:
        """The options with which the checker reads past the proxy."""
        return self.settings | {"AWS_ALLOW_HTTP": "true"} if self.proxy is not None else None

    def _mount(self) -> Path:
        assert self.folder is not None
        return self.folder.parent

    def _fill(self) -> None:
        with contextlib.suppress(OSError), (self._mount() / BALLAST).open("wb") as file:
            while True:
                file.write(bytes(65_536))
                file.flush()

    def _remount(self, mode: str) -> None:
        # A file that is being written keeps it busy: then it fails for less long.
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self._mount())], check=mode == "rw")


@contextlib.contextmanager
def small_file_system(folder: Path) -> Iterator[HistoryStore]:
    """A folder on a file system of its own."""
    mount = folder / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", FILE_SYSTEM, "tmpfs", str(mount)], check=True)
    try:
        history = mount / "history"
        yield HistoryStore(str(history), {}, history)
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


@contextlib.contextmanager
def s3_behind_proxy(_folder: Path) -> Iterator[HistoryStore]:
    """A bucket of an S3 server on this machine, which the writers reach through a proxy."""
    import asyncio

    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    put = urllib.request.Request(f"http://{host}:{port}/history", method="PUT")
    urllib.request.urlopen(put).close()
    direct = S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    store = HistoryStore("s3://history/tables", direct, None)
    store.proxy = Proxy(loop, host, port)
    try:
        yield store
    finally:
        store.proxy.close()
        server.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


class HistorySender:
    """A sender of all topics in the background; leads named erased_ are erased after a while."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self._stage = stage
        self._rng = rng
        self._stop = threading.Event()
        self._number = 0
        self._thread = threading.Thread(target=self._send_all)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _send_all(self) -> None:
        while not self._stop.wait(0.1):
            # What the brokers did not acknowledge may be in a topic or not: the topic decides.
            with contextlib.suppress(AssertionError, Transient):
                self._stage.send(self._some())

    def _some(self) -> Iterable[Output]:
        topics = self._stage.topics
        for _ in range(self._rng.randrange(1, 80)):
            self._number += 1
            kind = "erased" if self._rng.random() < 0.1 else "kept"
            lead = f"{kind}_{self._number}"
            key = lead.encode()
            yield self._stage.change(lead, event_id=f"e{self._number}")
            record = prediction(lead)
            yield Output(topics.lead_predictions, key, _PREDICTION.encode(record))
            if self._rng.random() < 0.2:
                yield Output(topics.shadow_predictions, key, _PREDICTION.encode(record))
                outcome = {"lead_id": lead, "converted": True, "decided_at": NOW_MS}
                yield Output(topics.lead_outcomes, key, _OUTCOME.encode(outcome))
            if kind == "erased":
                yield Output(topics.lead_changes, key, None)
            if self._rng.random() < 0.01:
                yield Output(topics.lead_changes, key, JUNK)


class HistoryMembers:
    """The processes under test: killed, frozen and started again."""

    def __init__(self, stage: Stage, settings: dict[str, str]) -> None:
        self._stage = stage
        self._settings = settings
        self._stack = contextlib.ExitStack()
        self.running: list[Running] = []
        self.ended: list[Running] = []

    def start(self) -> None:
        process = self._stack.enter_context(
            self._stage.running("history", "write", **self._settings)
        )
        self.running.append(process)

    def replace(self, number: int, sign: signal.Signals) -> None:
        process = self.running.pop(number)
        if sign is signal.SIGKILL:
            process.kill()
        else:
            process.stop(40)
        self.ended.append(process)
        self.start()

    def freeze(self, number: int, seconds: float) -> None:
        """Longer than a session: a zombie that believes to own what another one has."""
        self.running[number].signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.running[number].signal(signal.SIGCONT)

    def conflicts(self) -> int:
        return sum(len(each.events("commit.conflict")) for each in [*self.ended, *self.running])

    def close(self) -> None:
        self._stack.close()


def run_schedule(
    kafka: KafkaProcess, store: HistoryStore, folder: Path, seed: int, seconds: float
) -> HistoryRun:
    """One schedule, and the violations that it found."""
    rng, run = random.Random(seed), HistoryRun(seed)
    folder.mkdir(parents=True)
    stage = Stage.on(kafka.bootstrap, folder, "unused", partitions=PARTITIONS)
    url = f"{store.url}-{seed}"
    own = dict(store.settings)
    if store.proxy is not None:
        own["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{store.proxy.port}"
    members = HistoryMembers(
        stage,
        {
            **QUICK,
            **own,
            "LEADSTREAM_HISTORY": url,
            "LEADSTREAM_HISTORY_COMMIT_SECONDS": str(rng.choice([0.1, 0.5, 2])),
            "LEADSTREAM_HISTORY_ERASURE_HOURS": str(rng.choice([0.001, 24])),
        },
    )
    sender = HistorySender(stage, random.Random(seed))
    try:
        for _ in range(MEMBERS):
            members.start()
        _inflict(kafka, store, members, run, rng, time.monotonic() + seconds)
        sender.end()
        _drain(stage, store, url)
        for number in range(MEMBERS):
            if members.running[number].stop(40) != 0:
                run.violations.append(f"member {number} did not end with 0")
        run.conflicts = members.conflicts()
        for process in [*members.ended, *members.running]:
            run.violations += [
                f"printed: {line}" for line in process.sentences() if not _PANIC.search(line)
            ]
    finally:
        sender.end()
        store.heal()
        members.close()
    run.violations += list(violations(stage, store, url, run))
    return run


def _inflict(
    kafka: KafkaProcess,
    store: HistoryStore,
    members: HistoryMembers,
    run: HistoryRun,
    rng: random.Random,
    until_: float,
) -> None:
    while time.monotonic() < until_:
        time.sleep(rng.uniform(0.2, 3))
        fault = rng.choice(FAULTS)
        run.faults[fault] += 1
        number = rng.randrange(MEMBERS)
        match fault:
            case "kill":
                members.replace(number, signal.SIGKILL)
            case "stop":
                members.replace(number, signal.SIGTERM)
            case "freeze":
                members.freeze(number, rng.uniform(1.6, 4))
            case "brokers":
                kafka.kill() if rng.random() < 0.5 else kafka.stop()
                time.sleep(rng.uniform(0, 2))
                kafka.start()
            case _:
                store.fail(fault, rng)
                time.sleep(rng.uniform(0.5, 6))
                if rng.random() < 0.3:
                    members.replace(number, signal.SIGKILL)
                store.heal()


def _topics(stage: Stage) -> dict[str, str]:
    topics = stage.topics
    return {
        topics.lead_changes: "changes",
        topics.lead_predictions: "predictions",
        topics.shadow_predictions: "predictions",
        topics.lead_outcomes: "outcomes",
    }


def _opened(store: HistoryStore, url: str, table: str) -> DeltaTable | None:
    try:
        return DeltaTable(f"{url}/{table}", storage_options=store.options())
    except Exception:  # noqa: BLE001  # not made yet, or in the middle of it
        return None


def _drain(stage: Stage, store: HistoryStore, url: str) -> None:
    """Wait until the tables have the offsets of all records."""
    ends: dict[tuple[str, int], int] = {}
    for topic in _topics(stage):
        for message in stage.read(topic, 0):
            place = (topic, message.partition())
            ends[place] = max(ends.get(place, 0), message.offset() + 1)

    def reached() -> bool:
        for (topic, partition), end in ends.items():
            table = _opened(store, url, _topics(stage)[topic])
            if table is None or (table.transaction_version(f"{topic}-{partition}") or 0) < end:
                return False
        return True

    until(reached, "the tables have all offsets", 120)


def violations(stage: Stage, store: HistoryStore, url: str, run: HistoryRun) -> Iterator[str]:
    """What is wrong with the tables, by the topics themselves."""
    environment = {"LEADSTREAM_HISTORY": url, **store.settings}
    _age_orphans(store)
    for _ in range(2):  # the second finds nothing to do
        subprocess.run(
            [sys.executable, "-m", "leadstream.cli.main", "history", "compact"],
            env=os.environ | environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    by_table: dict[str, list[Message]] = {}
    for topic, table in _topics(stage).items():
        by_table.setdefault(table, []).extend(stage.read(topic, 0))
    erased = {
        (message.key() or b"").decode()
        for message in by_table["changes"]
        if message.value() is None
    }
    for table, messages in by_table.items():
        run.records += len(messages)
        opened = _opened(store, url, table)
        rows = opened.to_pyarrow_table().to_pylist() if opened is not None else []
        run.rows += len(rows)
        yield from compare(table, messages, rows, erased)
    if store.folder is not None:
        yield from _left_behind(Path(url), erased)


def compare(
    table: str, messages: Iterable[Message], rows: Iterable[dict[str, Any]], erased: set[str]
) -> Iterator[str]:
    """Yield each difference between the records of a table's topics and its rows."""
    wanted: dict[tuple[str, int, int], dict[str, Any]] = {}
    for message in messages:
        value = message.value()
        if value is None or value == JUNK or (message.key() or b"").decode() in erased:
            continue
        record = _DECODERS[table].decode(value)
        wanted[message.topic(), message.partition(), message.offset()] = record
    found: Counter[tuple[str, int, int]] = Counter()
    for row in rows:
        place = (row["topic"], row["partition"], row["offset"])
        found[place] += 1
        if place not in wanted:
            yield f"{table}: {place} is of an erased lead, unreadable, or in no topic"
        elif row["lead_id"] != wanted[place]["lead_id"] or (
            table != "outcomes" and row["event_id"] != wanted[place]["event_id"]
        ):
            yield f"{table}: {place} has the values of another record"
    yield from (f"{table}: {place} is there {n} times" for place, n in found.items() if n > 1)
    yield from (f"{table}: {place} is missing" for place in wanted if place not in found)


def _age_orphans(store: HistoryStore) -> None:
    """Let an hour pass for what refused commits left."""
    age = time.time() - 2 * 3600
    for path in store.folder.parent.rglob("*.parquet") if store.folder is not None else ():
        os.utime(path, (age, age))


def _left_behind(folder: Path, erased: set[str]) -> Iterator[str]:
    for path in folder.rglob("*"):
        held = path.read_bytes() if path.is_file() else b""
        if b"erased_" in held:
            names = [lead for lead in erased if re.search(rb"%b(?!\d)" % lead.encode(), held)]
            # A lead whose null did not reach the brokers was not erased.
            if names:
                yield f"{path.relative_to(folder)} still holds {names[:3]}"


def main(arguments: list[str] | None = None) -> int:
    """Run schedules; the exit code is 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=60, help="of faults in each")
    parser.add_argument("--store", choices=["folder", "s3"], default="folder")
    options = parser.parse_args(arguments)
    opened: Callable[[Path], contextlib.AbstractContextManager[HistoryStore]]
    opened = small_file_system if options.store == "folder" else s3_behind_proxy
    broken = 0
    with tempfile.TemporaryDirectory(prefix="history-faults-") as name, local_kafka(print) as kafka:
        for seed in range(options.first, options.first + options.schedules):
            folder = Path(name) / str(seed)
            folder.mkdir()
            with opened(folder) as store:
                run = run_schedule(kafka, store, folder / "run", seed, options.seconds)
            figures = {"faults": run.faults.total(), **run.faults}
            line = {
                "seed": seed,
                "store": options.store,
                "records": run.records,
                "rows": run.rows,
                "conflicts": run.conflicts,
                "violations": run.violations[:5],
            }
            print(json.dumps(line | figures), flush=True)
            broken += bool(run.violations)
            shutil.rmtree(folder, ignore_errors=True)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
