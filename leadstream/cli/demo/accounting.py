"""The accounting of the demo: sent records, read records, the counts of the consumer."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consumer.scoring.result import Disposition
from leadstream.errors import Reason
from models.evaluate import Floats, Labels
from producer.simulator import DeliveryKind, Truth

# Topic, partition and offset of a sent record.
RecordId = tuple[str, int, int]

WARM_UP_SECONDS = 3.0
DISPOSITIONS = tuple(disposition.value for disposition in Disposition)
_SCORABLE = {
    DeliveryKind.PLAIN,
    DeliveryKind.LATE,
    DeliveryKind.WITHOUT_STATE,
    DeliveryKind.REPEATED,
}
_ERASING = {DeliveryKind.DELETED, DeliveryKind.TOMBSTONE}


@dataclass(frozen=True, slots=True)
class Parcel:
    """A record to send: a change, a bad record with its expected reason, or a request."""

    topic: str
    key: bytes | None
    value: bytes | None
    kind: DeliveryKind | None = None
    reason: Reason | None = None
    truth: Truth | None = None
    asks: int = 0


@dataclass(frozen=True, slots=True)
class SentParcel:
    """A parcel that the brokers acknowledged; `at` is its send time, in monotonic seconds."""

    parcel: Parcel
    at: float


@dataclass(frozen=True, slots=True)
class SeenPrediction:
    """A prediction that the demo read; `at` is its read time, in monotonic seconds."""

    record_id: RecordId
    lead_id: str
    probability: float
    at: float


@dataclass(frozen=True, slots=True)
class SeenLetter:
    """A dead letter that the demo read; `record_id` is that of its original."""

    record_id: RecordId
    key: bytes | None
    value: bytes | None
    reason: str


@dataclass(slots=True)
class SeenRecords:
    """All records that the subscriber has read: one thread writes, others read."""

    predictions: list[SeenPrediction] = field(default_factory=list)
    erasures: list[str] = field(default_factory=list)
    letters: list[SeenLetter] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ConsumerCounts:
    """The consumer's own counts, from its /metrics."""

    consumed: int = 0
    dispositions: Mapping[str, int] = field(default_factory=Counter)
    requests: Mapping[str, int] = field(default_factory=Counter)
    reasons: Mapping[str, int] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        """Return the number of changes and requests."""
        return self.consumed + sum(self.requests.values())


def problems(
    sent: Mapping[RecordId, SentParcel],
    seen: SeenRecords,
    counted: ConsumerCounts,
    topics: tuple[str, str],
) -> Iterator[str]:
    """Yield a sentence for each imbalance; `topics` are those of changes and requests."""
    changes = {
        record_id: each.parcel for record_id, each in sent.items() if record_id[0] == topics[0]
    }
    requests = {
        record_id: each.parcel for record_id, each in sent.items() if record_id[0] == topics[1]
    }
    good_requests = [parcel for parcel in requests.values() if parcel.reason is None]
    scored = [prediction for prediction in seen.predictions if prediction.record_id[0] == topics[0]]
    bad_changes = sum(parcel.reason is not None for parcel in changes.values())
    loops = sum(parcel.kind is DeliveryKind.LOOP for parcel in changes.values())
    bad_requests = len(requests) - len(good_requests)

    for what, first, second in (
        ("changes sent and changes consumed", len(changes), counted.consumed),
        (
            "changes consumed and the sum of their dispositions",
            counted.consumed,
            sum(counted.dispositions.values()),
        ),
        ("changes scored and predictions read", counted.dispositions.get("scored", 0), len(scored)),
        (
            "bad changes sent and changes dead-lettered",
            bad_changes,
            counted.dispositions.get("dead_lettered", 0),
        ),
        (
            "leads erased and null values read",
            counted.dispositions.get("erased", 0),
            len(seen.erasures),
        ),
        ("scores written back and changes ignored", loops, counted.dispositions.get("ignored", 0)),
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
    changes: Mapping[RecordId, Parcel], scored: list[SeenPrediction], seen: SeenRecords
) -> Iterator[str]:
    repeated = sum(
        times > 1 for times in Counter(prediction.record_id for prediction in scored).values()
    )
    if repeated:
        yield f"{repeated:,} changes were predicted more than once."
    unexpected = sum(
        (parcel := changes.get(prediction.record_id)) is None
        or parcel.kind not in _SCORABLE
        or (parcel.key or b"").decode() != prediction.lead_id
        for prediction in scored
    )
    if unexpected:
        yield f"{unexpected:,} predictions do not belong to a good change of their lead."
    mentioned = {prediction.lead_id for prediction in scored} | set(seen.erasures)
    unscored = {parcel.key for parcel in changes.values() if parcel.kind in _SCORABLE} - {
        key.encode() for key in mentioned
    }
    if unscored:
        yield f"{len(unscored):,} leads have a good change, but no prediction."
    to_erase = {parcel.key for parcel in changes.values() if parcel.kind in _ERASING}
    different = to_erase ^ {key.encode() for key in seen.erasures}
    if different:
        yield f"{len(different):,} leads were to be erased and were not, or the opposite."


