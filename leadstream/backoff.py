"""Growing waits between attempts, with jitter: the one back-off of every service."""

import random
import time
from collections.abc import Callable, Iterator

from leadstream.budgets import POLL_SECONDS
from leadstream.deadline import Deadline

FIRST_SECONDS = 0.2
MAX_SECONDS = 5.0
# Processes that lost the same dependency at the same moment do not all return at the same moment.
JITTER = 0.2


class Backoff:
    """Delays that begin at 0.2 s and double after each failure, up to 5 s.

    Each is up to 20 % shorter or longer at random. `clock` is a monotonic clock in seconds; `draw`
    returns a number between its two arguments.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._seconds = FIRST_SECONDS

    def next_delay(self) -> float:
        """Return the seconds to wait before the next attempt, and double the delay after it."""
        delay = self._seconds * self._draw(1 - JITTER, 1 + JITTER)
        self._seconds = min(self._seconds * 2, MAX_SECONDS)
        return delay

    def reset(self) -> None:
        """Start over with the first delay, after an attempt that succeeded."""
        self._seconds = FIRST_SECONDS

    def pauses(self, stopped: Callable[[], bool]) -> Iterator[float]:
        """Yield waits of at most 0.25 s that add up to the next delay.

        Ends early once `stopped` returns True. The caller waits for each, in its own way: asleep,
        or as a member of its group.
        """
        deadline = Deadline.after(self.next_delay(), self._clock)
        while not stopped() and not deadline.expired:
            yield min(deadline.left(), POLL_SECONDS)
