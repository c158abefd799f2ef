"""Signals that stop a process."""

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
    """A loop that a signal can end."""

    def stop(self) -> None:
        """End the loop once its current work is done."""


def leave_on_signals() -> None:
    """Exit with code 0 on SIGTERM or SIGINT, until `stop_on_signals` is called.

    A process that still loads its modules owns nothing that it would have to give back.
    """
    for number in _STOPS:
        signal.signal(number, lambda _number, _frame: os._exit(0))


def stop_on_signals(service: Stoppable, logger: "Logger") -> None:
    """Stop the loop on SIGTERM or SIGINT, after its current batch.

    A second signal ends the process immediately, and so do 25 seconds.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    for number in _STOPS:
        signal.signal(number, lambda _number, _frame: None)
    # Python runs handlers only between calls into the client, which may take seconds. This thread
    # is notified immediately.
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
