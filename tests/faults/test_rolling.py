"""An upgrade while changes come: every process is replaced, one after the other, and nothing is
lost or repeated.
"""

from pathlib import Path

import pytest

from tests.faults.environment import FaultEnvironment
from tests.faults.run import run
from tests.faults.schedule import CONSUMERS, Fault, Schedule

pytestmark = [pytest.mark.broker, pytest.mark.postgres, pytest.mark.faults, pytest.mark.long]


def test_a_rolling_restart_under_load_loses_nothing_and_repeats_nothing(
    one_broker: FaultEnvironment, tmp_path: Path
) -> None:
    plan = Schedule(
        seed=1,
        seconds=1.0,
        brokers=1,
        coalesce=True,
        batch_max_records=200,
        changes_per_second=250,
        faults=(Fault(0.5, 0.5, "upgrade", "rolling"),),
    )
    ran = run(one_broker, plan, tmp_path / "run")
    assert ran.violations == []
    assert ran.faults == {"rolling": 1}
    assert ran.figures["processes"] == 2 * CONSUMERS
    assert ran.figures["predictions"] > 0
