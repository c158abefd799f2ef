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
        self._warned: list[str] = []

    def see(self, newest: float, now: float) -> None:
        """Note the newest timestamp of a batch, and the time of its commit, in seconds."""
        if newest - now > SKEW_SECONDS:
            self._changes_ahead = newest - now, self._clock()
        self._report()

    def _report(self) -> None:
        if self._changes_ahead and self._clock() - self._changes_ahead[1] > CALM_SECONDS:
            self._changes_ahead = None
        sentences = self._sentences()
        # The seconds vary: only another cause is reported again.
        if list(sentences) == self._warned:
            return
        self._warned = list(sentences)
        why = f"{'; '.join(sentences.values())}: {_NTP}" if sentences else None
        if why:
            self._logger.warning("clock.wrong", detail=why)
        self._status.warn("clock", why)

    def _sentences(self) -> dict[str, str]:
        """Return what is wrong, by what shows it."""
        found = {}
        if self._changes_ahead:
            found["changes"] = (
                f"changes are dated {self._changes_ahead[0]:.0f} s ahead of this machine's clock: "
                "the clock of their producer or of this machine is wrong"
            )
        postgres = self._postgres_ahead() or 0.0
        if abs(postgres) > SKEW_SECONDS:
            found["postgres"] = (
                f"Postgres's clock is {abs(postgres):.0f} s "
                f"{'ahead of' if postgres > 0 else 'behind'} this machine's: one of them is wrong"
            )
        return found
