"""The letters of a cause, and one letter whole."""

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

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
from leadstream.cli.dead_letters import text as words
from leadstream.cli.dead_letters.full import whole
from leadstream.cli.dead_letters.times import shown
from leadstream.cli.dead_letters.watch.decide import Discard, Replay

if TYPE_CHECKING:
    from leadstream.cli.dead_letters.watch.app import Watch

MOST = 500


class _OfLetters(Screen[None]):
    """What both screens do with the letter that is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("r", "replay", "Replay…"),
        ("d", "discard", "Discard…"),
        ("escape,q", "app.pop_screen", "Back"),
    ]

    def __init__(self, triage: TriageService) -> None:
        super().__init__()
        self._triage = triage

    def action_replay(self) -> None:
        """Rehearse a replay of this letter, and ask."""
        if chosen := self._chosen():
            self.app.push_screen(Replay(self._triage, _only(chosen), f"letter {chosen}"))

    def action_discard(self) -> None:
        """Ask why, and give this letter up."""
        if chosen := self._chosen():
            self.app.push_screen(Discard(self._triage, _only(chosen), f"letter {chosen}"))

    def on_screen_resume(self) -> None:
        """Look, also after a decision."""
        self._look()

    @property
    def _watch(self) -> "Watch":
        return cast("Watch", self.app)

    def _chosen(self) -> LetterId | None:
        raise NotImplementedError

    def _look(self) -> None:
        raise NotImplementedError

    def _fail(self, sentence: str) -> None:
        self.query_one("#heading", Static).update(Text(sentence, "bold red"))


class Letters(_OfLetters):
    """A line for each letter of a filter."""

    BINDINGS: ClassVar[list[BindingType]] = [("s", "show", "Show")]

    def __init__(self, triage: TriageService, wanted: Filter) -> None:
        super().__init__(triage)
        self._wanted = wanted
        self._letters: list[Letter] = []

    def compose(self) -> ComposeResult:
        """Heading, letters, keys."""
        yield Static("Reading the letters …", id="heading", markup=False)
        table: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=True)
        yield table
        yield Footer()

    def on_mount(self) -> None:
        """Name the columns."""
        self.query_one(DataTable).add_columns("letter", "failed at", "lead", "message")

    def action_show(self) -> None:
        """The letter whole."""
        if chosen := self._chosen():
            self.app.push_screen(Whole(self._triage, chosen))

    def on_data_table_row_selected(self) -> None:
        """The table takes the enter key."""
        self.action_show()

    def _chosen(self) -> LetterId | None:
        row = self.query_one(DataTable).cursor_row
        return self._letters[row].id if 0 <= row < len(self._letters) else None

    def _look(self) -> None:
        def work() -> list[Letter]:
            return list(itertools.islice(self._triage.letters(self._wanted), MOST))

        self._watch.ask(self, work, self._show, self._fail)

    def _show(self, letters: list[Letter]) -> None:
        table = self.query_one(DataTable)
        row, self._letters = table.cursor_row, letters
        table.clear()
        for letter in letters:
            lead = "null" if letter.lead is None else words.clean(letter.lead)
            cells = (
                str(letter.id),
                shown(letter.failed_at),
                lead,
                words.clean(letter.parsed.message),
            )
            table.add_row(*map(Text, cells))
        table.move_cursor(row=min(row, len(letters) - 1))
        what = f"{len(letters):,} {words.letters_word(len(letters))}"
        which = f"the first {what}" if len(letters) == MOST else what
        self.query_one("#heading", Static).update(
            Text(f"{which} of {self._wanted.fingerprint}", "bold")
        )


class Whole(_OfLetters):
    """One letter: what became of it, its headers, its value or the place where that fails."""

    def __init__(self, triage: TriageService, letter: LetterId) -> None:
        super().__init__(triage)
        self._letter = letter

    def compose(self) -> ComposeResult:
        """The letter and the keys."""
        yield Static(f"letter {self._letter}", id="heading", markup=False)
        with VerticalScroll():
            yield Static("Reading it …", id="whole", markup=False)
        yield Footer()

    def _chosen(self) -> LetterId | None:
        return self._letter

    def _look(self) -> None:
        self._watch.ask(self, lambda: self._triage.letter(self._letter), self._show, self._fail)

    def _show(self, found: Any) -> None:
        _, *parts = whole(*found)  # without the heading, which the screen has
        self.query_one("#whole", Static).update(Parts(*parts))


def _only(letter: LetterId) -> Filter:
    return replace(Filter(), partition=letter.partition, offset=letter.offset)
