"""Parsers of times in an export: ISO 8601, formats of strptime, names of months, serial days.

Each raises ValueError with the rest of a sentence that names no value.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from leadstream.lead_fields import END_TIME_MS, MIN_TIME_MS
from leadstream.text_forms import comparable
from schemas.month_names import english

# Returns a moment with its zone, or on the clock of the file.
Clock = Callable[[str], datetime]

NOT_A_TIME = "is not a time in the format of the mapping"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The day 0 of serial days; a day of 1900 that never was is behind it.
EXCEL_BASES = {"excel": datetime(1899, 12, 30), "excel_1904": datetime(1904, 1, 1)}  # noqa: DTZ001
DAY_MS = 86_400_000
_MAX_CHARACTERS = 200
_OFFSET = re.compile(r"\s+(?:(UTC|GMT|Z)|([+-]\d\d:?\d\d))$")


def clock_moment(clock: Clock, zone: ZoneInfo, *, end_of_day: bool) -> Callable[[str], int]:
    """Return a parser to ms UTC of times that are read by `clock`; the zone is the file's.

    With `end_of_day`, midnight means a date without a time, and so the last moment of that day.
    """

    def parse(text: str) -> int:
        try:
            moment = clock(text)
            if end_of_day and not any(
                (moment.hour, moment.minute, moment.second, moment.microsecond)
            ):
                moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_000)
            return in_years(milliseconds(moment, zone))
        except OverflowError:
            raise ValueError(NOT_A_TIME) from None

    return parse


def iso_clock(text: str) -> datetime:
    """Return an ISO 8601 time; a space may be before its offset, which may also be UTC."""
    try:
        return datetime.fromisoformat(_OFFSET.sub(lambda m: m[2] or "+00:00", text))
    except ValueError:
        raise ValueError(NOT_A_TIME) from None


def first_clock(clocks: Sequence[Clock]) -> Clock:
    """Return a parser by the first of the clocks that can read a text."""
    if len(clocks) == 1:
        return clocks[0]

    def parse(text: str) -> datetime:
        for clock in clocks:
            try:
                return clock(text)
            except ValueError:
                continue
        raise ValueError(NOT_A_TIME)

    return parse


def strptime_clock(form: str, locale: str | None) -> Clock:
    """Return a parser by a format of strptime; names are English or those of the locale."""

    def parse(text: str) -> datetime:
        if len(text) > _MAX_CHARACTERS:
            raise ValueError(NOT_A_TIME)
        try:
            # The zone follows.
            return datetime.strptime(english(comparable(text), form, locale), form)  # noqa: DTZ007
        except ValueError:
            raise ValueError(NOT_A_TIME) from None

    return parse


def serial_clock(base: datetime, number: Callable[[str], float], step_ms: float) -> Clock:
    """Return a parser of counts of steps after a base, on the clock of the base."""

    def parse(text: str) -> datetime:
        try:
            return base + timedelta(milliseconds=round(number(text) * step_ms))
        except OverflowError:
            raise ValueError("is outside the years 1970 to 9999") from None

    return parse


def epoch_clock(number: Callable[[str], float], milliseconds_each: int) -> Clock:
    """Return a parser of seconds or milliseconds since 1970 in UTC."""
    return serial_clock(EPOCH, number, milliseconds_each)


def milliseconds(moment: datetime, zone: ZoneInfo) -> int:
    """Return a moment in ms UTC; the zone is for moments without."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return (aware - EPOCH) // timedelta(milliseconds=1)


def in_years(moment: int) -> int:
    """Return a moment in ms UTC that a calendar can name."""
    if not MIN_TIME_MS <= moment < END_TIME_MS:
        raise ValueError("is outside the years 1970 to 9999")
    return moment


def starts_day_of(moment: int, later: int, zone: ZoneInfo) -> bool:
    """Return whether a moment is the first of the day in the zone that holds a later one."""
    day = datetime.fromtimestamp(later / 1000, zone).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    return milliseconds(day, zone) == moment
