"""One integer decides what fails, and nothing fails that would make the run no proof."""

from collections import Counter
from itertools import pairwise

import pytest

from tests.faults.schedule import schedule


def test_a_seed_that_gave_another_schedule_would_replay_nothing() -> None:
    assert schedule(7, 60, 3) == schedule(7, 60, 3) != schedule(8, 60, 3)


@pytest.mark.parametrize("brokers", [1, 3])
def test_a_kind_of_fault_that_no_schedule_has_would_never_be_proved(brokers: int) -> None:
    kinds = Counter(
        fault.kind for seed in range(10) for fault in schedule(seed, 60, brokers).faults
    )
    assert len(kinds) == 30 if brokers == 3 else 29
    assert min(kinds.values()) >= 3


def test_a_group_that_is_always_set_up_alike_would_prove_little_about_others() -> None:
    plans = [schedule(seed, 60, 1) for seed in range(20)]
    assert len({(plan.protocol, plan.static) for plan in plans}) == 4
    for plan in plans:
        assert ("twin" in {fault.kind for fault in plan.faults}) <= plan.static


def test_two_brokers_of_three_must_not_be_away_at_once_for_then_there_is_no_quorum() -> None:
    for seed in range(50):
        away = sorted(
            (f for f in schedule(seed, 60, 3).faults if f.lane == "brokers"),
            key=lambda fault: fault.at,
        )
        assert all(one.at + one.lasts < next_.at for one, next_ in pairwise(away))


def test_a_process_that_is_frozen_for_less_than_its_session_would_be_no_zombie() -> None:
    frozen = [f for seed in range(50) for f in schedule(seed, 60, 1).faults if f.kind == "freeze"]
    assert min(fault.lasts for fault in frozen) > 2.0
    assert all(fault.at + fault.lasts <= 60 for fault in frozen)
