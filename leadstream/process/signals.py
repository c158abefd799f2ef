"""How a process that runs until it is stopped hears of it."""

import os
import signal
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from leadstream.budgets import SHUTDOWN_SECONDS

if TYPE_CHECKING:
    from leadstream.log import Logger

_STOPS = (signal.SIGTERM, signal.SIGINT)


class Stoppable(Protocol):
    """A loop that a signal ends."""

    def stop(self) -> None:
        """End the loop once the work at hand is done."""


def leave_on_signals() -> None:
    """Until the loop hears of them: a process that still loads its modules owns nothing, and leaves at once with 0."""
    for number in _STOPS:
        signal.signal(number, lambda _number, _frame: os._exit(0))


def stop_on_signals(service: Stoppable, logger: "Logger") -> None:
    """SIGTERM and SIGINT end the loop after the batch at hand; a second one, or 25 seconds, end the process at once."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    for number in _STOPS:
        signal.signal(number, lambda _number, _frame: None)
    # A handler runs only between calls into the client, which may take seconds; this thread hears of a signal at once.
    listener = threading.Thread(
        target=_listen, args=(reader, writer, service, logger), name="signals", daemon=True
    )
    listener.start()


def _listen(
    reader: socket.socket, _kept_open: socket.socket, service: Stoppable, logger: "Logger"
) -> None:
    reader.recv(1)
    service.stop()
    reader.settimeout(SHUTDOWN_SECONDS)
    with suppress(TimeoutError):
        os._exit(128 + reader.recv(1)[0])
    logger.error(
        "stopping.late",
        detail=f"not stopped within {SHUTDOWN_SECONDS:g} s; uncommitted work is not lost",
    )
    os._exit(1)
