"""The fields of lead changes in columns, from either decoder, and the model inputs among them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.columns import Columns, as_numbers, column, columns_of
from features.spec import CATEGORY, FeatureSpec
from leadstream.dictionary import DictionaryColumn, dictionary_encode
from schemas.columns import DecodedColumns, MapColumn, TextColumn

Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]
Column = TypeVar("Column", DictionaryColumn, TextColumn, NDArray[Any])


@dataclass(frozen=True, slots=True, eq=False)
class ChangeColumns:
    """The fields of n lead changes in columns.

    `created_at` (n,) is that of the state, 0 without one. `states` has one column per model input.
    """

    lead_id: TextColumn
    event_id: TextColumn
    change_type: DictionaryColumn
    occurred_at: NDArray[np.int64]
    lead_version: NDArray[np.int64]
    origin: DictionaryColumn
    has_state: Flags
    created_at: NDArray[np.int64]
    states: Columns

    def with_rows(self, rows: Ints, other: "ChangeColumns") -> "ChangeColumns":
        """Return these columns with the changes of `other` (k,) at `rows` (k,)."""
        return ChangeColumns(
            replace_rows(self.lead_id, rows, other.lead_id),
            replace_rows(self.event_id, rows, other.event_id),
            replace_rows(self.change_type, rows, other.change_type),
            replace_rows(self.occurred_at, rows, other.occurred_at),
            replace_rows(self.lead_version, rows, other.lead_version),
            replace_rows(self.origin, rows, other.origin),
            replace_rows(self.has_state, rows, other.has_state),
            replace_rows(self.created_at, rows, other.created_at),
            {
                name: replace_rows(values, rows, other.states[name])  # type: ignore[type-var]
                for name, values in self.states.items()
            },
        )


def columns_from_kernel(
    table: DecodedColumns, change_types: Sequence[str], inputs: Sequence[FeatureSpec]
) -> ChangeColumns:
    """Return what the kernel read; rows that it did not read have no meaning."""
    columns = table.columns
    return ChangeColumns(
        columns["lead_id"],
        columns["event_id"],
        DictionaryColumn(np.where(table.decoded, columns["change_type"], 0), change_types),
        columns["occurred_at"],
        columns["lead_version"],
        columns["origin"].dictionary_encode(),
        columns["lead"],
        columns["lead.created_at"],
        inputs_from_table(table, inputs),
    )


def columns_from_records(
    records: Sequence[dict[str, Any]], inputs: Sequence[FeatureSpec]
) -> ChangeColumns:
    """Return the columns of changes that the codec decoded."""
    states = [record["lead"] or {} for record in records]
    return ChangeColumns(
        TextColumn.from_bytes([record["lead_id"].encode() for record in records]),
        TextColumn.from_bytes([record["event_id"].encode() for record in records]),
        dictionary_encode([record["change_type"] for record in records]),
        np.array([record["occurred_at"] for record in records], np.int64),
        np.array([record["lead_version"] for record in records], np.int64),
        dictionary_encode([record["origin"] for record in records]),
        np.array([record["lead"] is not None for record in records], np.bool_),
        np.array([state.get("created_at", 0) for state in states], np.int64),
        inputs_from_states(states, inputs),
    )


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
