"""One letter whole, for a terminal: what became of it, its headers, and its value or the place where that fails."""

import json
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from consumer.dead_letters.audit import Decision
from consumer.dead_letters.inspection import Inspection, fields, hex_window
from consumer.dead_letters.letters import Letter
from leadstream.cli.dead_letters.text import clean, decision_line, origin, text, value_of
from leadstream.cli.dead_letters.times import shown


def whole(
    letter: Letter, inside: Inspection, decision: Decision | None
) -> Iterator[RenderableType]:
    """Part after part, to be printed one below the other."""
    told = letter.parsed
    yield Text(f"letter {letter.id}", "bold")
    table = plain(headings=False)
    table.add_column()
    table.add_column(overflow="fold")
    facts = {
        "key": "null" if letter.lead is None else letter.lead,
        "came from": origin(letter),
        "reason": told.reason,
        "message": told.message,
        "failed at": shown(letter.failed_at),
        "decided": decision_line(decision) if decision else "not yet",
    }
    if decision and decision.patch:
        facts["patch"] = decision.patch
    for name, said in facts.items():
        table.add_row(name, Text(clean(said)))
    yield table
    yield Text("\nheaders", "bold")
    table = plain(headings=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in letter.headers:
        table.add_row(Text(clean(name)), Text(clean(text(value) or "")))
    yield table
    size = "null" if letter.value is None else f"{len(letter.value):,} bytes"
    yield Text(f"\nvalue: {size}" + (f", {inside.record}" if inside.record else ""), "bold")
    if letter.value is not None:
        yield from _value(letter.value, inside)


def plain(title: str | None = None, *, headings: bool = True) -> Table:
    """A table without lines. Words of others go into it as Text, for a string may be read as markup."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        show_header=headings,
        padding=(0, 2, 0, 0),
    )


def _value(value: bytes, inside: Inspection) -> Iterator[RenderableType]:
    if inside.record == "JSON" and inside.failure is None:
        yield Text(json.dumps(inside.value, indent=2, ensure_ascii=False))
    elif inside.value is not None:
        table = plain()
        for heading, ratio in (("field", 3), ("value", 3), ("type", 4)):
            table.add_column(heading, overflow="fold", ratio=ratio)
        for field in fields(str(inside.record), inside.value):
            table.add_row(field.name, Text(value_of(field)), Text(field.type, "dim"))
        yield table
    elif inside.failure is None:
        yield Text(clean(inside.detail or "Where it came from says nothing about what it holds."))
        yield from _hex(value, 0, mark=False)
    else:
        failure = inside.failure
        yield Text(f"fails at byte {failure.offset}, in {failure.field}: {failure.why}", "red")
        yield from _hex(value, failure.offset)


def _hex(value: bytes, at: int, *, mark: bool = True) -> Iterator[Text]:
    """The bytes around a place, that byte in brackets."""
    for start, row in hex_window(value, at):
        line = Text(f"  {start:06x} ")
        for place, byte in enumerate(row, start):
            line.append("[" if mark and place == at else "]" if mark and place == at + 1 else " ")
            line.append(f"{byte:02x}", "bold red" if mark and place == at else "")
        line.append("]" if mark and at == start + len(row) - 1 else " ")
        line.pad_right(60 - len(line.plain))
        line.append("".join(chr(byte) if 32 <= byte < 127 else "." for byte in row), "dim")
        yield line
    if mark and at >= len(value):
        yield Text("  (the value ends there)")
