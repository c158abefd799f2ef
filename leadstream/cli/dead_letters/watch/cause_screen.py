"""The first screen: a line for each cause, and the words of the one that is chosen."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from consumer.dead_letters.groups import LetterGroup
from consumer.dead_letters.selection import Filter
from consumer.dead_letters.service import TriageService
from leadstream.cli.dead_letters import text as words
from leadstream.cli.dead_letters.times import shown
from leadstream.cli.dead_letters.watch.audit_screen import Audit
from leadstream.cli.dead_letters.watch.decide import Discard, Replay
from leadstream.cli.dead_letters.watch.letter_screens import Letters, Whole

if TYPE_CHECKING:
    from leadstream.cli.dead_letters.watch.app import Watch

# Looking reads the whole topic: a tenth of the time at most, and not more often than this.
LEAST_SECONDS, SHARE = 5.0, 10


class Causes(Screen[None]):
    """Looks again by itself, and keeps the cause that is chosen."""

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
        """Heading, causes, the words of one, keys."""
        yield Static("Reading the letters …", id="heading", markup=False)
        table: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=True)
        yield table
        yield Static(id="about", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Look for the first time."""
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
        """Look again after a decision."""
        if self._groups:
            self.action_look()

    def action_look(self) -> None:
        """Read the letters, unless they are being read."""
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
                max(LEAST_SECONDS, SHARE * (time.monotonic() - began)), self._look_if_seen
            )

        self._watch.ask(self, lambda: self._triage.groups(self._wanted), show, fail)

    def action_everything(self) -> None:
        """Count those that were decided on too, or no more."""
        self._wanted = replace(self._wanted, everything=not self._wanted.everything)
        self.action_look()

    def action_letters(self) -> None:
        """The letters of the cause."""
        if group := self._chosen():
            self.app.push_screen(Letters(self._triage, self._of(group)))

    def action_example(self) -> None:
        """The newest letter of the cause."""
        if group := self._chosen():
            self.app.push_screen(Whole(self._triage, group.example))

    def action_replay(self) -> None:
        """Rehearse a replay of the cause, and ask."""
        if group := self._chosen():
            self.app.push_screen(
                Replay(self._triage, replace(self._of(group), everything=False), _name(group))
            )

    def action_discard(self) -> None:
        """Ask why, and give the cause up."""
        if group := self._chosen():
            self.app.push_screen(
                Discard(self._triage, replace(self._of(group), everything=False), _name(group))
            )

    def action_audit(self) -> None:
        """What was decided."""
        self.app.push_screen(Audit(self._triage))

    def on_data_table_row_selected(self) -> None:
        """The table takes the enter key."""
        self.action_letters()

    def on_data_table_row_highlighted(self) -> None:
        """Another cause is chosen."""
        self._tell()

    @property
    def _watch(self) -> "Watch":
        return cast("Watch", self.app)

    def _look_if_seen(self) -> None:
        if self.is_current:
            self.action_look()

    def _of(self, group: LetterGroup) -> Filter:
        return replace(self._wanted, fingerprint=group.fingerprint)

    def _chosen(self) -> LetterGroup | None:
        row = self.query_one(DataTable).cursor_row
        return self._groups[row] if 0 <= row < len(self._groups) else None

    def _show(self, groups: list[LetterGroup]) -> None:
        before = self._chosen()
        self._groups = groups
        everything = self._wanted.everything
        kind = "dead" if everything else "open dead"
        heading = (
            words.heading(groups, everything=everything) if groups else f"no {kind} letters match"
        )
        said = Text(heading, "bold").append(
            f" · as of {datetime.now(UTC):%H:%M:%S} UTC", "not bold dim"
        )
        self.query_one("#heading", Static).update(said)
        table, total = self.query_one(DataTable), sum(group.count for group in groups)
        table.clear()
        for group in groups:
            table.add_row(
                Text(f"{group.count:,}", justify="right"),
                Text(words.share(group.count, total), justify="right"),
                Text(words.clean(group.reason)),
                Text(shown(group.last_seen)),
                Text(group.fingerprint),
            )
        prints = [group.fingerprint for group in groups]
        if before and before.fingerprint in prints:
            table.move_cursor(row=prints.index(before.fingerprint))
        self._tell()

    def _tell(self) -> None:
        group = self._chosen()
        about = Text()
        if group:
            about.append(words.clean(group.message) + "\n", "bold")
            about.append(words.where(group) + "\n", "dim")
            about.append(
                f"newest letter {group.example}, from {', '.join(sorted(group.topics)) or 'unknown'}",
                "dim",
            )
        self.query_one("#about", Static).update(about)


def _name(group: LetterGroup) -> str:
    return f"{words.clean(group.reason)} {group.fingerprint}"
