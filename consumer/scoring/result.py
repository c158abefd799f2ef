"""The result of a batch: the records to publish, and the accounting."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from leadstream.errors import Poison
from leadstream.kafka.batch import Output
from leadstream.kafka.config import Record
from models.serve.scorer import Scores


class Disposition(StrEnum):
    """What became of a consumed change; every change has exactly one."""

    SCORED = "scored"
    COALESCED = "coalesced"
    DEAD_LETTERED = "dead_lettered"
    ERASED = "erased"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The changes that were scored together: their leads' keys, the rows that they have in the scores, and these."""

    keys: list[bytes]
    rows: NDArray[np.intp]
    scores: "Scores"


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """What the table of scores has of n leads now: `index` (n,) are the messages, `keys` the leads, `versions` (n,)."""

    index: NDArray[np.intp]
    keys: Sequence[bytes]
    versions: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """All that came of a batch: the `records` to publish, and the accounting.

    `letters` tells which messages of the batch, by their places in it, became dead letters, and why.
    Postgres was asked for states in `queries`; `leads_asked` and `leads_found` count the leads. `challenged` counts by
    mode and result the leads that the challenger got; `challenger_error` says why it cannot stay in service;
    `shadowed` is whether anything goes to the shadow topic. `scored` are the changes that a lead itself made; which
    leads somebody asked for says nothing of drift. `late` of the coalesced changes were older than what was published
    before; `published` is what to remember once this is committed. `sources` are the places of the messages that led
    to the records.
    """

    records: list[Record]
    consumed: int
    fates: Counter[Disposition]
    requests_answered: int
    requests_dead_lettered: int
    request_leads: Counter[str]
    letters: dict[int, Poison]
    queries: int
    leads_asked: int
    leads_found: int
    model_version: str
    challenger_version: str | None = None
    challenged: Counter[tuple[str, str]] = field(default_factory=Counter)
    challenger_error: str | None = None
    shadowed: bool = False
    imputed: Counter[str] = field(default_factory=Counter)
    coverage: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    scored: list[Scored] = field(default_factory=list)
    sources: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    late: int = 0
    published: list[Published] = field(default_factory=list)

    @property
    def outputs(self) -> list[Output]:
        """What to publish."""
        return list(map(Output._make, self.records))

    def balances(self) -> bool:
        """consumed = scored + coalesced + dead_lettered + erased + ignored."""
        return self.consumed == sum(self.fates.values())
