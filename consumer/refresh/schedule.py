"""Schedule of refreshes: which leads are due to be scored again, and why. Pure, without a clock."""

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from leadstream.variants import CHAMPION

# A prediction without `valid_until` holds for so long at most: the search ends there.
HORIZON_MS = 365 * 86_400_000


class RefreshCause(StrEnum):
    """The reason why a lead is scored again."""

    TIME = "time"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class DueLead:
    """A lead to score again; `event_id` is the same whenever the same score is found due again."""

    key: bytes
    event_id: str
    lead_version: int
    cause: RefreshCause


@dataclass(frozen=True, slots=True)
class _Score:
    """What is known of a lead's current score; moments are ms UTC."""

    due: int
    scored_at: int
    model_version: str
    lead_version: int
    is_champion: bool


class RefreshSchedule:
    """The current scores by lead, those that are due first, and what was requested before."""

    def __init__(self) -> None:
        self._scores: dict[bytes, _Score] = {}
        self._requested: dict[bytes, str] = {}
        self._due: list[tuple[int, bytes]] = []
        self._sweep: deque[bytes] = deque()
        self._champion: str | None = None

    @property
    def leads(self) -> int:
        """Return the number of leads with a score."""
        return len(self._scores)

    @property
    def champion(self) -> str | None:
        """Return the version that leads should have been scored by."""
        return self._champion

    @property
    def outdated(self) -> int:
        """Return how many leads have a score of another version than the champion's."""
        return sum(map(self._is_outdated, self._scores.values()))

    def add_prediction(self, key: bytes, prediction: Mapping[str, Any] | None) -> None:
        """Take the next prediction of a lead; None erases it."""
        if prediction is None:
            self._scores.pop(key, None)
            self._requested.pop(key, None)
            return
        due = prediction.get("valid_until")
        if due is None:
            due = prediction["occurred_at"] + HORIZON_MS
        score = _Score(
            due,
            prediction["scored_at"],
            prediction["model_version"],
            prediction["lead_version"],
            prediction["variant"] == CHAMPION,
        )
        self._scores[key] = score
        heapq.heappush(self._due, (due, key))
        if self._is_outdated(score):
            self._sweep.append(key)

    def add_request(self, key: bytes, event_id: str) -> None:
        """Take what was requested of a lead, so that it is not requested again."""
        self._requested[key] = event_id

    def promote(self, version: str) -> None:
        """Sweep all leads that another version than this one has scored."""
        self._champion = version
        self._sweep = deque(key for key, score in self._scores.items() if self._is_outdated(score))

    def overdue(self, now: int) -> int:
        """Return the moment since which the first lead is due; `now` (ms UTC) if none is."""
        self._drop_outdated_entries()
        return min(self._due[0][0], now) if self._due else now

    def take(self, now: int, count: int) -> list[DueLead]:
        """Remove and return up to `count` leads that are due at `now` (ms UTC), or outdated.

        Those whose time has passed come first.
        """
        found: dict[bytes, DueLead] = {}
        while len(found) < count:
            self._drop_outdated_entries()
            if not self._due or self._due[0][0] > now:
                break
            due, key = heapq.heappop(self._due)
            found[key] = self._due_lead(key, RefreshCause.TIME, f"{due}")
        while self._sweep and len(found) < count:
            key = self._sweep.popleft()
            score = self._scores.get(key)
            if key in found or score is None or not self._is_outdated(score):
                continue
            due_lead = self._due_lead(
                key, RefreshCause.MODEL, f"{self._champion} {score.scored_at}"
            )
            if self._requested.get(key) != due_lead.event_id:
                found[key] = due_lead
        return list(found.values())

    def give_back(self, leads: list[DueLead]) -> None:
        """Take leads back that were not requested after all."""
        for lead in leads:
            score = self._scores.get(lead.key)
            if score is None:
                continue
            if lead.cause is RefreshCause.TIME:
                heapq.heappush(self._due, (score.due, lead.key))
            else:
                self._sweep.append(lead.key)

    def _drop_outdated_entries(self) -> None:
        """Remove the first entries whose lead has another score by now, or was requested."""
        while self._due:
            due, key = self._due[0]
            score = self._scores.get(key)
            if score is not None and score.due == due:
                wanted = self._due_lead(key, RefreshCause.TIME, f"{due}").event_id
                if self._requested.get(key) != wanted:
                    return
            heapq.heappop(self._due)

    def _due_lead(self, key: bytes, cause: RefreshCause, what: str) -> DueLead:
        identity = b"%b\0%b\0%b" % (key, cause.value.encode(), what.encode())
        event_id = f"refresh-{blake2b(identity, digest_size=16).hexdigest()}"
        return DueLead(key, event_id, self._scores[key].lead_version, cause)

    def _is_outdated(self, score: _Score) -> bool:
        return (
            self._champion is not None
            and score.is_champion
            and score.model_version != self._champion
        )
