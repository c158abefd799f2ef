"""A guess of the format of times from the cells that hold them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from leadstream.text_forms import comparable
from producer.moments import iso_clock, strptime_clock
from schemas.month_names import english

_DATES = (
    *("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y"),
    *("%Y.%m.%d", "%Y%m%d", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y"),
    *("%m.%d.%Y", "%d %m %Y", "%Y年%m月%d日"),
)
_DATES_IN_WORDS = (
    *("%d %b %Y", "%d %B %Y", "%d. %b %Y", "%d. %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y"),
    *("%B %d %Y", "%d-%b-%Y", "%d-%B-%Y", "%d-%b-%y", "%d/%b/%Y", "%d.%b.%Y", "%d %b %y"),
    *("%Y-%b-%d", "%Y %b %d", "%d de %B de %Y", "%d de %b de %Y", "%d de %B del %Y", "%d %B, %Y"),
)
_DAYS = ("", "%a ", "%A ", "%a, ", "%A, ")
_TIMES = (
    *("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p", "%I:%M%p", "%I:%M:%S%p"),
    *("%I %p", "%I%p", "%H.%M", "%H.%M.%S", "%Hh%M", "%H:%M Uhr", "%p %I:%M", "%p %I:%M:%S"),
)
_BETWEEN = (" ", ", ", "T", " at ", " um ", " - ")
_ZONES = ("", " %z", "%z", " (%z)")
_LOCALES = (
    "de",
    "fr",
    "es",
    "it",
    "pt",
    "nl",
    "pl",
    "sv",
    "da",
    "nb",
    "fi",
    "cs",
    "tr",
    "ru",
    "ja",
)
# As many cells tell a format.
MAX_CELLS = 2000
_HAS_WORD = re.compile(r"[^\W\d_]{3,}")
# Days from 1982 to 2064, seconds and milliseconds since 1970 from 2001 to 2064.
_COUNTS = (("excel", 30_000, 60_000), ("epoch_s", 1e9, 3e9), ("epoch_ms", 1e12, 3e12))


@dataclass(frozen=True, slots=True)
class TimeGuess:
    """A format that all cells have; `locale` names the language of its months."""

    format: str
    locale: str | None = None


def guess_formats(texts: Sequence[str]) -> list[TimeGuess]:
    """Return every format that all texts have, the likeliest first; empty if there is none.

    More than one means that the order of day and month is open.
    """
    cells = list(dict.fromkeys(" ".join(comparable(text).split()) for text in texts[:MAX_CELLS]))
    if not cells or any(len(cell) > 60 or not any(map(str.isdigit, cell)) for cell in cells):
        return []
    if all(map(_is_iso, cells)):
        return [TimeGuess("iso")]
    for name, low, high in _COUNTS:
        if all(_between(cell, low, high) for cell in cells):
            return [TimeGuess(name)]
    found: list[TimeGuess] = []
    for locale in (None, *(_LOCALES if _HAS_WORD.search(cells[0]) else ())):
        for form in _forms(cells[0]):
            guess = TimeGuess(form, locale)
            if all(_fits(guess, cell) for cell in cells):
                found.append(guess)
        if found:
            break
    return _different(found, cells)


def day_and_month_are_open(guesses: Sequence[TimeGuess]) -> bool:
    """Return whether the formats differ in the order of day and month."""
    return len({guess.format.find("%d") < guess.format.find("%m") for guess in guesses}) > 1


def _forms(cell: str) -> Iterator[str]:
    """Yield the formats whose signs are those of a cell, dates without a time first."""
    shape = _shape(english(cell, "%b %p", None))
    for day, date in product(_DAYS, _DATES + _DATES_IN_WORDS):
        start = _shape(day + date)
        if shape == start:
            yield day + date
        if not shape.startswith(start):
            continue
        for between, time, offset in product(_BETWEEN, _TIMES, _ZONES):
            if shape == start + _shape(between) + _shape(time) + _shape(offset):
                yield f"{day}{date}{between}{time}{offset}"


@cache
def _shape(text: str) -> str:
    """Return a cell or a format with 9 for digits, x for letters and z for an offset."""
    text = re.sub(r"%z|(?<=[\d\s(])[+-]\d\d:?\d\d(?=\)?$)", "\0", text)
    text = re.sub("(?:%[dmYyHIMSf]|[0-9])+", "9", text)
    return re.sub(r"(?:%[bBaAp]|[^\W\d_\0])+\.?", "x", text).replace("\0", "z")


def _fits(guess: TimeGuess, cell: str) -> bool:
    try:
        moment = strptime_clock(guess.format, guess.locale)(cell)
    except (ValueError, ImportError):
        return False
    # A year of two digits is not also one of four.
    return 1900 <= moment.year < 2200


def _is_iso(cell: str) -> bool:
    try:
        iso_clock(cell)
    except ValueError:
        return False
    return "-" in cell


def _between(cell: str, low: float, high: float) -> bool:
    count = re.fullmatch(r"\d+([.,]\d+)?", cell, re.ASCII)
    return count is not None and low <= float(cell.replace(",", ".")) <= high


def _different(guesses: Sequence[TimeGuess], cells: Sequence[str]) -> list[TimeGuess]:
    """Return the first of the formats that read all cells as the same moments."""
    by_moments: dict[tuple[object, ...], TimeGuess] = {}
    for guess in guesses:
        clock = strptime_clock(guess.format, guess.locale)
        by_moments.setdefault(tuple(clock(cell) for cell in cells), guess)
    return list(by_moments.values())
