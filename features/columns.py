"""Lead states as columns, and columns of Python objects as arrays.

These are the only steps of the features that look at single values in Python.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leadstream.dictionary import DictionaryColumn
from leadstream.lead_fields import MAX_CATEGORY_CHARACTERS, STATE_FIELDS
from leadstream.text_forms import comparable

Columns: TypeAlias = Mapping[str, Sequence[Any]]
Floats: TypeAlias = NDArray[np.float64]

# Codes of a category; FIRST is the most frequent one in training.
MISSING, UNKNOWN, FIRST = 0, 1, 2
MAX_CATEGORIES = 64
MIN_CATEGORY_ROWS = 20  # rows of training, or one in a hundred where that is fewer

_row = itemgetter(*STATE_FIELDS)
_NUMBER_TYPES = frozenset({float, int, bool, NoneType})


def columns_of(states: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    """Turn n lead states into one column of length n for each field.

    A field that a state lacks is None.
    """
    try:
        rows = list(map(_row, states))
    except KeyError:
        rows = [tuple(map(state.get, STATE_FIELDS)) for state in states]
    columns = zip(*rows, strict=True) if rows else [()] * len(STATE_FIELDS)
    return dict(zip(STATE_FIELDS, columns, strict=True))


def column(columns: Columns, name: str, n: int) -> Sequence[Any]:
    """Return the column of an input; an absent column is all None.

    The column of an own field, `numbers.X` or `categories.X`, is present under that name, or its
    values are taken from the column of maps. Raises ValueError if its length is not n.
    """
    field, dot, key = name.partition(".")
    if name in columns:
        field, dot = name, ""
    values = columns.get(field)
    if values is None:
        return (None,) * n
    if len(values) != n:
        raise ValueError(f"the column {field} has {len(values)} values, not {n}")
    return [own.get(key) if isinstance(own, dict) else None for own in values] if dot else values


def as_numbers(values: Sequence[Any] | NDArray[Any]) -> Floats:
    """Return numbers as float64 (n,).

    What is not a number, text included, becomes NaN. A number beyond float64 becomes inf.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values.astype(np.float64)
    if _NUMBER_TYPES.issuperset(map(type, values)):
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass
    return np.fromiter(map(_number, values), dtype=np.float64, count=len(values))


def _number(value: object) -> float:
    if isinstance(value, str | bytes | bytearray):
        return np.nan
    try:
        return float(value)  # type: ignore[arg-type]  # what float() refuses is not a number
    except OverflowError:
        return np.inf
    except (TypeError, ValueError):
        return np.nan


def as_codes(values: Sequence[Any], vocabulary: Mapping[str, int]) -> Floats:
    """Return categories as codes (n,): MISSING, UNKNOWN, or the code in the vocabulary.

    Only distinct values are looked up.
    """
    if isinstance(values, DictionaryColumn):
        known = np.array([_code(value, vocabulary) for value in values.values], dtype=np.float64)
        return known[values.codes]
    values = _hashable(values)
    codes = {value: _code(value, vocabulary) for value in set(values)}
    return np.fromiter(map(codes.__getitem__, values), dtype=np.float64, count=len(values))


def fit_vocabulary(values: Sequence[Any]) -> dict[str, int]:
    """Return codes for the categories of a training column.

    The most frequent comes first, ties by text, at most MAX_CATEGORIES. A category with fewer than
    MIN_CATEGORY_ROWS rows gets no code and stays UNKNOWN. So trees learn from rare categories what
    to predict for new ones.
    """
    counts: Counter[str] = Counter()
    for value, count in Counter(_hashable(values)).items():
        text = category(value)
        if text and len(value) <= MAX_CATEGORY_CHARACTERS:
            counts[text] += count
    min_rows = min(MIN_CATEGORY_ROWS, -(-len(values) // 100))
    known = [text for text in counts if counts[text] >= min_rows]
    ordered = sorted(known, key=lambda text: (-counts[text], text))[:MAX_CATEGORIES]
    return {text: FIRST + rank for rank, text in enumerate(ordered)}


def category(value: object) -> str:
    """Return the text by which categories are compared.

    It is trimmed, without case, in the form NFKC, and without invisible characters. What is not
    text gives an empty text.
    """
    return comparable(value).strip().casefold() if isinstance(value, str) else ""


def _code(value: object, vocabulary: Mapping[str, int]) -> int:
    if isinstance(value, str) and len(value) > MAX_CATEGORY_CHARACTERS:
        return UNKNOWN
    # Older models know categories in the form that they were written in.
    if isinstance(value, str) and (code := vocabulary.get(value.strip().casefold())) is not None:
        return code
    text = category(value)
    return vocabulary.get(text, UNKNOWN) if text else MISSING


def _hashable(values: Iterable[Any]) -> Sequence[Any]:
    values = tuple(values)
    try:
        hash(values)
    except TypeError:
        return tuple(value if isinstance(value, str) else None for value in values)
    return values
