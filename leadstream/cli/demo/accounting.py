"""The demo's books: what was sent, what a subscriber saw, what the consumer counted, and whether they agree."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consumer.scoring.result import Disposition
from leadstream.errors import Reason
from models.train.evaluate import Floats, Labels
from producer.simulator import DeliveryKind, Truth

# Topic, partition and offset: the identity of a record that was sent.
Place = tuple[str, int, int]

FATES = tuple(fate.value for fate in Disposition)
_SCORABLE = {DeliveryKind.PLAIN, DeliveryKind.LATE, DeliveryKind.THIN, DeliveryKind.REPEATED}
_ERASING = {DeliveryKind.DELETED, DeliveryKind.TOMBSTONE}


@dataclass(frozen=True, slots=True)
class Parcel:
    """A record to send: a change of some kind, a bad record with the reason it must get, or a good request."""

    topic: str
    key: bytes | None
    value: bytes | None
    kind: DeliveryKind | None = None
    reason: Reason | None = None
    truth: Truth | None = None
    asks: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """A parcel that the brokers have acknowledged; `at` is when it was handed over, monotonic seconds."""

    parcel: Parcel
    at: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the demo keeps of a prediction that it read back; `at` is when it was seen, monotonic seconds."""

    place: Place
    lead_id: str
    probability: float
    at: float


@dataclass(frozen=True, slots=True)
class Letter:
    """What the demo keeps of a dead letter; `place` is that of its original."""

    place: Place
    key: bytes | None
    value: bytes | None
    reason: str


@dataclass(slots=True)
class Seen:
    """All that a subscriber has read so far: one thread writes, others look."""

    predictions: list[Prediction] = field(default_factory=list)
    erasures: list[str] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Counted:
    """The consumer's own numbers, from its /metrics."""

    consumed: int = 0
    fates: Mapping[str, int] = field(default_factory=Counter)
    requests: Mapping[str, int] = field(default_factory=Counter)
    reasons: Mapping[str, int] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        """Changes and requests together."""
        return self.consumed + sum(self.requests.values())


def problems(
    sent: Mapping[Place, Sent], seen: Seen, counted: Counted, topics: tuple[str, str]
) -> Iterator[str]:
    """A sentence for everything that does not add up; `topics` are those of the changes and of the requests."""
    changes = {place: each.parcel for place, each in sent.items() if place[0] == topics[0]}
    requests = {place: each.parcel for place, each in sent.items() if place[0] == topics[1]}
    good_requests = [parcel for parcel in requests.values() if parcel.reason is None]
    scored = [prediction for prediction in seen.predictions if prediction.place[0] == topics[0]]
    bad_changes = sum(parcel.reason is not None for parcel in changes.values())
    loops = sum(parcel.kind is DeliveryKind.LOOP for parcel in changes.values())
    bad_requests = len(requests) - len(good_requests)

    for what, first, second in (
        ("changes sent and changes consumed", len(changes), counted.consumed),
        (
            "changes consumed and the sum of their fates",
            counted.consumed,
            sum(counted.fates.values()),
        ),
        ("changes scored and predictions read", counted.fates.get("scored", 0), len(scored)),
        (
            "bad changes sent and changes dead-lettered",
            bad_changes,
            counted.fates.get("dead_lettered", 0),
        ),
        ("leads erased and null values read", counted.fates.get("erased", 0), len(seen.erasures)),
        ("scores written back and changes ignored", loops, counted.fates.get("ignored", 0)),
        (
            "good requests sent and requests answered",
            len(good_requests),
            counted.requests.get("answered", 0),
        ),
        (
            "bad requests sent and requests dead-lettered",
            bad_requests,
            counted.requests.get("dead_lettered", 0),
        ),
        (
            "dead letters counted and dead letters read",
            sum(counted.reasons.values()),
            len(seen.letters),
        ),
    ):
        if first != second:
            yield f"{what} differ: {first:,} and {second:,}."
    yield from _prediction_problems(changes, scored, seen)
    yield from _letter_problems(sent, seen)
    yield from _answer_problems(requests, seen)


