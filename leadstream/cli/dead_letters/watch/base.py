"""The base of the full-screen app: it runs the calls to the brokers in background threads."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from consumer.dead_letters.service import TriageService
from leadstream.errors import Fenced, Poison, Transient, UserError

Result = TypeVar("Result")


class BackgroundApp(App[None]):
    """The part of the app that the screens use; `decided_by` goes into the audit."""

    CSS_PATH = "watch.tcss"
    TITLE = "Leadstream dead letters"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", "Quit", priority=True, show=False)
    ]

    def __init__(self, triage: TriageService, decided_by: str) -> None:
        super().__init__()
        self.triage = triage
        self.decided_by = decided_by
        self.stop = threading.Event()
        self._deciding: threading.Thread | None = None

    def run_in_background(
        self,
        screen: Screen[Any],
        work: Callable[[], Result],
        on_result: Callable[[Result], None],
        on_error: Callable[[str], None],
        *,
        decides: bool = False,
    ) -> None:
        """Run work in a thread; pass its result or its error message to the screen, if still open.

        The thread is a daemon, so the app can exit without an answer of the brokers. `finish` waits
        only for a decision.
        """

        def deliver(callback: Callable[[Any], None], value: object) -> None:
            if screen.is_attached:
                callback(value)

        def run() -> None:
            try:
                call: tuple[Callable[[Any], None], Any] = (on_result, work())
            except (UserError, Transient, Poison, Fenced) as error:
                call = (on_error, str(error))
            with suppress(RuntimeError):  # the app has ended
                self.call_later(deliver, *call)

        thread = threading.Thread(target=run, daemon=True)
        if decides:
            self._deciding = thread
        thread.start()

    def finish(self) -> None:
        """Stop a running decision after its current transaction, and wait for it."""
        self.stop.set()
        if self._deciding:
            self._deciding.join()
