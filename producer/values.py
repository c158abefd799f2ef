"""Parsers of the cells of an export: ids and texts.

Each raises ValueError with the rest of a sentence that names no value.
"""

import re

from leadstream.lead_fields import MAX_ID_CHARACTERS
from leadstream.personal import is_email_address
from schemas.number_format import MAX_EXACT

# What programs write for a missing id.
_NO_ID = frozenset(["nan", "none", "null", "n/a", "#n/a", "#ref!", "#value!", "undefined"])
_FLOAT_ID = re.compile(r"\d+\.0+", re.ASCII)
_EXPONENT_ID = re.compile(r"\d([.,]\d+)?[eE]\+\d+", re.ASCII)
# A spreadsheet keeps 15 digits of a number and writes zeros for the rest.
_ROUNDED_ID = re.compile(r"[1-9]\d{14}000+", re.ASCII)


def identifier(text: str) -> str:
    """Return the id of a lead, exactly as it is written.

    An id that lost digits, or that stands for a missing one, is refused.
    """
    if len(text) > MAX_ID_CHARACTERS:
        raise ValueError(f"is longer than {MAX_ID_CHARACTERS} characters")
    if text.lower() in _NO_ID:
        raise ValueError("is a word for a missing id")
    if _FLOAT_ID.fullmatch(text):
        raise ValueError("is a whole number that was written with a fraction")
    if _EXPONENT_ID.fullmatch(text) or _ROUNDED_ID.fullmatch(text):
        raise ValueError("lost digits, as a spreadsheet rounds them")
    return impersonal(text)


def integer_identifier(text: str) -> str:
    """Return the digits of an id that was written as a number, such as 12345.0.

    A number that a float may have rounded is refused.
    """
    digits = text.partition(".")[0] if _FLOAT_ID.fullmatch(text) else text
    if not digits.isascii() or not digits.isdecimal():
        raise ValueError("is not a whole number")
    if digits is not text and int(digits[:20]) > MAX_EXACT:
        raise ValueError("lost digits: it is beyond 2^53 and was written with a fraction")
    return identifier(digits)


def impersonal(text: str) -> str:
    """Return a text that is no e-mail address."""
    if is_email_address(text):
        raise ValueError("is an e-mail address, which is never read")
    return text
