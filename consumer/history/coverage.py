"""Coverage of a time by records of the history: whole days that lack records must not pass as zero.

Rows whose outcomes were lost would all be labeled as not converted. A silence is a gap if it lasts
MIN_DAYS and MIN_EXPECTED records were expected in it, at the rate of NEAR_DAYS around it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from leadstream.errors import UserError

Days = NDArray[np.int64]

DAY_MS = 86_400_000
MIN_DAYS = 7
MIN_EXPECTED = 20.0
NEAR_DAYS = 28
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DailyCounts:
    """The number of records of one partition by day; days are counted since 1970, UTC."""

    topic: str
    partition: int
    counts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class CoverageGap:
    """Days without a record, from `first` to `last`, and how many were expected.

    `place` names one partition, or is empty for all.
    """

    first: int
    last: int
    expected: float
    place: str

    def format_days(self) -> str:
        """Return the days in words, such as 2025-03-01 to 2025-03-14."""
        return f"{format_day(self.first)} to {format_day(self.last)}{self.place}"

    def as_json(self) -> dict[str, str | float]:
        """Return the gap for the manifest."""
        return {
            "from": format_day(self.first),
            "to": format_day(self.last),
            "place": self.place.strip(" ()"),
            "expected": round(self.expected, 1),
        }


def find_gaps(series: Sequence[DailyCounts], first: int, last: int) -> list[CoverageGap]:
    """Return the gaps between two days, both included, of all records and of single partitions.

    A partition next to others is looked at from its first record on, because partitions are added,
    up to the last record of its topic.
    """
    found = _silences(_sum(each.counts for each in series), first, last, "")
    for each in series:
        topic = [other for other in series if other.topic == each.topic]
        if len(topic) == 1:
            continue
        low = max(first, min(each.counts))
        high = min(last, max(max(other.counts) for other in topic))
        place = f" ({each.topic}, partition {each.partition})"
        found += _silences(each.counts, low, high, place)
    return found


def refuse_gaps(what: str, gaps: Sequence[CoverageGap]) -> None:
    """Raise UserError if there is a gap; `what` names the records."""
    if not gaps:
        return
    longest = max(gaps, key=lambda gap: gap.expected)
    others = f", and {len(gaps) - 1} more gaps" if len(gaps) > 1 else ""
    raise UserError(
        f"training is refused: the history has no {what} from {longest.format_days()}, where about "
        f"{longest.expected:,.0f} were expected{others}: write or import them, train on the time "
        f"after it (--since {format_day(longest.last + 1)}), or, if there were none, use "
        "--allow-gaps"
    )


def format_day(day: int) -> str:
    """Return a day since 1970 as text, such as 2025-03-01."""
    return (_EPOCH + timedelta(days=day)).date().isoformat()


def _sum(counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for each in counts:
        for day, count in each.items():
            total[day] = total.get(day, 0) + count
    return total


def _silences(counts: Mapping[int, int], first: int, last: int, place: str) -> list[CoverageGap]:
    """Return the silences of one series that are too long to be chance."""
    days: Days = np.array(sorted(day for day in counts if first <= day <= last), np.int64)
    edges = np.concatenate([[first - 1], days, [last + 1]])
    found = []
    for before, after in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        length = after - before - 1
        expected = length * _rate(counts, before, after) if length >= MIN_DAYS else 0.0
        if expected >= MIN_EXPECTED:
            found.append(CoverageGap(before + 1, after - 1, expected, place))
    return found


def _rate(counts: Mapping[int, int], before: int, after: int) -> float:
    """Return the records a day around a silence."""
    near = [*range(before - NEAR_DAYS + 1, before + 1), *range(after, after + NEAR_DAYS)]
    return sum(counts.get(day, 0) for day in near) / len(near)
