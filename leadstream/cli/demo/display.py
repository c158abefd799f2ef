"""The output of the demo for 80 columns: steps, live view, report."""

import textwrap
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from consumer.dead_letters.dry_run_summary import DryRunGroup
from leadstream.cli.demo.accounting import (
    DISPOSITIONS,
    WARM_UP_SECONDS,
    Calibration,
    ConsumerCounts,
    RecordId,
    SeenRecords,
    SentParcel,
    warm_latencies,
)
from leadstream.cli.rich_output import rich_console
from leadstream.errors import Reason
from models.evaluate import Floats, expected_calibration_error
from producer.bad_records import BUILDERS
from producer.simulator import DeliveryKind

LINE_SECONDS = 2.0
_WINDOW_SECONDS = 2.0
_BAR_WIDTH = 16
_INDENT = (0, 0, 0, 2)


@dataclass(frozen=True, slots=True)
class TrafficSnapshot:
    """The progress of the traffic; `latency` has the newest latencies in seconds."""

    at: float
    total: int
    sent: int
    counted: ConsumerCounts
    latency: Floats


class Screen:
    """The standard output of the demo."""

    def __init__(self) -> None:
        self.console = rich_console()

    @property
    def block(self) -> str:
        """Return the character for bars, which the encoding of the output supports."""
        return "#" if self.console.options.ascii_only else "█"

    def heading(self, text: str) -> None:
        """Print the heading of a new part."""
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def say(self, text: object) -> None:
        """Print a line, wrapped and indented."""
        for line in textwrap.wrap(str(text), self.console.width - 2, break_on_hyphens=False):
            self.console.print(f"  {line}")

    def show(self, what: RenderableType) -> None:
        """Print a renderable, indented."""
        self.console.print(Padding(what, _INDENT, expand=False))

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[str, float], None]]:
        """Show a bar, or print a line for each new description without a terminal.

        Yields the function that takes a description and a share of 1.
        """
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        last_description = what

        def update(description: str, share: float) -> None:
            nonlocal last_description
            progress.update(task, description=description, completed=share)
            if not self.console.is_terminal and description != last_description and share < 1:
                last_description = description
                self.say(f"{description} ...")

        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            task = progress.add_task(what, total=1.0)
            yield update

    @contextmanager
    def live(self) -> Iterator[Callable[[TrafficSnapshot], None]]:
        """Show the live view of the traffic, or print a line every two seconds."""
        history: deque[TrafficSnapshot] = deque()
        last_line_at = time.monotonic()

        def update(snapshot: TrafficSnapshot) -> None:
            nonlocal last_line_at
            history.append(snapshot)
            while snapshot.at - history[0].at > _WINDOW_SECONDS and len(history) > 2:
                history.popleft()
            if self.console.is_terminal:
                view.update(Padding(live_view(history[0], snapshot), _INDENT))
            elif snapshot.at - last_line_at >= LINE_SECONDS:
                last_line_at = snapshot.at
                self.say(_line(snapshot))

        # Without a terminal the view stays empty: rich would print its last state at the end.
        with Live(console=self.console, refresh_per_second=4, transient=True) as view:
            yield update


