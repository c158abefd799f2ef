"""The records that are sent while things fail: a CRM's changes with all that is odd about them,
each with its truth.

One seed decides all but the moments. The truth travels in a header, so whoever reads the topic
knows what was meant.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from consumer.scoring.validity import LOOP_ORIGIN
from leadstream.errors import Reason
from producer.bad_records import Encode, Topic, bad_records
from tests.faults.history import Headers, Intent, RecordKind
from tests.faults.odd_values import doubling

TRUTH = "truth"
LATE = {Reason.LEAD_NOT_FOUND, Reason.FEATURE_FAILED, Reason.SCORING_FAILED}
LEADS, ASKED = 240, 12
BEFORE_MS = 30 * 86_400_000
# Brokers accept an hour.
AHEAD_MS = 30 * 60_000
# Leads whose row in the CRM is odd: what becomes of a change that needs the row.
ODD_ROWS = {
    "raising": Reason.LEAD_NOT_FOUND,
    "ancient": Reason.FEATURE_FAILED,
    "future": Reason.INVALID_EVENT,
    "huge": Reason.SCORING_FAILED,
}
ODD_LEADS = 3
# Schema ids for which the registry has an odd answer: what becomes of a change that names one.
ODD_SCHEMAS = {
    5001: (b"null", Reason.UNKNOWN_SCHEMA),
    5002: (b"", Reason.UNKNOWN_SCHEMA),
    5003: (b'[{"schema": 1}]', Reason.UNKNOWN_SCHEMA),
    5004: (b'{"schema": 7}', Reason.UNKNOWN_SCHEMA),
    5005: (b'{"schema": "{"}', Reason.DECODE_FAILED),
    5006: (b'{"schema": "\\"string\\""}', Reason.UNKNOWN_SCHEMA),
    5007: (json.dumps({"schema": json.dumps(doubling(60, "null"))}).encode(), Reason.DECODE_FAILED),
    5008: (b'{"schema": "{}", "schemaType": "PROTOBUF"}', Reason.UNKNOWN_SCHEMA),
    5009: (
        b'{"schema": "{}", "references": [{"name": "a", "subject": "none", "version": 1}]}',
        Reason.UNKNOWN_SCHEMA,
    ),
}
FORGED: Headers = (
    ("dlq.replays", b"9"),
    ("dlq.reason", b"FORGED"),
    ("__connect.errors.offset", b"0"),
)


@dataclass(frozen=True, slots=True)
class PeopleRow:
    """What the CRM has of a lead before its change is sent."""

    lead_id: str
    version: int
    lead_score: float


@dataclass(frozen=True, slots=True)
class Shipment:
    """One record to send, and the row to write before.

    `timestamp` is in ms UTC; None is the time of its sending.
    """

    topic: Topic
    key: bytes | None
    value: bytes | None
    headers: Headers
    row: PeopleRow | None = None
    timestamp: int | None = None


class Traffic:
    """Records without end, in the order in which to send them.

    A lead sends its state or leaves it to the database, always the same way. Some changes and some
    repeated ones come late, after newer ones of their lead. `now` is the wall clock in ms UTC;
    `encode_change` may be another encoding of good changes than that of bad ones, which are made by
    comparing two of them. With `odd`, some changes need an odd row or name an odd schema.
    """

    def __init__(
        self,
        seed: int,
        encode_event: Encode,
        encode_request: Encode,
        *,
        now: int,
        leads: int = LEADS,
        odd: bool = False,
    ) -> None:
        self._odd_too = odd
        self._rng = np.random.default_rng([seed, 5])
        self._strangers = np.random.default_rng([seed, 11])
        self._encode_request = encode_request
        self.encode_change = encode_event
        self._bad = bad_records(
            seed, now=now, encode_event=encode_event, encode_request=encode_request
        )
        self._versions = dict.fromkeys(range(leads), 0)
        self._held: list[tuple[int, Shipment]] = []
        self._count = 0
        self.now = now

    def people(self) -> list[PeopleRow]:
        """The leads that the CRM has from the beginning: those that requests ask for, and those
        without states.
        """
        known = [f"asked_{i}" for i in range(ASKED)] + [
            _name(i) for i in self._versions if _without_state(i)
        ]
        return [PeopleRow(lead_id, 1, float(self._rng.integers(0, 100))) for lead_id in known]

    def shipments(self) -> Iterator[Shipment]:
        """The next record, again and again."""
        while True:
            shipment = self._strange(self._next())
            self._count += 1
            if self._rng.random() < 0.03 and shipment.topic == "lead_changes":
                self._held.append((self._count + int(self._rng.integers(1, 300)), shipment))
                if self._rng.random() < 0.5:
                    continue  # it comes late; otherwise it comes twice
            yield shipment
            if self._rng.random() < 0.02:
                yield shipment
            while self._held and min(self._held, key=lambda held: held[0])[0] <= self._count:
                late = min(self._held, key=lambda held: held[0])
                self._held.remove(late)
                yield late[1]

    def _strange(self, shipment: Shipment) -> Shipment:
        """Some records have a timestamp of another time, or headers of a dead letter."""
        chance = self._strangers.random()
        if shipment.topic != "lead_changes" or chance > 0.12:
            return shipment
        if chance < 0.04:
            return replace(shipment, timestamp=self.now - BEFORE_MS)
        if chance < 0.08:
            return replace(shipment, timestamp=self.now + AHEAD_MS)
        return replace(shipment, headers=(*shipment.headers, *FORGED))

    def _next(self) -> Shipment:
        chance = self._rng.random()
        if chance < 0.01:
            return self._foreign() if self._is_foreign() else self._poison()
        if chance < 0.02:
            return self._request()
        i = int(self._rng.integers(len(self._versions)))
        if chance > 0.95 and not _without_state(i):
            return self._odd(i)
        return self._change(i)

    def _poison(self) -> Shipment:
        bad = next(self._bad)
        late = bad.reason in LATE
        lead = (bad.key or b"").decode() if late else ""
        truth = Intent(
            RecordKind.POISON, lead, version=int(late), reason=bad.reason.value, late=late
        )
        return Shipment(bad.topic, bad.key, bad.value, self._headers(truth))

    def _is_foreign(self) -> bool:
        return self._odd_too and bool(self._strangers.random() < 0.5)

    def _foreign(self) -> Shipment:
        """A change of a lead whose row is odd, or one that names a schema whose answer is odd."""
        if self._strangers.random() < 0.5:
            kind = str(self._strangers.choice(list(ODD_ROWS)))
            lead = f"{kind}_{self._strangers.integers(ODD_LEADS)}"
            intent = Intent(RecordKind.POISON, lead, 1, reason=ODD_ROWS[kind].value, late=True)
            shipment = self._sent(0, replace(intent, without_state=True))
            return replace(shipment, row=None, headers=self._headers(intent))
        number = int(self._strangers.choice(list(ODD_SCHEMAS)))
        value = struct.pack(">BI", 0, number) + self._strangers.bytes(40)
        intent = Intent(RecordKind.POISON, reason=ODD_SCHEMAS[number][1].value)
        return Shipment("lead_changes", b"odd", value, self._headers(intent))

    def _request(self) -> Shipment:
        asked = [
            f"asked_{i}"
            for i in sorted(self._rng.choice(ASKED, int(self._rng.integers(1, 5)), replace=False))
        ]
        request_id = f"request_{self._rng.bytes(8).hex()}"
        record = {"request_id": request_id, "lead_ids": asked, "requested_by": None}
        avro = self._rng.random() < 0.5
        value = self._encode_request(record) if avro else json.dumps({"lead_ids": asked}).encode()
        truth = Intent(RecordKind.REQUEST, request_id, version=1, leads=tuple(asked))
        return Shipment("rescore_requests", request_id.encode(), value, self._headers(truth))

    def _odd(self, i: int) -> Shipment:
        """A change of a lead that sends its state, and that ends otherwise than in a prediction."""
        match self._rng.integers(4):
            case 0:
                truth = Intent(RecordKind.ERASURE, _name(i))
                return Shipment("lead_changes", truth.lead.encode(), None, self._headers(truth))
            case 1:
                return self._sent(
                    i, Intent(RecordKind.ERASURE, _name(i), self._newer(i)), change_type="DELETED"
                )
            case 2:
                return self._sent(
                    i, Intent(RecordKind.IGNORED, _name(i), self._versions[i]), origin=LOOP_ORIGIN
                )
            case _:
                reason = Reason.SCORING_FAILED.value
                truth = Intent(
                    RecordKind.POISON, _name(i), self._newer(i), reason=reason, late=True
                )
                return self._sent(i, truth, lead_score=1e14)

    def _change(self, i: int) -> Shipment:
        return self._sent(
            i, Intent(RecordKind.CHANGE, _name(i), self._newer(i), without_state=_without_state(i))
        )

    def _sent(
        self, i: int, truth: Intent, lead_score: float | None = None, **fields: Any
    ) -> Shipment:
        score = float(self._rng.integers(0, 100)) if lead_score is None else lead_score
        state = {
            "created_at": self.now - BEFORE_MS - i,
            "lead_score": score,
            "engagement_score": float(self._rng.integers(0, 100)),
            "touchpoint_count": int(self._rng.integers(0, 20)),
            "source": "referral",
        }
        event = {
            "event_id": self._rng.bytes(12).hex(),
            "lead_id": truth.lead,
            "change_type": "UPDATED",
            "occurred_at": self.now,
            "lead_version": truth.version,
            "lead": None if truth.without_state else state,
            **fields,
        }
        row = PeopleRow(truth.lead, truth.version, score) if truth.without_state else None
        value = self.encode_change(event)
        return Shipment("lead_changes", truth.lead.encode(), value, self._headers(truth), row)

    def _newer(self, i: int) -> int:
        self._versions[i] += 1
        return self._versions[i] + 1

    def _headers(self, truth: Intent) -> Headers:
        intent = json.dumps(asdict(truth)).encode()
        odd = ("trace", self._rng.bytes(4) if self._rng.random() < 0.9 else None)
        return (
            ((TRUTH, intent), odd, ("trace", b""))
            if self._rng.random() < 0.5
            else (odd, (TRUTH, intent))
        )


def truth_of(headers: Headers) -> Intent:
    """What the sender meant by a record with these headers."""
    fields = json.loads(dict(headers)[TRUTH] or b"")
    return Intent(**{**fields, "kind": RecordKind(fields["kind"]), "leads": tuple(fields["leads"])})


def _name(i: int) -> str:
    return f"lead_{i}"


def _without_state(i: int) -> bool:
    return i % 3 == 0
