"""The result of a batch: the records to publish, and the accounting."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from leadstream.errors import Poison
from leadstream.kafka.batch import Output
from leadstream.kafka.config import Record
from models.serve.scorer import Scores

Ints = NDArray[np.intp]


class Disposition(StrEnum):
    """The end of a consumed change; every change has exactly one."""

    SCORED = "scored"
    COALESCED = "coalesced"
    DEAD_LETTERED = "dead_lettered"
    ERASED = "erased"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True, eq=False)
class ScoredChanges:
    """The changes of one call of a model: `rows` are theirs in `scores`, `keys` are their leads."""

    keys: list[bytes]
    rows: Ints
    scores: Scores


@dataclass(frozen=True, slots=True, eq=False)
class PublishedVersions:
    """The versions (n,) of n leads in the table of scores, and the messages, `index` (n,)."""

    index: Ints
    keys: Sequence[bytes]
    versions: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Everything that a batch leads to: the `records` to publish, and the accounting.

    - `sources` (len(records),): the message of the batch that each record comes from.
    - `letters`: why messages, by their index, became dead letters.
    - `queries`, `leads_asked`, `leads_found`: what Postgres was asked for.
    - `challenged`: leads that the challenger scored, by mode and result; `challenger_error`: why
      it cannot stay in service; `shadowed`: whether a record goes to the shadow topic.
    - `scored`: the changes to watch for drift. Requests and rescored leads are not among them.
    - `late`: coalesced changes that were older than what was published before this batch.
    - `inherited`: scored changes without a version, which have that of their lead.
    - `stale`: changes without state whose row in Postgres was older than they are.
    - `frozen`: late changes, by message, whose version is so far below the published one that it
      can hardly be reached again.
    - `published`: the versions to remember once this batch is committed.
    - `fallbacks`: steps that left the columns for the codec.
    - `began_ms`: when processing began, ms UTC.
    """

    records: list[Record]
    sources: Ints
    consumed: int
    dispositions: Counter[Disposition]
    requests_answered: int
    requests_dead_lettered: int
    request_leads: Counter[str]
    letters: dict[int, Poison]
    queries: int
    leads_asked: int
    leads_found: int
    model_version: str
    challenger_version: str | None
    challenged: Counter[tuple[str, str]]
    challenger_error: str | None
    shadowed: bool
    imputed: Counter[str]
    coverage: list[float]
    seconds: dict[str, float]
    scored: list[ScoredChanges]
    late: int
    inherited: int
    stale: int
    frozen: list[int]
    published: list[PublishedVersions]
    fallbacks: Counter[str]
    began_ms: int

    @property
    def outputs(self) -> list[Output]:
        """Return the records to publish, with names."""
        return list(map(Output._make, self.records))

    def balances(self) -> bool:
        """Return whether consumed = scored + coalesced + dead_lettered + erased + ignored."""
        return self.consumed == sum(self.dispositions.values())