def _prediction_problems(
    changes: Mapping[Place, Parcel], scored: list[Prediction], seen: Seen
) -> Iterator[str]:
    twice = sum(times > 1 for times in Counter(prediction.place for prediction in scored).values())
    if twice:
        yield f"{twice:,} changes were predicted more than once."
    uncalled = sum(
        (parcel := changes.get(prediction.place)) is None
        or parcel.kind not in _SCORABLE
        or (parcel.key or b"").decode() != prediction.lead_id
        for prediction in scored
    )
    if uncalled:
        yield f"{uncalled:,} predictions are not of a good change of their lead."
    heard = {prediction.lead_id for prediction in scored} | set(seen.erasures)
    silent = {parcel.key for parcel in changes.values() if parcel.kind in _SCORABLE} - {
        key.encode() for key in heard
    }
    if silent:
        yield f"{len(silent):,} leads have a good change and no prediction."
    to_erase = {parcel.key for parcel in changes.values() if parcel.kind in _ERASING}
    unlike = to_erase ^ {key.encode() for key in seen.erasures}
    if unlike:
        yield f"{len(unlike):,} leads were to be erased and were not, or the other way round."


def _letter_problems(sent: Mapping[Place, Sent], seen: Seen) -> Iterator[str]:
    letters = Counter(letter.place for letter in seen.letters)
    bad = {place for place, each in sent.items() if each.parcel.reason is not None}
    for what, places in (
        ("bad records have no dead letter", bad - letters.keys()),
        ("dead letters are of good records", letters.keys() - bad),
        (
            "records have more than one dead letter",
            {place for place, times in letters.items() if times > 1},
        ),
    ):
        if places:
            yield f"{len(places):,} {what}."
    originals = [
        (sent[letter.place].parcel, letter) for letter in seen.letters if letter.place in sent
    ]
    changed = sum(
        (parcel.key, parcel.value) != (letter.key, letter.value) for parcel, letter in originals
    )
    if changed:
        yield f"{changed:,} dead letters are not the original byte for byte."
    mistaken = sum(
        parcel.reason is not None and parcel.reason != letter.reason for parcel, letter in originals
    )
    if mistaken:
        yield f"{mistaken:,} dead letters have another reason than they should."


def _answer_problems(requests: Mapping[Place, Parcel], seen: Seen) -> Iterator[str]:
    asked = Counter(
        ((parcel.key or b"").decode(), parcel.asks)
        for parcel in requests.values()
        if parcel.reason is None
    )
    answered = Counter((result["request_id"], result["total_processed"]) for result in seen.results)
    if asked != answered:
        unlike = ((asked - answered) + (answered - asked)).total()
        yield f"{unlike:,} requests and results do not belong together."
    partial = sum(
        result["successful_predictions"] + len(result["errors"]) != result["total_processed"]
        or result["successful_predictions"] != len(result["predictions"])
        for result in seen.results
    )
    if partial:
        yield f"{partial:,} results do not name every lead that was asked for."


def latencies(sent: Mapping[Place, Sent], predictions: list[Prediction], topic: str) -> Floats:
    """Seconds from a change being sent to its prediction being seen by the subscriber."""
    return np.array(
        [
            prediction.at - sent[prediction.place].at
            for prediction in predictions
            if prediction.place[0] == topic and prediction.place in sent
        ]
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Published probabilities beside the simulator's true ones and what then happened, each of shape (n,)."""

    predicted: Floats
    true: Floats
    applied: Labels

    def tenths(self) -> Iterator[tuple[int, float, float, float]]:
        """Leads, mean predicted, mean true and applied share of each tenth, lowest predictions first."""
        order = np.argsort(self.predicted, kind="stable")
        for part in np.array_split(order, 10):
            if len(part):
                means = [
                    float(column[part].mean())
                    for column in (self.predicted, self.true, self.applied)
                ]
                yield len(part), means[0], means[1], means[2]


def calibration(sent: Mapping[Place, Sent], predictions: list[Prediction]) -> Calibration:
    """Of every scored change of a lead that had not applied yet; a repeated event counts once."""
    rows = [
        (prediction.probability, parcel.truth.probability, parcel.truth.converts)
        for prediction in predictions
        if (each := sent.get(prediction.place)) is not None
        and (parcel := each.parcel).kind is not DeliveryKind.REPEATED
        and parcel.truth is not None
        and not parcel.truth.applied
    ]
    predicted, true, applied = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Calibration(predicted, true, applied.astype(np.bool_))
