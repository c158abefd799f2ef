"""Moments as fields of a local calendar, for a whole array at a time.

A time zone becomes a table of the moments at which its offset changes. Fitting computes the table
and the artifact carries it. Scoring reads no time-zone data, so a newer tzdata cannot make serving
differ from training.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.columns import Floats
from features.spec import CalendarSettings

Moments = NDArray[np.int64]

SECOND, HOUR, DAY = 1_000, 3_600_000, 86_400_000

# From some year on a zone only repeats its yearly rule, and the Gregorian calendar repeats itself
# after 400 years, weekdays included: later moments are folded back into 2100..2499.
_CYCLE = 146_097 * DAY
_FOLD_FROM = 4_102_444_800_000  # 2100-01-01T00:00:00Z
_TABLE_END = _FOLD_FROM + _CYCLE


@dataclass(frozen=True, slots=True, eq=False)
class Calendar:
    """Calendar settings and the offsets of their zone.

    From `starts[i]` (ms UTC) on, local time is UTC + `offsets[i]` (ms).
    """

    settings: CalendarSettings
    starts: Moments
    offsets: Moments


def build_calendar(settings: CalendarSettings) -> Calendar:
    """Compute the offsets of a zone.

    They are cached, because the first time takes a fraction of a second.
    """
    changes = _changes(settings.time_zone)
    starts, offsets = np.array(changes, dtype=np.int64).T
    return Calendar(settings, starts.copy(), offsets.copy())


def local_time(calendar: Calendar, moments: Moments) -> Moments:
    """Return local time in ms since 1970-01-01T00:00 local.

    `moments` are of the years 1970 to 9999, in ms UTC.
    """
    folded = moments - np.maximum(0, (moments - _FOLD_FROM) // _CYCLE) * _CYCLE
    local: Moments = (
        moments + calendar.offsets[np.searchsorted(calendar.starts, folded, side="right") - 1]
    )
    return local


def calendar_fields(calendar: Calendar, moments: Moments) -> dict[str, Floats]:
    """Return the calendar's features of moments (n,) in ms UTC, each float64 (n,)."""
    local = local_time(calendar, moments)
    day = local // DAY
    # Months since January 1970.
    months = day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    month = months % 12
    settings = calendar.settings
    this_year = _first_day(settings, months - month)
    last_year = _first_day(settings, months - month - 12)
    year_start = np.where(day >= this_year, this_year, last_year)
    season = np.zeros(12)
    season[np.array(settings.season_months, dtype=np.int64) - 1] = 1.0
    return {
        "created_month": (month + 1).astype(np.float64),
        "created_day_of_week": ((day + 3) % 7).astype(np.float64),  # 1970-01-01 was a Thursday
        "created_hour": (local // HOUR % 24).astype(np.float64),
        "academic_week": ((day - year_start) // 7 + 1).astype(np.float64),
        "is_application_season": season[month],
    }


def _first_day(settings: CalendarSettings, januaries: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first day (since 1970-01-01) of academic years, given by their Januaries."""
    month = (januaries + settings.academic_year_month - 1).astype("datetime64[M]")
    return month.astype("datetime64[D]").astype(np.int64) + (settings.academic_year_day - 1)


@lru_cache(maxsize=16)
def _changes(time_zone: str) -> tuple[tuple[int, int], ...]:
    """Return each (moment, offset from then on) in ms.

    Offsets are probed once a day; a change is then bisected down to its second.
    """
    zone = ZoneInfo(time_zone)

    def offset(second: int) -> int:
        delta = datetime.fromtimestamp(second, zone).utcoffset()
        return 0 if delta is None else delta.days * 86_400 + delta.seconds

    found = [(0, offset(0) * SECOND)]
    day = DAY // SECOND
    before = offset(0)
    for second in range(day, _TABLE_END // SECOND, day):
        after = offset(second)
        if after != before:
            low, high = second - day, second
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if offset(middle) != before else (middle, high)
            found.append((high * SECOND, after * SECOND))
            before = after
    return tuple(found)
