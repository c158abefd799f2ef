"""The selection of letters, by the same filters for all verbs and views."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from consumer.dead_letters.audit import DecisionIndex
from consumer.dead_letters.letters import Letter

# The names that the docs promise to Python users.
__all__ = ["Filter", "Selection"]


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of letters; None matches everything.

    `since` (inclusive) and `until` (exclusive) are milliseconds UTC. Decided letters match only
    with `everything`.
    """

    reason: str | None = None
    fingerprint: str | None = None
    lead: str | None = None
    since: int | None = None
    until: int | None = None
    partition: int | None = None
    offset: int | None = None
    limit: int | None = None
    everything: bool = False

    def matches(self, letter: Letter) -> bool:
        """Return whether a letter matches, decided or not."""
        parsed = letter.parsed
        return (
            (self.reason is None or self.reason.casefold() == parsed.reason.casefold())
            and self.fingerprint in (None, parsed.fingerprint)
            and self.lead in (None, letter.lead)
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
            and self.partition in (None, letter.id.partition)
            and self.offset in (None, letter.id.offset)
        )

    def select(self, letters: Iterable[Letter], decided: DecisionIndex) -> Iterator[Letter]:
        """Yield the matching letters, at most `limit`."""
        left = self.limit
        for letter in letters:
            if left == 0:
                return
            if self.matches(letter) and (self.everything or decided.get(letter.id) is None):
                yield letter
                left = None if left is None else left - 1


@dataclass(slots=True)
class Selection:
    """The letters of a filter at one moment, their number and their leads.

    `ends` is one past the last letter of each partition. Later letters are not selected, so a
    decision knows all leads that it has to track.
    """

    wanted: Filter
    ends: Mapping[int, int]
    count: int = 0
    leads: set[bytes] = field(default_factory=set)
