"""The state of a lead that no change carries, and the lookup that returns it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from leadstream.errors import Poison


@dataclass(frozen=True, slots=True)
class Lead:
    """A lead as Postgres has it: its state, with the fields of LeadState, and its version."""

    state: dict[str, Any]
    version: int


class LeadLookup(Protocol):
    """The source of the states that changes do not carry."""

    def fetch(self, lead_ids: Iterable[str]) -> Mapping[str, Lead | Poison]:
        """Return the known leads by id, or why the database cannot return one.

        Raises Transient if the database does not answer.
        """

    def close(self) -> None:
        """Close the connection."""
