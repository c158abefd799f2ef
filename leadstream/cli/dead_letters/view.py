"""How letters and decisions are shown: made for 80 columns, and the same facts as JSON data."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from consumer.dead_letters import export
from consumer.dead_letters.audit import Action, AuditReport, Decision, DecisionIndex
from consumer.dead_letters.dry_run_summary import DryRunGroup
from consumer.dead_letters.dry_run_summary import as_json as forecast_of
from consumer.dead_letters.groups import LetterGroup
from consumer.dead_letters.inspection import Inspection, fields
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.replay import DecisionProgress
from leadstream.cli.dead_letters import text as words
from leadstream.cli.dead_letters.full import plain
from leadstream.cli.dead_letters.full import whole as parts_of
from leadstream.cli.dead_letters.text import clean
from leadstream.cli.dead_letters.times import shown


def out(arguments: argparse.Namespace, facts: Any, show: Callable[[], None]) -> None:
    """Print the facts as JSON, or show them."""
    if arguments.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        show()


def groups_facts(groups: Sequence[LetterGroup]) -> list[dict[str, Any]]:
    """Groups as JSON data."""
    total = sum(group.count for group in groups)
    return [
        {
            "fingerprint": group.fingerprint,
            "reason": group.reason,
            "count": group.count,
            "share": group.count / total,
            "first_seen": group.first_seen,
            "last_seen": group.last_seen,
            "example": str(group.example),
            "message": group.message,
            "partitions": sorted(group.partitions),
            "model_versions": sorted(group.model_versions),
            "topics": sorted(group.topics),
            "writer": group.writer,
        }
        for group in groups
    ]


def groups(groups: Sequence[LetterGroup], *, everything: bool = False) -> None:
    """Each cause in three lines: the figures, the words of its newest letter, when and where."""
    total = sum(group.count for group in groups)
    if not total:
        print(f"no {'dead' if everything else 'open dead'} letters match")
        return
    table = plain(words.heading(groups, everything=everything))
    for heading in ("letters", "share"):
        table.add_column(heading, justify="right")
    for heading in ("reason", "fingerprint", "example"):
        table.add_column(heading)
    console = _console()
    for group in groups:
        table.add_row(
            f"{group.count:,}",
            words.share(group.count, total),
            group.reason,
            group.fingerprint,
            str(group.example),
        )
    console.print(table)
    for group in groups:
        console.print()
        console.print(Text(group.fingerprint, "bold"), Text(clean(group.message)))
        console.print(Text("  " + words.where(group), "dim"))
    console.print()
    print("One letter whole: leadstream dead-letters show ID, with the id of an example.")


def letter_facts(letter: Letter, decided: DecisionIndex) -> dict[str, Any]:
    """One letter as JSON data, without its headers and its value."""
    facts = export.letter_as_json(letter, decided)
    del facts["headers"]
    return facts


def letters(found: Sequence[Letter], decided: DecisionIndex, limit: int) -> None:
    """A line for each."""
    if not found:
        print("no dead letters match")
        return
    rows = [("letter", "failed at", "reason", "message")]
    for letter in found:
        action = decided.get(letter.id)
        reason = f"{letter.parsed.reason}, {action.lower()}" if action else letter.parsed.reason
        rows.append((str(letter.id), shown(letter.failed_at), reason, clean(letter.parsed.message)))
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:3]]
    left = max(20, _console().width - sum(widths) - 6)
    for *cells, message in rows:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=True))
        print(start + (message if len(message) <= left else message[: left - 1] + "…"))
    if len(found) == limit:
        print(f"These are the first {limit:,}; --limit shows more.")


def whole_facts(letter: Letter, inside: Inspection, decision: Decision | None) -> dict[str, Any]:
    """One letter whole, as JSON data."""
    facts = export.letter_as_json(letter, DecisionIndex(""))
    failure = inside.failure
    return {
        **facts,
        "decided": None
        if decision is None
        else {**decision.to_record(), "letter": str(decision.letter)},
        "headers": {name: words.text(value) for name, value in letter.headers},
        "record": inside.record,
        "decoded": inside.value,
        "schema": None
        if inside.value is None
        or not isinstance(inside.value, dict)
        or inside.record in (None, "JSON")
        else {field.name: field.type for field in fields(str(inside.record), inside.value)},
        "failure": None
        if failure is None
        else {"offset": failure.offset, "field": failure.field, "why": failure.why},
        "detail": inside.detail,
        "value_hex": None if letter.value is None else letter.value.hex(),
    }


def whole(letter: Letter, inside: Inspection, decision: Decision | None) -> None:
    """One letter whole: what became of it, its headers, and its value or the place where that fails."""
    for part in parts_of(letter, inside, decision):
        _console().print(part)


def forecast_facts(forecasts: Iterable[DryRunGroup]) -> list[dict[str, Any]]:
    """Forecasts as JSON data."""
    return [forecast_of(each) for each in forecasts]


def rehearsed(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """What a program reads of a dry run, which it may not have asked for."""
    return {"dry_run": True, "groups": groups}


def forecast(forecasts: Sequence[DryRunGroup]) -> None:
    """What would become of each group."""
    if not forecasts:
        print("no open dead letters match")
        return
    console = _console()
    console.print(forecast_table(forecasts))
    console.print(words.LEGEND, style="dim")
    for line in words.forecast_lines(forecasts):
        console.print(line)


def forecast_table(forecasts: Sequence[DryRunGroup]) -> Table:
    """The numbers of each group, and of all where there are several."""
    table = plain("What a replay would do, by today's code, model and schemas")
    table.add_column("fingerprint", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    for heading in words.COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for each in forecasts:
        counts = (f"{count:,}" if count else "-" for count in words.forecast_row(each))
        table.add_row(Text(each.group.fingerprint), Text(each.group.reason), *counts)
    if len(forecasts) > 1:
        table.add_section()
        table.add_row("", "all", *(f"{count:,}" for count in words.forecast_sums(forecasts)))
    return table


def tally_facts(tally: DecisionProgress) -> dict[str, Any]:
    """A tally as JSON data."""
    return {
        "dry_run": False,
        **{action.value.lower(): tally.decided[action] for action in Action},
        "elsewhere": tally.elsewhere,
        "left": dict(tally.skipped),
        "stopped": tally.stopped,
    }


def tally(tally: DecisionProgress) -> None:
    """What was done, a line for each kind."""
    for line in words.tally_lines(tally):
        _console().print(line)


def verdict_facts(verdict: AuditReport) -> dict[str, Any]:
    """What `audit verify` found, as JSON data."""
    return {
        "decisions": {action.value: verdict.actions[action] for action in Action},
        "heads": {str(partition): head for partition, head in sorted(verdict.heads.items())},
        "breaks": verdict.breaks,
    }


def verdict(verdict: AuditReport) -> None:
    """Decisions, breaks, and the heads to keep."""
    print(words.verdict_line(verdict))
    for sentence in verdict.breaks:
        print(f"- {sentence}")
    if not verdict.breaks:
        for partition, head in sorted(verdict.heads.items()):
            print(f"  partition {partition}  {head}")
    print(words.chain_line(verdict))


@contextmanager
def deciding(
    arguments: argparse.Namespace, total: int
) -> Iterator[tuple[Callable[[DecisionProgress], None], threading.Event]]:
    """A progress bar on standard error while it is a terminal, and the event that Ctrl-C or SIGTERM sets."""
    stop = threading.Event()

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)  # the second one does not wait

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    what = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (what, BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    disable = arguments.json or not sys.stderr.isatty()
    try:
        with Progress(
            *columns, console=Console(stderr=True), transient=True, disable=disable
        ) as progress:
            task = progress.add_task("deciding", total=total)

            def tell(tally: DecisionProgress) -> None:
                what = (
                    "stopping"
                    if stop.is_set()
                    else f"waiting: {tally.waiting_for}"
                    if tally.waiting_for
                    else "deciding"
                )
                progress.update(task, completed=tally.finished, description=what)

            yield tell, stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)
