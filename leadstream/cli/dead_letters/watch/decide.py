"""The windows that ask before anything is decided, and the one that shows how far a decision is."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

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
from leadstream.cli.dead_letters import text as words
from leadstream.cli.dead_letters.view import forecast_table

if TYPE_CHECKING:
    from leadstream.cli.dead_letters.watch.app import Watch

Tell = Callable[[DecisionProgress], None]


class _Asks(ModalScreen[None]):
    """A window over the letters of a filter that decides on them only when its button is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss", "Leave them open")]

    def __init__(self, triage: TriageService, wanted: Filter, name: str) -> None:
        super().__init__()
        self._triage = triage
        self._wanted = wanted
        self._what = name
        self._survey: Selection | None = None

    @property
    def _watch(self) -> "Watch":
        return cast("Watch", self.app)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Decide, or leave."""
        if event.button.id == "leave":
            self.dismiss()
        else:
            self._decide()

    def _decide(self) -> None:
        raise NotImplementedError

    def _buttons(self, label: str, variant: Any) -> ComposeResult:
        with Horizontal(classes="buttons"):
            yield Button(label, variant=variant, id="decide", disabled=True)
            yield Button("Leave them open", id="leave")

    def _named(self, label: str) -> Button:
        """The button that decides, with another label; by itself it would keep the width of the first."""
        button = self.query_one("#decide", Button)
        button.label = label
        button.refresh(layout=True)
        return button

    def _said(self, name: str) -> str:
        return self.query_one(f"#{name}", Input).value.strip()

    def _say(self, what: Any) -> None:
        self.query_one("#said", Static).update(what)

    def _fail(self, sentence: str) -> None:
        self._say(Text(sentence, "bold red"))

    def _begin(self, work: Callable[[Selection, Tell, threading.Event], DecisionProgress]) -> None:
        survey = self._survey
        if survey is not None:
            self.app.switch_screen(Deciding(survey, work, self._what))


class Replay(_Asks):
    """What a replay would do, and whether to do it."""

    def compose(self) -> ComposeResult:
        """The forecast, how to mend, why."""
        with Vertical(classes="window"):
            yield Label(f"Replay of {self._what}", classes="title", markup=False)
            with VerticalScroll(can_focus=False):
                yield Static(id="said", markup=False)
            yield Label("mend first: field=value, then Enter to rehearse it (may be empty)")
            yield Input(id="mend", placeholder="lead.touchpoint_count=3", compact=True)
            yield Label("because, for the audit (may be empty)")
            yield Input(id="because", placeholder="kept for ever: no names, please", compact=True)
            yield from self._buttons("Replay", "primary")

    def on_mount(self) -> None:
        """Rehearse at once."""
        self._rehearse()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Rehearse with another mend, or go on to the button."""
        if event.input.id == "mend":
            self._rehearse()
        else:
            self.query_one("#decide").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """What was not rehearsed is not replayed."""
        if event.input.id == "mend":
            self.query_one("#decide", Button).disabled = True

    def _rehearse(self) -> None:
        mend = self._said("mend")
        self._say("Running today's code, model and schemas over the letters …")
        self.query_one("#decide", Button).disabled = True

        def work() -> tuple[str, Selection, list[DryRunGroup]]:
            patch = parse_assignments([mend] if mend else [])
            survey = self._triage.select(self._wanted)
            return mend, survey, self._triage.dry_run(survey, patch) if survey.count else []

        self._watch.ask(self, work, self._show, self._fail)

    def _show(self, found: tuple[str, Selection, list[DryRunGroup]]) -> None:
        mend, self._survey, forecasts = found
        if not forecasts:
            self._say("no open dead letters match")
            return
        lines = [Text(line) for line in map(words.clean, words.forecast_lines(forecasts))]
        self._say(Parts(forecast_table(forecasts), *lines, Text(words.LEGEND, "dim")))
        button = self._named(
            f"Replay {self._survey.count:,} {words.letters_word(self._survey.count)}"
        )
        button.disabled = mend != self._said("mend")
        button.focus()

    def _decide(self) -> None:
        mend, because = self._said("mend"), self._said("because") or None
        patch, who = parse_assignments([mend] if mend else []), self._watch.decided_by

        def work(survey: Selection, tell: Tell, stop: threading.Event) -> DecisionProgress:
            return self._triage.replay(
                survey, decided_by=who, patch=patch, comment=because, report=tell, stop=stop
            )

        self._begin(work)


