"""Groups of letters with the same cause."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consumer.dead_letters.letters import Letter, LetterId


@dataclass(slots=True)
class LetterGroup:
    """The letters of one fingerprint; times are milliseconds UTC, `example` is the newest one."""

    fingerprint: str
    reason: str
    message: str
    writer: str
    example: LetterId
    first_seen: int
    last_seen: int
    count: int = 0
    partitions: set[int] = field(default_factory=set)
    model_versions: set[str] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)

    def add(self, letter: Letter) -> None:
        """Add a letter to the counts."""
        parsed, failed_at = letter.parsed, letter.failed_at
        self.count += 1
        self.partitions.add(letter.id.partition)
        self.model_versions |= {parsed.model_version} - {""}
        self.topics |= {parsed.topic} if parsed.topic else set()
        self.first_seen = min(self.first_seen, failed_at)
        if failed_at >= self.last_seen:
            self.last_seen, self.example, self.message = failed_at, letter.id, parsed.message


def group_letters(letters: Iterable[Letter]) -> list[LetterGroup]:
    """Return the groups, the most frequent first."""
    groups: dict[str, LetterGroup] = {}
    for letter in letters:
        get_or_create(groups, letter).add(letter)
    return sorted(groups.values(), key=lambda each: (-each.count, each.fingerprint))


def get_or_create(groups: dict[str, LetterGroup], letter: Letter) -> LetterGroup:
    """Return the group of a letter; create it for the first letter of a cause."""
    parsed, failed_at = letter.parsed, letter.failed_at
    found = groups.get(parsed.fingerprint)
    if found is None:
        found = groups[parsed.fingerprint] = LetterGroup(
            parsed.fingerprint,
            parsed.reason,
            parsed.message,
            parsed.writer,
            letter.id,
            failed_at,
            failed_at,
        )
    return found
