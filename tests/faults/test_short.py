"""Five short schedules, on real brokers: exactly once must hold. `make faults` runs long ones."""

from pathlib import Path

import pytest

from tests.faults.ground import Ground
from tests.faults.run import run
from tests.faults.schedule import schedule

pytestmark = [pytest.mark.broker, pytest.mark.postgres, pytest.mark.faults]
SECONDS = 7.0


def proved(ground: Ground, seed: int, folder: Path) -> None:
    plan = schedule(seed, SECONDS, ground.kafka.replication)
    ran = run(ground, plan, folder / "run")
    replay = f"python -m tests.faults --seed {seed} --seconds {SECONDS:g} --brokers {plan.brokers}"
    assert ran.violations == [], replay
    assert ran.faults.total() == len(plan.faults)
    assert ran.figures["predictions"] > 0


@pytest.mark.parametrize("seed", [3, 6, 7, 10])
def test_whatever_fails_on_one_broker_nothing_is_lost_or_repeated(
    one_broker: Ground, seed: int, tmp_path: Path
) -> None:
    proved(one_broker, seed, tmp_path)


def test_whatever_fails_on_three_brokers_nothing_is_lost_or_repeated(three_brokers: Ground, tmp_path: Path) -> None:
    proved(three_brokers, 11, tmp_path)
