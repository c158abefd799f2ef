"""Local time over changes of the clocks, academic years and seasons."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from features import CalendarSettings
from features.calendar import build_calendar, calendar_fields, local_time
from features.spec import LAST_MOMENT


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def fields(moment: str, settings: CalendarSettings) -> dict[str, float]:
    computed = calendar_fields(build_calendar(settings), np.array([ms(moment)]))
    return {name: float(values[0]) for name, values in computed.items()}


def test_a_moment_is_read_in_the_zone_of_the_calendar_and_not_in_utc() -> None:
    """Sunday 31 August 2025, 23:30 in UTC is Monday 1 September, 00:30 in London: only the minute
    is the same.
    """
    utc = {"created_month": 8, "created_day_of_week": 6, "created_hour": 23, "academic_week": 53}
    london = {"created_month": 9, "created_day_of_week": 0, "created_hour": 0, "academic_week": 1}
    season = "is_application_season"
    assert fields("2025-08-31T23:30:00", CalendarSettings("UTC")) == {**utc, season: 0}
    assert fields("2025-08-31T23:30:00", CalendarSettings("Europe/London")) == {**london, season: 1}


@pytest.mark.parametrize(
    ("moment", "hour"),
    [
        ("2025-03-30T00:59:59.999", 0),  # the last millisecond before the clocks go forward
        ("2025-03-30T01:00:00", 2),
        ("2025-10-26T00:59:59.999", 1),  # 01:59 summer time, and a moment later 01:00 again
        ("2025-10-26T01:00:00", 1),
        ("2025-10-26T02:00:00", 2),
    ],
)
def test_the_hour_is_right_on_both_sides_of_a_change_of_the_clocks(moment: str, hour: int) -> None:
    assert fields(moment, CalendarSettings("Europe/London"))["created_hour"] == hour


@pytest.mark.parametrize(
    ("moment", "start", "week"),
    [
        ("2025-08-31T12:00:00", (9, 1), 53),  # the 365th day is the first of a 53rd week
        ("2025-09-01T00:00:00", (9, 1), 1),
        ("2025-09-07T23:59:59", (9, 1), 1),
        ("2025-09-08T00:00:00", (9, 1), 2),
        ("2026-01-01T00:00:00", (9, 1), 18),  # day 122 counted from 0: 122 // 7 + 1
        ("2024-08-31T23:00:00", (9, 1), 53),  # a leap year has 366 days, 53 weeks too
        ("2025-01-01T00:00:00", (1, 1), 1),
        ("2025-12-31T23:59:59", (1, 1), 53),
        ("1970-01-01T00:00:00", (9, 1), 18),  # the academic year began before the epoch
        ("9999-12-31T23:59:59.999", (9, 1), 18),
    ],
)
def test_the_academic_week_starts_anew_on_its_first_day(
    moment: str, start: tuple[int, int], week: int
) -> None:
    settings = CalendarSettings(academic_year_month=start[0], academic_year_day=start[1])
    assert fields(moment, settings)["academic_week"] == week


def test_a_season_over_the_turn_of_the_year_and_an_empty_one() -> None:
    winter = CalendarSettings(season_months=(12, 1))
    months = [f"2025-{month:02}-15T12:00:00" for month in range(1, 13)]
    assert [fields(m, winter)["is_application_season"] for m in months] == [1, *[0] * 10, 1]
    assert not any(
        fields(m, CalendarSettings(season_months=()))["is_application_season"] for m in months
    )


# Half hours (Lord Howe), a jump over a whole day (Apia, Kwajalein), odd seconds (Monrovia), Ramadan
# (Casablanca).
ZONES = [
    "UTC",
    "Europe/London",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Africa/Monrovia",
    "Africa/Casablanca",
    "Africa/Cairo",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Europe/Dublin",
    "Antarctica/Troll",
    "America/Nuuk",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ZONES)
def test_local_time_is_that_of_the_time_zone_database_for_any_moment(name: str) -> None:
    calendar, zone = build_calendar(CalendarSettings(name)), ZoneInfo(name)
    random = np.random.default_rng(7)
    changes = (calendar.starts[1:, None] + np.array([-1000, -1, 0, 1, 1000])).ravel()
    soon = random.integers(0, ms("2100-01-01"), 2000)
    ever = random.integers(0, LAST_MOMENT - 86_400_000, 2000)
    moments = np.concatenate([[0], changes, soon, ever])
    seconds = moments // 1000
    deltas = [datetime.fromtimestamp(second, zone).utcoffset() for second in seconds.tolist()]
    expected = [round(delta.total_seconds() * 1000) for delta in deltas if delta is not None]
    np.testing.assert_array_equal(local_time(calendar, moments) - moments, expected)
