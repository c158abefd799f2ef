"""How benchmarks repeat and what they print: interleaved runs, medians with least and most, a table, a JSON file."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from leadstream.errors import UserError
from local.process import Say

WIDTH = 80
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeats, with the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        known = sorted(values)
        return cls(statistics.median(known), known[0], known[-1])


def interleaved(contenders: Mapping[str, Callable[[], Result]], repeats: int, say: Say) -> dict[str, list[Result]]:
    """Run A B C A B C …: what the machine does meanwhile meets all of them."""
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for turn in range(1, repeats + 1):
        for name, run in contenders.items():
            say(f"{name}, {turn} of {repeats}")
            results[name].append(run())
    return results


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1e6) * len(ordered) // 1_000_000) - 1)]


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print one table, 80 columns wide at most: the first column left, the others right."""
    shown = Table(title=title, title_justify="left")
    for i, name in enumerate(header):
        shown.add_column(name, justify="right" if i else "left", no_wrap=bool(i))
    for row in rows:
        shown.add_row(*row)
    Console(width=WIDTH, highlight=False).print(shown)


def arguments(description: str, **numbers: tuple[int, str]) -> argparse.Namespace:
    """The arguments of a benchmark: --json and these whole numbers, each with its default and its help."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures to this file")
    for name, (default, help_) in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"{help_} ({default:,})")
    return parser.parse_args()


def finish(result: Mapping[str, Any], path: Path | None) -> None:
    """Write the figures, Spreads and Flows among them, as JSON."""
    if path is not None:
        path.write_text(json.dumps(result, indent=2, default=asdict) + "\n", "utf-8")


def say(sentence: str) -> None:
    """What happens, on standard error: the table alone is standard output."""
    print(sentence, file=sys.stderr, flush=True)


def main_of(measure: Callable[[], object]) -> int:
    """Run a benchmark; a UserError is one sentence and exit code 1."""
    try:
        measure()
    except UserError as error:
        say(str(error))
        return 1
    return 0
