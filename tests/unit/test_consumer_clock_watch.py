"""A clock that is wrong is named as such."""

import pytest

from consumer.run.clock_watch import ClockWatch
from leadstream.process.status import Status
from tests.fakes import ManualClock
from tests.unit.test_consumer_service import RecordingLog


@pytest.mark.parametrize("ahead", [0.0, 4.9, -3600.0])
def test_changes_of_now_and_old_ones_are_no_warning(ahead: float) -> None:
    status, log = Status(), RecordingLog()
    ClockWatch(status, log).see(1_000_000 + ahead, 1_000_000)  # type: ignore[arg-type]
    assert "clock" not in status.warnings()
    assert log.events() == []


def test_changes_of_the_future_are_named_until_the_clock_is_right_for_a_minute() -> None:
    status, log, clock = Status(), RecordingLog(), ManualClock()
    watch = ClockWatch(status, log, clock=clock)  # type: ignore[arg-type]
    for _ in range(3):
        watch.see(1_003_600, 1_000_000)
    assert "3600 s ahead of this machine" in status.warnings()["clock"]
    assert log.events() == ["clock.wrong"]
    clock.now += 30
    watch.see(1_000_000, 1_000_000)
    assert "clock" in status.warnings()
    clock.now += 31
    watch.see(1_000_000, 1_000_000)
    assert "clock" not in status.warnings()


@pytest.mark.parametrize(("ahead", "way"), [(120.0, "120 s ahead of"), (-120.0, "120 s behind")])
def test_a_difference_to_postgres_is_named(ahead: float, way: str) -> None:
    status, log = Status(), RecordingLog()
    found: list[float | None] = [None]
    watch = ClockWatch(status, log, lambda: found[0])  # type: ignore[arg-type]
    watch.see(1_000_000, 1_000_000)
    assert "clock" not in status.warnings()
    found[0] = ahead
    watch.see(1_000_000, 1_000_000)
    assert way in status.warnings()["clock"]