class Discard(_Asks):
    """How many would be given up, and why."""

    def compose(self) -> ComposeResult:
        """How many, and why."""
        with Vertical(classes="window small"):
            yield Label(f"Discard {self._what}", classes="title", markup=False)
            yield Static("Counting the letters …", id="said", markup=False)
            yield Label("because (must not be empty)")
            yield Input(id="because", placeholder="kept for ever: no names, please", compact=True)
            yield from self._buttons("Discard", "error")

    def on_mount(self) -> None:
        """Count at once."""
        self._watch.ask(self, lambda: self._triage.select(self._wanted), self._show, self._fail)

    def on_input_submitted(self) -> None:
        """Go on to the button."""
        self.query_one("#decide").focus()

    def on_input_changed(self) -> None:
        """Nothing is given up without a reason."""
        self.query_one("#decide", Button).disabled = not (
            self._survey and self._survey.count and self._said("because")
        )

    def _show(self, survey: Selection) -> None:
        self._survey = survey
        count = f"{survey.count:,} {words.letters_word(survey.count)}"
        self._say(
            f"{count} would be given up. A decision is final."
            if survey.count
            else "no open dead letters match"
        )
        self._named(f"Discard {count}")
        self.query_one("#because").focus()
        self.on_input_changed()

    def _decide(self) -> None:
        because, who = self._said("because"), self._watch.decided_by

        def work(survey: Selection, tell: Tell, stop: threading.Event) -> DecisionProgress:
            return self._triage.discard(
                survey, decided_by=who, comment=because, report=tell, stop=stop
            )

        self._begin(work)


class Deciding(ModalScreen[None]):
    """How far a decision is; it can be stopped after the transaction at hand, and done again to go on."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,s", "stop", "Stop")]

    def __init__(
        self,
        survey: Selection,
        work: Callable[[Selection, Tell, threading.Event], DecisionProgress],
        name: str,
    ) -> None:
        super().__init__()
        self._survey = survey
        self._work = work
        self._what = name
        self._over = False

    def compose(self) -> ComposeResult:
        """A bar, what is waited for, what was done."""
        with Vertical(classes="window small"):
            yield Label(self._what, classes="title", markup=False)
            yield ProgressBar(total=self._survey.count, show_eta=True)
            yield Static(id="said", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Stop", id="stop")

    def on_mount(self) -> None:
        """Begin."""
        watch = cast("Watch", self.app)
        watch.stop.clear()

        def tell(tally: DecisionProgress) -> None:
            copy = replace(tally, decided=Counter(tally.decided), skipped=Counter(tally.skipped))
            with suppress(RuntimeError):  # the app has ended
                watch.call_later(self._tell, copy)

        watch.ask(
            self,
            lambda: self._work(self._survey, tell, watch.stop),
            self._end,
            self._fail,
            decides=True,
        )

    def on_button_pressed(self) -> None:
        """Stop, or leave once it is over."""
        self.action_stop()

    def action_stop(self) -> None:
        """Stop, or leave once it is over."""
        if self._over:
            self.dismiss()
        else:
            cast("Watch", self.app).stop.set()
            self.query_one("#said", Static).update("Stopping after the transaction at hand …")

    def _tell(self, tally: DecisionProgress) -> None:
        if self.is_attached and not self._over:
            self.query_one(ProgressBar).update(progress=tally.finished)
            if not cast("Watch", self.app).stop.is_set():
                self.query_one("#said", Static).update(
                    f"waiting: {tally.waiting_for}" if tally.waiting_for else "deciding"
                )

    def _end(self, tally: DecisionProgress) -> None:
        self.query_one(ProgressBar).update(progress=tally.finished)
        lines = words.tally_lines(tally)
        if tally.stopped:
            lines.append("Stopped: what was not decided is still open.")
        self._close("\n".join(lines))

    def _fail(self, sentence: str) -> None:
        self._close(Text(sentence, "bold red"))

    def _close(self, said: Any) -> None:
        self._over = True
        self.query_one("#said", Static).update(said)
        button = self.query_one("#stop", Button)
        button.label = "Close"
        button.focus()
