"""A simulated CRM with a hidden truth: pure, seeded, without a clock.

Each lead has a hidden probability p of ever applying. If it applies, then after a delay T of at
most `WINDOW_DAYS` days with the distribution F(x) = 1 - (1 - x / WINDOW_DAYS)^3. What the CRM sees
(scores, touchpoints, states) depends on the lead's traits and on chance, never on T. So for a lead
of age t that has not applied, the probability of an application within the next H days is known
exactly: p (F(t + H) - F(t)) / (1 - p F(t)).
"""

import dataclasses
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from leadstream.lead_fields import CRM_FIELDS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
WINDOW_DAYS = 60.0

# Per choice: the share of leads and what it adds to the log-odds of applying.
SOURCES = {
    "organic_search": (0.26, 0.1),
    "paid_search": (0.18, -0.1),
    "paid_social": (0.16, -1.0),
    "referral": (0.12, 1.2),
    "open_day": (0.09, 1.6),
    "webinar": (0.11, 0.3),
    "partner": (0.08, -0.6),
}
PROGRAMMES = {
    "Business Administration": (0.24, 0.0),
    "Computer Science": (0.2, 0.3),
    "Data Science": (0.14, 0.5),
    "Nursing": (0.12, 0.6),
    "Psychology": (0.12, -0.3),
    "Design": (0.1, -0.2),
    "Law": (0.08, 0.2),
}
CAMPUSES = {
    "North": (0.35, 0.1),
    "South": (0.25, -0.1),
    "City": (0.25, 0.2),
    "Online": (0.15, -0.3),
}
LIFECYCLE = ("subscriber", "lead", "marketing_qualified", "sales_qualified", "opportunity")
STATUSES = ("new", "contacted", "in_conversation", "nurturing", "unresponsive")

# Intensity of arrivals by month (January first), weekday (Monday first) and hour of the day, UTC.
_BY_MONTH = np.array([1.8, 1.5, 1.1, 0.8, 0.8, 0.7, 0.7, 1.3, 1.6, 1.1, 0.8, 0.5])
_BY_WEEKDAY = np.array([1.2, 1.2, 1.1, 1.0, 0.9, 0.6, 0.7])
_BY_HOUR = np.array(
    [2, 1, 1, 1, 1, 2, 4, 6, 9, 11, 12, 12, 11, 11, 11, 11, 10, 10, 11, 12, 11, 9, 6, 4],
    dtype=float,
)
_SEASON_MONTHS = (0, 1, 7, 8)
_BURST_SHARE = 0.12
_MISSING = {  # shares of leads
    "lead_score": 0.03,
    "engagement_score": 0.06,
    "touchpoint_count": 0.02,
    "lifecycle_state": 0.02,
    "status": 0.02,
    "source": 0.05,
    "programme_name": 0.08,
    "campus_name": 0.12,
}


class DeliveryKind(StrEnum):
    """The ways in which a change is delivered."""

    PLAIN = "plain"
    LATE = "late"
    REPEATED = "repeated"
    WITHOUT_STATE = "thin"
    DELETED = "deleted"
    TOMBSTONE = "tombstone"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class Truth:
    """The facts that only the simulator knows at the moment of a change.

    `probability` is that of an application within the horizon, given the lead's hidden propensity
    and that it has not applied yet. If `applied` is true, it has, and the change says nothing about
    calibration. `converts` is what then happened.
    """

    probability: float
    applied: bool
    converts: bool


@dataclass(frozen=True, slots=True)
class SimulatedChange:
    """One message of the changes topic.

    `record` has the shape of LeadChanged, or is None for a tombstone. `state` is what the CRM knows
    of the lead from then on, whether or not the record carries it; None after an erasure.
    """

    lead_id: str
    record: dict[str, Any] | None
    state: dict[str, Any] | None
    truth: Truth | None
    kind: DeliveryKind = DeliveryKind.PLAIN


@dataclass(frozen=True, slots=True)
class Application:
    """An application; times are in ms UTC.

    Its source, programme and campus are its own, not those of the enquiry.
    """

    lead_id: str
    submitted_at: int
    source: str
    programme_name: str
    campus_name: str


@dataclass(frozen=True, slots=True)
class Shares:
    """The disorder of the deliveries: each value is a share of the orderly changes.

    `late` ones (a share of those that have a successor) come after a newer change of the same lead;
    `without_state` ones carry no state. The others are additional: the same event again, DELETED, a
    null value, or a score that was written back (`origin` is "leadstream").
    """

    late: float = 0.0
    repeated: float = 0.0
    without_state: float = 0.0
    deleted: float = 0.0
    tombstone: float = 0.0
    loop: float = 0.0

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 0 or self.late + self.without_state > 1:
            raise ValueError(
                "shares must not be negative, and late + without_state must not exceed 1"
            )


