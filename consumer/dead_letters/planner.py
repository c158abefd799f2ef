"""What is to be done with one letter: sent again, found void, set aside, given up, or left open and why."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consumer.dead_letters.audit import Action
from consumer.dead_letters.current_scores import Scores
from consumer.dead_letters.headers import own_headers
from consumer.dead_letters.inspection import record_of
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.patch import merge
from leadstream.errors import Poison
from leadstream.kafka.batch import Output
from leadstream.kafka.dead_letter import REPLAYS
from leadstream.settings import Settings
from schemas.codec import Reader, Writer
from schemas.registry import Registry

MOST_RETURNS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a letter. REPLAYED has an `output`; `version` is the lead's, 0 where it is not known."""

    letter: Letter
    action: Action
    because: str | None = None
    patch: str | None = None
    output: Output | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """A letter that cannot be decided on, and why."""

    letter: Letter
    why: str


class Judge:
    """Judges letters for a replay, with the `patch` that mends them if there is one. Raises Transient."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry | None,
        patch: Mapping[str, Any] | None = None,
        because: str | None = None,
    ) -> None:
        topics = settings.topics
        names = {"LeadChanged": topics.lead_changes, "RescoreRequest": topics.rescore_requests}
        self._topics = topics
        self._readers = {name: Reader(name, registry) for name in names}
        self._writers = {name: Writer(name, registry, topic) for name, topic in names.items()}
        self._patch = patch
        self._because = because

    def judge(self, letter: Letter, scores: Scores) -> Verdict | Open:
        """Void, set aside, or sent to where it came from; open where it came from elsewhere or cannot be mended."""
        record = record_of(letter, self._topics)
        if record is None:
            return Open(
                letter,
                f"it came from {letter.facts.topic or 'an unknown topic'}, which is not read here",
            )
        content = self._content(record, letter.value)
        change = content if record == "LeadChanged" else None
        key = letter.key if record == "LeadChanged" else None
        if void := scores.supersedes(key, letter.failed_at, change):
            return Verdict(letter, Action.SUPERSEDED, void)
        if letter.facts.replays >= MOST_RETURNS:
            return Verdict(letter, Action.PARKED, f"it came back {letter.facts.replays} times")
        value, patch = letter.value, None
        if self._patch:
            if content is None:
                return Open(letter, "it cannot be mended, for its value cannot be read")
            try:
                value = self._writers[record].encode(merge(content, self._patch))
            except Poison as poison:
                return Open(letter, f"it cannot be mended so: {poison.detail}")
            patch = json.dumps(self._patch, sort_keys=True, ensure_ascii=False)
        version = change["lead_version"] if change else 0
        return Verdict(
            letter, Action.REPLAYED, self._because, patch, replayed(letter, value), version
        )

    def _content(self, record: str, value: bytes | None) -> dict[str, Any] | None:
        try:
            return None if value is None else self._readers[record].decode(value)
        except Poison:
            return None


def replayed(letter: Letter, value: bytes | None) -> Output:
    """The record that goes back: the original's key, headers and timestamp, and how often it went back by now."""
    headers = [
        *own_headers(letter.headers, letter.facts.writer),
        (REPLAYS, str(letter.facts.replays + 1).encode()),
    ]
    return Output(letter.facts.topic or "", letter.key, value, headers, letter.timestamp)
