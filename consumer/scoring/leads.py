"""Lead state that no change carries: what it looks like, and where it may come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Lead:
    """The state of a lead as Postgres has it, in the shape of the Avro record LeadState, and its version."""

    state: dict[str, Any]
    version: int


class LeadLookup(Protocol):
    """Where states come from that a change does not carry."""

    def fetch(self, lead_ids: Iterable[str]) -> dict[str, Lead]:
        """The leads that are known, by id. Raises Transient where the database does not answer."""

    def close(self) -> None:
        """Give the connection back."""
