"""The changes of a large batch as columns: those that are as they should be, which hardly ever are not all of them.

What this cannot vouch for (no change, an unusual one, a bad one) is left to consumer/scoring/decode.py, message by message.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.decode import LOOP_ORIGIN
from consumer.scoring.leads import Lead
from consumer.scoring.predictions import Rows
from features import Columns, columns_of
from features.spec import FeatureSpec
from leadstream.dictionary import DictionaryColumn
from leadstream.kafka.batch import Batch
from leadstream.lead_fields import (
    END_TIME_MS,
    MAX_CHANGE_BYTES,
    MAX_ID_CHARACTERS,
    MIN_TIME_MS,
)
from schemas.columns import ColumnReader, DecodedColumns, MapColumn, TextColumn

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """The plain changes of a batch: `index` (n,) are their places in it, ascending.

    A plain change is one that `decode_change` would give as a Change. `keys` are those of all messages of the batch.
    """

    index: Ints
    keys: list[bytes]
    types: DictionaryColumn
    _table: DecodedColumns

    def __getitem__(self, field: str) -> Any:
        """The column of a field of LeadChanged, one row for each message of the batch."""
        return self._table.columns[field]

    def but(self, leads: set[bytes]) -> tuple["Changes", list[int]]:
        """(the changes of all other leads, the places of the changes of these)."""
        if not leads:
            return self, []
        theirs = np.array([self.keys[place] in leads for place in self.index.tolist()], np.bool_)
        return replace(self, index=self.index[~theirs]), self.index[theirs].tolist()

    def without_state(self) -> list[str]:
        """The leads of the changes that carry no state."""
        bare = self.index[~self["lead"][self.index]]
        return [self.keys[place].decode() for place in bare.tolist()]

    def rows(self, stacks: "Stacks", tops: Ints, inputs: Iterable[FeatureSpec]) -> Rows:
        """The changes at these places of the stacks' tops, with what their states say of these inputs."""
        return self._rows(stacks, tops, self._states(stacks.tops[tops], inputs))

    def rows_of(self, stacks: "Stacks", tops: Ints, leads: Sequence[Lead]) -> Rows:
        """The changes at these places of the stacks' tops, with the states that were read for them."""
        rows = self._rows(stacks, tops, columns_of([lead.state for lead in leads]))
        versions = np.array([lead.version for lead in leads], np.int64)
        return replace(rows, lead_version=np.maximum(rows.lead_version, versions))

    def _rows(self, stacks: "Stacks", tops: Ints, states: Columns) -> Rows:
        places = stacks.tops[tops]
        return Rows(
            index=places,
            keys=[self.keys[place] for place in places.tolist()],
            event_id=self["event_id"].take(places),
            change_type=self.types.take(places),
            occurred_at=self["occurred_at"][places],
            lead_version=self["lead_version"][places],
            coalesced=stacks.depths[tops],
            states=states,
        )

    def _states(self, places: Ints, inputs: Iterable[FeatureSpec]) -> Columns:
        found: dict[str, Any] = {}
        for spec in inputs:
            field, _, key = spec.name.partition(".")
            column = self[f"lead.{field}"]
            column = (
                column.take(places)
                if isinstance(column, MapColumn | TextColumn)
                else column[places]
            )
            if isinstance(column, MapColumn):
                column = column.lookup(key)
            found[spec.name] = (
                column.dictionary_encode() if isinstance(column, TextColumn) else column
            )
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Stacks:
    """Plain changes by lead, the newest of each on top, by lead_version and then by offset.

    `tops` (m,) are the places in the batch of the newest change of each lead, `depths` (m,) how many lie below it.
    """

    tops: Ints
    depths: Ints
    _order: Ints
    _ends: Ints

    def below(self) -> Ints:
        """The places of all changes that are not the newest of their lead."""
        return np.delete(self._order, self._ends - 1)

    def under(self, top: int) -> list[int]:
        """The places of the changes below the one at place `top`, the newest last."""
        stack = int(np.flatnonzero(self.tops == top)[0])
        end = int(self._ends[stack]) - 1
        below: list[int] = self._order[end - int(self.depths[stack]) : end].tolist()
        return below


def read_changes(batch: Batch, reader: ColumnReader, topic: str) -> Changes:
    """The plain changes of `topic` in the batch."""
    table = reader.decode([message.value() for message in batch.messages])
    keys = [message.key() or b"" for message in batch.messages]
    column = table.columns
    ids, events, occurred_at = column["lead_id"], column["event_id"], column["occurred_at"]
    origins, symbols = column["origin"].dictionary_encode(), reader.symbols["change_type"]
    plain = table.decoded & ids.equal(TextColumn.from_bytes(keys))
    plain &= np.array([origin != LOOP_ORIGIN for origin in origins.values], np.bool_)[origins.codes]
    plain &= column["change_type"] != symbols.index("DELETED")
    plain &= (occurred_at >= MIN_TIME_MS) & (occurred_at < END_TIME_MS)
    plain &= ~column["lead"] | (column["lead.created_at"] <= occurred_at)
    # A text of so many bytes has no more characters; a longer one is looked at by itself.
    for texts in (ids, events):
        plain &= (texts.lengths > 0) & (texts.lengths <= MAX_ID_CHARACTERS)
    plain &= table.sizes <= MAX_CHANGE_BYTES
    if any(place[0] != topic for place in batch.first):
        plain &= np.array([place[0] == topic for place in batch.places.values], np.bool_)[
            batch.places.codes
        ]
    return Changes(
        np.flatnonzero(plain), keys, DictionaryColumn(column["change_type"], symbols), table
    )


def stacked(changes: Changes, *, coalesce: bool) -> Stacks:
    """The changes by lead; each by itself where they are not to be coalesced."""
    numbers: dict[bytes, int] = {}
    leads = [
        numbers.setdefault(changes.keys[place], len(numbers)) for place in changes.index.tolist()
    ]
    n = len(leads)
    if not coalesce or len(numbers) == n:
        return Stacks(changes.index, np.zeros(n, np.intp), changes.index, np.arange(1, n + 1))
    # The sort is stable: among equal versions the later offset stays on top.
    order = changes.index[np.lexsort((changes["lead_version"][changes.index], leads))]
    sizes = np.bincount(leads)
    ends = np.cumsum(sizes)
    return Stacks(order[ends - 1], sizes - 1, order, ends)
