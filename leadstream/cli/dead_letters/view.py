"""The output of the verbs: text for 80 columns, and the same data as JSON."""

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
from consumer.dead_letters.dry_run_summary import as_json as group_as_json
from consumer.dead_letters.groups import LetterGroup
from consumer.dead_letters.inspection import Inspection, fields
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.replay import DecisionProgress
from leadstream.cli.dead_letters import text
from leadstream.cli.dead_letters.full import basic_table, render_letter
from leadstream.cli.dead_letters.text import clean
from leadstream.cli.dead_letters.times import format_time
from leadstream.cli.rich_output import rich_console


def print_result(arguments: argparse.Namespace, data: Any, show: Callable[[], None]) -> None:
    """Print data as JSON, or call `show`."""
    if arguments.json:
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        show()


def groups_as_json(groups: Sequence[LetterGroup]) -> list[dict[str, Any]]:
    """Return groups as JSON data."""
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


def print_groups(groups: Sequence[LetterGroup], *, everything: bool = False) -> None:
    """Print three lines for each cause: the figures, the newest message, when and where."""
    total = sum(group.count for group in groups)
    if not total:
        print(f"no {'dead' if everything else 'open dead'} letters match")
        return
    table = basic_table(text.format_heading(groups, everything=everything))
    for heading in ("letters", "share"):
        table.add_column(heading, justify="right")
    for heading in ("reason", "fingerprint", "example"):
        table.add_column(heading)
    console = _console()
    for group in groups:
        table.add_row(
            f"{group.count:,}",
            text.format_share(group.count, total),
            group.reason,
            group.fingerprint,
            str(group.example),
        )
    console.print(table)
    for group in groups:
        console.print()
        console.print(Text(group.fingerprint, "bold"), Text(clean(group.message)))
        console.print(Text("  " + text.format_location(group), "dim"))
    console.print()
    print("One letter in full: leadstream dead-letters show ID, with the id of an example.")


def summary_as_json(letter: Letter, decided: DecisionIndex) -> dict[str, Any]:
    """Return a letter as JSON data, without headers and value."""
    data = export.letter_as_json(letter, decided)
    del data["headers"]
    return data


def print_letters(found: Sequence[Letter], decided: DecisionIndex, limit: int) -> None:
    """Print a line for each letter."""
    if not found:
        print("no dead letters match")
        return
    rows = [("letter", "failed at", "reason", "message")]
    for letter in found:
        action = decided.get(letter.id)
        reason = letter.parsed.reason + (", cut" if letter.parsed.cut else "")
        reason = f"{reason}, {action.lower()}" if action else reason
        rows.append(
            (str(letter.id), format_time(letter.failed_at), reason, clean(letter.parsed.message))
        )
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:3]]
    left = max(20, _console().width - sum(widths) - 6)
    for *cells, message in rows:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=True))
        print(start + (message if len(message) <= left else message[: left - 1] + "…"))
    if len(found) == limit:
        print(f"These are the first {limit:,}; --limit shows more.")


def letter_as_json(
    letter: Letter, inspection: Inspection, decision: Decision | None
) -> dict[str, Any]:
    """Return a letter in full as JSON data."""
    data = export.letter_as_json(letter, DecisionIndex(""))
    failure = inspection.failure
    return {
        **data,
        "decided": None
        if decision is None
        else {**decision.to_record(), "letter": str(decision.letter)},
        "headers": {name: text.decode_text(value) for name, value in letter.headers},
        "record": inspection.record,
        "decoded": inspection.value,
        "schema": None
        if inspection.value is None
        or not isinstance(inspection.value, dict)
        or inspection.record in (None, "JSON")
        else {field.name: field.type for field in fields(str(inspection.record), inspection.value)},
        "failure": None
        if failure is None
        else {"offset": failure.offset, "field": failure.field, "why": failure.why},
        "detail": inspection.detail,
        "value_hex": None if letter.value is None else letter.value.hex(),
    }


