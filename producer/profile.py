"""Profiles of the columns of a file: what their cells seem to hold."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from leadstream.personal import is_email_address, is_personal_column
from leadstream.text_forms import comparable
from producer.time_guess import TimeGuess, guess_formats
from schemas.number_format import NumberFormat

# Words that programs and people write for a missing value.
NULLS = frozenset(
    ["null", "n/a", "na", "#n/a", "none", "nan", "nil", "undefined", "-", "--", "?", "select"]
)
FORMATS = ((".", ""), (",", ""), (".", ","), (",", "."), (",", " "), (".", " "), (".", "'"))
_SURE = 0.95  # share of cells that must be of one kind
_MAX_CATEGORIES = 200
_SAMPLE = 3000
_MAX_FORMS = 4
_TIME_NAME = re.compile(
    r"\b(date|time|timestamp|at|on|datum|zeit|fecha|data|created|erstellt|angelegt|modified)\b"
)


class ColumnKind(StrEnum):
    """Kinds of columns, as a suggestion sorts them."""

    EMPTY = "empty"
    CONSTANT = "constant"
    PERSONAL = "personal"
    TIME = "time"
    NUMBER = "number"
    CATEGORY = "category"
    FREE_TEXT = "free text"


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """Facts of one column; `cells` are all its cells, trimmed, with "" for missing ones.

    `times` are the formats that its times have, of which the first is used; `unit` is a word
    behind its numbers.
    """

    name: str
    kind: ColumnKind
    cells: Sequence[str]
    values: Counter[str]
    times: tuple[tuple[TimeGuess, ...], ...] = ()
    unit: str | None = None

    @property
    def title(self) -> str:
        """Return the name in lower-case words: `LeadSource` and `lead_source` are alike."""
        return words_of(self.name)

    @property
    def filled(self) -> int:
        """Return how many cells are not missing."""
        return self.values.total()


def words_of(name: str) -> str:
    """Return the words of a column's name, in lower case."""
    parts = re.sub(r"([a-zäöüß0-9])([A-ZÄÖÜ])", r"\1 \2", comparable(name))
    return " ".join(re.findall(r"[^\W_]+", parts)).lower()


def number_format(columns: Sequence[Sequence[str]]) -> NumberFormat:
    """Return the decimal and the thousands sign by which most cells of a file are numbers."""
    counts = [_numeric(columns, NumberFormat(*signs)) for signs in FORMATS]
    return NumberFormat(*FORMATS[counts.index(max(counts))])


def profile(name: str, cells: Sequence[str], numbers: NumberFormat) -> ColumnProfile:
    """Return the profile of a column."""
    texts = [comparable(cell).strip() for cell in cells]
    filled = ["" if text.lower() in NULLS else text for text in texts]
    values = Counter(text for text in filled if text)
    sample = list(values.elements())[:: max(1, values.total() // _SAMPLE)]
    kind, times, unit = ColumnKind.CATEGORY, tuple[tuple[TimeGuess, ...], ...](), None
    if not values:
        kind = ColumnKind.EMPTY
    elif is_personal_column(name) or sum(map(is_email_address, sample)) > len(sample) / 2:
        kind = ColumnKind.PERSONAL
    elif times := _times(words_of(name), sample):
        kind = ColumnKind.TIME
    elif len(values) == 1 and values.total() == len(cells):
        kind = ColumnKind.CONSTANT
    elif _share(sample, numbers) >= _SURE or (unit := _unit(sample, numbers)):
        kind = ColumnKind.NUMBER
    elif len(values) > _MAX_CATEGORIES and len(values) > values.total() / 20:
        kind = ColumnKind.FREE_TEXT
    return ColumnProfile(name, kind, filled, values, times, unit)


def _times(name: str, sample: Sequence[str]) -> tuple[tuple[TimeGuess, ...], ...]:
    """Return the formats of the times in a sample, by the form of the cells."""
    if not all(any(map(str.isdigit, text)) and len(text) <= 60 for text in sample[:50]):
        return ()
    forms: dict[str, list[str]] = {}
    for text in sample:
        forms.setdefault(re.sub(r"[^\W\d_]+", "x", re.sub(r"\d+", "9", text)), []).append(text)
    found = [
        (len(texts), guesses)
        for texts in sorted(forms.values(), key=len, reverse=True)[:_MAX_FORMS]
        if (guesses := tuple(guess_formats(texts)))
    ]
    if sum(count for count, _ in found) < _SURE * len(sample):
        return ()
    counted = {"excel", "epoch_s", "epoch_ms", "%Y%m%d"}
    if any(guess.format in counted for _, guesses in found for guess in guesses):
        return tuple(guesses for _, guesses in found) if _TIME_NAME.search(name) else ()
    return tuple(guesses for _, guesses in found)


def _share(sample: Sequence[str], numbers: NumberFormat) -> float:
    return sum(_is_number(cell, numbers) for cell in sample) / max(1, len(sample))


def _numeric(columns: Sequence[Sequence[str]], numbers: NumberFormat) -> int:
    return sum(_is_number(cell, numbers) for cells in columns for cell in cells[:_SAMPLE])


def _is_number(cell: str, numbers: NumberFormat) -> bool:
    try:
        numbers.number(cell)
    except ValueError:
        return False
    return True


def _unit(sample: Sequence[str], numbers: NumberFormat) -> str | None:
    words = Counter(
        match[1] for text in sample if (match := re.fullmatch(r"[\d.,' ]+([^\W\d_]{1,8})", text))
    )
    if not words:
        return None
    unit, _ = words.most_common(1)[0]
    form = NumberFormat(numbers.decimal, numbers.thousands, frozenset([unit]))
    return unit if _share(sample, form) >= _SURE else None
