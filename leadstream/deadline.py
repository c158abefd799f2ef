"""A moment at which waiting ends, handed down from the caller that set it."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on a monotonic clock, in seconds.

    Calls that wait share one deadline; limits of their own would add up.
    """

    at: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> "Deadline":
        """Return the deadline that many seconds from now."""
        return cls(clock() + seconds, clock)

    def left(self) -> float:
        """Return the seconds until the deadline; 0 once it has passed."""
        return max(0.0, self.at - self.clock())

    @property
    def expired(self) -> bool:
        """Return whether the deadline has passed."""
        return self.clock() >= self.at

    def earlier(self, seconds: float) -> "Deadline":
        """Return the earlier of this deadline and the one that many seconds from now."""
        return Deadline(min(self.at, self.clock() + seconds), self.clock)
