"""The first screen: a line for each cause, and the message of the selected one."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from consumer.dead_letters.groups import LetterGroup
from consumer.dead_letters.selection import Filter
from consumer.dead_letters.service import TriageService
from leadstream.cli.dead_letters import text
from leadstream.cli.dead_letters.times import format_time
from leadstream.cli.dead_letters.watch.audit_screen import AuditScreen
from leadstream.cli.dead_letters.watch.base import BackgroundApp
from leadstream.cli.dead_letters.watch.dialogs import DiscardDialog, ReplayDialog
from leadstream.cli.dead_letters.watch.letter_screens import LetterScreen, LettersScreen

# A load reads the whole topic: spend at most a tenth of the time on it, and wait at least this.
MIN_SECONDS, SHARE = 5.0, 10


class CausesScreen(Screen[None]):
    """The causes, which reload periodically and keep the selected cause."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("l", "letters", "Letters"),
        ("e", "example", "Example"),
        ("r", "replay", "Replay…"),
        ("d", "discard", "Discard…"),
        ("a", "everything", "All"),
        ("v", "audit", "Audit"),
        ("u", "look", "Renew"),
        ("q", "app.quit", "Quit"),
    ]

    def __init__(self, triage: TriageService, wanted: Filter) -> None:
        super().__init__()
        self._triage = triage
        self._wanted = wanted
        self._groups: Sequence[LetterGroup] = ()
        self._asking = False

    def compose(self) -> ComposeResult:
        """Build heading, causes, message and keys."""
        yield Static("Reading the letters …", id="heading", markup=False)
        table: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=True)
        yield table
        yield Static(id="about", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Load the letters for the first time."""
        table = self.query_one(DataTable)
        for heading, width in (
            ("letters", 8),
            ("share", 5),
            ("reason", 17),
            ("last seen", 19),
            ("fingerprint", 16),
        ):
            table.add_column(Text(heading, justify="right" if width < 9 else "left"), width=width)
        self.action_look()

    def on_screen_resume(self) -> None:
        """Load again after a decision."""
        if self._groups:
            self.action_look()

    def action_look(self) -> None:
        """Load the letters, unless a load is running."""
        if self._asking:
            return
        self._asking, began = True, time.monotonic()

        def show(groups: list[LetterGroup]) -> None:
            self._show(groups)
            again()

        def fail(sentence: str) -> None:
            self.query_one("#heading", Static).update(Text(sentence, "bold red"))
            again()

        def again() -> None:
            self._asking = False
            self.set_timer(
                max(MIN_SECONDS, SHARE * (time.monotonic() - began)), self._look_if_current
            )

        self._app.run_in_background(self, lambda: self._triage.groups(self._wanted), show, fail)

    def action_everything(self) -> None:
        """Switch decided letters on or off."""
        self._wanted = replace(self._wanted, everything=not self._wanted.everything)
        self.action_look()

    def action_letters(self) -> None:
        """Show the letters of the cause."""
        if group := self._selected():
            self.app.push_screen(LettersScreen(self._triage, self._filter_for(group)))

    def action_example(self) -> None:
        """Show the newest letter of the cause."""
        if group := self._selected():
            self.app.push_screen(LetterScreen(self._triage, group.example))

    def action_replay(self) -> None:
        """Start a dry run of the cause, then ask."""
        if group := self._selected():
            self.app.push_screen(
                ReplayDialog(
                    self._triage, replace(self._filter_for(group), everything=False), _title(group)
                )
            )

    def action_discard(self) -> None:
        """Ask for a comment, then discard the cause."""
        if group := self._selected():
            self.app.push_screen(
                DiscardDialog(
                    self._triage, replace(self._filter_for(group), everything=False), _title(group)
                )
            )

    def action_audit(self) -> None:
        """Show the decisions."""
        self.app.push_screen(AuditScreen(self._triage))

    def on_data_table_row_selected(self) -> None:
        """Handle the enter key, which the table takes."""
        self.action_letters()

    def on_data_table_row_highlighted(self) -> None:
        """Show the message of another cause."""
        self._describe()

    @property
    def _app(self) -> BackgroundApp:
        return cast(BackgroundApp, self.app)

    def _look_if_current(self) -> None:
        if self.is_current:
            self.action_look()

    def _filter_for(self, group: LetterGroup) -> Filter:
        return replace(self._wanted, fingerprint=group.fingerprint)

    def _selected(self) -> LetterGroup | None:
        row = self.query_one(DataTable).cursor_row
        return self._groups[row] if 0 <= row < len(self._groups) else None

    def _show(self, groups: list[LetterGroup]) -> None:
        before = self._selected()
        self._groups = groups
        everything = self._wanted.everything
        kind = "dead" if everything else "open dead"
        heading = (
            text.format_heading(groups, everything=everything)
            if groups
            else f"no {kind} letters match"
        )
        title = Text(heading, "bold").append(
            f" · as of {datetime.now(UTC):%H:%M:%S} UTC", "not bold dim"
        )
        self.query_one("#heading", Static).update(title)
        table, total = self.query_one(DataTable), sum(group.count for group in groups)
        table.clear()
        for group in groups:
            table.add_row(
                Text(f"{group.count:,}", justify="right"),
                Text(text.format_share(group.count, total), justify="right"),
                Text(text.clean(group.reason)),
                Text(format_time(group.last_seen)),
                Text(group.fingerprint),
            )
        prints = [group.fingerprint for group in groups]
        if before and before.fingerprint in prints:
            table.move_cursor(row=prints.index(before.fingerprint))
        self._describe()

    def _describe(self) -> None:
        group = self._selected()
        about = Text()
        if group:
            about.append(text.clean(group.message) + "\n", "bold")
            about.append(text.format_location(group) + "\n", "dim")
            topics = ", ".join(sorted(group.topics)) or "unknown"
            about.append(f"newest letter {group.example}, from {topics}", "dim")
        self.query_one("#about", Static).update(about)


def _title(group: LetterGroup) -> str:
    return f"{text.clean(group.reason)} {group.fingerprint}"
