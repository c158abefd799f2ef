"""The app of the full-screen view."""

from typing import Any

from textual.screen import Screen

from consumer.dead_letters.selection import Filter
from consumer.dead_letters.service import TriageService
from leadstream.cli.dead_letters.watch.base import BackgroundApp
from leadstream.cli.dead_letters.watch.cause_screen import CausesScreen


class WatchApp(BackgroundApp):
    """The app over the letters of a filter, which starts with their causes."""

    def __init__(self, triage: TriageService, wanted: Filter, decided_by: str) -> None:
        super().__init__(triage, decided_by)
        self._wanted = wanted

    def get_default_screen(self) -> Screen[Any]:
        """Return the screen of the causes."""
        return CausesScreen(self.triage, self._wanted)
