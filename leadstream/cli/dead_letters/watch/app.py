"""The app: its first screen are the causes, and what asks the brokers does so in a thread."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from consumer.dead_letters.selection import Filter
from consumer.dead_letters.service import TriageService
from leadstream.cli.dead_letters.watch.cause_screen import Causes
from leadstream.errors import Fenced, Poison, Transient, UserError

Found = TypeVar("Found")


class Watch(App[None]):
    """Looks at and decides on the letters that a filter means; `decided_by` goes into the audit."""

    CSS_PATH = "watch.tcss"
    TITLE = "Leadstream dead letters"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", "Quit", priority=True, show=False)
    ]

    def __init__(self, triage: TriageService, wanted: Filter, decided_by: str) -> None:
        super().__init__()
        self.triage = triage
        self.wanted = wanted
        self.decided_by = decided_by
        self.stop = threading.Event()
        self._deciding: threading.Thread | None = None

    def get_default_screen(self) -> Screen[Any]:
        """The causes."""
        return Causes(self.triage, self.wanted)

    def ask(
        self,
        screen: Screen[Any],
        work: Callable[[], Found],
        then: Callable[[Found], None],
        fail: Callable[[str], None],
        *,
        decides: bool = False,
    ) -> None:
        """Do work in a thread; hand what it found, or the sentence of what was wrong, to a screen that still is there.

        A daemon thread, for whoever leaves does not wait for a broker; but a decision is waited for by `finish`.
        """

        def tell(hear: Callable[[Any], None], what: object) -> None:
            if screen.is_attached:
                hear(what)

        def run() -> None:
            try:
                call: tuple[Callable[[Any], None], Any] = (then, work())
            except (UserError, Transient, Poison, Fenced) as error:
                call = (fail, str(error))
            with suppress(RuntimeError):  # the app has ended
                self.call_later(tell, *call)

        thread = threading.Thread(target=run, daemon=True)
        if decides:
            self._deciding = thread
        thread.start()

    def finish(self) -> None:
        """End what is being decided after the transaction at hand."""
        self.stop.set()
        if self._deciding:
            self._deciding.join()
