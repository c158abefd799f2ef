"""The status of a loop, which the HTTP endpoints read from another thread."""

import threading
import time
from collections.abc import Callable

from leadstream.budgets import HEALTH_SECONDS

_NO_PARTITION = (
    "is a member of its consumer group and has no partition: the group has more members than "
    "partitions, or its partitions are moving"
)
_NOT_JOINED = "has not joined its consumer group yet"


class Status:
    """The status of a loop: its last turn, its partitions, and what holds it back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._beat = clock()
        self._assigned = 0
        self._joined = False
        self._apart = _NOT_JOINED
        self._absent: list[str] = []
        self._troubles: dict[str, str] = {}
        self._blocked: dict[str, str] = {}
        self._warnings: dict[str, str] = {}

    def beat(self) -> None:
        """Note that the loop turned."""
        self._beat = self._clock()

    def idle(self) -> float:
        """Return the seconds since the loop last turned."""
        return self._clock() - self._beat

    def turns(self) -> bool:
        """Return whether the loop turned within the last minute."""
        return self.idle() < HEALTH_SECONDS

    def assigned(self, partitions: int) -> None:
        """Note how many partitions this process owns; any assignment means that it joined."""
        with self._lock:
            self._assigned, self._joined = partitions, True

    def rebalanced(self, kind: str, owned: int) -> None:
        """Note a rebalance: assigned, revoked or lost, with the partitions owned after it.

        A member that lost its partitions is none until it is assigned some, or none, again.
        """
        if kind == "lost":
            self.left("lost its partitions; joins its consumer group again")
        else:
            self.assigned(owned)

    def left(self, why: str | None = None) -> None:
        """Note that the process is not a member of its group, and why.

        What earlier clients found absent is forgotten: the next ones look for themselves.
        """
        with self._lock:
            self._assigned, self._joined = 0, False
            self._apart = why or _NOT_JOINED
            self._absent = []

    def absent(self, topics: list[str]) -> None:
        """Note the subscribed topics that do not exist; the others are processed."""
        with self._lock:
            self._absent = topics

    def block(self, what: str, detail: str | None) -> None:
        """Note what keeps the process from its work while the loop turns; None ends it."""
        with self._lock:
            self._blocked.pop(what, None)
            if detail:
                self._blocked[what] = detail

    def trouble(self, dependency: str, detail: str) -> None:
        """Note a dependency that holds the loop back."""
        with self._lock:
            self._troubles[dependency] = detail

    def well(self) -> None:
        """Note that no dependency holds the loop back."""
        with self._lock:
            self._troubles.clear()

    def warn(self, what: str, detail: str | None) -> None:
        """Note a problem that needs a person while the loop continues; None ends it."""
        with self._lock:
            self._warnings.pop(what, None)
            if detail:
                self._warnings[what] = detail

    def warnings(self) -> dict[str, str]:
        """Return the problems that need a person, by name."""
        with self._lock:
            warnings = dict(self._warnings)
            if self._joined and not self._assigned:
                warnings["partitions"] = _NO_PARTITION
            return warnings

    def missing(self) -> dict[str, str]:
        """Return what keeps the process from being ready, by name; empty if it is ready."""
        with self._lock:
            missing = self._troubles | self._blocked
            if self._absent:
                missing["topics"] = (
                    f"no {', '.join(self._absent)}; "
                    "`leadstream topics create` makes what is missing"
                )
            if not self._joined:
                missing.setdefault("assignment", self._apart)
            return missing
