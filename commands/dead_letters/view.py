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

from commands.dead_letters.times import shown
from consumer.triage import export
from consumer.triage.anatomy import Anatomy, fields, neighbourhood
from consumer.triage.audit import Action, Decided, Decision, Verdict
from consumer.triage.forecast import Forecast
from consumer.triage.forecast import facts as forecast_of
from consumer.triage.groups import Group
from consumer.triage.letters import Letter
from consumer.triage.replay import Tally

_DONE = {
    Action.REPLAYED: "sent back",
    Action.DISCARDED: "discarded",
    Action.SUPERSEDED: "superseded by a newer change or the erasure of the lead",
    Action.PARKED: "parked after three returns",
}


def out(arguments: argparse.Namespace, facts: Any, show: Callable[[], None]) -> None:
    """Print the facts as JSON, or show them."""
    if arguments.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        show()


def letters_word(count: int) -> str:
    """One letter, two letters."""
    return "letter" if count == 1 else "letters"


def groups_facts(groups: Sequence[Group]) -> list[dict[str, Any]]:
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


def groups(groups: Sequence[Group], *, everything: bool = False) -> None:
    """Each cause in three lines: the figures, the words of its newest letter, when and where."""
    total = sum(group.count for group in groups)
    what = "dead" if everything else "open dead"
    if not total:
        print(f"no {what} letters match")
        return
    causes = "1 cause" if len(groups) == 1 else f"{len(groups):,} causes"
    table = _table(f"{total:,} {what} {letters_word(total)}, {causes}")
    for heading in ("letters", "share"):
        table.add_column(heading, justify="right")
    for heading in ("reason", "fingerprint", "example"):
        table.add_column(heading)
    console = _console()
    for group in groups:
        share = group.count / total
        table.add_row(
            f"{group.count:,}",
            "<1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %"),
            group.reason,
            group.fingerprint,
            str(group.example),
        )
    console.print(table)
    for group in groups:
        console.print()
        console.print(Text(group.fingerprint, "bold"), Text(_clean(group.message)))
        console.print(Text("  " + _where(group), "dim"))
    console.print()
    print("One letter whole: leadstream dead-letters show ID, with the id of an example.")


def _where(group: Group) -> str:
    first, last = shown(group.first_seen), shown(group.last_seen)
    parts = [first if first == last else f"{first} to {last[11:] if last[:10] == first[:10] else last}"]
    parts.append(f"{'partition' if len(group.partitions) == 1 else 'partitions'} {_ranges(sorted(group.partitions))}")
    if group.model_versions:
        parts.append(f"model {', '.join(sorted(group.model_versions))}")
    if group.writer != "Leadstream":
        parts.append(f"by {group.writer}")
    return " · ".join(parts)


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 5 as 1-3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def letter_facts(letter: Letter, decided: Decided) -> dict[str, Any]:
    """One letter as JSON data, without its headers and its value."""
    facts = export.facts(letter, decided)
    del facts["headers"]
    return facts


def letters(found: Sequence[Letter], decided: Decided, limit: int) -> None:
    """A line for each."""
    if not found:
        print("no dead letters match")
        return
    rows = [("letter", "failed at", "reason", "message")]
    for letter in found:
        action = decided.get(letter.id)
        reason = f"{letter.facts.reason}, {action.lower()}" if action else letter.facts.reason
        rows.append((str(letter.id), shown(letter.failed_at), reason, _clean(letter.facts.message)))
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:3]]
    left = max(20, _console().width - sum(widths) - 6)
    for *cells, message in rows:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=True))
        print(start + (message if len(message) <= left else message[: left - 1] + "…"))
    if len(found) == limit:
        print(f"These are the first {limit:,}; --limit shows more.")


