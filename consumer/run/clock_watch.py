"""The watch over clocks: this machine's against those of the changes and of Postgres."""

import time
from collections.abc import Callable

from leadstream.log import Logger
from leadstream.process.status import Status

# NTP keeps clocks within milliseconds; a network and a busy machine add some.
SKEW_SECONDS = 5.0
# A clock that was right again for that long ends the warning.
CALM_SECONDS = 60.0
_NTP = "keep the clocks by NTP"


class ClockWatch:
    """Warns of a clock that is wrong.

    Changes whose Kafka timestamps lie ahead of this machine's clock, and a difference to the clock
    of Postgres, show it. `postgres_ahead` returns how far that clock is ahead in seconds, or None.
    """

    def __init__(
        self,
        status: Status,
        logger: Logger,
        postgres_ahead: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._logger = logger
        self._postgres_ahead = postgres_ahead
        self._clock = clock
        self._changes_ahead: tuple[float, float] | None = None
        self._warned: str | None = None

    def see(self, newest: float, now: float) -> None:
        """Note the newest timestamp of a batch, and the time of its commit, in seconds."""
        if newest - now > SKEW_SECONDS:
            self._changes_ahead = newest - now, self._clock()
        self._report()

    def _report(self) -> None:
        if self._changes_ahead and self._clock() - self._changes_ahead[1] > CALM_SECONDS:
            self._changes_ahead = None
        postgres = self._postgres_ahead() or 0.0
        found = {
            "changes": self._changes_ahead[0] if self._changes_ahead else 0.0,
            "postgres": postgres if abs(postgres) > SKEW_SECONDS else 0.0,
        }
        sentences = [_SENTENCES[kind](seconds) for kind, seconds in found.items() if seconds]
        kinds = ",".join(kind for kind, seconds in found.items() if seconds)
        if kinds == (self._warned or ""):
            return
        self._warned = kinds
        why = f"{'; '.join(sentences)}: {_NTP}" if sentences else None
        if why:
            self._logger.warning("clock.wrong", detail=why)
        self._status.warn("clock", why)


_SENTENCES: dict[str, Callable[[float], str]] = {
    "changes": lambda seconds: (
        f"changes are dated {seconds:.0f} s ahead of this machine's clock: the clock of their "
        "producer or of this machine is wrong"
    ),
    "postgres": lambda seconds: (
        f"Postgres's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this "
        "machine's: one of them is wrong"
    ),
}
