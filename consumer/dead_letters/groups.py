"""Letters by cause."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consumer.dead_letters.letters import Letter, LetterId


@dataclass(slots=True)
class Group:
    """The letters of one fingerprint. Times are milliseconds UTC; `example` is the newest of them."""

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
        """Count a letter in."""
        facts, failed_at = letter.facts, letter.failed_at
        self.count += 1
        self.partitions.add(letter.id.partition)
        self.model_versions |= {facts.model_version} - {""}
        self.topics |= {facts.topic} if facts.topic else set()
        self.first_seen = min(self.first_seen, failed_at)
        if failed_at >= self.last_seen:
            self.last_seen, self.example, self.message = failed_at, letter.id, facts.message


def group(letters: Iterable[Letter]) -> list[Group]:
    """The causes, the most frequent first."""
    groups: dict[str, Group] = {}
    for letter in letters:
        of(groups, letter).add(letter)
    return sorted(groups.values(), key=lambda each: (-each.count, each.fingerprint))


def of(groups: dict[str, Group], letter: Letter) -> Group:
    """The group of a letter, made where it is the first of its cause."""
    facts, failed_at = letter.facts, letter.failed_at
    found = groups.get(facts.fingerprint)
    if found is None:
        found = groups[facts.fingerprint] = Group(
            facts.fingerprint,
            facts.reason,
            facts.message,
            facts.writer,
            letter.id,
            failed_at,
            failed_at,
        )
    return found
