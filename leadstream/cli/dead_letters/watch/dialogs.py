"""The dialogs that ask before a decision, and the dialog that shows its progress."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, cast

from rich.console import Group as Parts
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, ProgressBar, Static

from consumer.dead_letters.dry_run_summary import DryRunGroup
from consumer.dead_letters.patch import parse_assignments
from consumer.dead_letters.replay import DecisionProgress
from consumer.dead_letters.selection import Filter, Selection
from consumer.dead_letters.service import TriageService
from leadstream.cli.dead_letters import text
from leadstream.cli.dead_letters.view import dry_run_table
from leadstream.cli.dead_letters.watch.base import BackgroundApp

Report = Callable[[DecisionProgress], None]


class _DecisionDialog(ModalScreen[None]):
    """A dialog over the letters of a filter, which decides only when its button is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss", "Leave them open")]

    def __init__(self, triage: TriageService, wanted: Filter, name: str) -> None:
        super().__init__()
        self._triage = triage
        self._wanted = wanted
        self._title = name
        self._selection: Selection | None = None

    @property
    def _app(self) -> BackgroundApp:
        return cast(BackgroundApp, self.app)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Decide or close."""
        if event.button.id == "leave":
            self.dismiss()
        else:
            self._decide()

    def _decide(self) -> None:
        raise NotImplementedError

    def _decision_buttons(self, label: str, variant: Any) -> ComposeResult:
        with Horizontal(classes="buttons"):
            yield Button(label, variant=variant, id="decide", disabled=True)
            yield Button("Leave them open", id="leave")

    def _relabel(self, label: str) -> Button:
        """Set the label of the button that decides, and its width."""
        button = self.query_one("#decide", Button)
        button.label = label
        button.refresh(layout=True)
        return button

    def _input(self, name: str) -> str:
        return self.query_one(f"#{name}", Input).value.strip()

    def _show_status(self, what: Any) -> None:
        self.query_one("#status", Static).update(what)

    def _fail(self, sentence: str) -> None:
        self._show_status(Text(sentence, "bold red"))

    def _execute(
        self, work: Callable[[Selection, Report, threading.Event], DecisionProgress]
    ) -> None:
        selection = self._selection
        if selection is not None:
            self.app.switch_screen(ProgressDialog(selection, work, self._title))


class ReplayDialog(_DecisionDialog):
    """The result of a dry run, and the button to replay."""

    def compose(self) -> ComposeResult:
        """Build the result, the patch and the comment."""
        with Vertical(classes="window"):
            yield Label(f"Replay of {self._title}", classes="title", markup=False)
            with VerticalScroll(can_focus=False):
                yield Static(id="status", markup=False)
            yield Label("patch first: field=value, then Enter for a dry run (may be empty)")
            yield Input(id="patch", placeholder="lead.touchpoint_count=3", compact=True)
            yield Label("comment, for the audit (may be empty)")
            yield Input(id="comment", placeholder="kept forever: no names, please", compact=True)
            yield from self._decision_buttons("Replay", "primary")

    def on_mount(self) -> None:
        """Start a dry run."""
        self._start_dry_run()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Start a dry run with another patch, or focus the button."""
        if event.input.id == "patch":
            self._start_dry_run()
        else:
            self.query_one("#decide").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Disable the button: a patch needs a dry run before a replay."""
        if event.input.id == "patch":
            self.query_one("#decide", Button).disabled = True

    def _start_dry_run(self) -> None:
        assignment = self._input("patch")
        self._show_status("Running today's code, model and schemas over the letters …")
        self.query_one("#decide", Button).disabled = True

        def work() -> tuple[str, Selection, list[DryRunGroup]]:
            patch = parse_assignments([assignment] if assignment else [])
            selection = self._triage.select(self._wanted)
            return (
                assignment,
                selection,
                self._triage.dry_run(selection, patch) if selection.count else [],
            )

        self._app.run_in_background(self, work, self._show, self._fail)

    def _show(self, found: tuple[str, Selection, list[DryRunGroup]]) -> None:
        assignment, self._selection, groups = found
        if not groups:
            self._show_status("no open dead letters match")
            return
        lines = [Text(line) for line in map(text.clean, text.dry_run_lines(groups))]
        # The title of the dialog names the only cause, and 80 columns have no room for it here.
        table = dry_run_table(groups, causes=False)
        self._show_status(Parts(table, *lines, Text(text.LEGEND, "dim")))
        button = self._relabel(
            f"Replay {self._selection.count:,} {text.letters_word(self._selection.count)}"
        )
        button.disabled = assignment != self._input("patch")
        button.focus()

    def _decide(self) -> None:
        assignment, comment = self._input("patch"), self._input("comment") or None
        patch, decided_by = (
            parse_assignments([assignment] if assignment else []),
            self._app.decided_by,
        )

        def work(selection: Selection, report: Report, stop: threading.Event) -> DecisionProgress:
            return self._triage.replay(
                selection,
                decided_by=decided_by,
                patch=patch,
                comment=comment,
                report=report,
                stop=stop,
            )

        self._execute(work)


class DiscardDialog(_DecisionDialog):
    """The number of letters to discard, and the comment."""

    def compose(self) -> ComposeResult:
        """Build the number and the comment."""
        with Vertical(classes="window small"):
            yield Label(f"Discard {self._title}", classes="title", markup=False)
            yield Static("Counting the letters …", id="status", markup=False)
            yield Label("comment, for the audit (required)")
            yield Input(id="comment", placeholder="kept forever: no names, please", compact=True)
            yield from self._decision_buttons("Discard", "error")

    def on_mount(self) -> None:
        """Count the letters."""
        self._app.run_in_background(
            self, lambda: self._triage.select(self._wanted), self._show, self._fail
        )

    def on_input_submitted(self) -> None:
        """Focus the button."""
        self.query_one("#decide").focus()

    def on_input_changed(self) -> None:
        """Enable the button only with a comment."""
        self.query_one("#decide", Button).disabled = not (
            self._selection and self._selection.count and self._input("comment")
        )

    def _show(self, selection: Selection) -> None:
        self._selection = selection
        count = f"{selection.count:,} {text.letters_word(selection.count)}"
        self._show_status(
            f"{count} would be discarded. A decision is final."
            if selection.count
            else "no open dead letters match"
        )
        self._relabel(f"Discard {count}")
        self.query_one("#comment").focus()
        self.on_input_changed()

    def _decide(self) -> None:
        comment, decided_by = self._input("comment"), self._app.decided_by

        def work(selection: Selection, report: Report, stop: threading.Event) -> DecisionProgress:
            return self._triage.discard(
                selection, decided_by=decided_by, comment=comment, report=report, stop=stop
            )

        self._execute(work)


class ProgressDialog(ModalScreen[None]):
    """The progress of a decision, which can be stopped and started again."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,s", "stop", "Stop")]

    def __init__(
        self,
        selection: Selection,
        work: Callable[[Selection, Report, threading.Event], DecisionProgress],
        name: str,
    ) -> None:
        super().__init__()
        self._selection = selection
        self._work = work
        self._title = name
        self._finished = False

    def compose(self) -> ComposeResult:
        """Build a bar, the status and the button."""
        with Vertical(classes="window small"):
            yield Label(self._title, classes="title", markup=False)
            yield ProgressBar(total=self._selection.count, show_eta=True)
            yield Static(id="status", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Stop", id="stop")

    def on_mount(self) -> None:
        """Start the decision."""
        app = cast(BackgroundApp, self.app)
        app.stop.clear()

        def report(progress: DecisionProgress) -> None:
            copy = replace(
                progress, decided=Counter(progress.decided), skipped=Counter(progress.skipped)
            )
            with suppress(RuntimeError):  # the app has ended
                app.call_later(self._show_progress, copy)

        app.run_in_background(
            self,
            lambda: self._work(self._selection, report, app.stop),
            self._show_result,
            self._fail,
            decides=True,
        )

    def on_button_pressed(self) -> None:
        """Stop, or close a finished decision."""
        self.action_stop()

    def action_stop(self) -> None:
        """Stop, or close a finished decision."""
        if self._finished:
            self.dismiss()
        else:
            cast(BackgroundApp, self.app).stop.set()
            self.query_one("#status", Static).update("Stopping after the current transaction …")

    def _show_progress(self, progress: DecisionProgress) -> None:
        if self.is_attached and not self._finished:
            self.query_one(ProgressBar).update(progress=progress.finished)
            if not cast(BackgroundApp, self.app).stop.is_set():
                self.query_one("#status", Static).update(
                    f"waiting: {progress.waiting_for}" if progress.waiting_for else "deciding"
                )

    def _show_result(self, progress: DecisionProgress) -> None:
        self.query_one(ProgressBar).update(progress=progress.finished)
        lines = text.progress_lines(progress)
        if progress.stopped:
            lines.append("Stopped: all other letters are still open.")
        self._close("\n".join(lines))

    def _fail(self, sentence: str) -> None:
        self._close(Text(sentence, "bold red"))

    def _close(self, status: Any) -> None:
        self._finished = True
        self.query_one("#status", Static).update(status)
        button = self.query_one("#stop", Button)
        button.label = "Close"
        button.focus()
