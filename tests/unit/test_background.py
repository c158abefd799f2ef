import threading
import time

import pytest

from leadstream.background import Background, Worker


def test_a_worker_ends_what_it_was_given_and_is_not_waited_for_longer_than_told() -> None:
    done: list[int] = []
    quick, stuck = Worker("quick"), Worker("stuck")
    quick(lambda: time.sleep(0.2))
    quick(lambda: done.append(1))
    quick.close(30)
    assert done == [1]
    released = threading.Event()

    def waits() -> None:
        released.wait(30)

    stuck(waits)
    started = time.monotonic()
    stuck.close(0.1)
    assert time.monotonic() - started < 5
    released.set()


def test_what_a_call_raises_is_raised_where_its_result_is_asked_for_once() -> None:
    worker, background = Worker("calls"), Background[int]()
    background.wait()

    def fails() -> int:
        raise KeyError("a bug")

    background.start(fails, worker)
    background.wait()
    with pytest.raises(KeyError, match="a bug"):
        background.result()
    with pytest.raises(ValueError, match="no call"):
        background.result()
    background.start(lambda: 7, worker)
    assert background.result() == 7
    assert background.idle
