"""Lead states as columns, and columns of Python objects as arrays: the only steps that see single values in Python."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from features.spec import LONGEST_CATEGORY
from leadstream.dictionary import DictionaryColumn

Columns: TypeAlias = Mapping[str, Sequence[Any]]
Floats: TypeAlias = NDArray[np.float64]

STATE_FIELDS = (
    "created_at",
    "lead_score",
    "engagement_score",
    "touchpoint_count",
    "lifecycle_state",
    "status",
    "source",
    "programme_name",
    "campus_name",
    "numbers",
    "categories",
)
MISSING, UNKNOWN, FIRST = 0, 1, 2  # codes of a category; FIRST is the most frequent one in training
MOST_CATEGORIES = 64
LEAST_SEEN = 20  # rows of training, or one in a hundred where that is less

_row = itemgetter(*STATE_FIELDS)
_PLAIN = frozenset({float, int, bool, NoneType})


def columns_of(states: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    """Turn n lead states into one column of length n for each field; a field that a state lacks is None."""
    try:
        rows = list(map(_row, states))
    except KeyError:
        rows = [tuple(map(state.get, STATE_FIELDS)) for state in states]
    return dict(
        zip(
            STATE_FIELDS, zip(*rows, strict=True) if rows else [()] * len(STATE_FIELDS), strict=True
        )
    )


def column(columns: Columns, name: str, n: int) -> Sequence[Any]:
    """The column of an input; an absent column is all None.

    One of an own field, `numbers.X` or `categories.X`, is given itself or looked up in the column of maps. Raises
    ValueError if its length is not n.
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
    """Numbers as float64 (n,); whatever is not a number, text included, is NaN, and a number beyond float64 is inf."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values.astype(np.float64)
    if _PLAIN.issuperset(map(type, values)):
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
    """Categories as codes (n,): MISSING, UNKNOWN or the vocabulary's; only distinct values are looked at one by one."""
    if isinstance(values, DictionaryColumn):
        known = np.array([_code(value, vocabulary) for value in values.values], dtype=np.float64)
        return known[values.codes]
    values = _hashable(values)
    codes = {value: _code(value, vocabulary) for value in set(values)}
    return np.fromiter(map(codes.__getitem__, values), dtype=np.float64, count=len(values))


def vocabulary_of(values: Sequence[Any]) -> dict[str, int]:
    """Codes for the categories of a training column: the most frequent first, ties by text, at most MOST_CATEGORIES.

    One that fewer than LEAST_SEEN rows have gets none: it stays UNKNOWN, and so trees learn what rare ones have in
    common, which is what they have to say of a category that is new.
    """
    counts: Counter[str] = Counter()
    for value, count in Counter(_hashable(values)).items():
        text = category(value)
        if text and len(value) <= LONGEST_CATEGORY:
            counts[text] += count
    least = min(LEAST_SEEN, -(-len(values) // 100))
    known = [text for text in counts if counts[text] >= least]
    ordered = sorted(known, key=lambda text: (-counts[text], text))[:MOST_CATEGORIES]
    return {text: FIRST + rank for rank, text in enumerate(ordered)}


def category(value: object) -> str:
    """The text that categories are compared by, without outer white space and case; empty for what is not text."""
    return value.strip().casefold() if isinstance(value, str) else ""


def _code(value: object, vocabulary: Mapping[str, int]) -> int:
    if isinstance(value, str) and len(value) > LONGEST_CATEGORY:
        return UNKNOWN
    text = category(value)
    return vocabulary.get(text, UNKNOWN) if text else MISSING


def _hashable(values: Iterable[Any]) -> Sequence[Any]:
    values = tuple(values)
    try:
        hash(values)
    except TypeError:
        return tuple(value if isinstance(value, str) else None for value in values)
    return values