def _letter_problems(sent: Mapping[RecordId, SentParcel], seen: SeenRecords) -> Iterator[str]:
    letters = Counter(letter.record_id for letter in seen.letters)
    bad = {record_id for record_id, each in sent.items() if each.parcel.reason is not None}
    for what, record_ids in (
        ("bad records have no dead letter", bad - letters.keys()),
        ("dead letters are of good records", letters.keys() - bad),
        (
            "records have more than one dead letter",
            {record_id for record_id, times in letters.items() if times > 1},
        ),
    ):
        if record_ids:
            yield f"{len(record_ids):,} {what}."
    originals = [
        (sent[letter.record_id].parcel, letter)
        for letter in seen.letters
        if letter.record_id in sent
    ]
    changed = sum(
        (parcel.key, parcel.value) != (letter.key, letter.value) for parcel, letter in originals
    )
    if changed:
        yield f"{changed:,} dead letters are not the original byte for byte."
    wrong_reason = sum(
        parcel.reason is not None and parcel.reason != letter.reason for parcel, letter in originals
    )
    if wrong_reason:
        yield f"{wrong_reason:,} dead letters have the wrong reason."


def _answer_problems(requests: Mapping[RecordId, Parcel], seen: SeenRecords) -> Iterator[str]:
    asked = Counter(
        ((parcel.key or b"").decode(), parcel.asks)
        for parcel in requests.values()
        if parcel.reason is None
    )
    answered = Counter((result["request_id"], result["total_processed"]) for result in seen.results)
    if asked != answered:
        different = ((asked - answered) + (answered - asked)).total()
        yield f"{different:,} requests and results do not match."
    incomplete = sum(
        result["successful_predictions"] + len(result["errors"]) != result["total_processed"]
        or result["successful_predictions"] != len(result["predictions"])
        for result in seen.results
    )
    if incomplete:
        yield f"{incomplete:,} results do not name every requested lead."


def latencies(
    sent: Mapping[RecordId, SentParcel], predictions: list[SeenPrediction], topic: str
) -> Floats:
    """Return the seconds from sending each change to reading its prediction."""
    return np.array(
        [
            prediction.at - sent[prediction.record_id].at
            for prediction in predictions
            if prediction.record_id[0] == topic and prediction.record_id in sent
        ]
    )


def warm_latencies(
    sent: Mapping[RecordId, SentParcel], predictions: list[SeenPrediction], topic: str
) -> tuple[Floats, Floats]:
    """Return the latencies of the first WARM_UP_SECONDS of sending, and those of the warm system.

    The first seconds have first connections, the first lookup of states and the first batches.
    """
    end = min((each.at for each in sent.values()), default=0.0) + WARM_UP_SECONDS
    parts: tuple[list[SeenPrediction], list[SeenPrediction]] = ([], [])
    for prediction in predictions:
        if (each := sent.get(prediction.record_id)) is not None:
            parts[each.at >= end].append(prediction)
    return latencies(sent, parts[0], topic), latencies(sent, parts[1], topic)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Published probabilities, the true ones of the simulator, and the outcomes.

    Each array has the shape (n,).
    """

    predicted: Floats
    true: Floats
    applied: Labels

    def tenths(self) -> Iterator[tuple[int, float, float, float]]:
        """Yield the tenths of the leads, lowest predictions first.

        Each tenth has leads, mean prediction, mean true probability and share of applications.
        """
        order = np.argsort(self.predicted, kind="stable")
        for part in np.array_split(order, 10):
            if len(part):
                means = [
                    float(column[part].mean())
                    for column in (self.predicted, self.true, self.applied)
                ]
                yield len(part), means[0], means[1], means[2]


def calibration(
    sent: Mapping[RecordId, SentParcel], predictions: list[SeenPrediction]
) -> Calibration:
    """Return the calibration over scored changes of leads without an earlier application.

    A repeated event counts once.
    """
    rows = [
        (prediction.probability, parcel.truth.probability, parcel.truth.converts)
        for prediction in predictions
        if (each := sent.get(prediction.record_id)) is not None
        and (parcel := each.parcel).kind is not DeliveryKind.REPEATED
        and parcel.truth is not None
        and not parcel.truth.applied
    ]
    predicted, true, applied = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Calibration(predicted, true, applied.astype(np.bool_))
