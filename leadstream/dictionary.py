"""Columns with few distinct values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class DictionaryColumn(Sequence[Any]):
    """A column of n rows whose distinct values are few.

    Row i has the value `values[codes[i]]`; `codes` is (n,). Work on `values` is done once a value,
    and not once a row.
    """

    codes: NDArray[np.intp]
    values: Sequence[Any]

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, row: int) -> Any: ...
    @overload
    def __getitem__(self, row: slice) -> "DictionaryColumn": ...
    def __getitem__(self, row: int | slice) -> Any:
        return (
            DictionaryColumn(self.codes[row], self.values)
            if isinstance(row, slice)
            else self.values[self.codes[row]]
        )

    def __eq__(self, other: object) -> bool:
        """Like a list: by the values of all rows."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: NDArray[np.intp]) -> "DictionaryColumn":
        """Return the column of these rows."""
        return DictionaryColumn(self.codes[indices], self.values)

    def counts(self) -> NDArray[np.intp]:
        """Return how many rows have each value: as long as `values`."""
        return np.bincount(self.codes, minlength=len(self.values))


def dictionary_encode(values: Sequence[Any]) -> DictionaryColumn:
    """Return the column of these hashable values, its distinct values in order of appearance."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    codes = np.fromiter(map(numbers.__getitem__, values), np.intp, len(values))
    return DictionaryColumn(codes, list(numbers))
