import subprocess
import sys
from hashlib import blake2b

import pytest

from leadstream.variants import challenged

LEADS = [f"lead_{i}" for i in range(20_000)]


@pytest.mark.parametrize("lead_id", ["", "lead_1", "Zoë", "a" * 1000])
def test_a_lead_s_place_is_that_of_the_docs_so_that_others_can_compute_it(lead_id: str) -> None:
    place = int.from_bytes(blake2b(lead_id.encode()).digest()[:8], "big") / 2**64
    assert not challenged(lead_id, place - 1e-9)
    assert challenged(lead_id, place + 1e-9)


def test_a_hash_that_python_salts_would_move_leads_with_every_restart() -> None:
    code = (
        "from leadstream.variants import challenged; "
        "print(''.join(str(+challenged(f'lead_{i}', .3)) for i in range(500)))"
    )
    stated = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert stated == {"".join(str(+challenged(f"lead_{i}", 0.3)) for i in range(500)) + "\n"}


def test_none_at_0_all_at_1_and_about_the_share_between() -> None:
    assert not any(challenged(lead, 0) for lead in LEADS)
    assert all(challenged(lead, 1) for lead in LEADS)
    for share in (0.05, 0.3, 0.5):
        # Four standard errors of a share of 20,000 leads are 0.014 at most.
        assert sum(challenged(lead, share) for lead in LEADS) / len(LEADS) == pytest.approx(
            share, abs=0.014
        )


def test_a_larger_share_must_not_take_a_lead_away_from_the_challenger() -> None:
    before: set[str] = set()
    for share in (0.1, 0.2, 0.25, 0.9):
        now = {lead for lead in LEADS if challenged(lead, share)}
        assert before < now
        before = now
