"""The fields of lead changes in columns, from either decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.inputs import inputs_from_states, inputs_from_table, replace_rows
from features import Columns
from features.spec import FeatureSpec
from leadstream.dictionary import DictionaryColumn, dictionary_encode
from schemas.columns import DecodedColumns, TextColumn

Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]


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
