"""One letter in full for a terminal: decision, headers, and the value or its defect."""

import json
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from consumer.dead_letters.audit import Decision
from consumer.dead_letters.inspection import Inspection, fields, hex_window
from consumer.dead_letters.letters import Letter
from leadstream.cli.dead_letters.text import (
    clean,
    decode_text,
    format_cut,
    format_decision,
    format_origin,
    format_value,
)
from leadstream.cli.dead_letters.times import format_time


def render_letter(
    letter: Letter, inspection: Inspection, decision: Decision | None
) -> Iterator[RenderableType]:
    """Yield the parts of a letter, to print one below the other."""
    parsed = letter.parsed
    yield Text(f"letter {letter.id}", "bold")
    table = basic_table(headings=False)
    table.add_column()
    table.add_column(overflow="fold")
    summary = {
        "key": "null" if letter.lead is None else letter.lead,
        "came from": format_origin(letter),
        "reason": parsed.reason,
        "message": parsed.message,
        "failed at": format_time(letter.failed_at),
        "decided": format_decision(decision) if decision else "not yet",
    }
    if cut := format_cut(letter):
        summary["cut"] = cut
    if decision and decision.patch:
        summary["patch"] = decision.patch
    for name, entry in summary.items():
        table.add_row(name, Text(clean(entry)))
    yield table
    yield Text("\nheaders", "bold")
    table = basic_table(headings=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in letter.headers:
        table.add_row(Text(clean(name)), Text(clean(decode_text(value) or "")))
    yield table
    size = "null" if letter.value is None else f"{len(letter.value):,} bytes"
    yield Text(f"\nvalue: {size}" + (f", {inspection.record}" if inspection.record else ""), "bold")
    if letter.value is not None:
        yield from _value(letter.value, inspection)


def basic_table(title: str | None = None, *, headings: bool = True, gap: int = 2) -> Table:
    """Return a table without lines.

    Put foreign strings into it as Text: rich reads markup in plain strings.
    """
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        show_header=headings,
        padding=(0, gap, 0, 0),
    )


def _value(value: bytes, inspection: Inspection) -> Iterator[RenderableType]:
    if inspection.record == "JSON" and inspection.failure is None:
        yield Text(json.dumps(inspection.value, indent=2, ensure_ascii=False))
    elif inspection.value is not None:
        table = basic_table()
        for heading, ratio in (("field", 3), ("value", 3), ("type", 4)):
            table.add_column(heading, overflow="fold", ratio=ratio)
        for field in fields(str(inspection.record), inspection.value):
            table.add_row(field.name, Text(format_value(field)), Text(field.type, "dim"))
        yield table
    elif inspection.failure is None:
        yield Text(clean(inspection.detail or "The content of a foreign topic is unknown."))
        yield from _hex(value, 0, mark=False)
    else:
        failure = inspection.failure
        yield Text(f"fails at byte {failure.offset}, in {failure.field}: {failure.why}", "red")
        yield from _hex(value, failure.offset)


def _hex(value: bytes, at: int, *, mark: bool = True) -> Iterator[Text]:
    """Yield the bytes around an offset, with the byte at the offset in brackets."""
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