def print_letter(letter: Letter, inspection: Inspection, decision: Decision | None) -> None:
    """Print a letter in full: decision, headers, and the value or its defect."""
    for part in render_letter(letter, inspection, decision):
        _console().print(part)


def dry_run_as_json(groups: Iterable[DryRunGroup]) -> list[dict[str, Any]]:
    """Return a dry run as JSON data."""
    return [group_as_json(each) for each in groups]


def dry_run_report(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON of a dry run; `dry_run` marks one that the caller did not ask for."""
    return {"dry_run": True, "groups": groups}


def print_dry_run(groups: Sequence[DryRunGroup]) -> None:
    """Print what a replay would do with each group."""
    if not groups:
        print("no open dead letters match")
        return
    console = _console()
    console.print(dry_run_table(groups))
    console.print(text.LEGEND, style="dim")
    for line in text.dry_run_lines(groups):
        console.print(line)


def dry_run_table(groups: Sequence[DryRunGroup], *, causes: bool = True) -> Table:
    """Return the numbers of each group and the totals; `causes` adds fingerprint and reason."""
    table = basic_table("What a replay would do, by today's code, model and schemas", gap=1)
    for heading in ("fingerprint", "reason") if causes else ():
        table.add_column(heading, no_wrap=True)
    for heading in text.COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for each in groups:
        names = (Text(each.group.fingerprint), Text(each.group.reason)) if causes else ()
        counts = (f"{count:,}" if count else "-" for count in text.dry_run_row(each))
        table.add_row(*names, *counts)
    if causes and len(groups) > 1:
        table.add_section()
        table.add_row("", "all", *(f"{count:,}" for count in text.dry_run_totals(groups)))
    return table


def progress_as_json(progress: DecisionProgress) -> dict[str, Any]:
    """Return the result of a decision as JSON data."""
    return {
        "dry_run": False,
        **{action.value.lower(): progress.decided[action] for action in Action},
        "elsewhere": progress.elsewhere,
        "retimed": progress.retimed,
        "left": dict(progress.skipped),
        "stopped": progress.stopped,
    }


def print_progress(progress: DecisionProgress) -> None:
    """Print the result of a decision, a line for each kind."""
    for line in text.progress_lines(progress):
        _console().print(line)


def audit_as_json(report: AuditReport) -> dict[str, Any]:
    """Return the result of `audit verify` as JSON data."""
    return {
        "decisions": {action.value: report.actions[action] for action in Action},
        "heads": {str(partition): head for partition, head in sorted(report.heads.items())},
        "breaks": report.breaks,
    }


def print_audit(report: AuditReport) -> None:
    """Print decisions, breaks, and the heads to keep."""
    print(text.audit_summary(report))
    for sentence in report.breaks:
        print(f"- {sentence}")
    if not report.breaks:
        for partition, head in sorted(report.heads.items()):
            print(f"  partition {partition}  {head}")
    print(text.chain_summary(report))


@contextmanager
def decision_progress(
    arguments: argparse.Namespace, total: int
) -> Iterator[tuple[Callable[[DecisionProgress], None], threading.Event]]:
    """Show a progress bar on standard error while it is a terminal.

    Yields the function that reports progress, and the event that Ctrl-C or SIGTERM sets.
    """
    stop = threading.Event()

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)  # a second signal does not wait

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    description = TextColumn(
        "{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")
    )
    columns = (description, BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    disable = arguments.json or not sys.stderr.isatty()
    try:
        with Progress(
            *columns, console=rich_console(stderr=True), transient=True, disable=disable
        ) as bar:
            task = bar.add_task("deciding", total=total)

            def report(progress: DecisionProgress) -> None:
                description = (
                    "stopping"
                    if stop.is_set()
                    else f"waiting: {progress.waiting_for}"
                    if progress.waiting_for
                    else "deciding"
                )
                bar.update(task, completed=progress.finished, description=description)

            yield report, stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _console() -> Console:
    return rich_console()
