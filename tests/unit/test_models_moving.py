import numpy as np
import pytest

from benchmarks.stranger_files import DAY, START
from features import Specification, specify
from models.train.moving import AGE, CALENDAR, SEASONS, find_moving, without
from models.train.table import TrainingPart


def part(
    first_day: float, days: float, rows: int = 400, age_days: float = 0.0, **own: object
) -> TrainingPart:
    """Leads of some days, scored at an age of up to `age_days`; `own` are columns."""
    created = START + np.linspace(first_day * DAY, (first_day + days) * DAY, rows).astype(np.int64)
    ages = np.random.default_rng(0).uniform(0, age_days * DAY, rows).astype(np.int64)
    columns = {"created_at": created.tolist(), **own}
    labels = np.arange(rows) % 3 == 0
    return TrainingPart(columns, created + ages, labels, np.arange(rows), {})


def left_out(before: TrainingPart, newest: TrainingPart, **names: tuple[str, ...]) -> set[str]:
    return set(find_moving(before, newest, specify(**names), calendar=True).left_out)  # type: ignore[arg-type]


def test_seasons_need_an_earlier_year_of_each_month() -> None:
    assert set(SEASONS) <= left_out(part(0, 270), part(270, 70))
    assert set(SEASONS) <= left_out(part(0, 360), part(360, 120))
    assert not set(SEASONS) & left_out(part(0, 730), part(730, 180))
    # A season that was seen, but in the same year, says nothing.
    assert set(SEASONS) <= left_out(part(0, 200), part(180, 40))


def test_an_age_that_no_earlier_lead_had_is_left_out() -> None:
    assert set(AGE) <= left_out(part(0, 700, age_days=5), part(700, 100, age_days=90))
    assert not set(AGE) & left_out(part(0, 700, age_days=90), part(700, 100, age_days=90))
    assert set(AGE) <= left_out(part(0, 700), part(700, 100))


def test_an_own_field_that_runs_with_time_is_left_out_and_a_steady_one_is_not() -> None:
    rng = np.random.default_rng(1)
    before, newest = (
        part(
            first,
            300,
            numbers=[{"day": float(first + i), "visits": v} for i, v in enumerate(visits)],
            categories=[{"year": str(first // 365), "source": "web"} for _ in visits],
        )
        for first, visits in ((0, rng.normal(size=400)), (800, rng.normal(size=400)))
    )
    found = left_out(before, newest, numbers=("day", "visits"), categories=("year", "source"))
    assert {"numbers.day", "categories.year"} <= found
    assert not {"numbers.visits", "categories.source"} & found


def test_a_field_that_is_new_to_some_of_the_newest_leads_is_for_the_folds_to_decide() -> None:
    values = np.linspace(0, 1, 400)
    before = part(0, 700, numbers=[{"share": float(v)} for v in values])
    newest = part(700, 100, numbers=[{"share": float(v + 0.3)} for v in values])
    moving = find_moving(before, newest, specify(numbers=("share",)), calendar=True)
    assert [group.name for group in moving.groups] == ["numbers.share", "calendar"]
    assert "numbers.share" not in moving.base.outputs
    assert "numbers.share" not in [spec.name for spec in moving.base.inputs]


def test_without_the_calendar_no_fold_is_asked_about_it() -> None:
    given = part(0, 1000), part(1000, 200)
    moving = find_moving(*given, specify(), calendar=False)
    assert moving.groups == ()
    assert {moving.left_out[name] for name in CALENDAR} == {"--no-calendar"}
    assert not set(CALENDAR) & set(moving.base.outputs)


@pytest.mark.parametrize("names", [set(), {"created_hour"}, {"numbers.a", "numbers.a_missing"}])
def test_a_specification_keeps_the_order_of_what_is_left(names: set[str]) -> None:
    full = specify(numbers=("a", "b"))
    made: Specification = without(full, names)
    assert list(made.outputs) == [name for name in full.outputs if name not in names]
    assert ("numbers.a" in [s.name for s in made.inputs]) == ("numbers.a" not in names)
