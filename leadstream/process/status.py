"""What the loop tells the outside about itself; the HTTP endpoints read it from another thread."""

import threading
import time
from collections.abc import Callable

from leadstream.budgets import HEALTH_SECONDS


class Status:
    """The state of the loop: when it last turned, what it owns, and which dependencies hold it back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._beat = clock()
        self._assigned = 0
        self._joined = False
        self._absent: list[str] = []
        self._troubles: dict[str, str] = {}
        self._warnings: dict[str, str] = {}

    def beat(self) -> None:
        """The loop has turned."""
        self._beat = self._clock()

    def idle(self) -> float:
        """Seconds since the loop last turned."""
        return self._clock() - self._beat

    def turns(self) -> bool:
        """Whether the loop has turned within the last minute."""
        return self.idle() < HEALTH_SECONDS

    def assigned(self, partitions: int) -> None:
        """How many partitions this process owns; it has joined its group from the first assignment on, even of none."""
        with self._lock:
            self._assigned, self._joined = partitions, True

    def left(self) -> None:
        """The process is not a member of its group, or not any more."""
        with self._lock:
            self._assigned, self._joined = 0, False

    def absent(self, topics: list[str]) -> None:
        """The subscribed topics that the brokers do not have; what is in the others goes on."""
        with self._lock:
            self._absent = topics

    def trouble(self, dependency: str, detail: str) -> None:
        """A dependency holds the loop back."""
        with self._lock:
            self._troubles[dependency] = detail

    def well(self) -> None:
        """No dependency holds the loop back."""
        with self._lock:
            self._troubles.clear()

    def warn(self, what: str, detail: str | None) -> None:
        """Something that needs a person, though the loop goes on; None where it is over."""
        with self._lock:
            self._warnings.pop(what, None)
            if detail:
                self._warnings[what] = detail

    def warnings(self) -> dict[str, str]:
        """What needs a person, by name."""
        with self._lock:
            return dict(self._warnings)

    def missing(self) -> dict[str, str]:
        """What keeps the process from being ready, by name; empty where it is ready."""
        with self._lock:
            missing = dict(self._troubles)
            if self._absent:
                missing["topics"] = (
                    f"no {', '.join(self._absent)}; `leadstream topics create` makes what is missing"
                )
            if not self._joined:
                missing.setdefault("assignment", "has not joined its consumer group yet")
            return missing
