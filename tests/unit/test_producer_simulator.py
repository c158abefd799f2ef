"""The simulated CRM: what would make its truth worthless, or its changes unlike those of a CRM."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from leadstream.lead_fields import STATE_FIELDS
from producer.simulator import DAY_MS, DeliveryKind, Shares, SimulatedChange, SimulatedCrm
from schemas.codec import Reader, Writer

pytestmark = pytest.mark.slow

START = 1_735_689_600_000  # 2025-01-01


@pytest.fixture(scope="module")
def crm() -> SimulatedCrm:
    return SimulatedCrm(7, start=START, leads=6000)


@pytest.fixture(scope="module")
def changes(crm: SimulatedCrm) -> list[SimulatedChange]:
    return list(crm.changes())


def test_leads_convert_as_often_as_their_true_probability_says() -> None:
    evaluated = [
        change.truth
        for change in SimulatedCrm(11, start=START, leads=30_000).changes()
        if change.truth and not change.truth.applied
    ]
    probability = np.array([truth.probability for truth in evaluated])
    converts = np.array([truth.converts for truth in evaluated])
    bins = np.digitize(probability, np.quantile(probability, np.linspace(0, 1, 11))[1:-1])
    for number in range(10):
        inside = bins == number
        expected = probability[inside].mean()
        # The three or so changes of a lead share its fate: errors are √3 times as wide.
        error = 6 * np.sqrt(3 * expected * (1 - expected) / inside.sum())
        assert converts[inside].mean() == pytest.approx(expected, abs=error)


def test_the_base_rate_and_the_spread_are_those_of_a_real_crm(
    changes: list[SimulatedChange],
) -> None:
    evaluated = [change.truth for change in changes if change.truth and not change.truth.applied]
    converts = np.array([truth.converts for truth in evaluated])
    ranks = np.argsort(np.argsort([truth.probability for truth in evaluated]))
    positives = converts.sum()
    auc = (ranks[converts].sum() - positives * (positives - 1) / 2) / (
        positives * (len(evaluated) - positives)
    )
    assert 0.10 < converts.mean() < 0.17
    assert 0.84 < auc < 0.92


def test_an_application_leaves_no_trace_in_what_the_crm_sees(
    crm: SimulatedCrm, changes: list[SimulatedChange]
) -> None:
    applied_at = {a.lead_id: a.submitted_at for a in reversed(crm.applications())}
    # Among changes of leads equally likely to apply, those that have applied must look like those
    # that have not.
    scores: dict[bool, list[float]] = {True: [], False: []}
    for change in changes:
        assert change.truth
        assert change.state
        score = change.state["lead_score"]
        if 0.3 < change.truth.probability < 0.5 and score is not None:
            scores[change.truth.applied].append(score)
            assert change.truth.applied == (
                applied_at.get(change.lead_id, 2**62) <= _occurred(change)
            )
    spread = np.std(scores[True] + scores[False]) * np.sqrt(3 / len(scores[True]))
    assert len(scores[True]) > 100
    assert np.mean(scores[True]) == pytest.approx(np.mean(scores[False]), abs=6 * spread)


def test_the_same_seed_gives_the_same_changes_to_the_byte(crm: SimulatedCrm) -> None:
    shares = Shares(
        late=0.1, repeated=0.1, without_state=0.1, deleted=0.05, tombstone=0.05, loop=0.1
    )
    again = SimulatedCrm(7, start=START, leads=6000)
    assert list(crm.deliveries(shares)) == list(again.deliveries(shares))
    assert crm.applications() == again.applications()


def test_another_seed_gives_other_leads(crm: SimulatedCrm) -> None:
    other = SimulatedCrm(8, start=START, leads=6000)
    assert {c.lead_id for c in crm.changes()}.isdisjoint(c.lead_id for c in other.changes())


def test_changes_come_in_the_order_of_time_and_of_versions(changes: list[SimulatedChange]) -> None:
    versions: defaultdict[str, int] = defaultdict(int)
    for change in changes:
        assert change.record
        versions[change.lead_id] += 1
        assert change.record["lead_version"] == versions[change.lead_id]
    assert all(_occurred(a) <= _occurred(b) for a, b in pairwise(changes))
    assert len({change.record["event_id"] for change in changes if change.record}) == len(changes)


def test_every_record_can_be_written_and_read_as_a_lead_change(crm: SimulatedCrm) -> None:
    writer, reader = Writer("LeadChanged"), Reader("LeadChanged")
    shares = Shares(without_state=0.2, deleted=0.1, loop=0.1)
    for change in crm.deliveries(shares, since=crm.moment(-500)):
        assert reader.decode(writer.encode(change.record or {})) == change.record


def test_a_state_holds_the_fields_of_the_contract_and_nothing_personal(
    changes: list[SimulatedChange],
) -> None:
    missing: Counter[str] = Counter()
    for change in changes:
        assert change.state
        assert set(change.state) == set(STATE_FIELDS)
        assert change.state["created_at"] <= _occurred(change)
        assert 0 <= (change.state["engagement_score"] or 0) <= 100
        missing.update(name for name, value in change.state.items() if value is None)
    optional = set(STATE_FIELDS) - {"created_at", "numbers", "categories"}
    assert set(missing) == optional
    simulated = [count for count in missing.values() if count < len(changes)]
    assert len(simulated) >= 8
    assert max(simulated) < 0.2 * len(changes)


def test_leads_arrive_by_season_and_in_bursts(crm: SimulatedCrm) -> None:
    created = np.array([_occurred(change) for change in crm.changes() if _version(change) == 1])
    months = np.bincount(
        created.astype("datetime64[ms]").astype("datetime64[M]").astype(int) % 12, minlength=12
    )
    by_hour = np.bincount((created - START) // 3_600_000)
    assert months[0] > 1.5 * months[5]
    assert by_hour.max() > 10 * by_hour[by_hour > 0].mean()


def test_a_window_starts_at_since_and_ends_before_until(
    crm: SimulatedCrm, changes: list[SimulatedChange]
) -> None:
    since, until = crm.moment(-300), crm.moment(-100)
    assert [c.record for c in crm.changes(since, until)] == [
        c.record for c in changes if since <= _occurred(c) < until
    ]
    assert crm.moment(-1, until=until) < until <= crm.moment(-100)
    assert all(since <= a.submitted_at < until for a in crm.applications(since, until))


def test_shares_are_kept_and_nothing_is_lost(
    crm: SimulatedCrm, changes: list[SimulatedChange]
) -> None:
    shares = Shares(
        late=0.05, repeated=0.05, without_state=0.1, deleted=0.02, tombstone=0.02, loop=0.05
    )
    delivered = list(crm.deliveries(shares))
    kinds = Counter(change.kind for change in delivered)
    size = len(changes)
    for kind, expected in (
        (DeliveryKind.REPEATED, 0.05),
        (DeliveryKind.WITHOUT_STATE, 0.1),
        (DeliveryKind.DELETED, 0.02),
        (DeliveryKind.LOOP, 0.05),
    ):
        assert kinds[kind] == pytest.approx(expected * size, rel=0.2)
    orderly = [
        c
        for c in delivered
        if c.kind in {DeliveryKind.PLAIN, DeliveryKind.LATE, DeliveryKind.WITHOUT_STATE}
    ]
    ids = {c.record["event_id"] for c in changes if c.record}
    assert len(orderly) == size
    assert {c.record["event_id"] for c in orderly if c.record} == ids


def test_a_late_change_comes_after_a_newer_one_of_its_lead(crm: SimulatedCrm) -> None:
    newest: defaultdict[str, int] = defaultdict(int)
    late = 0
    for change in crm.deliveries(Shares(late=0.3)):
        if change.kind is DeliveryKind.LATE:
            late += 1
            assert _version(change) < newest[change.lead_id]
        newest[change.lead_id] = max(newest[change.lead_id], _version(change))
    assert late > 100


def test_a_repeated_change_is_the_same_event(crm: SimulatedCrm) -> None:
    seen: dict[str, object] = {}
    for change in crm.deliveries(Shares(repeated=0.2)):
        assert change.record
        if change.kind is DeliveryKind.REPEATED:
            assert seen[change.record["event_id"]] == change.record
        seen[change.record["event_id"]] = change.record


def test_an_erased_lead_is_never_heard_of_again(crm: SimulatedCrm) -> None:
    shares = Shares(
        late=0.2, repeated=0.2, without_state=0.2, deleted=0.05, tombstone=0.05, loop=0.2
    )
    erased: set[str] = set()
    for change in crm.deliveries(shares):
        assert change.lead_id not in erased
        if change.kind in {DeliveryKind.DELETED, DeliveryKind.TOMBSTONE}:
            assert change.state is None
            assert (change.record is None) == (change.kind is DeliveryKind.TOMBSTONE)
            erased.add(change.lead_id)
    assert len(erased) > 100


def test_a_lead_that_is_erased_sends_its_state_along_for_postgres_may_have_forgotten_it(
    crm: SimulatedCrm,
) -> None:
    delivered = list(crm.deliveries(Shares(without_state=0.5, deleted=0.05, tombstone=0.05)))
    erased = {
        change.lead_id
        for change in delivered
        if change.kind in {DeliveryKind.DELETED, DeliveryKind.TOMBSTONE}
    }
    assert erased
    assert not erased & {
        change.lead_id for change in delivered if change.kind is DeliveryKind.WITHOUT_STATE
    }


def test_a_score_written_back_bears_the_mark_of_the_loop(crm: SimulatedCrm) -> None:
    loops = [c.record for c in crm.deliveries(Shares(loop=0.1)) if c.kind is DeliveryKind.LOOP]
    assert loops
    assert all(record and record["origin"] == "leadstream" for record in loops)


def test_truth_looks_no_further_than_its_horizon() -> None:
    near, far = (SimulatedCrm(3, start=START, leads=500, horizon_days=days) for days in (1.0, 60.0))
    for one, other in zip(near.changes(), far.changes(), strict=True):
        assert one.truth
        assert other.truth
        assert 0 <= one.truth.probability <= other.truth.probability < 1
    applied = {a.lead_id: a.submitted_at for a in reversed(near.applications())}
    for change in near.changes():
        assert change.truth
        wait = applied.get(change.lead_id, 2**62) - _occurred(change)
        assert change.truth.converts == (0 < wait <= DAY_MS)


@pytest.mark.parametrize("shares", [{"late": -0.1}, {"late": 0.6, "without_state": 0.6}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Shares(**shares)


def _occurred(change: SimulatedChange) -> int:
    assert change.record
    return int(change.record["occurred_at"])


def _version(change: SimulatedChange) -> int:
    assert change.record
    return int(change.record["lead_version"])
