"""Columns of model inputs: one row per message, from the kernel's columns or from lead states."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.columns import Columns, as_numbers, column, columns_of
from features.spec import CATEGORY, FeatureSpec
from leadstream.dictionary import DictionaryColumn, dictionary_encode
from schemas.columns import DecodedColumns, MapColumn, TextColumn

Ints = NDArray[np.intp]
Column = TypeVar("Column", DictionaryColumn, TextColumn, NDArray[Any])


def inputs_from_table(table: DecodedColumns, inputs: Iterable[FeatureSpec]) -> dict[str, Any]:
    """Return the column of each input from decoded lead changes.

    Numbers and moments are float64, NaN where absent; categories are dictionary columns.
    """
    found: dict[str, Any] = {}
    for spec in inputs:
        field, _, key = spec.name.partition(".")
        values = table.columns[f"lead.{field}"]
        if isinstance(values, MapColumn):
            values = values.lookup(key)
        found[spec.name] = (
            values.dictionary_encode() if isinstance(values, TextColumn) else as_numbers(values)
        )
    return found


def inputs_from_states(
    states: Sequence[Mapping[str, Any]], inputs: Iterable[FeatureSpec]
) -> dict[str, Any]:
    """Return the column of each input from lead states, in the form of `inputs_from_table`."""
    columns = columns_of(states)
    found: dict[str, Any] = {}
    for spec in inputs:
        values = column(columns, spec.name, len(states))
        found[spec.name] = (
            dictionary_encode(values) if spec.kind == CATEGORY else as_numbers(values)
        )
    return found


def replace_rows(base: Column, rows: Ints, other: Column) -> Column:
    """Return the column with the values of `other` (k,) at `rows` (k,)."""
    if isinstance(base, DictionaryColumn) and isinstance(other, DictionaryColumn):
        codes = base.codes.copy()
        codes[rows] = other.codes + len(base.values)
        return DictionaryColumn(codes, [*base.values, *other.values])
    if isinstance(base, TextColumn) and isinstance(other, TextColumn):
        offsets, lengths = base.offsets.copy(), base.lengths.copy()
        offsets[rows], lengths[rows] = other.offsets + len(base.data), other.lengths
        return TextColumn(np.concatenate([base.data, other.data]), offsets, lengths)
    copy: Any = np.array(base)
    copy[rows] = other
    return copy  # type: ignore[no-any-return]


def take_rows(columns: Columns, rows: Ints) -> dict[str, Any]:
    """Return these rows of all columns."""
    return {
        name: values.take(rows) if isinstance(values, DictionaryColumn) else values[rows]  # type: ignore[call-overload]
        for name, values in columns.items()
    }