def delay_distribution(days: Floats) -> Floats:
    """Return F: the probability that a lead that applies has done so within `days`, any shape."""
    return 1.0 - (1.0 - np.clip(days / WINDOW_DAYS, 0.0, 1.0)) ** 3


class SimulatedCrm:
    """A CRM with `leads` enquiries that arrive in `days` days from `start` (ms UTC).

    It has everything that happens to them. The same arguments give the same CRM, to the byte.
    `horizon_days` is the horizon of Truth.
    """

    def __init__(
        self,
        seed: int,
        *,
        start: int,
        leads: int = 20_000,
        days: float = 365.0,
        horizon_days: float = 30.0,
    ) -> None:
        self.seed = seed
        self.horizon_days = horizon_days
        rng = np.random.default_rng([seed, 0])
        created, burst = _arrivals(rng, start, leads, days)
        self._lead_ids = [f"lead_{seed}_{number}" for number in range(1, leads + 1)]

        intent = rng.normal(size=leads)
        source = _choose(rng, SOURCES, leads)
        source[burst & (rng.random(leads) < 0.7)] = list(SOURCES).index("paid_social")
        programme, campus = _choose(rng, PROGRAMMES, leads), _choose(rng, CAMPUSES, leads)
        season = np.isin(_month(created), _SEASON_MONTHS)
        log_odds = -2.7 + 1.8 * intent + 0.35 * rng.normal(size=leads) + 0.35 * season
        for table, chosen in ((SOURCES, source), (PROGRAMMES, programme), (CAMPUSES, campus)):
            log_odds += np.array([effect for _, effect in table.values()])[chosen]
        propensity = 1.0 / (1.0 + np.exp(-log_odds))

        applies = rng.random(leads) < propensity
        delay_days = WINDOW_DAYS * (1.0 - (1.0 - rng.random(leads)) ** (1 / 3))
        never = np.iinfo(np.int64).max
        self._applied_at = np.where(
            applies, created + np.ceil(delay_days * DAY_MS).astype(np.int64), never
        )
        self._enquiry = {
            "source": np.array(list(SOURCES), dtype=object)[source],
            "programme_name": np.array(list(PROGRAMMES), dtype=object)[programme],
            "campus_name": np.array(list(CAMPUSES), dtype=object)[campus],
        }
        self._applications = self._submit(rng)
        self._touch(rng, created, intent, propensity)

    def _submit(self, rng: np.random.Generator) -> list[Application]:
        """Return the applications: one lead in five applies again, elsewhere, within a month."""
        applications: list[Application] = []
        names = tuple(list(table) for table in (SOURCES, PROGRAMMES, CAMPUSES))
        for lead in np.flatnonzero(self._applied_at < np.iinfo(np.int64).max).tolist():
            at = int(self._applied_at[lead])
            for again in range(1 + int(rng.random() < 0.2)):
                at += again * int(rng.integers(1, 30 * DAY_MS))
                source, programme, campus = (
                    options[rng.integers(len(options))] for options in names
                )
                applications.append(
                    Application(self._lead_ids[lead], at, source, programme, campus)
                )
        return sorted(
            applications, key=lambda application: (application.submitted_at, application.lead_id)
        )

    def _touch(
        self, rng: np.random.Generator, created: Integers, intent: Floats, propensity: Floats
    ) -> None:
        """Compute every change of every lead, as columns in the order of time.

        Change 0 of a lead is its arrival.
        """
        changes = 1 + rng.poisson(np.minimum(2.0 * np.exp(0.35 * intent), 12.0))
        lead = np.repeat(np.arange(len(created)), changes)
        first = np.cumsum(changes) - changes
        number = np.arange(len(lead)) - first[lead]
        waits = np.where(
            number == 0, 0, 1 + (rng.exponential(8.0, len(lead)) * DAY_MS).astype(np.int64)
        )
        elapsed = np.cumsum(waits)
        occurred = created[lead] + elapsed - elapsed[first[lead]]
        # Three views of the same hidden intent, each with noise of its lead and of the moment.
        trait = intent[lead]
        view = [
            trait + rng.normal(0, 0.6, len(created))[lead] + rng.normal(0, 0.25, len(lead))
            for _ in range(3)
        ]
        touchpoints = number + _cumulate(rng.poisson(np.exp(0.4 + 0.45 * view[0])), first, lead)
        score = np.round(np.clip(42 + 15 * view[1] + 4 * np.log1p(touchpoints), 0, 100), 1)
        engagement = np.round(np.clip(38 + 17 * view[2] + 2 * number, 0, 100), 1)
        stage = np.clip(
            (score + 4 * touchpoints - 35) // 15 + (number > 0), 0, len(LIFECYCLE) - 1
        ).astype(np.int64)
        offset = lead * len(
            LIFECYCLE
        )  # a lead never falls back: a running maximum inside each lead
        stage = np.maximum.accumulate(stage + offset) - offset
        chance = rng.random(len(lead)) + 0.12 * trait
        status = np.where(
            number == 0, 0, np.select([chance > 0.9, chance > 0.5, chance > 0.2], [2, 1, 3], 4)
        )

        order = np.lexsort((number, lead, occurred))
        self._lead, self._occurred, self._version = lead[order], occurred[order], number[order] + 1
        age = (self._occurred - created[self._lead]) / DAY_MS
        p, reached = propensity[self._lead], delay_distribution(age)
        self._probability = (
            p * (delay_distribution(age + self.horizon_days) - reached) / (1.0 - p * reached)
        )
        self._event_ids = rng.integers(0, 2**64, size=(len(lead), 2), dtype=np.uint64)
        columns = {
            "lead_score": score[order],
            "engagement_score": engagement[order],
            "touchpoint_count": touchpoints[order],
            "lifecycle_state": np.array(LIFECYCLE, dtype=object)[stage[order]],
            "status": np.array(STATUSES, dtype=object)[status[order]],
            **{name: values[self._lead] for name, values in self._enquiry.items()},
        }
        # A field that is not simulated is null.
        self._columns: dict[str, list[Any]] = {
            field.name: [None] * len(lead) for field in CRM_FIELDS
        }
        self._columns["created_at"] = created[self._lead].tolist()
        for name, values in columns.items():
            unknown = (
                rng.random(len(created)) < _MISSING[name]
            )  # a field that a CRM lacks, it lacks for good
            column = values.astype(object)
            column[unknown[self._lead]] = None
            self._columns[name] = column.tolist()

    def __len__(self) -> int:
        """Return the number of orderly changes."""
        return len(self._lead)

    def moment(self, position: int, until: int | None = None) -> int:
        """Return when the orderly change at this position occurs, in ms UTC.

        0 is the oldest, -1 the newest before `until`.
        """
        return int(self._occurred[: self._window(None, until).stop][position])

    def _window(self, since: int | None, until: int | None) -> range:
        low = 0 if since is None else int(np.searchsorted(self._occurred, since, side="left"))
        high = (
            len(self._occurred)
            if until is None
            else int(np.searchsorted(self._occurred, until, side="left"))
        )
        return range(low, max(low, high))

    def _change(self, i: int) -> SimulatedChange:
        lead, occurred, version = int(self._lead[i]), int(self._occurred[i]), int(self._version[i])
        state = {name: values[i] for name, values in self._columns.items()} | {
            "numbers": {},
            "categories": {},
        }
        applied_at = int(self._applied_at[lead])
        record = {
            "event_id": f"{self._event_ids[i, 0]:016x}{self._event_ids[i, 1]:016x}",
            "lead_id": self._lead_ids[lead],
            "change_type": "CREATED" if version == 1 else "UPDATED",
            "occurred_at": occurred,
            "lead_version": version,
            "origin": "crm",
            "lead": state,
        }
        truth = Truth(
            probability=float(self._probability[i]),
            applied=applied_at <= occurred,
            converts=occurred < applied_at <= occurred + self.horizon_days * DAY_MS,
        )
        return SimulatedChange(self._lead_ids[lead], record, state, truth)

    def changes(
        self, since: int | None = None, until: int | None = None
    ) -> Iterator[SimulatedChange]:
        """Yield the changes with `since` <= occurred_at < `until` (ms UTC), ordered by time."""
        return map(self._change, self._window(since, until))

    def applications(self, since: int | None = None, until: int | None = None) -> list[Application]:
        """Return every application with `since` <= submitted_at < `until` (ms UTC).

        They are in the order of time.
        """
        return [
            application
            for application in self._applications
            if (since is None or since <= application.submitted_at)
            and (until is None or application.submitted_at < until)
        ]

    def deliveries(
        self, shares: Shares, since: int | None = None, until: int | None = None
    ) -> Iterator[SimulatedChange]:
        """Yield the same changes as a real CRM delivers them.

        Some are late, without state, or repeated, with erasures and loops in between. All changes
        of an erased lead come before its erasure.
        """
        rng = np.random.default_rng([self.seed, 1])
        window = self._window(since, until)
        last = {
            int(lead): i
            for i, lead in zip(window, self._lead[window.start : window.stop], strict=True)
        }
        erasures = (shares.deleted + shares.tombstone) * len(window)
        erased = {lead for lead in last if rng.random() * len(last) < erasures}
        waiting: list[tuple[int, int, SimulatedChange]] = []
        ticket = count()  # breaks ties: two changes are never compared
        held: dict[int, SimulatedChange] = {}

        for i in window:
            while waiting and waiting[0][0] <= i:
                yield heapq.heappop(waiting)[2]
            lead, change = int(self._lead[i]), self._change(i)
            draw, again, loop = rng.random(3)
            may_move = lead not in erased and lead not in held
            if draw < shares.late and may_move and i != last[lead]:
                held[lead] = replace(change, kind=DeliveryKind.LATE)
                continue
            # An erased lead may have left Postgres before its state is looked up, so its changes
            # carry their state.
            if draw > 1 - shares.without_state and lead not in erased:
                change = replace(
                    change,
                    record={**_record(change), "lead": None},
                    kind=DeliveryKind.WITHOUT_STATE,
                )
            yield change
            if lead in held:
                yield held.pop(lead)
            if again < shares.repeated and lead not in erased:
                delivery = (
                    i + int(rng.integers(1, 200)),
                    next(ticket),
                    replace(change, kind=DeliveryKind.REPEATED),
                )
                heapq.heappush(waiting, delivery)
            if loop < shares.loop:
                written_back = _record(change) | {
                    "event_id": _hex_id(rng),
                    "change_type": "UPDATED",
                    "origin": "leadstream",
                }
                yield SimulatedChange(
                    change.lead_id, written_back, change.state, None, DeliveryKind.LOOP
                )
            if lead in erased and i == last[lead]:
                yield self._erasure(
                    rng, change, tombstone=rng.random() * erasures < shares.tombstone * len(window)
                )
        yield from (delivery for _, _, delivery in sorted(waiting))

    def _erasure(
        self, rng: np.random.Generator, change: SimulatedChange, *, tombstone: bool
    ) -> SimulatedChange:
        if tombstone:
            return SimulatedChange(change.lead_id, None, None, None, DeliveryKind.TOMBSTONE)
        record = _record(change)
        fields = {
            "event_id": _hex_id(rng),
            "change_type": "DELETED",
            "lead_version": record["lead_version"] + 1,
        }
        return SimulatedChange(
            change.lead_id, record | fields | {"lead": None}, None, None, DeliveryKind.DELETED
        )


