"""How benchmarks repeat and what they print: interleaved runs, medians with least and most, a
table, a JSON file.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from leadstream.errors import UserError
from leadstream.local.process import Say

WIDTH = 80
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeats, with the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def from_values(cls, values: Iterable[float]) -> "Spread":
        known = sorted(values)
        return cls(statistics.median(known), known[0], known[-1])


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One line of a table: what was measured, and the bar it has to meet, if any (at least or at
    most so much).
    """

    label: str
    value: Spread
    form: str = ",.0f"
    minimum: float | None = None
    maximum: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median meets the bar; None without one."""
        if self.minimum is None and self.maximum is None:
            return None
        above = self.minimum is None or self.value.median >= self.minimum
        return above and (self.maximum is None or self.value.median <= self.maximum)

    def cells(self) -> tuple[str, ...]:
        """The cells of the line."""
        cells = [
            format(value, self.form)
            for value in (self.value.median, self.value.low, self.value.high)
        ]
        sign, bar = ("≥", self.minimum) if self.minimum is not None else ("≤", self.maximum)
        mark = "" if bar is None else f"{sign} {bar:g} {'met' if self.met else 'MISSED'}"
        return (self.label, *cells, mark)


def ratios(ones: Iterable[float], others: Iterable[float]) -> Spread:
    """The spread of one by other in each turn: what the machine did in a turn met both of them."""
    return Spread.from_values(one / other for one, other in zip(ones, others, strict=True))


def interleaved(
    contenders: Mapping[str, Callable[[], Result]], repeats: int, say: Say, *, warm: bool = False
) -> dict[str, list[Result]]:
    """Run A B C A B C …: what the machine does meanwhile meets all of them.

    With `warm` the first runs once before, uncounted: a fresh broker is slow until it has compiled
    itself.
    """
    if warm:
        say("warming up the broker")
        next(iter(contenders.values()))()
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for turn in range(1, repeats + 1):
        for name, run in contenders.items():
            say(f"{name}, {turn} of {repeats}")
            results[name].append(run())
    return results


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(round(share * len(ordered), 6)) - 1)]


def show(title: str, *sections: Sequence[FigureRow]) -> None:
    """Print the table, 80 columns wide: median, least and most of each row, and whether it meets
    its bar.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("median", "min", "max", "bar"):
        table.add_column(name, justify="right", no_wrap=True)
    for section in sections:
        for row in section:
            table.add_row(*row.cells())
        table.add_section()
    Console(width=WIDTH, highlight=False).print(table)


def arguments(description: str, **numbers: tuple[int, str]) -> argparse.Namespace:
    """The arguments of a benchmark: --json and these whole numbers, each with its default and its
    help.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures to this file")
    for name, (default, help_) in numbers.items():
        text = f"{help_} ({default:,})".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=text)
    return parser.parse_args()


def finish(title: str, path: Path | None, *sections: Sequence[FigureRow], **fields: Any) -> int:
    """Print the table, write it and the `fields` to `path` as JSON; the exit code is 1 where a bar
    is missed.
    """
    show(title, *sections)
    rows = [{**asdict(row), "met": row.met} for section in sections for row in section]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"title": title, "rows": rows, **fields}, indent=2, default=asdict) + "\n",
            "utf-8",
        )
    return int(any(row["met"] is False for row in rows))


def say(sentence: str) -> None:
    """What happens, on standard error: the table alone is standard output."""
    print(sentence, file=sys.stderr, flush=True)


def main_of(measure: Callable[[], int]) -> int:
    """Run a benchmark and return its exit code; a UserError is one sentence and 1."""
    try:
        return measure()
    except UserError as error:
        say(str(error))
        return 1
