"""What the demo shows, made for 80 columns: steps, the live view (lines where there is no terminal), the report."""

import textwrap
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from consumer.dead_letters.dry_run_summary import DryRunGroup
from leadstream.cli.demo.accounting import FATES, Calibration, Counted, Place, Seen, Sent, latencies
from leadstream.errors import Reason
from models.train.evaluate import Floats, expected_calibration_error
from producer.bad_records import BUILDERS
from producer.simulator import DeliveryKind

LINE_SECONDS = 2.0
_WINDOW_SECONDS = 2.0
_BAR_WIDTH = 16
_INDENT = (0, 0, 0, 2)


@dataclass(frozen=True, slots=True)
class Moment:
    """How far the traffic is: records to send and sent; `latency` are the newest latencies in seconds."""

    at: float
    total: int
    sent: int
    counted: Counted
    latency: Floats


class Screen:
    """The demo's standard output."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False)

    @property
    def block(self) -> str:
        """What bars are drawn with: a character that the output can take."""
        return "#" if self.console.options.ascii_only else "█"

    def heading(self, text: str) -> None:
        """A new part."""
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def say(self, text: object) -> None:
        """A line of this part, wrapped and indented where it is long."""
        for line in textwrap.wrap(str(text), self.console.width - 2, break_on_hyphens=False):
            self.console.print(f"  {line}")

    def show(self, what: RenderableType) -> None:
        """Anything of this part, indented."""
        self.console.print(Padding(what, _INDENT, expand=False))

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[str, float], None]]:
        """A bar while it lasts, or else a line for each new description; takes a description and a share of 1."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        told = what

        def update(description: str, share: float) -> None:
            nonlocal told
            progress.update(task, description=description, completed=share)
            if not self.console.is_terminal and description != told and share < 1:
                told = description
                self.say(f"{description} ...")

        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            task = progress.add_task(what, total=1.0)
            yield update

    @contextmanager
    def live(self) -> Iterator[Callable[[Moment], None]]:
        """The live view of the records going through, or a line every two seconds."""
        history: deque[Moment] = deque()
        told = time.monotonic()

        def update(moment: Moment) -> None:
            nonlocal told
            history.append(moment)
            while moment.at - history[0].at > _WINDOW_SECONDS and len(history) > 2:
                history.popleft()
            if self.console.is_terminal:
                view.update(Padding(live_view(history[0], moment), _INDENT))
            elif moment.at - told >= LINE_SECONDS:
                told = moment.at
                self.say(_line(moment))

        # Without a terminal it stays empty: its last state would be printed at the end.
        with Live(console=self.console, refresh_per_second=4, transient=True) as view:
            yield update


def live_view(before: Moment, now: Moment) -> Group:
    """How far it is, how fast, and what became of what, with rates since `before`."""
    seconds = max(now.at - before.at, 1e-9)
    answered = now.counted.records
    top = Table.grid(padding=(0, 2))
    top.add_column(width=10)
    top.add_column(justify="right", width=8)
    top.add_column(width=54)
    top.add_row("sent", f"{now.sent:,}", ProgressBar(now.total, now.sent, width=44))
    top.add_row("answered", f"{answered:,}", ProgressBar(now.total, answered, width=44))
    top.add_row(
        "rate", f"{(answered - before.counted.records) / seconds:,.0f}", "answered a second"
    )
    top.add_row("lag", f"{max(0, now.sent - answered):,}", "sent and not answered yet")
    if len(now.latency):
        half, most = np.quantile(now.latency, (0.5, 0.99))
        top.add_row(
            "latency",
            f"{half * 1000:,.0f} ms",
            f"p50, from sent to seen by a subscriber; p99 {_ms(most)}",
        )
    else:
        top.add_row("latency", "-", "from sent to seen by a subscriber")
    parts = Table.grid(padding=(0, 2))
    for width, justify in (
        (14, "left"),
        (8, "right"),
        (3, "left"),
        (16, "left"),
        (4, "right"),
        (16, "left"),
        (4, "right"),
    ):
        parts.add_column(width=width, justify=justify)  # type: ignore[arg-type]  # two of rich's words
    reasons = [(reason.value, f"{now.counted.reasons.get(reason.value, 0):,}") for reason in Reason]
    for row, fate in enumerate(FATES):
        count = f"{now.counted.fates.get(fate, 0):,}"
        parts.add_row(fate, count, "", *reasons[row], *reasons[row + len(FATES)])
    heading = Table.grid(padding=(0, 2))
    heading.add_column(width=27)
    heading.add_column()
    heading.add_row(
        Text("what became of the changes", "bold"), Text("dead letters by reason", "bold")
    )
    return Group(top, Text(), heading, parts)


def _line(now: Moment) -> str:
    letters = sum(now.counted.reasons.values())
    latency = f", p50 {_ms(float(np.median(now.latency)))}" if len(now.latency) else ""
    answered = now.counted.records
    lag = max(0, now.sent - answered)
    return f"sent {now.sent:,} of {now.total:,}, answered {answered:,}, lag {lag:,}, {letters:,} dead letters{latency}"


def accounting(counted: Counted) -> Text:
    """Both equations of the books, each number under its name."""
    changes = {"consumed": counted.consumed} | {fate: counted.fates.get(fate, 0) for fate in FATES}
    requests = {"requests": sum(counted.requests.values())} | {
        fate: counted.requests.get(fate, 0) for fate in ("answered", "dead_lettered")
    }
    lines = []
    for numbers in (changes, requests):
        width = [max(len(name), len(f"{number:,}")) for name, number in numbers.items()]
        for cells in (list(numbers), [f"{number:,}" for number in numbers.values()]):
            first, *others = (cell.rjust(size) for cell, size in zip(cells, width, strict=True))
            lines.append(f"{first} = {' + '.join(others)}")
    return Text("\n".join(lines), no_wrap=True)


