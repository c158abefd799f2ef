import pytest

from leadstream.backoff import JITTER, MAX_SECONDS, Backoff
from leadstream.budgets import POLL_SECONDS
from leadstream.deadline import Deadline
from tests.fakes import ManualClock


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def test_delays_double_up_to_the_longest_and_start_over_after_a_success() -> None:
    backoff = Backoff(draw=middle)
    delays = [backoff.next_delay() for _ in range(7)]
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    backoff.reset()
    assert backoff.next_delay() == pytest.approx(0.2)


def test_processes_that_fail_together_do_not_try_again_together() -> None:
    delays = {Backoff().next_delay() for _ in range(100)}
    assert len(delays) > 50
    assert all(0.2 * (1 - JITTER) <= delay <= 0.2 * (1 + JITTER) for delay in delays)


def test_pauses_are_short_add_up_to_the_delay_and_end_when_the_loop_is_stopped() -> None:
    clock, taken = ManualClock(), list[float]()
    backoff = Backoff(clock, middle)
    for _ in range(5):
        backoff.next_delay()
    for seconds in backoff.pauses(lambda: False):
        taken.append(seconds)
        clock.now += seconds
    assert sum(taken) == pytest.approx(MAX_SECONDS)
    assert max(taken) <= POLL_SECONDS
    assert not list(backoff.pauses(lambda: True))


def test_a_deadline_that_has_passed_leaves_no_time_and_an_earlier_one_wins() -> None:
    clock = ManualClock()
    deadline = Deadline.after(10, clock)
    assert (deadline.left(), deadline.expired) == (10, False)
    assert deadline.earlier(2).left() == 2
    assert deadline.earlier(60).left() == 10
    clock.now += 11
    assert (deadline.left(), deadline.expired) == (0, True)
