"""Help texts that fit the terminal, with examples that can be copied."""

import argparse
import textwrap

_INDENT = "  "


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """The lines of a description stay apart, and long ones are wrapped.

    A line that begins with two spaces is a command: it goes on after a backslash.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (_wrapped(line, width - len(indent)) for line in text.splitlines())
        return "\n".join(indent + line for each in lines for line in each)


def _wrapped(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    command = line.startswith(_INDENT)
    parts = textwrap.wrap(
        line.strip(),
        width - len(" \\") - len(_INDENT) if command else width,
        subsequent_indent=2 * _INDENT if command else "",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return (
        [f"{_INDENT}{part} \\" for part in parts[:-1]] + [_INDENT + parts[-1]] if command else parts
    )
