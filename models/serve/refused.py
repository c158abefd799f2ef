"""The one way in which a version is kept out of service."""

from leadstream.errors import UserError

_LONGEST = 500


class Refused(UserError):
    """A version that may not serve; the text says in one line which check it failed."""

    def __init__(self, text: str) -> None:
        # Parts of the text come from the file: no escape sequences into a terminal, no megabytes into a log.
        line = "".join(char if char.isprintable() else "?" for char in text[: _LONGEST + 1])
        super().__init__(line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…")
