"""Names of months and weekdays, and signs of the half of a day, as strptime reads them.

The names of a locale are those of the Unicode CLDR, which Babel holds.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache

INSTALL = "names of months need Babel, which is not installed here: pip install 'leadstream[names]'"
_MONTHS = "January February March April May June July August September October November December"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
# Windows writes it in German; CLDR does not know it.
_MORE = {"de": {"mrz": "March"}}
_SHORTEST = 3
_SEPT = re.compile(r"\bsept\b\.?", re.IGNORECASE)
_HALF = re.compile(r"(?<![^\W\d_])([ap])\.?\s?m\b\.?", re.IGNORECASE)
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:\.(?:\s?[^\W\d_]\.)?)?")
_NAME = re.compile(r"%[aAbBp]")


def english(text: str, form: str, locale: str | None) -> str:
    """Return a time with the names that strptime reads in a format.

    A name of the locale takes the place of a directive in the order of the format: the Spanish
    `mar` is Tuesday for %a and March for %b. English ordinals (15th) lose their ending, and
    `p. m.` becomes pm.
    """
    directives = _NAME.findall(form)
    if locale and directives:
        text = _translated(text, directives, locale)
    if "%p" in directives:
        text = _HALF.sub(r"\1m", text)
    if "%b" in directives:
        text = _SEPT.sub("Sep", text)
    return " ".join(_ORDINAL.sub("", text).split())


def _translated(text: str, directives: list[str], locale: str) -> str:
    waiting = list(reversed(directives))

    def translate(match: re.Match[str]) -> str:
        if not waiting:
            return match[0]
        name = _names(locale, waiting[-1].lower()).get(_key(match[0]))
        if name is None:
            return match[0]
        return name if waiting.pop() in ("%A", "%B", "%p") else name[:3]

    return _WORD.sub(translate, text)


@cache
def is_locale(name: str) -> bool:
    """Return whether Babel knows a locale of this name. Raises ImportError without Babel."""
    from babel import Locale, UnknownLocaleError  # noqa: PLC0415  # an extra

    try:
        Locale.parse(name.replace("-", "_"))
    except (ValueError, UnknownLocaleError):
        return False
    return True


@cache
def _names(locale: str, directive: str) -> Mapping[str, str]:
    """Return the English name by each name of the locale for %b, %a or %p, and by its beginnings.

    A beginning has at least three letters and fits one name only.
    """
    from babel import Locale  # noqa: PLC0415  # an extra

    own = Locale.parse(locale.replace("-", "_"))
    if directive == "%p":
        forms = [form for kind in own.day_periods.values() for form in kind.values()]
        halves = ("am", "pm")
        return {_key(form[half]): half.upper() for form in forms for half in halves if half in form}
    kinds, known = (own.months, _MONTHS) if directive == "%b" else (own.days, _DAYS)
    names: dict[str, str] = {}
    for forms_of_kind in kinds.values():
        for width in ("wide", "abbreviated"):
            by_number = forms_of_kind[width]
            keys = [_key(str(by_number[number])) for number in sorted(by_number)]
            names |= _with_beginnings(keys, known.split())
    return names | (_MORE.get(own.language, {}) if directive == "%b" else {})


def _with_beginnings(keys: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    names = {}
    for key, name in zip(keys, known, strict=True):
        for length in range(_SHORTEST, len(key)):
            if sum(other.startswith(key[:length]) for other in keys) == 1:
                names[key[:length]] = name
    return names | dict(zip(keys, known, strict=True))


def _key(name: str) -> str:
    """Return a name without points, spaces, accents and case."""
    plain = unicodedata.normalize("NFD", name)
    return "".join(char for char in plain if char.isalnum()).casefold()
