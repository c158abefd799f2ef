"""The event table: one row per message of a batch, whichever decoder read it.

The kernel reads large batches of Avro in columns. What it leaves, the codec and the reader of JSON
decode one by one into the same table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.change_columns import (
    ChangeColumns,
    columns_from_kernel,
    columns_from_records,
)
from consumer.scoring.validity import LOOP_ORIGIN, check_changes, find_poisons
from features.spec import FeatureSpec
from leadstream.dictionary import DictionaryColumn
from leadstream.errors import Poison
from leadstream.kafka.batch import Batch, Message, read_headers
from leadstream.lead_fields import MAX_CHANGE_BYTES, STATE_FIELDS
from schemas.codec import Reader
from schemas.columns import COMPILED, ColumnReader, use_columns, without_nulls
from schemas.json_records import decode_json, is_json

Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]

DELETED = "DELETED"
_FIELDS = (
    "event_id",
    "lead_id",
    "change_type",
    "occurred_at",
    "lead_version",
    "origin",
    "lead",
    *(f"lead.{name}" for name in STATE_FIELDS),
)
# The row of a message that holds no lead change; its kind says so.
_BLANK: dict[str, Any] = {
    **dict.fromkeys(("event_id", "lead_id", "change_type", "origin"), ""),
    **dict.fromkeys(("occurred_at", "lead_version"), 0),
    "lead": None,
}


class EventKind(IntEnum):
    """The kind of work that a message asks for; ERASED asks for none: its lead was erased since."""

    CHANGE = 0
    ERASURE = 1
    IGNORED = 2
    REQUEST = 3
    INVALID = 4
    ERASED = 5


@dataclass(frozen=True, slots=True, eq=False)
class EventTable:
    """One row per message, in the order of the batch.

    `kind` (n,) holds an EventKind. `keys` are the record keys, which of a valid change are the
    lead id in UTF-8. `poisons` has the reason of each INVALID row. `fallback` is True if the
    kernel left a change of a large batch to the codec or to the reader of JSON.
    """

    kind: NDArray[np.uint8]
    keys: list[bytes]
    changes: ChangeColumns
    poisons: dict[int, Poison]
    fallback: bool

    def rows(self, kind: EventKind) -> Ints:
        """Return the rows of a kind, ascending."""
        return np.flatnonzero(self.kind == kind)

    def without(self, erased: Ints) -> "EventTable":
        """Return the table with these changes of erased leads as such."""
        if not len(erased):
            return self
        kind = self.kind.copy()
        kind[erased] = EventKind.ERASED
        return replace(self, kind=kind)


class EventReader:
    """The decoders of lead changes: the kernel for large batches, codec and JSON for the rest.

    With `accept_json`, a JSON object needs no header.
    """

    def __init__(self, codec: Reader, requests_topic: str, *, accept_json: bool = False) -> None:
        """Raise MissingColumnError if a field of the schema has no column."""
        self._codec = codec
        self._requests_topic = requests_topic
        self._accept_json = accept_json
        self._kernel = ColumnReader(codec, _FIELDS) if COMPILED else None

    def read(self, batch: Batch, inputs: Sequence[FeatureSpec]) -> EventTable:
        """Return the event table of a batch, with the state columns of these model inputs.

        Raises Transient if the schema registry does not answer.
        """
        values = [message.value() for message in batch.messages]
        keys = [message.key() or b"" for message in batch.messages]
        n = len(values)
        requests = _of_topic(batch, self._requests_topic)
        present, sizes = without_nulls(values)
        null = np.zeros(n, np.bool_)
        if present is not values:
            null[:] = [value is None for value in values]
        oversized = (sizes > MAX_CHANGE_BYTES) & ~requests
        left = ~(requests | null | oversized)
        kernel = self._kernel if use_columns(n) else None
        base = None
        if kernel is not None:
            table = kernel.decode(present)
            base = columns_from_kernel(table, kernel.symbols["change_type"], inputs)
            left &= ~table.decoded
        records, poisons = self._decode(batch.messages, present, np.flatnonzero(left).tolist())
        if base is None:
            decoded = np.zeros(n, np.bool_)
            changes = columns_from_records([records.get(row, _BLANK) for row in range(n)], inputs)
        else:
            decoded = table.decoded & ~requests
            changes = base
            if records:
                others = columns_from_records(list(records.values()), inputs)
                changes = base.with_rows(np.array(list(records), np.intp), others)
        decoded[list(records)] = True
        looping = _is(changes.origin, LOOP_ORIGIN)
        deleted = _is(changes.change_type, DELETED)
        rules = check_changes(
            changes,
            keys,
            sizes,
            oversized=oversized,
            decoded=decoded,
            null=null & ~requests,
            looping=looping,
            deleted=deleted,
        )
        invalid, found = find_poisons(rules, n)
        poisons |= found
        kind = np.full(n, EventKind.INVALID, np.uint8)
        kind[decoded] = EventKind.CHANGE
        kind[(decoded & deleted) | null] = EventKind.ERASURE
        kind[decoded & looping] = EventKind.IGNORED
        kind[invalid] = EventKind.INVALID
        kind[requests] = EventKind.REQUEST
        return EventTable(kind, keys, changes, poisons, base is not None and bool(left.any()))

    def _decode(
        self, messages: Sequence[Message], values: Sequence[bytes], rows: Sequence[int]
    ) -> tuple[dict[int, dict[str, Any]], dict[int, Poison]]:
        """Decode rows one by one; a value that cannot be decoded costs only its own row."""
        records: dict[int, dict[str, Any]] = {}
        poisons: dict[int, Poison] = {}
        self._codec.prepare(values[row] for row in rows)
        for row in rows:
            try:
                headers = partial(read_headers, messages[row])
                if is_json(values[row], headers, accept=self._accept_json):
                    records[row] = decode_json("LeadChanged", values[row])
                else:
                    records[row] = self._codec.decode(values[row])
            except Poison as poison:
                poisons[row] = poison
        return records, poisons


def _is(column: DictionaryColumn, value: str) -> Flags:
    """Return in which rows a column has this value."""
    return np.array([each == value for each in column.values], np.bool_)[column.codes]


def _of_topic(batch: Batch, topic: str) -> Flags:
    return np.array([place[0] == topic for place in batch.places.values], np.bool_)[
        batch.places.codes
    ]
