"""Predictions that were made, joined to what became of their leads.

The label is that of training: converted within the model's horizon after the prediction. A prediction is judged once
that horizon has passed, not as soon as its outcome is there: conversions are known early and losses late, so judging
each as it comes would show more conversions than there are. Without a horizon there is no choice: judged when decided.

A lead of which nothing was heard within the horizon did not convert. That is said only by `overdue`, only as far as the
outcomes have come and a day beyond, and never of a prediction that is older than the first outcome known.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

from models.serve.refused import Refused

DAY_MS = 86_400_000
MOST = 1_000_000
# How much later than it was decided an outcome may arrive, when its absence is to mean a loss.
GRACE_MS = DAY_MS

HorizonDaysOf = Callable[[str], float | None]
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Made:
    """A prediction that was published; `occurred_at` is the moment it speaks of, ms UTC."""

    lead_id: str
    event_id: str
    occurred_at: int
    model_version: str
    variant: str
    shadow: bool
    probability: float
    raw_score: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A prediction with its label; `decided_at` (ms UTC) is the outcome's, or the horizon's end where none came."""

    made: Made
    converted: bool
    decided_at: int


def horizon_of(manifest: Mapping[str, Any]) -> float | None:
    """How many days a lead has to convert by a model's manifest, None where it does not say. Raises Refused."""
    try:
        days = manifest.get("label", {}).get("horizon_days")
        return None if days is None else float(days)
    except (TypeError, ValueError, AttributeError) as error:
        raise Refused(
            f"model version {manifest.get('version')}: its horizon cannot be understood ({error})"
        ) from error


def matures_at(made: Made, horizon_days: float | None) -> int | None:
    """When the horizon of a prediction has passed, ms UTC; None for a model without one."""
    return None if horizon_days is None else made.occurred_at + round(horizon_days * DAY_MS)


def known_at(judged: Judged, horizon_days: float | None) -> int:
    """When the label was certain, ms UTC: the order in which to look at judged predictions."""
    matures = matures_at(judged.made, horizon_days)
    return judged.decided_at if matures is None else matures


class Ledger:
    """Judges predictions once they are mature; predictions and outcomes may come in any order, and again.

    `horizon_days_of` tells the horizon of a model version, None where it has none; what it raises leaves the ledger as
    it was. At most `most` predictions and as many outcomes are remembered: the oldest go first, and `dropped` counts
    the predictions that went without having been judged.
    """

    def __init__(self, horizon_days_of: HorizonDaysOf, most: int = MOST) -> None:
        self._horizon_days_of = horizon_days_of
        self._most = most
        # Every prediction seen, oldest first; None once it is judged, void or forgotten.
        self._seen: OrderedDict[_Key, Made | None] = OrderedDict()
        self._of_lead: dict[str, list[_Key]] = {}
        self._outcomes: OrderedDict[str, tuple[bool, int]] = OrderedDict()
        self._ripening: list[tuple[int, _Key]] = []  # heap
        self._unheard: list[tuple[int, _Key]] = []  # heap: mature, without an outcome
        self._now = 0
        self._first_decided: int | None = None
        self._waiting = 0
        self.decided_until = 0
        self.forgotten: set[str] = set()
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Predictions that are not judged yet."""
        return self._waiting

    def predicted(self, made: Made) -> list[Judged]:
        """A prediction was made; what can be judged now. One that is known already changes nothing."""
        matures = matures_at(made, self._horizon_days_of(made.model_version))
        key = (made.event_id, made.model_version, made.variant)
        if key not in self._seen and made.lead_id not in self.forgotten:
            self._seen[key] = made
            self._of_lead.setdefault(made.lead_id, []).append(key)
            self._waiting += 1
            if matures is not None:
                heappush(self._ripening, (matures, key))
            self._keep_within()
        return self._settle(key) + self._advance(made.occurred_at)

    def decided(self, lead_id: str, converted: bool, decided_at: int) -> list[Judged]:
        """An outcome is known; what can be judged now. Of several the newest counts, for what is not judged yet."""
        judged = []
        known = self._outcomes.get(lead_id)
        if lead_id not in self.forgotten and (known is None or decided_at >= known[1]):
            self._outcomes[lead_id] = (converted, decided_at)
            if len(self._outcomes) > self._most:
                self._outcomes.popitem(last=False)
            for key in list(self._of_lead.get(lead_id, ())):
                judged += self._settle(key)
        self.decided_until = max(self.decided_until, decided_at)
        if self._first_decided is None or decided_at < self._first_decided:
            self._first_decided = decided_at
        return judged + self._advance(decided_at)

    def overdue(self, until: int) -> list[Judged]:
        """The predictions whose horizon passed without a word of their lead: it did not convert.

        `until` is a moment (ms UTC) up to which every outcome has been read; `decided_until` is the newest one's.
        """
        judged = []
        while self._unheard and self._unheard[0][0] + GRACE_MS <= until:
            matures, key = heappop(self._unheard)
            made = self._seen.get(key)
            if (
                made is not None
                and self._first_decided is not None
                and self._first_decided <= made.occurred_at
            ):
                judged.append(self._close(key, made, False, matures))
        return judged

    def forget(self, lead_id: str) -> None:
        """The lead was erased: nothing of it is judged from now on, whichever topic it comes from."""
        self.forgotten.add(lead_id)
        self._outcomes.pop(lead_id, None)
        for key in self._of_lead.pop(lead_id, ()):
            self._seen[key] = None
            self._waiting -= 1

    def _advance(self, now: int) -> list[Judged]:
        """Stream time is the newest moment seen; judge what has matured by it."""
        self._now = max(self._now, now)
        judged = []
        while self._ripening and self._ripening[0][0] <= self._now:
            matures, key = heappop(self._ripening)
            made = self._seen.get(key)
            if made is not None and made.lead_id not in self._outcomes:
                heappush(self._unheard, (matures, key))
            else:
                judged += self._settle(key)
        return judged

    def _settle(self, key: _Key) -> list[Judged]:
        """Judge a prediction if it is mature and its outcome known; one made after the decision is void."""
        made = self._seen.get(key)
        outcome = self._outcomes.get(made.lead_id) if made else None
        if made is None or outcome is None:
            return []
        matures = matures_at(made, self._horizon_days_of(made.model_version))
        if matures is not None and matures > self._now:
            return []
        converted, decided_at = outcome
        if decided_at >= made.occurred_at:
            return [
                self._close(
                    key, made, converted and (matures is None or decided_at <= matures), decided_at
                )
            ]
        if matures is not None:
            self._close(key, made, False, decided_at)
        return []

    def _close(self, key: _Key, made: Made, converted: bool, decided_at: int) -> Judged:
        self._seen[key] = None
        self._take_off(made.lead_id, key)
        return Judged(made, converted, decided_at)

    def _take_off(self, lead_id: str, key: _Key) -> None:
        self._waiting -= 1
        keys = self._of_lead[lead_id]
        keys.remove(key)
        if not keys:
            del self._of_lead[lead_id]

    def _keep_within(self) -> None:
        while len(self._seen) > self._most:
            key, made = self._seen.popitem(last=False)
            if made is not None:
                self._take_off(made.lead_id, key)
                self.dropped += 1
        # What was dropped is still in the heaps until its time comes.
        if len(self._ripening) + len(self._unheard) > 2 * self._most:
            self._ripening = [
                entry for entry in self._ripening if self._seen.get(entry[1]) is not None
            ]
            self._unheard = [
                entry for entry in self._unheard if self._seen.get(entry[1]) is not None
            ]
            heapify(self._ripening)
            heapify(self._unheard)
