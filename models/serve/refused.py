"""The error that keeps a version out of service."""

from leadstream.errors import UserError

_MAX_LENGTH = 500


class Refused(UserError):
    """A version that may not serve; the text says in one line which check failed."""

    def __init__(self, text: str) -> None:
        # Parts of the text come from the file: keep escape sequences and megabytes out of logs.
        line = "".join(char if char.isprintable() else "?" for char in text[: _MAX_LENGTH + 1])
        super().__init__(line if len(line) <= _MAX_LENGTH else line[: _MAX_LENGTH - 1] + "…")
