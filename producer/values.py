"""Parsers of the cells of an export: numbers, ids, texts and times.

Each raises ValueError with the rest of a sentence that names no value.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from leadstream.lead_fields import END_TIME_MS, MAX_ID_CHARACTERS, MIN_TIME_MS
from leadstream.personal import is_email_address

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parsed(parse: Callable[[str], datetime], text: str, zone: ZoneInfo) -> int:
    """Return the moment of a text in ms UTC, read by a function; the zone is for texts without."""
    try:
        return milliseconds(parse(text), zone)
    except (ValueError, OverflowError):
        raise ValueError("is not a time in the format of the mapping") from None


def milliseconds(moment: datetime, zone: ZoneInfo) -> int:
    """Return a moment in ms UTC; the zone is for moments without."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return (aware - EPOCH) // timedelta(milliseconds=1)


def in_years(moment: int) -> int:
    """Return a moment in ms UTC that a calendar can name."""
    if not MIN_TIME_MS <= moment < END_TIME_MS:
        raise ValueError("is outside the years 1970 to 9999")
    return moment


def finite(number: float) -> float:
    """Return a number that float64 can hold."""
    if number - number != 0:
        raise ValueError("is too large a number")
    return number


def integer(number: float, max_value: int) -> int:
    """Return a number that is whole, from 0 to a maximum."""
    if number != int(number) or not 0 <= number <= max_value:
        raise ValueError("is not a whole number in range")
    return int(number)


def identifier(text: str) -> str:
    """Return a text that can be the id of a lead."""
    if len(text) > MAX_ID_CHARACTERS:
        raise ValueError(f"is longer than {MAX_ID_CHARACTERS} characters")
    return impersonal(text)


def impersonal(text: str) -> str:
    """Return a text that is no e-mail address."""
    if is_email_address(text):
        raise ValueError("is an e-mail address, which is never read")
    return text
