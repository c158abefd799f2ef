"""The audit screen: whether the chain holds, and the newest decisions."""

from typing import ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from consumer.dead_letters.audit import AuditReport, Decision
from consumer.dead_letters.service import TriageService
from leadstream.cli.dead_letters import text
from leadstream.cli.dead_letters.watch.base import BackgroundApp

NEWEST = 100


class AuditScreen(Screen[None]):
    """The result of `audit verify`, and below it the newest decisions."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "app.pop_screen", "Back")]

    def __init__(self, triage: TriageService) -> None:
        super().__init__()
        self._triage = triage

    def compose(self) -> ComposeResult:
        """Build the result and the keys."""
        yield Static("audit", id="heading", markup=False)
        with VerticalScroll():
            yield Static("Reading the decisions …", id="decisions", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Read the decisions."""

        def work() -> tuple[AuditReport, list[Decision]]:
            report = self._triage.verify()
            return report, [] if report.breaks else self._triage.decisions()

        cast(BackgroundApp, self.app).run_in_background(self, work, self._show, self._fail)

    def _show(self, found: tuple[AuditReport, list[Decision]]) -> None:
        report, decisions = found
        lines = Text(text.audit_summary(report) + "\n")
        for sentence in report.breaks:
            lines.append(f"- {text.clean(sentence)}\n", "red")
        for partition, head in sorted(report.heads.items()):
            lines.append(f"  partition {partition}  {head}\n", "dim")
        lines.append(
            text.chain_summary(report) + "\n", "bold red" if report.breaks else "bold green"
        )
        for decision in sorted(decisions, key=lambda each: -each.decided_at)[:NEWEST]:
            lines.append(f"\n{decision.letter}", "bold").append(
                f" {text.clean(text.format_decision(decision))}"
            )
        self.query_one("#decisions", Static).update(lines)

    def _fail(self, sentence: str) -> None:
        self.query_one("#decisions", Static).update(Text(sentence, "bold red"))
