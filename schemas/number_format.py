"""Numbers as people and programs write them in texts: signs, currencies, units.

Each parser raises ValueError with the rest of a sentence that names no value.
"""

import re
from dataclasses import dataclass, field

from leadstream.text_forms import comparable

NOT_A_NUMBER = "is not a number"
# Beyond it, float64 skips whole numbers.
MAX_EXACT = 2**53
_PLAIN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
# A longer cell is no number, and would cost the square of its length.
_MAX_NUMBER_CHARACTERS = 400
_CURRENCY = "(?:[A-Z]{0,2}[$\u00a2-\u00a5\u058f\u060b\u0e3f\u20a0-\u20c0]|[A-Z]{3})"
_SAME_SIGN = str.maketrans("\u2212\u2019\u00b4`", "-'''")


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """Form of numbers in texts: the decimal sign, the thousands sign, and the units of a field.

    A thousands sign stands between groups of three digits only. A currency sign, a currency code or
    a per cent sign before or after the number is left out, and so are the units. Parentheses mean
    a negative number.
    """

    decimal: str = "."
    thousands: str = ""
    units: frozenset[str] = frozenset()
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        thousands = comparable(self.thousands).translate(_SAME_SIGN)
        integer = rf"\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+|\d+" if thousands else r"\d+"
        units = "|".join(re.escape(comparable(unit)) for unit in sorted(self.units))
        mark = f"(?:{_CURRENCY}|%{'|' + units if units else ''})"
        number = rf"(?:{integer})?(?:{re.escape(self.decimal)}\d*)?(?:[eE][+-]?\d+)?"
        pattern = rf"([+-]?)\s*{mark}?\s*([+-]?)\s*({number})\s*{mark}?"
        object.__setattr__(self, "_pattern", re.compile(pattern, re.ASCII))

    def as_python(self, text: str) -> str:
        """Return the number in a cell as Python writes it."""
        if self.decimal == "." and _PLAIN.fullmatch(text):
            return text
        if len(text) > _MAX_NUMBER_CHARACTERS:
            raise ValueError(NOT_A_NUMBER)
        text = comparable(text).translate(_SAME_SIGN).strip()
        negative = text.startswith("(") and text.endswith(")")
        match = self._pattern.fullmatch(text[1:-1].strip() if negative else text)
        if match is None or (match[1] and match[2]) or (negative and (match[1] or match[2])):
            raise ValueError(NOT_A_NUMBER)
        number = match[3]
        if self.thousands:
            number = number.replace(comparable(self.thousands).translate(_SAME_SIGN), "")
        number = ("-" if negative else match[1] or match[2]) + number.replace(self.decimal, ".")
        if not _PLAIN.fullmatch(number):
            raise ValueError(NOT_A_NUMBER)
        return number

    def number(self, text: str) -> float:
        """Return the number that a cell holds."""
        return finite(float(self.as_python(text)))

    def integer(self, text: str, max_value: int) -> int:
        """Return the whole number that a cell holds, exactly, from 0 to a maximum."""
        plain = self.as_python(text)
        if _INTEGER.fullmatch(plain):
            number = int(plain) if len(plain) <= len(str(max_value)) + 1 else max_value + 1
        else:
            value = float(plain)
            if abs(value) > MAX_EXACT:
                raise ValueError("lost digits: it is beyond 2^53 and was written with a fraction")
            if value != int(value):
                raise ValueError("is not a whole number in range")
            number = int(value)
        if not 0 <= number <= max_value:
            raise ValueError("is not a whole number in range")
        return number


def finite(number: float) -> float:
    """Return a number that float64 can hold."""
    if number - number != 0:
        raise ValueError("is too large a number")
    return number