def evidence(sent: Mapping[Place, Sent], seen: Seen, topic: str) -> Table:
    """What was compared, where it all agrees; `topic` is that of the changes."""
    scored = sum(prediction.place[0] == topic for prediction in seen.predictions)
    asked = sum(len(result["predictions"]) + len(result["errors"]) for result in seen.results)
    unknown = sum(len(result["errors"]) for result in seen.results)
    return _facts(
        (f"{len(sent):,}", "records sent, and each is accounted for"),
        (f"{scored:,}", "predictions read, each of a good change and none of one twice"),
        (
            f"{len(seen.letters):,}",
            "dead letters read: the bad records, byte for byte, right reason",
        ),
        (f"{len(seen.erasures):,}", "leads erased: a null value stands for each"),
        (
            f"{len(seen.results):,}",
            f"requests answered: {asked - unknown} leads predicted, {unknown} unknown",
        ),
    )


def traffic(sent: Mapping[Place, Sent], seen: Seen, topic: str, seconds: float) -> Table:
    """What was sent, how fast, and p50 and p99 from sent to visible."""
    kinds = Counter(each.parcel.kind for each in sent.values())
    bad = sum(each.parcel.reason is not None for each in sent.values())
    requests = sum(each.parcel.asks > 0 for each in sent.values())
    found = latencies(sent, seen.predictions, topic)
    half, most = (
        (_ms(value) for value in np.quantile(found, (0.5, 0.99))) if len(found) else ("-", "-")
    )
    return _facts(
        (
            f"{len(sent):,}",
            f"records sent, {len(sent) / max(seconds, 1e-9):,.0f} a second for {seconds:.1f} s, of which",
        ),
        (f"{bad:,}", "are bad, on purpose, and"),
        (f"{requests:,}", "are requests to score given leads again; of the changes"),
        (f"{kinds[DeliveryKind.THIN]:,}", "carry no state: it is read from Postgres"),
        (
            f"{kinds[DeliveryKind.LATE]:,}",
            f"come late, after a newer one of their lead, and {kinds[DeliveryKind.REPEATED]:,} come twice",
        ),
        (f"{kinds[DeliveryKind.DELETED] + kinds[DeliveryKind.TOMBSTONE]:,}", "erase their lead"),
        (f"{kinds[DeliveryKind.LOOP]:,}", "are scores written back, to be ignored"),
        ("", ""),
        (half, "p50: from a change being sent to its prediction being visible"),
        (most, "p99 of the same"),
    )


def calibration(facts: Calibration, block: str) -> Table:
    """Predicted and true beside what then happened, a tenth of the scored changes in each row; bars of `block`."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("changes", justify="right")
    table.add_column("predicted", justify="right")
    table.add_column("", width=_BAR_WIDTH)
    table.add_column("true", justify="right")
    table.add_column("", width=_BAR_WIDTH)
    table.add_column("applied", justify="right")
    tenths = list(facts.tenths())
    top = max((max(predicted, true) for _, predicted, true, _ in tenths), default=1.0)
    for leads, predicted, true, applied in tenths:
        bars = [block * round(_BAR_WIDTH * value / top) for value in (predicted, true)]
        table.add_row(
            f"{leads:,}", _percent(predicted), bars[0], _percent(true), bars[1], _percent(applied)
        )
    return table


def calibration_line(facts: Calibration) -> str:
    """The numbers in a sentence; an empty text where nothing was scored."""
    if not len(facts.predicted):
        return (
            "Nothing was predicted of a lead that had not applied yet: there is nothing to compare."
        )
    applied = facts.applied.astype(np.float64)
    ece = expected_calibration_error(facts.predicted, facts.applied)
    ours, best, naive = (
        float(np.mean((stated - applied) ** 2))
        for stated in (facts.predicted, facts.true, applied.mean())
    )
    return (
        "A row is a tenth of the scored changes, lowest first; applied: within 30 days, in the simulated life. "
        f"Expected calibration error {ece:.3f}. Brier score {ours:.3f}: nobody can do better than the "
        f"true probabilities, {best:.3f}, and {_percent(float(applied.mean()))} for everyone scores {naive:.3f}."
    )


def dead_letters(seen: Seen) -> Table:
    """How many letters of each reason, with an example of what causes them."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("letters", justify="right")
    table.add_column("reason")
    table.add_column("for example")
    for reason in Reason:
        count = sum(letter.reason == reason for letter in seen.letters)
        table.add_row(f"{count:,}", reason.value, BUILDERS[reason][0][1])
    return table


def triage(forecasts: Sequence[DryRunGroup]) -> str:
    """A rehearsed replay in a sentence."""
    letters, passes = (
        sum(counts) for counts in zip(*((f.group.count, f.passes) for f in forecasts), strict=True)
    )
    return (
        f"{letters:,} dead letters of {len(forecasts):,} causes. A replay rehearsed over them, by the present code, "
        f"model and schemas: {passes:,} would pass, {letters - passes:,} fail again. "
        "`leadstream dead-letters` has them by cause, shows where each fails, and replays or discards them."
    )


def _facts(*rows: tuple[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=9)
    table.add_column()
    for row in rows:
        table.add_row(*row)
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