def live_view(before: TrafficSnapshot, now: TrafficSnapshot) -> Group:
    """Return the progress, the rates since `before`, and the counts by disposition and reason."""
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
        p50, p99 = np.quantile(now.latency, (0.5, 0.99))
        top.add_row(
            "latency",
            f"{p50 * 1000:,.0f} ms",
            f"p50, from sent to seen by a subscriber; p99 {_ms(p99)}",
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
    for row, disposition in enumerate(DISPOSITIONS):
        count = f"{now.counted.dispositions.get(disposition, 0):,}"
        parts.add_row(disposition, count, "", *reasons[row], *reasons[row + len(DISPOSITIONS)])
    heading = Table.grid(padding=(0, 2))
    heading.add_column(width=27)
    heading.add_column()
    heading.add_row(
        Text("dispositions of the changes", "bold"), Text("dead letters by reason", "bold")
    )
    return Group(top, Text(), heading, parts)


def _line(now: TrafficSnapshot) -> str:
    letters = sum(now.counted.reasons.values())
    latency = f", p50 {_ms(float(np.median(now.latency)))}" if len(now.latency) else ""
    answered = now.counted.records
    lag = max(0, now.sent - answered)
    return (
        f"sent {now.sent:,} of {now.total:,}, answered {answered:,}, lag {lag:,}, "
        f"{letters:,} dead letters{latency}"
    )


def accounting(counted: ConsumerCounts) -> Text:
    """Return both equations of the accounting, each number below its name."""
    changes = {"consumed": counted.consumed} | {
        disposition: counted.dispositions.get(disposition, 0) for disposition in DISPOSITIONS
    }
    requests = {"requests": sum(counted.requests.values())} | {
        disposition: counted.requests.get(disposition, 0)
        for disposition in ("answered", "dead_lettered")
    }
    lines = []
    for numbers in (changes, requests):
        width = [max(len(name), len(f"{number:,}")) for name, number in numbers.items()]
        for cells in (list(numbers), [f"{number:,}" for number in numbers.values()]):
            first, *others = (cell.rjust(size) for cell, size in zip(cells, width, strict=True))
            lines.append(f"{first} = {' + '.join(others)}")
    return Text("\n".join(lines), no_wrap=True)


def evidence(sent: Mapping[RecordId, SentParcel], seen: SeenRecords, topic: str) -> Table:
    """Return what was compared, for a balanced accounting; `topic` is that of the changes."""
    scored = sum(prediction.record_id[0] == topic for prediction in seen.predictions)
    asked = sum(len(result["predictions"]) + len(result["errors"]) for result in seen.results)
    unknown = sum(len(result["errors"]) for result in seen.results)
    return _figures(
        (f"{len(sent):,}", "records sent, and each is accounted for"),
        (f"{scored:,}", "predictions read, each of a good change, and none twice"),
        (
            f"{len(seen.letters):,}",
            "dead letters read: the bad records, byte for byte, right reason",
        ),
        (f"{len(seen.erasures):,}", "leads erased: a null value for each"),
        (
            f"{len(seen.results):,}",
            f"requests answered: {asked - unknown} leads predicted, {unknown} unknown",
        ),
    )


def traffic(
    sent: Mapping[RecordId, SentParcel], seen: SeenRecords, topic: str, seconds: float
) -> Table:
    """Return what was sent, the rate, and p50 and p99 of the latency."""
    kinds = Counter(each.parcel.kind for each in sent.values())
    bad = sum(each.parcel.reason is not None for each in sent.values())
    requests = sum(each.parcel.asks > 0 for each in sent.values())
    first, warm = (_quantiles(found) for found in warm_latencies(sent, seen.predictions, topic))
    return _figures(
        (
            f"{len(sent):,}",
            f"records sent, {len(sent) / max(seconds, 1e-9):,.0f} a second for {seconds:.1f} s, "
            "of which",
        ),
        (f"{bad:,}", "are bad, on purpose, and"),
        (f"{requests:,}", "are requests to score given leads again; of the changes"),
        (f"{kinds[DeliveryKind.WITHOUT_STATE]:,}", "carry no state: it is read from Postgres"),
        (
            f"{kinds[DeliveryKind.LATE]:,}",
            "arrive late, after a newer one of their lead, and "
            f"{kinds[DeliveryKind.REPEATED]:,} twice",
        ),
        (f"{kinds[DeliveryKind.DELETED] + kinds[DeliveryKind.TOMBSTONE]:,}", "erase their lead"),
        (f"{kinds[DeliveryKind.LOOP]:,}", "are scores written back, to be ignored"),
        ("", ""),
        (warm[0], "p50: from a change being sent to its prediction being visible"),
        (warm[1], "p99 of the same, of the warm system; apart from that"),
        (first[1], f"p99 of the first {WARM_UP_SECONDS:g} s: first connections, first batches"),
    )


def _quantiles(found: Floats) -> tuple[str, str]:
    """Return p50 and p99 of latencies."""
    if not len(found):
        return "-", "-"
    p50, p99 = np.quantile(found, (0.5, 0.99))
    return _ms(float(p50)), _ms(float(p99))


def calibration(result: Calibration, block: str) -> Table:
    """Return predicted, true and observed shares, a row for each tenth; `block` draws the bars."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("changes", justify="right")
    table.add_column("predicted", justify="right")
    table.add_column("", width=_BAR_WIDTH)
    table.add_column("true", justify="right")
    table.add_column("", width=_BAR_WIDTH)
    table.add_column("applied", justify="right")
    tenths = list(result.tenths())
    top = max((max(predicted, true) for _, predicted, true, _ in tenths), default=1.0)
    for leads, predicted, true, applied in tenths:
        bars = [block * round(_BAR_WIDTH * value / top) for value in (predicted, true)]
        table.add_row(
            f"{leads:,}", _percent(predicted), bars[0], _percent(true), bars[1], _percent(applied)
        )
    return table


def calibration_line(result: Calibration) -> str:
    """Return the figures of the calibration in words."""
    if not len(result.predicted):
        return "No lead without an application has a prediction: there is nothing to compare."
    applied = result.applied.astype(np.float64)
    ece = expected_calibration_error(result.predicted, result.applied)
    score, best, constant = (
        float(np.mean((probability - applied) ** 2))
        for probability in (result.predicted, result.true, applied.mean())
    )
    return (
        "A row is a tenth of the scored changes, lowest first; applied: within 30 days, in the "
        f"simulation. Expected calibration error {ece:.3f}. Brier score {score:.3f}: the best "
        f"possible score, of the true probabilities, is {best:.3f}, and a constant "
        f"{_percent(float(applied.mean()))} scores {constant:.3f}."
    )


def dead_letters(seen: SeenRecords) -> Table:
    """Return the number of letters of each reason, with an example of its cause."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("letters", justify="right")
    table.add_column("reason")
    table.add_column("for example")
    for reason in Reason:
        count = sum(letter.reason == reason for letter in seen.letters)
        table.add_row(f"{count:,}", reason.value, BUILDERS[reason][0][1])
    return table


def triage(groups: Sequence[DryRunGroup]) -> str:
    """Return the result of a dry run in words."""
    letters, passes = (
        sum(counts)
        for counts in zip(*((group.group.count, group.passes) for group in groups), strict=True)
    )
    return (
        f"{letters:,} dead letters of {len(groups):,} causes. A dry run of their replay, with the "
        f"present code, model and schemas: {passes:,} would pass, {letters - passes:,} fail again. "
        "`leadstream dead-letters` groups them by cause, shows where each fails, and replays or "
        "discards them."
    )


def _figures(*rows: tuple[str, str]) -> Table:
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