def _record(change: SimulatedChange) -> dict[str, Any]:
    if change.record is None:
        raise ValueError("a tombstone has no record")
    return change.record


def _hex_id(rng: np.random.Generator) -> str:
    return rng.bytes(16).hex()


def _choose(rng: np.random.Generator, table: dict[str, tuple[float, float]], size: int) -> Integers:
    shares = np.array([share for share, _ in table.values()])
    chosen: Integers = rng.choice(len(table), size=size, p=shares / shares.sum())
    return chosen


def _month(moments: Integers) -> Integers:
    """Return the month of ms UTC, 0 for January."""
    return moments.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64) % 12


def _cumulate(steps: Integers, first: Integers, lead: Integers) -> Integers:
    """Return the running sum of `steps` inside each lead.

    `first` is the position of a lead's first step.
    """
    total = np.cumsum(steps)
    return total - (total - steps)[first[lead]]


def _arrivals(
    rng: np.random.Generator, start: int, leads: int, days: float
) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Return when leads arrive (ms UTC, ascending), and which come in a campaign's burst."""
    hours = start + HOUR_MS * np.arange(max(1, int(days * 24)), dtype=np.int64)
    since_monday = (hours // HOUR_MS - 96) // 24 % 7  # 1970-01-05, hour 96, was a Monday
    intensity = (
        _BY_MONTH[_month(hours)] * _BY_WEEKDAY[since_monday] * _BY_HOUR[hours // HOUR_MS % 24]
    )
    hour = rng.choice(hours, size=leads, p=intensity / intensity.sum())
    burst = rng.random(leads) < _BURST_SHARE
    campaigns = rng.choice(hours, size=1 + int(days / 15), p=intensity / intensity.sum())
    hour[burst] = rng.choice(campaigns, size=int(burst.sum()))
    created = hour + rng.integers(0, HOUR_MS, size=leads)
    order = np.argsort(created, kind="stable")
    return created[order], burst[order]
