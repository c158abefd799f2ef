"""The leads that a model scores together, in columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.change_columns import take_rows
from consumer.scoring.events import EventTable
from consumer.scoring.result import PublishedVersions
from consumer.scoring.states import LeadStates
from features import Columns
from leadstream.dictionary import DictionaryColumn
from schemas.columns import TextColumn

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The n leads to score, each as of `occurred_at` (n,), ms UTC.

    `index` (n,) are the messages that ask for them, `keys` the lead ids in UTF-8. `coalesced`
    (n,) counts the previous changes that each one stands for. `states` has the model inputs.
    """

    index: Ints
    keys: list[bytes]
    event_id: TextColumn | Sequence[str]
    change_type: DictionaryColumn
    occurred_at: NDArray[np.int64]
    lead_version: NDArray[np.int64]
    coalesced: Ints
    states: Columns

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, indices: Ints) -> "Rows":
        """Return the rows at these indices."""
        if len(indices) == len(self):
            return self
        return Rows(
            self.index[indices],
            _take(self.keys, indices),
            self.event_id.take(indices)
            if isinstance(self.event_id, TextColumn)
            else _take(self.event_id, indices),
            self.change_type.take(indices),
            self.occurred_at[indices],
            self.lead_version[indices],
            self.coalesced[indices],
            take_rows(self.states, indices),
        )

    def published(self, indices: Ints) -> PublishedVersions:
        """Return the versions of the leads at these indices, in any order."""
        if len(indices) == len(self):
            return PublishedVersions(self.index, self.keys, self.lead_version)
        return PublishedVersions(
            self.index[indices], _take(self.keys, indices), self.lead_version[indices]
        )


def rows_from_table(table: EventTable, states: LeadStates, index: Ints, coalesced: Ints) -> Rows:
    """Return the changes at these rows of an event table, with their states."""
    changes = table.changes
    every = len(index) == len(table.keys) and bool((index[1:] > index[:-1]).all())
    return Rows(
        index,
        # The same list where it is the same leads: their hashes are worked out once.
        table.keys if every else _take(table.keys, index),
        changes.event_id.take(index),
        changes.change_type.take(index),
        changes.occurred_at[index],
        states.versions[index],
        coalesced,
        take_rows(states.columns, index),
    )


def _take(values: Sequence[Any], indices: Ints) -> list[Any]:
    return [values[index] for index in indices.tolist()]
