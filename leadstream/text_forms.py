"""Compare texts that look the same: Unicode normalization, without invisible characters."""

import unicodedata


def comparable(text: str) -> str:
    """Return a text in the form NFKC without format characters, such as the zero-width space.

    A text in ASCII is returned as it is. Letter case and white space at the ends stay.
    """
    if text.isascii():
        return text
    # Removing a character may let its neighbors combine, so remove before and after.
    return _visible(unicodedata.normalize("NFKC", _visible(text)))


def _visible(text: str) -> str:
    return "".join(char for char in text if unicodedata.category(char) != "Cf")


def column_name(text: str) -> str:
    """Return the name of a column as names are compared: also with single spaces only."""
    return " ".join(comparable(text).split())
