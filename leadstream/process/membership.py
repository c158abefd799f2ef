"""Memberships of a consumer group, one after another, until a service is stopped."""

import time
from collections.abc import Callable
from typing import Protocol

from leadstream.backoff import Backoff
from leadstream.errors import Fenced
from leadstream.log import Logger
from leadstream.process.status import Status

# A membership that lasted this long worked: the next rejoin does not wait for its failures.
LASTING_SECONDS = 30.0


class StoppableLoop(Protocol):
    """A loop that knows whether it was asked to end."""

    @property
    def stopping(self) -> bool:
        """Return whether the loop was asked to end."""


def keep_membership(
    membership: Callable[[], None],
    loop: StoppableLoop,
    *,
    status: Status,
    logger: Logger,
    on_rejoin: Callable[[], None] = lambda: None,
    backoff: Backoff | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Run memberships until the loop is stopped; after Fenced, wait and join again.

    `membership` makes its clients, runs the loop with them, and closes them. The waits grow from
    one short membership to the next. Raises what a membership raises, but Fenced.
    """
    backoff, logged = backoff or Backoff(clock), ""
    while not loop.stopping:
        began = clock()
        try:
            membership()
            status.left()
        except Fenced as fenced:
            status.left(f"{fenced}; the process joins again")
            on_rejoin()
            if str(fenced) != logged:
                logger.warning("rejoining", detail=str(fenced))
                logged = str(fenced)
            if clock() - began > LASTING_SECONDS:
                backoff.reset()
                logged = ""
            for seconds in backoff.pauses(lambda: loop.stopping):
                status.beat()
                wait(seconds)
