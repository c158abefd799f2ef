"""Processes must not look healthy while they read nothing, or keep quiet about a loss."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from leadstream.local.broker import Broker
from tests.faults.silence import Silence
from tests.faults.testimony import LostSpan, Sight, Witnessed, untold


def good_run(seed: int) -> Witnessed:
    """A good run: partitions advance, or somebody says that it is not ready; losses are named."""
    draw = random.Random(seed)
    committed, end, sights = [0, 0], [0, 0], list[Sight]()
    for second in range(200):
        held = second % 50 < 35
        for number in range(2):
            end[number] += draw.randint(1, 5)
            if number == 1 or not held:
                committed[number] = end[number] - draw.randint(0, 3)
        waiting = {number: (committed[number], end[number]) for number in range(2)}
        # The process of partition 0 is held back for 35 s, says so, and answers not always.
        ready = {"one": not held, "two": True}
        if not held and draw.random() < 0.1:
            del ready["one"]
        sights.append(Sight(float(second), ready, waiting))
    lost = tuple(LostSpan(draw.randrange(2), start, start + 9) for start in (100, 300))
    return Witnessed(tuple(sights), lost, lost, lost, lost)


@pytest.mark.parametrize("seed", range(10))
def test_a_checker_that_cries_at_a_group_that_tells_would_be_switched_off(seed: int) -> None:
    assert untold(good_run(seed)) == []


@pytest.mark.parametrize("seed", range(10))
def test_a_group_that_says_ready_and_reads_nothing_is_found(seed: int) -> None:
    good = good_run(seed)
    lies = tuple(replace(each, ready=dict.fromkeys(each.ready, True)) for each in good.sights)
    assert {each.rule for each in untold(replace(good, sights=lies))} == {"alive"}


def test_a_time_in_which_nobody_looked_proves_nothing() -> None:
    still = {0: (10, 20)}
    looks = [Sight(float(at), {"one": True}, still) for at in (0, 2, 4, 80, 82, 84)]
    assert untold(Witnessed(tuple(looks), (), (), (), ())) == []
    looks += [Sight(float(at), {"one": True}, still) for at in range(86, 114, 2)]
    assert [each.rule for each in untold(Witnessed(tuple(looks), (), (), (), ()))] == ["alive"]


@pytest.mark.parametrize("field", ["logged", "measured", "warned"])
@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_is_not_told_or_that_never_was_is_found(seed: int, field: str) -> None:
    good = good_run(seed)
    spans: tuple[LostSpan, ...] = getattr(good, field)
    for planted in (
        spans[:1],
        (spans[0], replace(spans[1], last=spans[1].last - 1)),
        (spans[0], replace(spans[1], first=spans[1].first - 1)),
        (*spans, LostSpan(0, 900, 900)),
        (spans[0], replace(spans[1], partition=1 - spans[1].partition)),
    ):
        [violation] = {each.rule for each in untold(replace(good, **{field: planted}))}  # type: ignore[arg-type]
        assert violation == "told"


@pytest.mark.broker
@pytest.mark.faults
@pytest.mark.parametrize("seed", [2])
def test_whatever_is_deleted_held_open_doubled_or_moved_is_told_and_recovers(
    kafka: Broker, model_store: str, tmp_path: Path, seed: int
) -> None:
    run = Silence(kafka.bootstrap, model_store, tmp_path / "run", seed)
    assert run.run(60) == [], f"python -m tests.faults.silence --seed {seed}"
    assert run.done
