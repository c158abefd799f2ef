"""Parsers of the cells of an export: numbers, ids and texts.

Each raises ValueError with the rest of a sentence that names no value.
"""

import re
from dataclasses import dataclass, field

from leadstream.lead_fields import MAX_ID_CHARACTERS
from leadstream.personal import is_email_address
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
# What programs write for a missing id.
_NO_ID = frozenset(["nan", "none", "null", "n/a", "#n/a", "#ref!", "#value!", "undefined"])
_FLOAT_ID = re.compile(r"\d+\.0+", re.ASCII)
_EXPONENT_ID = re.compile(r"\d([.,]\d+)?[eE]\+\d+", re.ASCII)
# A spreadsheet keeps 15 digits of a number and writes zeros for the rest.
_ROUNDED_ID = re.compile(r"[1-9]\d{14}000+", re.ASCII)


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """Form of numbers in a file: its decimal sign, its thousands sign, and the units of a field.

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
