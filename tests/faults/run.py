"""One schedule, from its topics to its verdict."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

from leadstream.kafka.topics import Topics
from leadstream.local.process import Child
from schemas.codec import Reader
from schemas.registry import Registry
from tests.faults.checker import Violation, violations
from tests.faults.environment import FaultEnvironment, direct_database, staged
from tests.faults.foreign import ForeignProducer
from tests.faults.history import RunHistory, save
from tests.faults.inflict import Inflicter
from tests.faults.members import ConsumerMember, together
from tests.faults.recorder import group_offsets, record
from tests.faults.schedule import CONSUMERS, Fault, Schedule
from tests.faults.score_sink import SinkMember
from tests.faults.sights import watching
from tests.faults.testimony import silent
from tests.integration.running import Stage, until

# What was held back while everything failed must be through after so long with nothing failing.
DRAIN_SECONDS = 60.0
HISTORY = "history.json.gz"


@dataclass(slots=True)
class Ran:
    """What came of a schedule: how often each fault was done, the figures of its history, and what
    does not hold.
    """

    schedule: Schedule
    folder: Path
    faults: Counter[str] = field(default_factory=Counter)
    figures: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)


def run(environment: FaultEnvironment, plan: Schedule, folder: Path) -> Ran:
    """Do what a schedule says, let everything recover, and check what was left behind."""
    ran = Ran(plan, folder)
    stage = staged(
        environment, folder, coalesce=plan.coalesce, batch_max_records=plan.batch_max_records
    )
    members = [
        ConsumerMember(stage, i, plan.protocol, static=plan.static) for i in range(CONSUMERS)
    ]
    registry = Registry(environment.registry.url)
    reader = Reader("LeadPrediction", registry)
    sink = SinkMember(stage, direct_database(environment, stage), reader)
    inflicter = Inflicter(environment, stage, members, sink, plan.protocol)
    try:
        sink.prepare()
        sink.start()
        for member in members:
            member.start()
        together([member.until_ready for member in members])
        with watching(stage, members) as sights:
            with _sending(environment, stage, plan):
                _inflict(inflicter, plan, ran)
            ForeignProducer(stage).seal()
            ran.violations += _drained(stage, members)
        ran.violations += silent(sights)
        if not ran.violations:
            together([member.note_metrics for member in members])
            ran.violations += sink.violations(DRAIN_SECONDS)
        together([member.stop for member in members])
    finally:
        together([sink.kill, *(member.kill for member in members)])
    processes = [process for member in members for process in member.past]
    history = record(stage, environment.kafka.data, processes, reader, coalesce=plan.coalesce)
    registry.close()
    save(history, folder / HISTORY)
    ran.violations += violations(history)
    ran.figures = _figures(history) | sum((member.seen for member in members), Counter[str]())
    return ran


def _inflict(inflicter: Inflicter, plan: Schedule, ran: Ran) -> None:
    """Every lane in a thread of its own: faults of one part come one after the other, those of
    several at once.
    """
    lanes: dict[tuple[str, int], list[Fault]] = defaultdict(list)
    for fault in plan.faults:
        lanes[fault.lane, fault.target if fault.lane == "consumer" else 0].append(fault)
    began = time.monotonic()
    over = threading.Event()
    counted = threading.Lock()

    def lane(faults: Sequence[Fault]) -> None:
        for fault in faults:
            if over.wait(max(0.0, began + fault.at - time.monotonic())):
                return
            try:
                with inflicter.during(fault):
                    over.wait(fault.lasts)
            except BaseException:
                over.set()
                raise
            with counted:
                ran.faults[fault.kind] += 1

    with ThreadPoolExecutor(len(lanes) or 1) as pool:
        for future in [pool.submit(lane, faults) for faults in lanes.values()]:
            future.result()
    over.wait(max(0.0, began + plan.seconds - time.monotonic()))


@contextlib.contextmanager
def _sending(environment: FaultEnvironment, stage: Stage, plan: Schedule) -> Iterator[None]:
    """The CRM, from its first record until the end of the block; then what it still holds is
    acknowledged.
    """
    options = {
        "bootstrap": stage.bootstrap,
        "topics": {each.name: getattr(stage.topics, each.name) for each in fields(Topics)},
        "database": direct_database(environment, stage),
        "registry": environment.registry.url,
        "seed": plan.seed,
        "rate": plan.changes_per_second,
    }
    folder = stage.folder / "sender"
    folder.mkdir()
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), os.getcwd())))
    command = [sys.executable, "-m", "tests.faults.sender", json.dumps(options)]
    child = Child(command, folder, folder / "log", environ={**os.environ, "PYTHONPATH": path})
    try:
        until(
            lambda: not child.alive() or (folder / "log").read_text().startswith("sending"),
            "the CRM sends",
        )
        yield
        if not child.alive():
            raise AssertionError(f"the CRM of the run ended: {child.log_tail()}")
        assert child.end(signal.SIGTERM, 90) == 0, child.log_tail()
    finally:
        child.end(signal.SIGKILL, 10)


def _drained(stage: Stage, members: Sequence[ConsumerMember]) -> list[Violation]:
    """Everything is consumed and everybody is ready again, by themselves, now that nothing fails
    any more.
    """
    try:
        until(lambda: _behind(stage) == 0, "everything is consumed", DRAIN_SECONDS)
        together([member.until_ready for member in members])
    except AssertionError as error:
        return [Violation("progress", f"{error}; {_behind(stage)} records are not consumed")]
    return []


def _behind(stage: Stage) -> int:
    """How many records the group has not committed."""
    return sum(end - stands for end, stands in group_offsets(stage).values())


def _figures(history: RunHistory) -> dict[str, int]:
    """What a run was like, in numbers."""
    changes = sum(sent.record.place.topic != history.requests_topic for sent in history.sent)
    return {
        "changes": changes,
        "requests": len(history.sent) - changes,
        "predictions": sum(output.record.value is not None for output in history.predictions),
        "erasures": sum(output.record.value is None for output in history.predictions),
        "letters": len(history.letters),
        "results": len(history.results),
        "transactions": len(history.transactions),
        "aborted batches": sum(not append.committed for append in history.appended),
        "processes": len(history.processes),
        "rejoins": sum(process.rejoins for process in history.processes),
    }