def whole_facts(letter: Letter, inside: Anatomy, decision: Decision | None) -> dict[str, Any]:
    """One letter whole, as JSON data."""
    facts = export.facts(letter, Decided(""))
    failure = inside.failure
    return {
        **facts,
        "decided": None if decision is None else {**decision.record(), "letter": str(decision.letter)},
        "headers": {name: _text(value) for name, value in letter.headers},
        "record": inside.record,
        "decoded": inside.value,
        "schema": None
        if inside.value is None or not isinstance(inside.value, dict) or inside.record in (None, "JSON")
        else {field.name: field.type for field in fields(str(inside.record), inside.value)},
        "failure": None if failure is None else {"offset": failure.offset, "field": failure.field, "why": failure.why},
        "detail": inside.detail,
        "value_hex": None if letter.value is None else letter.value.hex(),
    }


def whole(letter: Letter, inside: Anatomy, decision: Decision | None) -> None:
    """One letter whole: what became of it, its headers, and its value or the place where that fails."""
    console, told = _console(), letter.facts
    console.print(Text(f"letter {letter.id}", "bold"))
    origin = "unknown" if told.topic is None else f"{told.topic} {told.partition}-{told.offset}"
    table = _table(headings=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("key", "null" if letter.lead is None else _clean(letter.lead))
    table.add_row("came from", origin if told.writer == "Leadstream" else f"{origin}, by {told.writer}")
    table.add_row("reason", told.reason)
    table.add_row("message", _clean(told.message))
    table.add_row("failed at", shown(letter.failed_at))
    if decision:
        why = f", because: {decision.because}" if decision.because else ""
        table.add_row("decided", f"{decision.action} by {decision.decided_by} at {shown(decision.decided_at)}{why}")
        if decision.patch:
            table.add_row("patch", _clean(decision.patch))
    else:
        table.add_row("decided", "not yet")
    console.print(table)
    console.print()
    console.print(Text("headers", "bold"))
    table = _table(headings=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in letter.headers:
        table.add_row(_clean(name), _clean(_text(value) or ""))
    console.print(table)
    console.print()
    _value(console, letter, inside)


def _value(console: Console, letter: Letter, inside: Anatomy) -> None:
    value = letter.value
    size = "null" if value is None else f"{len(value):,} bytes"
    console.print(Text(f"value: {size}" + (f", {inside.record}" if inside.record else ""), "bold"))
    if value is None:
        return
    if inside.record == "JSON" and inside.failure is None:
        console.print(Text(json.dumps(inside.value, indent=2, ensure_ascii=False)))
    elif inside.value is not None:
        table = _table()
        for heading, ratio in (("field", 3), ("value", 3), ("type", 4)):
            table.add_column(heading, overflow="fold", ratio=ratio)
        for field in fields(str(inside.record), inside.value):
            text = field.value if isinstance(field.value, str) else json.dumps(field.value)
            time = f" ({shown(field.value)})" if "timestamp" in field.type and field.value is not None else ""
            table.add_row(field.name, _clean(text) + time, Text(field.type, "dim"))
        console.print(table)
    elif inside.failure is None:
        console.print(_clean(inside.detail or "Where it came from says nothing about what it holds."))
        _hex(console, value, 0, mark=False)
    else:
        failure = inside.failure
        console.print(Text(f"fails at byte {failure.offset}, in {failure.field}: {failure.why}", "red"))
        _hex(console, value, failure.offset)


def _hex(console: Console, value: bytes, at: int, *, mark: bool = True) -> None:
    """The bytes around a place, that byte in brackets."""
    for start, row in neighbourhood(value, at):
        line = Text(f"  {start:06x} ")
        for place, byte in enumerate(row, start):
            line.append("[" if mark and place == at else "]" if mark and place == at + 1 else " ")
            line.append(f"{byte:02x}", "bold red" if mark and place == at else "")
        line.append("]" if mark and at == start + len(row) - 1 else " ")
        line.pad_right(60 - len(line.plain))
        line.append("".join(chr(byte) if 32 <= byte < 127 else "." for byte in row), "dim")
        console.print(line)
    if mark and at >= len(value):
        console.print("  (the value ends there)")


def forecast_facts(forecasts: Iterable[Forecast]) -> list[dict[str, Any]]:
    """Forecasts as JSON data."""
    return [forecast_of(each) for each in forecasts]


def rehearsed(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """What a program reads of a dry run, which it may not have asked for."""
    return {"dry_run": True, "groups": groups}


def forecast(forecasts: Sequence[Forecast]) -> None:
    """What would become of each group."""
    if not forecasts:
        print("no open dead letters match")
        return
    console = _console()
    table = _table("What a replay would do, by today's code, model and schemas")
    table.add_column("fingerprint", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    for heading in ("letters", "pass", "fail", "void", "park", "stay"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in forecasts:
        counts = (
            each.group.count,
            each.passes,
            each.fails.total(),
            each.decided[Action.SUPERSEDED],
            each.decided[Action.PARKED],
            each.left.total(),
        )
        table.add_row(each.group.fingerprint, each.group.reason, *(f"{count:,}" if count else "-" for count in counts))
    if len(forecasts) > 1:
        table.add_section()
        sums = [0] * 6
        for each in forecasts:
            row = (each.group.count, each.passes, each.fails.total(), each.decided[Action.SUPERSEDED])
            sums = [a + b for a, b in zip(sums, (*row, each.decided[Action.PARKED], each.left.total()), strict=True)]
        table.add_row("", "all", *(f"{count:,}" for count in sums))
    console.print(table)
    console.print(
        "pass: would be scored, erased or answered · fail: would become letters again · "
        "void: superseded by a newer change of the lead · park: came back three times · stay: cannot be sent",
        style="dim",
    )
    for each in forecasts:
        for reason, count in each.fails.most_common():
            console.print(f"{each.group.fingerprint}: {count:,} would fail with {reason}")
        for why, count in each.left.most_common():
            console.print(f"{each.group.fingerprint}: {count:,} would stay: {why}")


def tally_facts(tally: Tally) -> dict[str, Any]:
    """A tally as JSON data."""
    return {
        "dry_run": False,
        **{action.value.lower(): tally.decided[action] for action in Action},
        "elsewhere": tally.elsewhere,
        "left": dict(tally.left),
        "stopped": tally.stopped,
    }


def tally(tally: Tally) -> None:
    """What was done, a line for each kind."""
    lines = [] if tally.seen else ["no open dead letters match"]
    lines += [f"{count:,} {letters_word(count)} {_DONE[action]}" for action, count in tally.decided.items() if count]
    if tally.elsewhere:
        lines.append(f"{tally.elsewhere:,} {letters_word(tally.elsewhere)} decided meanwhile by somebody else")
    lines += [f"{count:,} {letters_word(count)} left open: {why}" for why, count in tally.left.most_common()]
    for line in lines:
        _console().print(line)


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """What `audit verify` found, as JSON data."""
    return {
        "decisions": {action.value: verdict.actions[action] for action in Action},
        "heads": {str(partition): head for partition, head in sorted(verdict.heads.items())},
        "breaks": verdict.breaks,
    }


def verdict(verdict: Verdict) -> None:
    """Decisions, breaks, and the heads to keep."""
    parts = [f"{verdict.actions[action]:,} {action}" for action in Action if verdict.actions[action]]
    print(f"{verdict.decisions:,} decisions" + (f": {', '.join(parts)}" if parts else ""))
    for sentence in verdict.breaks:
        print(f"- {sentence}")
    if verdict.breaks:
        print("The chain is broken.")
        return
    for partition, head in sorted(verdict.heads.items()):
        print(f"  partition {partition}  {head}")
    print("The chain holds." + (" Keep these heads to see later that nothing was cut off." if verdict.heads else ""))


@contextmanager
def deciding(arguments: argparse.Namespace, total: int) -> Iterator[tuple[Callable[[Tally], None], threading.Event]]:
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
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=disable) as progress:
            task = progress.add_task("deciding", total=total)

            def tell(tally: Tally) -> None:
                what = "stopping" if stop.is_set() else f"waiting: {tally.waits}" if tally.waits else "deciding"
                progress.update(task, completed=tally.seen, description=what)

            yield tell, stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _table(title: str | None = None, *, headings: bool = True) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        show_header=headings,
        padding=(0, 2, 0, 0),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _clean(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
