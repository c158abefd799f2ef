"""Which letters are meant: the same words for every verb."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from consumer.dead_letters.audit import Decided
from consumer.dead_letters.letters import Letter


@dataclass(frozen=True, slots=True)
class Filter:
    """None lets everything pass. `since` and `until` are milliseconds UTC, the second one not included.

    Letters that were decided on are left out unless `everything` is set.
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

    def meant(self, letter: Letter) -> bool:
        """Whether the letter is one of those, whatever was decided on it."""
        facts = letter.facts
        return (
            (self.reason is None or self.reason.casefold() == facts.reason.casefold())
            and self.fingerprint in (None, facts.fingerprint)
            and self.lead in (None, letter.lead)
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
            and self.partition in (None, letter.id.partition)
            and self.offset in (None, letter.id.offset)
        )

    def of(self, letters: Iterable[Letter], decided: Decided) -> Iterator[Letter]:
        """The letters that are meant, at most `limit` of them."""
        left = self.limit
        for letter in letters:
            if left == 0:
                return
            if self.meant(letter) and (self.everything or decided.get(letter.id) is None):
                yield letter
                left = None if left is None else left - 1
