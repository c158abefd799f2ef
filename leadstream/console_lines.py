"""Log lines for people at a terminal: when, which process, what; never wider than the terminal."""

import os
import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

_INDENT = " " * 9  # below the name of the process
_COLORS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_BOLD, _RESET = "\x1b[1m", "\x1b[0m"


class ConsoleLines:
    """The last step of structlog: it renders an event.

    On a `terminal` it wraps and colors lines; elsewhere an event is one line.
    """

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal

    def __call__(self, _logger: object, _method: str, event: Mapping[str, Any]) -> str:
        """Return the lines of an event."""
        fields = dict(event)
        time, process, level, name, trace = (
            fields.pop(key, "") for key in ("timestamp", "process", "level", "event", "exception")
        )
        severity = f"{level.upper()} " if level in _COLORS else ""
        start = f"{time} {process}[{os.getpid()}] {severity}{name}"
        text = " ".join([start, *(f"{key}={_format(value)}" for key, value in fields.items())])
        lines = [text]
        if self._terminal:
            lines = textwrap.wrap(
                text,
                shutil.get_terminal_size().columns - 1,
                subsequent_indent=_INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            )
            color = _COLORS.get(level, _BOLD)
            lines[0] = lines[0].replace(f"{severity}{name}", f"{color}{severity}{name}{_RESET}", 1)
        return "\n".join([*lines, trace] if trace else lines)


def _format(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text else text
