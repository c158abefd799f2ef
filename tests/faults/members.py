"""The consumers of a run: three places, each with one process after another, and what became of
every one.
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults.environment import CLOCK
from tests.faults.history import DISPOSITIONS, Ending, ProcessRun
from tests.faults.reading import line
from tests.integration.running import Running, Stage

STOP_SECONDS = 40.0


class ConsumerMember:
    """One place in the group.

    `lock` is held by whoever does something to it; `seen` counts what it told of.
    """

    def __init__(self, stage: Stage, number: int) -> None:
        self._stage = stage
        self._number = number
        self._clock = stage.folder / f"clock-{number}"
        self._running: Running | None = None
        self._metrics: dict[str, int] | None = None
        self.lock = threading.Lock()
        self.past: list[ProcessRun] = []
        self.seen: Counter[str] = Counter()

    def start(self) -> None:
        """A new process; its clock is right again."""
        self.jump(0)
        path = os.pathsep.join(
            filter(None, (str(CLOCK), os.environ.get("PYTHONPATH"), os.getcwd()))
        )
        environment = self._stage.environment | {
            "PYTHONPATH": path,
            "FAULTS_CLOCK": str(self._clock),
        }
        environment["PYTHONFAULTHANDLER"] = "1"  # a process that is aborted says where
        self._running = Running(environment, self._stage.folder / self._name())

    def until_ready(self) -> None:
        if self._running is not None:
            self._running.until_ready()

    def kill(self) -> None:
        self._end(Ending.KILLED)

    def stop(self) -> None:
        """SIGTERM, and its end waited for."""
        self._end(Ending.STOPPED)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def jump(self, seconds: int) -> None:
        """From now on its wall clock is wrong by so much."""
        replacement = self._clock.with_suffix(".new")
        replacement.write_text(str(seconds), "utf-8")
        replacement.replace(self._clock)

    def note_metrics(self) -> None:
        """Remember what it has counted, which must be what it has written; call it when there is
        nothing to consume.
        """
        if self._running is not None and self._running.alive():
            self._metrics = {
                disposition: self._running.accounting()[disposition] for disposition in DISPOSITIONS
            }

    def _end(self, ending: Ending) -> None:
        running = self._running
        if running is None:
            return
        died = not running.alive()
        if ending is Ending.STOPPED or died:
            code = running.stop(STOP_SECONDS)
        else:
            running.kill()
            code = -signal.SIGKILL
        self.past.append(
            ProcessRun(
                self._name(),
                Ending.DIED if died else ending,
                code,
                tuple(map(line, running.events("batch"))),
                started=bool(running.events("started")),
                rejoins=len(running.events("rejoining")),
                sentences=tuple(running.sentences()),
                metrics=self._metrics,
            )
        )
        self.seen["lost assignments"] += sum(
            event["kind"] == "lost" for event in running.events("rebalance")
        )
        self.seen += Counter(
            f"held for {event['dependency']}" for event in running.events("batch.held")
        )
        self._running = self._metrics = None

    def _signal(self, sign: signal.Signals) -> None:
        if self._running is not None and self._running.alive():
            self._running.signal(sign)

    def _name(self) -> str:
        return f"consumer-{self._number}-{len(self.past)}"


def together(calls: Sequence[Callable[[], object]]) -> None:
    """Make these calls at once, and return when all have; raises what one of them raises."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()
