"""The letters of a cause, and one letter in full."""

import itertools
from dataclasses import replace
from typing import Any, ClassVar, cast

from rich.console import Group as Parts
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from consumer.dead_letters.letters import Letter, LetterId
from consumer.dead_letters.selection import Filter
from consumer.dead_letters.service import TriageService
from leadstream.cli.dead_letters import text
from leadstream.cli.dead_letters.full import render_letter
from leadstream.cli.dead_letters.times import format_time
from leadstream.cli.dead_letters.watch.base import BackgroundApp
from leadstream.cli.dead_letters.watch.dialogs import DiscardDialog, ReplayDialog

MAX_LETTERS = 500


class _LetterActions(Screen[None]):
    """The actions on the selected letter, on both screens."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("r", "replay", "Replay…"),
        ("d", "discard", "Discard…"),
        ("escape,q", "app.pop_screen", "Back"),
    ]

    def __init__(self, triage: TriageService) -> None:
        super().__init__()
        self._triage = triage

    def action_replay(self) -> None:
        """Start a dry run of this letter, then ask."""
        if selected := self._selected():
            self.app.push_screen(
                ReplayDialog(self._triage, _filter_for(selected), f"letter {selected}")
            )

    def action_discard(self) -> None:
        """Ask for a comment, then discard this letter."""
        if selected := self._selected():
            self.app.push_screen(
                DiscardDialog(self._triage, _filter_for(selected), f"letter {selected}")
            )

    def on_screen_resume(self) -> None:
        """Load, also after a decision."""
        self._look()

    @property
    def _app(self) -> BackgroundApp:
        return cast(BackgroundApp, self.app)

    def _selected(self) -> LetterId | None:
        raise NotImplementedError

    def _look(self) -> None:
        raise NotImplementedError

    def _fail(self, sentence: str) -> None:
        self.query_one("#heading", Static).update(Text(sentence, "bold red"))


class LettersScreen(_LetterActions):
    """A line for each letter of a filter."""

    BINDINGS: ClassVar[list[BindingType]] = [("s", "show", "Show")]

    def __init__(self, triage: TriageService, wanted: Filter) -> None:
        super().__init__(triage)
        self._wanted = wanted
        self._letters: list[Letter] = []

    def compose(self) -> ComposeResult:
        """Build heading, letters and keys."""
        yield Static("Reading the letters …", id="heading", markup=False)
        table: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=True)
        yield table
        yield Footer()

    def on_mount(self) -> None:
        """Add the columns."""
        self.query_one(DataTable).add_columns("letter", "failed at", "lead", "message")

    def action_show(self) -> None:
        """Show the letter in full."""
        if selected := self._selected():
            self.app.push_screen(LetterScreen(self._triage, selected))

    def on_data_table_row_selected(self) -> None:
        """Handle the enter key, which the table takes."""
        self.action_show()

    def _selected(self) -> LetterId | None:
        row = self.query_one(DataTable).cursor_row
        return self._letters[row].id if 0 <= row < len(self._letters) else None

    def _look(self) -> None:
        def work() -> list[Letter]:
            return list(itertools.islice(self._triage.letters(self._wanted), MAX_LETTERS))

        self._app.run_in_background(self, work, self._show, self._fail)

    def _show(self, letters: list[Letter]) -> None:
        table = self.query_one(DataTable)
        row, self._letters = table.cursor_row, letters
        table.clear()
        for letter in letters:
            lead = "null" if letter.lead is None else text.clean(letter.lead)
            cells = (
                str(letter.id),
                format_time(letter.failed_at),
                lead,
                text.clean(letter.parsed.message),
            )
            table.add_row(*map(Text, cells))
        table.move_cursor(row=min(row, len(letters) - 1))
        what = f"{len(letters):,} {text.letters_word(len(letters))}"
        which = f"the first {what}" if len(letters) == MAX_LETTERS else what
        self.query_one("#heading", Static).update(
            Text(f"{which} of {self._wanted.fingerprint}", "bold")
        )


class LetterScreen(_LetterActions):
    """One letter: decision, headers, and the value or its defect."""

    def __init__(self, triage: TriageService, letter: LetterId) -> None:
        super().__init__(triage)
        self._letter = letter

    def compose(self) -> ComposeResult:
        """Build the letter and the keys."""
        yield Static(f"letter {self._letter}", id="heading", markup=False)
        with VerticalScroll():
            yield Static("Reading it …", id="letter", markup=False)
        yield Footer()

    def _selected(self) -> LetterId | None:
        return self._letter

    def _look(self) -> None:
        self._app.run_in_background(
            self, lambda: self._triage.letter(self._letter), self._show, self._fail
        )

    def _show(self, found: Any) -> None:
        _, *parts = render_letter(*found)  # the screen has its own heading
        self.query_one("#letter", Static).update(Parts(*parts))


def _filter_for(letter: LetterId) -> Filter:
    return replace(Filter(), partition=letter.partition, offset=letter.offset)
