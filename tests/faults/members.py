"""The consumers of a run: three places, each with one process after another, and what became of
every one.
"""

import contextlib
import os
import resource
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults.environment import CLOCK
from tests.faults.history import DISPOSITIONS, Ending, ProcessRun
from tests.faults.reading import line
from tests.faults.schedule import Protocol
from tests.integration.running import QUICK, Running, Stage, until

STOP_SECONDS = 40.0
ANSWER_SECONDS = 20.0
# With the protocol of KIP-848 the brokers decide on these.
_CLASSIC_ONLY = {name for name in QUICK if "TRANSACTION" not in name}
_INSTANCE = "LEADSTREAM_KAFKA_GROUP_INSTANCE_ID"


class ConsumerMember:
    """One place in the group.

    `lock` is held by whoever does something to it; `seen` counts what it told of. A `static` one
    has a name of its own, which changes with the protocol.
    """

    def __init__(
        self, stage: Stage, number: int, protocol: Protocol = "classic", *, static: bool = False
    ) -> None:
        self._stage = stage
        self._number = number
        self._protocol: Protocol = protocol
        self._static = static
        self._started = 0
        self._clock = stage.folder / f"clock-{number}"
        self._names: dict[Running, str] = {}
        self._running: Running | None = None
        self._other: Running | None = None
        self._metrics: dict[str, int] | None = None
        self._dropped: Counter[Running] = Counter()
        self.lock = threading.Lock()
        self.past: list[ProcessRun] = []
        self.seen: Counter[str] = Counter()

    @property
    def running(self) -> Running | None:
        return self._running

    def start(self) -> None:
        """A new process; its clock is right again."""
        self.jump(0)
        self._running = self._make()

    def until_ready(self) -> None:
        if self._running is not None:
            self._running.until_ready()

    def kill(self) -> None:
        for running in (self._other, self._running):
            self._end(running, Ending.KILLED)
        self._other = self._running = None

    def stop(self) -> None:
        """SIGTERM, and its end waited for."""
        self._end(self._running, Ending.STOPPED)
        self._running = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def jump(self, seconds: int) -> None:
        """From now on its wall clock is wrong by so much."""
        replacement = self._clock.with_suffix(".new")
        replacement.write_text(str(seconds), "utf-8")
        replacement.replace(self._clock)

    def start_next(self, protocol: Protocol | None = None) -> None:
        """Start another process next to the present one: of another protocol, or a twin."""
        self._protocol = protocol or self._protocol
        self._other = self._make()

    def stop_old(self) -> None:
        """Only the newer process goes on."""
        self.stop()
        self._running, self._other = self._other, None

    def end_twins(self) -> None:
        """End both of two processes with one name, one of which may have ended since."""
        for running in (self._other, self._running):
            replaced = running is not None and _has_ended(running)
            self._end(running, Ending.REPLACED if replaced else Ending.KILLED)
        self._other = self._running = None

    @contextlib.contextmanager
    def full_log(self) -> Iterator[None]:
        """No file of the process can grow, as on a full disk: its log above all."""
        running = self._running
        # A process that has not begun could not say where it answers.
        if running is None or not running.alive() or not running.events("started"):
            yield
            return
        before = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(running.pid, resource.RLIMIT_FSIZE, before)
            until(
                lambda: not running.alive() or self._count_dropped(running),
                "a process with a full log still answers",
                ANSWER_SECONDS,
            )

    def note_metrics(self) -> None:
        """Remember what it has counted, which must be what it has written; call it when there is
        nothing to consume.
        """
        if self._running is not None and self._running.alive():
            self._metrics = {
                disposition: self._running.accounting()[disposition] for disposition in DISPOSITIONS
            }

    def _make(self) -> Running:
        path = os.pathsep.join(
            filter(None, (str(CLOCK), os.environ.get("PYTHONPATH"), os.getcwd()))
        )
        environment = self._stage.environment | {
            "PYTHONPATH": path,
            "FAULTS_CLOCK": str(self._clock),
            "PYTHONFAULTHANDLER": "1",  # a process that is aborted says where
        }
        if self._protocol == "consumer":
            environment["LEADSTREAM_KAFKA_GROUP_PROTOCOL"] = "consumer"
            environment = {k: v for k, v in environment.items() if k not in _CLASSIC_ONLY}
        if self._static:
            environment[_INSTANCE] = f"member-{self._number}-{self._protocol}"
        name = f"consumer-{self._number}-{self._started}"
        self._started += 1
        running = Running(environment, self._stage.folder / name)
        self._names[running] = name
        return running

    def _count_dropped(self, running: Running) -> bool:
        """Whether it could say how many of its lines it has dropped."""
        try:
            self._dropped[running] = int(running.metric("log_lines_dropped_total"))
        except OSError:
            return False
        return True

    def _end(self, running: Running | None, ending: Ending) -> None:
        if running is None:
            return
        died = not running.alive()
        if ending is Ending.STOPPED or died:
            code = running.stop(STOP_SECONDS)
        else:
            running.kill()
            code = -signal.SIGKILL
        if died and ending is not Ending.REPLACED:
            ending = Ending.DIED
        self.past.append(
            ProcessRun(
                self._names[running],
                ending,
                code,
                tuple(map(line, running.events("batch"))),
                started=bool(running.events("started")),
                rejoins=len(running.events("rejoining")),
                sentences=tuple(running.sentences()),
                metrics=self._metrics,
                dropped=self._dropped[running],
            )
        )
        self.seen["lost assignments"] += sum(
            event["kind"] == "lost" for event in running.events("rebalance")
        )
        self.seen["dropped log lines"] += self._dropped[running]
        self.seen += Counter(
            f"held for {event['dependency']}" for event in running.events("batch.held")
        )
        self._metrics = None

    def _signal(self, sign: signal.Signals) -> None:
        if self._running is not None and self._running.alive():
            self._running.signal(sign)


def together(calls: Sequence[Callable[[], object]]) -> None:
    """Make these calls at once, and return when all have; raises what one of them raises."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


def _has_ended(running: Running) -> bool:
    """Whether it has ended by itself; one that has said why is about to."""
    if running.sentences():
        until(lambda: not running.alive(), "a process that said why ends", STOP_SECONDS)
    return not running.alive()
