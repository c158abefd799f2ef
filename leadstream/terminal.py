"""Standard output and standard error: what is written is cleaned, and what cannot be is told.

Headers, reasons, names and messages of strangers may hold escape sequences. Everything that a verb
writes passes `clean`, which shows them as `\\u001b`; that is an escape of JSON, too.

- Standard output: a failed write raises OutputLost; a reader that has gone, OutputClosed.
- Standard error: a line that cannot be written is dropped and counted. It never waits for long.
"""

import contextlib
import os
import re
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from leadstream.errors import OutputClosed, OutputLost, error_text

# C0 but newline and tab, C1, marks that change the direction of text, separators of lines,
# surrogates, and characters that only programs see.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_UNSAFE_IN_LINE = re.compile(f"[\n\t]|{_UNSAFE.pattern}")
# A pipe that select calls writable takes that much without waiting (PIPE_BUF).
_CHUNK = 4096
_PATIENCE_SECONDS = 1.0

_lost = {"lines": 0}


def dropped_lines() -> int:
    """Return how many lines for standard error could not be written since the process began."""
    return _lost["lines"]


def clean(text: str) -> str:
    """Return a text without characters that a terminal obeys; lines and tabs stay."""
    return _UNSAFE.sub(_escaped, text)


def clean_line(text: str) -> str:
    """Return a text as one line, without characters that a terminal obeys."""
    return _UNSAFE_IN_LINE.sub(_escaped, text)


def _escaped(found: "re.Match[str]") -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


class GuardedOutput:
    """Standard output as the verbs see it; all else is that of the stream."""

    def __init__(self, stream: TextIO | None, *, cleans: bool = True) -> None:
        self._stream = stream
        self._clean = clean if cleans else str

    def uncleaned(self) -> "GuardedOutput":
        """Return the same stream for a writer that cleans by itself, and colors."""
        return type(self)(self._stream, cleans=False)

    def release(self) -> None:
        """Clean no more: a library that kept the stream resets the colors when Python ends."""
        self._clean = str

    def write(self, text: str) -> int:
        """Write a text, cleaned. Raises OutputClosed or OutputLost."""
        with self._failures():
            if self._stream is None:
                raise OSError(0, "it is closed")
            self._stream.write(self._clean(text))
        return len(text)

    def flush(self) -> None:
        """Write what waits in memory. Raises OutputClosed or OutputLost."""
        with self._failures():
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Return whether a person reads this."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise OutputClosed from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error_text(error)
            raise OutputLost(
                f"standard output cannot be written ({why}): the result is not complete"
            ) from None


class GuardedErrors(GuardedOutput):
    """Standard error: what cannot be written is dropped and counted, and nothing is raised."""

    def __init__(self, stream: TextIO | None, *, cleans: bool = True) -> None:
        super().__init__(stream, cleans=cleans)
        self._patience = _PATIENCE_SECONDS
        try:
            self._descriptor = None if stream is None else stream.fileno()
        except (OSError, ValueError):
            self._descriptor = None

    def write(self, text: str) -> int:
        """Write a text, cleaned; drop it if that fails or takes too long."""
        try:
            self._write(self._clean(text))
        except (OSError, ValueError):
            _lost["lines"] += bool(text.strip())
        return len(text)

    def flush(self) -> None:
        """Do nothing if it fails: `write` has counted what is lost."""
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()

    def _write(self, text: str) -> None:
        if self._stream is None:
            raise OSError(0, "it is closed")
        if self._descriptor is None:
            self._stream.write(text)
            return
        data = memoryview(text.encode(self._stream.encoding or "utf-8", "backslashreplace"))
        while data:
            if not select.select([], [self._descriptor], [], self._patience)[1]:
                self._patience = 0.0  # nobody reads: wait no more, until somebody does
                raise TimeoutError
            data = data[os.write(self._descriptor, data[:_CHUNK]) :]
        self._patience = _PATIENCE_SECONDS


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard the standard streams during the block."""
    if sys.stdout is None or sys.stderr is None:
        _occupy_closed()
    before = sys.stdout, sys.stderr
    for stream in before:
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    guards = GuardedOutput(before[0]), GuardedErrors(before[1])
    sys.stdout, sys.stderr = cast("tuple[TextIO, TextIO]", guards)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for guard in guards:
            guard.release()


def error_stream() -> GuardedErrors:
    """Return standard error for a writer that cleans by itself."""
    if isinstance(sys.stderr, GuardedErrors):
        return cast("GuardedErrors", sys.stderr.uncleaned())
    return GuardedErrors(sys.stderr, cleans=False)


def discard_output() -> None:
    """Send what still waits in memory to nowhere, so that the end of the process is quiet."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _occupy_closed() -> None:
    """Open nothing in place of closed standard streams: the next socket would take their number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
