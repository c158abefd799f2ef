"""Predictions joined to the outcomes of their leads.

The label is that of training: converted within the model's horizon after the prediction. A
prediction is labeled once that horizon has passed, not as soon as its outcome is known. Conversions
are known early and losses late, so early labels would show too many conversions. Without a horizon,
a prediction is labeled when its outcome is known.

Where more predictions wait than fit in memory, a sample of the leads is kept: those whose hash is
below a share, which is halved each time. So every figure stays that of all leads, but for chance.

A lead without an outcome within the horizon did not convert. Only `overdue` says so: up to the
newest outcome plus a day, and never for a prediction older than the first known outcome.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from heapq import heapify, heappop, heappush
from typing import Any

from leadstream.errors import error_text
from models.serve.refused import Refused

DAY_MS = 86_400_000
MAX_ENTRIES = 1_000_000
# An outcome may arrive this much after its decision before its absence means a loss.
GRACE_MS = DAY_MS

HorizonDaysOf = Callable[[str], float | None]
LearnedUntilOf = Callable[[str], int | None]
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class PublishedPrediction:
    """A prediction that was published; `occurred_at` is the moment it is about, in ms UTC."""

    lead_id: str
    event_id: str
    occurred_at: int
    model_version: str
    variant: str
    shadow: bool
    probability: float
    raw_score: float


@dataclass(frozen=True, slots=True)
class LabeledPrediction:
    """A prediction with its label; `decided_at` is in ms UTC.

    It is the time of the outcome, or the end of the horizon if there was no outcome.
    """

    prediction: PublishedPrediction
    converted: bool
    decided_at: int


def read_horizon(manifest: Mapping[str, Any]) -> float | None:
    """Return the horizon in days of a model's manifest, None if it has none.

    Raises Refused if it is invalid.
    """
    try:
        days = manifest.get("label", {}).get("horizon_days")
        return None if days is None else float(days)
    except (TypeError, ValueError, AttributeError) as error:
        raise Refused(
            f"model version {manifest.get('version')}: its horizon cannot be understood "
            f"({error_text(error)})"
        ) from error


def read_learned_until(manifest: Mapping[str, Any]) -> int | None:
    """Return the newest moment that a model may have learned from, in ms UTC; None if unknown.

    A model knows no row that is later than itself: such a date was wrong, and would leave nothing
    to judge it by. Raises Refused if the manifest is invalid.
    """
    try:
        used = manifest.get("data", {}).get("used")
        moments = (used["train"]["to"], manifest["created_at"]) if used else ()
        return min((_moment(text) for text in moments), default=None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(
            f"model version {manifest.get('version')}: its training period cannot be understood "
            f"({error_text(error)})"
        ) from error


def _moment(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def matures_at(prediction: PublishedPrediction, horizon_days: float | None) -> int | None:
    """Return when the horizon of a prediction ends, in ms UTC; None for a model without one."""
    return None if horizon_days is None else prediction.occurred_at + round(horizon_days * DAY_MS)


def known_at(labeled: LabeledPrediction, horizon_days: float | None) -> int:
    """Return when the label was certain, in ms UTC, which orders judged predictions."""
    matures = matures_at(labeled.prediction, horizon_days)
    return labeled.decided_at if matures is None else matures


class Ledger:
    """Predictions and outcomes, joined in any order and with repeats, once predictions are mature.

    `horizon_days_of` returns the horizon of a model version or None; if it raises, the ledger does
    not change. At most `max_entries` predictions and as many outcomes are kept. `share` is that of
    the leads whose predictions are kept, and `dropped` counts the predictions of the others.
    """

    def __init__(self, horizon_days_of: HorizonDaysOf, max_entries: int = MAX_ENTRIES) -> None:
        self._horizon_days_of = horizon_days_of
        self._max_entries = max_entries
        # Every prediction seen, oldest first; None once it is labeled, superseded or erased.
        self._seen: OrderedDict[_Key, PublishedPrediction | None] = OrderedDict()
        self._of_lead: dict[str, list[_Key]] = {}
        self._outcomes: OrderedDict[str, tuple[bool, int]] = OrderedDict()
        self._maturing: list[tuple[int, _Key]] = []  # heap
        self._without_outcome: list[tuple[int, _Key]] = []  # heap: mature, without an outcome
        self._now = 0
        self._first_decided: int | None = None
        self._waiting = 0
        self.decided_until = 0
        self.forgotten: set[str] = set()
        self.share = 1.0
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Return the number of predictions without a label."""
        return self._waiting

    def predicted(self, prediction: PublishedPrediction) -> list[LabeledPrediction]:
        """Add a prediction and return the predictions that are labeled now.

        A known prediction adds nothing.
        """
        matures = matures_at(prediction, self._horizon_days_of(prediction.model_version))
        key = (prediction.event_id, prediction.model_version, prediction.variant)
        if not self._is_sampled(prediction.lead_id):
            self.dropped += 1
        elif key not in self._seen and prediction.lead_id not in self.forgotten:
            self._seen[key] = prediction
            self._of_lead.setdefault(prediction.lead_id, []).append(key)
            self._waiting += 1
            if matures is not None:
                heappush(self._maturing, (matures, key))
            self._make_room()
        return self._label_if_mature(key) + self._advance(prediction.occurred_at)

    def decided(self, lead_id: str, converted: bool, decided_at: int) -> list[LabeledPrediction]:
        """Add an outcome and return the predictions that are labeled now.

        Of several outcomes of a lead, the newest counts for predictions without a label.
        """
        labeled = []
        known = self._outcomes.get(lead_id)
        if (
            self._is_sampled(lead_id)
            and lead_id not in self.forgotten
            and (known is None or decided_at >= known[1])
        ):
            self._outcomes[lead_id] = (converted, decided_at)
            if len(self._outcomes) > self._max_entries:
                self._outcomes.popitem(last=False)
            for key in list(self._of_lead.get(lead_id, ())):
                labeled += self._label_if_mature(key)
        self.decided_until = max(self.decided_until, decided_at)
        if self._first_decided is None or decided_at < self._first_decided:
            self._first_decided = decided_at
        return labeled + self._advance(decided_at)

    def overdue(self, until: int) -> list[LabeledPrediction]:
        """Return the predictions whose horizon passed without an outcome: no conversion.

        `until` is a moment (ms UTC) up to which every outcome has been read. `decided_until` is the
        time of the newest outcome.
        """
        labeled = []
        while self._without_outcome and self._without_outcome[0][0] + GRACE_MS <= until:
            matures, key = heappop(self._without_outcome)
            prediction = self._seen.get(key)
            if (
                prediction is not None
                and self._first_decided is not None
                and self._first_decided <= prediction.occurred_at
            ):
                labeled.append(self._close(key, prediction, False, matures))
        return labeled

    def forget(self, lead_id: str) -> None:
        """Erase a lead: none of its predictions is labeled from now on."""
        self.forgotten.add(lead_id)
        self._outcomes.pop(lead_id, None)
        for key in self._of_lead.pop(lead_id, ()):
            self._seen[key] = None
            self._waiting -= 1

    def _advance(self, now: int) -> list[LabeledPrediction]:
        """Advance stream time, the newest moment seen, and label what has matured."""
        self._now = max(self._now, now)
        labeled = []
        while self._maturing and self._maturing[0][0] <= self._now:
            matures, key = heappop(self._maturing)
            prediction = self._seen.get(key)
            if prediction is not None and prediction.lead_id not in self._outcomes:
                heappush(self._without_outcome, (matures, key))
            else:
                labeled += self._label_if_mature(key)
        return labeled

    def _label_if_mature(self, key: _Key) -> list[LabeledPrediction]:
        """Label a mature prediction with an outcome; drop one made after the decision."""
        prediction = self._seen.get(key)
        outcome = self._outcomes.get(prediction.lead_id) if prediction else None
        if prediction is None or outcome is None:
            return []
        matures = matures_at(prediction, self._horizon_days_of(prediction.model_version))
        if matures is not None and matures > self._now:
            return []
        converted, decided_at = outcome
        if decided_at >= prediction.occurred_at:
            return [
                self._close(
                    key,
                    prediction,
                    converted and (matures is None or decided_at <= matures),
                    decided_at,
                )
            ]
        if matures is not None:
            self._close(key, prediction, False, decided_at)
        return []

    def _close(
        self, key: _Key, prediction: PublishedPrediction, converted: bool, decided_at: int
    ) -> LabeledPrediction:
        self._seen[key] = None
        self._unindex(prediction.lead_id, key)
        return LabeledPrediction(prediction, converted, decided_at)

    def _unindex(self, lead_id: str, key: _Key) -> None:
        self._waiting -= 1
        keys = self._of_lead[lead_id]
        keys.remove(key)
        if not keys:
            del self._of_lead[lead_id]

    def _is_sampled(self, lead_id: str) -> bool:
        return self.share == 1.0 or _hash_fraction(lead_id) < self.share

    def _make_room(self) -> None:
        while len(self._seen) > self._max_entries:
            if 2 * self._waiting > self._max_entries:
                self._halve_sample()
            else:
                self._drop_labeled()
        # Dropped predictions stay in the heaps until their time comes.
        if len(self._maturing) + len(self._without_outcome) > 2 * self._max_entries:
            self._maturing = [
                entry for entry in self._maturing if self._seen.get(entry[1]) is not None
            ]
            self._without_outcome = [
                entry for entry in self._without_outcome if self._seen.get(entry[1]) is not None
            ]
            heapify(self._maturing)
            heapify(self._without_outcome)

    def _halve_sample(self) -> None:
        self.share /= 2
        for lead_id in [one for one in self._of_lead if not self._is_sampled(one)]:
            for key in self._of_lead.pop(lead_id):
                del self._seen[key]
                self._waiting -= 1
                self.dropped += 1
        for lead_id in [one for one in self._outcomes if not self._is_sampled(one)]:
            del self._outcomes[lead_id]

    def _drop_labeled(self) -> None:
        """Forget the older half of the predictions that are labeled, superseded or erased."""
        closed = [key for key, prediction in self._seen.items() if prediction is None]
        for key in closed[: (len(closed) + 1) // 2]:
            del self._seen[key]


def _hash_fraction(lead_id: str) -> float:
    """Return a number in [0, 1) that is the same for a lead in every process."""
    digest = blake2b(lead_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
