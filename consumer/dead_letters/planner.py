"""The planner: chooses the action for one letter, or leaves the letter open."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consumer.dead_letters.audit import Action
from consumer.dead_letters.current_scores import CurrentScores
from consumer.dead_letters.headers import own_headers
from consumer.dead_letters.inspection import record_name
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.patch import merge
from consumer.dead_letters.replay_times import ReplayTimes
from leadstream.errors import Poison
from leadstream.kafka.batch import Output
from leadstream.kafka.dead_letter import REPLAY_PROOF, REPLAYS, replay_proof
from leadstream.settings import JsonChanges, Settings
from schemas.codec import Reader, Writer
from schemas.json_records import convert_record, decode_json, is_json, parse_object
from schemas.registry import Registry

MAX_RETURNS = 3


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """An action on a letter; REPLAYED has an `output`. `version` is 0 for an unknown version.

    `retimed` says that the output does not have the timestamp of its original.
    """

    letter: Letter
    action: Action
    comment: str | None = None
    patch: str | None = None
    output: Output | None = None
    version: int = 0
    retimed: bool = False


@dataclass(frozen=True, slots=True)
class SkippedLetter:
    """A letter that stays open, and why."""

    letter: Letter
    why: str


class Planner:
    """The planner of a replay, with an optional `patch` for the values.

    `comment` goes into the decisions. `times` decide which timestamps stay; without it, all do.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry | None,
        patch: Mapping[str, Any] | None = None,
        comment: str | None = None,
        times: ReplayTimes | None = None,
    ) -> None:
        topics = settings.topics
        names = {"LeadChanged": topics.lead_changes, "RescoreRequest": topics.rescore_requests}
        self._topics = topics
        self._readers = {name: Reader(name, registry) for name in names}
        self._writers = {name: Writer(name, registry, topic) for name, topic in names.items()}
        self._patch = patch
        self._comment = comment
        self._times = times
        self._secret = settings.id_hash_key
        self._accept_json = settings.json_changes is JsonChanges.ACCEPT

    def plan(self, letter: Letter, scores: CurrentScores) -> PlannedAction | SkippedLetter:
        """Return the action for a letter: superseded, parked or replayed.

        Returns a SkippedLetter for a foreign origin, a lost original or a failed patch. Raises
        Transient.
        """
        record = record_name(letter, self._topics)
        if record is None:
            return SkippedLetter(
                letter,
                f"it came from {letter.parsed.topic or 'an unknown topic'}, which is not read here",
            )
        in_json = record == "LeadChanged" and self._is_json(letter)
        content = self._content(record, letter.value, in_json=in_json)
        change = content if record == "LeadChanged" else None
        key = letter.key if record == "LeadChanged" else None
        if why := scores.why_superseded(key, letter.failed_at, change):
            return PlannedAction(letter, Action.SUPERSEDED, why)
        if letter.parsed.replays >= MAX_RETURNS:
            return PlannedAction(
                letter, Action.PARKED, f"it came back {letter.parsed.replays} times"
            )
        if letter.parsed.cut is not None and not letter.restored:
            return SkippedLetter(letter, "it was cut, and its original is no longer in its topic")
        value, patch = letter.value, None
        if self._patch:
            try:
                if in_json:
                    value = _patched_json(record, value or b"", self._patch)
                elif content is not None:
                    value = self._writers[record].encode(merge(content, self._patch))
                else:
                    return SkippedLetter(
                        letter, "the patch cannot be applied, because the value cannot be read"
                    )
            except Poison as poison:
                return SkippedLetter(letter, f"the patch does not fit: {poison.detail}")
            patch = json.dumps(self._patch, sort_keys=True, ensure_ascii=False)
        version = change["lead_version"] if change else 0
        output = replayed(letter, value, self._secret)
        retimed = not self._keeps_time(output)
        if retimed:
            output = output._replace(timestamp=None)
        return PlannedAction(
            letter, Action.REPLAYED, self._comment, patch, output, version, retimed
        )

    def _keeps_time(self, output: Output) -> bool:
        at = output.timestamp
        return self._times is None or at is None or self._times.keeps(output.topic, at)

    def _is_json(self, letter: Letter) -> bool:
        return letter.value is not None and is_json(
            letter.value, letter.content_headers, accept=self._accept_json
        )

    def _content(self, record: str, value: bytes | None, *, in_json: bool) -> dict[str, Any] | None:
        try:
            if value is None or in_json:
                return None if value is None else decode_json(record, value)
            return self._readers[record].decode(value)
        except Poison:
            return None


def _patched_json(record: str, value: bytes, patch: Mapping[str, Any]) -> bytes:
    """Return a value in JSON with a patch, still in JSON. Raises Poison if it then does not fit."""
    merged = merge(parse_object(value), patch)
    convert_record(record, merged)
    return json.dumps(merged, ensure_ascii=False).encode()


def replayed(letter: Letter, value: bytes | None, secret: str | None = None) -> Output:
    """Return the record to replay: the original with its count of replays, and a proof of that."""
    topic, count = letter.parsed.topic or "", letter.parsed.replays + 1
    headers = [
        *own_headers(letter.original_headers or letter.headers, letter.parsed.writer),
        (REPLAYS, str(count).encode()),
        (REPLAY_PROOF, replay_proof(secret, topic, letter.key, value, count)),
    ]
    return Output(topic, letter.key, value, headers, letter.original_timestamp)
