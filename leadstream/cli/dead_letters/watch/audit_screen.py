"""The audit: whether the chain holds, and the newest decisions."""

from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from consumer.dead_letters.audit import AuditReport, Decision
from consumer.dead_letters.service import TriageService
from leadstream.cli.dead_letters import text as words

if TYPE_CHECKING:
    from leadstream.cli.dead_letters.watch.app import Watch

NEWEST = 100


class Audit(Screen[None]):
    """What `audit verify` says, and below it the newest decisions."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "app.pop_screen", "Back")]

    def __init__(self, triage: TriageService) -> None:
        super().__init__()
        self._triage = triage

    def compose(self) -> ComposeResult:
        """What was found, and the keys."""
        yield Static("audit", id="heading", markup=False)
        with VerticalScroll():
            yield Static("Reading the decisions …", id="whole", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Read them."""

        def work() -> tuple[AuditReport, list[Decision]]:
            verdict = self._triage.verify()
            return verdict, [] if verdict.breaks else self._triage.decisions()

        cast("Watch", self.app).ask(self, work, self._show, self._fail)

    def _show(self, found: tuple[AuditReport, list[Decision]]) -> None:
        verdict, decisions = found
        said = Text(words.verdict_line(verdict) + "\n")
        for sentence in verdict.breaks:
            said.append(f"- {words.clean(sentence)}\n", "red")
        for partition, head in sorted(verdict.heads.items()):
            said.append(f"  partition {partition}  {head}\n", "dim")
        said.append(
            words.chain_line(verdict) + "\n", "bold red" if verdict.breaks else "bold green"
        )
        for decision in sorted(decisions, key=lambda each: -each.decided_at)[:NEWEST]:
            said.append(f"\n{decision.letter}", "bold").append(
                f" {words.clean(words.decision_line(decision))}"
            )
        self.query_one("#whole", Static).update(said)

    def _fail(self, sentence: str) -> None:
        self.query_one("#whole", Static).update(Text(sentence, "bold red"))
