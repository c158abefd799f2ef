"""Shared parts of the verbs: progress of long work, and argument types for shares and counts."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str, total: int | None, *, visible: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while it is a terminal; yield the function that advances it."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from leadstream.cli.rich_output import rich_console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    disable = not visible or not sys.stderr.isatty()
    with Progress(
        *columns, console=rich_console(stderr=True), transient=True, disable=disable
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda steps: progress.advance(task, steps)


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """Show long work of several stages on standard error: a bar, or a line for each stage.

    Yields the function that takes a stage and the share of the work that is done, 0 to 1.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    from leadstream.cli.rich_output import rich_console

    terminal, last = sys.stderr.isatty(), ""

    def advance(stage: str, share: float) -> None:
        nonlocal last
        progress.update(task, description=stage, completed=share)
        if not terminal and stage != last and share < 1:
            print(f"{stage} ...", file=sys.stderr)
        last = stage

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, console=rich_console(stderr=True), transient=True, disable=not terminal
    ) as progress:
        task = progress.add_task("", total=1.0)
        yield advance


@contextmanager
def working(what: str, *, lines: bool = True) -> Iterator[None]:
    """Say on standard error what takes long: while it lasts on a terminal, else as one line.

    Without `lines`, nothing is written where there is no terminal.
    """
    from leadstream.cli.rich_output import rich_console

    if sys.stderr.isatty():
        with rich_console(stderr=True).status(f"{what} ..."):
            yield
        return
    if lines:
        print(f"{what} ...", file=sys.stderr)
    yield


def share(text: str) -> float:
    """Parse a share: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def positive(text: str) -> int:
    """Parse a count: a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def not_negative(text: str) -> float:
    """Parse a finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


def port(text: str) -> int:
    """Parse a TCP port; 0 is any free one."""
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a whole number from 0 to 65535")
    return int(text)
