from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.proof import BANK, XEDUCATION, bank_table
from features import specify
from leadstream.errors import UserError
from models.train import leaks
from models.train.table import check_table
from models.train.training import TrainOptions, train
from producer.importer import read_table
from producer.mapping import load_mapping
from producer.simulator import SimulatedCrm
from producer.table import training_frame
from tests.trained_models import START_MS

pytestmark = pytest.mark.slow

DAY = 86_400_000
MAPPING = Path("producer/mappings/xeducation.toml")


def simulated(
    leads: int = 2500, seed: int = 5, horizon_days: int = 30
) -> tuple[pd.DataFrame, SimulatedCrm]:
    crm = SimulatedCrm(seed, start=START_MS, leads=leads, horizon_days=horizon_days)
    changes = [change for change in crm.changes() if change.truth and not change.truth.applied]
    table = training_frame(
        [change.lead_id for change in changes],
        [(change.record or {})["occurred_at"] for change in changes],
        [change.state or {} for change in changes],
        [bool(change.truth and change.truth.converts) for change in changes],
    )
    return check_table(table, 1, 1), crm


def as_the_audited_query(table: pd.DataFrame, crm: SimulatedCrm) -> pd.DataFrame:
    """Source, programme and campus from the application, 'unknown' where there is none, as the
    audited query did it.
    """
    first = {application.lead_id: application for application in reversed(crm.applications())}
    rows = [
        first.get(lead) if converted else None
        for lead, converted in zip(table.lead_id, table.converted, strict=True)
    ]
    return table.assign(
        **{
            name: [getattr(row, name) if row else "unknown" for row in rows]
            for name in ("source", "programme_name", "campus_name")
        }
    )


def made(rows: int = 2000, **own: Any) -> pd.DataFrame:
    """Leads of one row each with a mildly useful score; `own` are further columns."""
    rng = np.random.default_rng(0)
    score = rng.normal(50, 10, rows)
    as_of = START_MS + np.arange(rows) * DAY // 10
    fields = {
        "lead_id": [f"lead-{i:05}" for i in range(rows)],
        "as_of": as_of,
        "created_at": as_of,
        "lead_score": score,
    }
    converted = rng.random(rows) < 1 / (1 + np.exp(1.5 - (score - 50) / 15))
    return pd.DataFrame({**fields, "converted": converted, **own})


def test_the_three_leaking_columns_of_the_audited_query_are_caught_by_their_values() -> None:
    table, crm = simulated()
    found = leaks.audit(
        as_the_audited_query(table, crm), specify(), {"source": "application_source"}
    ).found
    assert set(found) == {"source", "programme_name", "campus_name"}
    assert set(leaks.audit(as_the_audited_query(table, crm), specify()).found) == set(found)


def test_a_leak_stops_training_in_one_sentence_with_its_name_and_the_way_out() -> None:
    table, crm = simulated()
    with pytest.raises(
        UserError, match=r"refused, because .* leak into source \(.*--allow-leak campus_name"
    ) as refused:
        train(as_the_audited_query(table, crm), TrainOptions())
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_what_was_known_at_the_enquiry_is_no_leak(seed: int) -> None:
    assert leaks.audit(simulated(seed=seed)[0], specify()).found == {}


def test_a_weak_input_that_was_weaker_earlier_by_chance_is_no_leak() -> None:
    table = simulated(leads=3000, seed=35, horizon_days=60)[0]  # of 59 seeds the one that shows it
    known = table[table.as_of <= START_MS + (365 - 60) * DAY].reset_index(drop=True)
    assert leaks.audit(known, specify()).found == {}


NAMES = ["application_source", "Applied On", "applicant type", "applicationSource", "has-applied"]


@pytest.mark.parametrize("column", NAMES)
def test_a_name_that_sounds_like_the_outcome_warns_and_refuses_nothing(column: str) -> None:
    audited = leaks.audit(made(source="web"), specify(), {"source": column})
    assert audited.found == {}
    assert "sounds like the outcome" in audited.warnings["source"]


@pytest.mark.parametrize("column", NAMES)
def test_a_name_that_sounds_like_the_outcome_lowers_what_its_values_must_show(column: str) -> None:
    table = made()
    rng = np.random.default_rng(4)
    sent = table.converted & (rng.random(len(table)) < 0.3) | (rng.random(len(table)) < 0.01)
    table["source"] = np.where(sent, "form", "web")
    assert leaks.audit(table, specify()).found == {}
    assert set(leaks.audit(table, specify(), {"source": column}).found) == {"source"}


@pytest.mark.parametrize("column", ["mobile app", "appliances bought", "source", "misapplied"])
def test_a_column_that_only_sounds_like_an_application_is_none(column: str) -> None:
    audited = leaks.audit(made(source="web"), specify(), {"source": column})
    assert (audited.found, audited.warnings) == ({}, {})


@pytest.mark.parametrize("rate", [0.6, 0.85, 0.95])
def test_a_good_source_is_no_leak_where_most_leads_convert(rate: float) -> None:
    rng = np.random.default_rng(6)
    table = made(3000)
    referred = rng.random(3000) < 0.2
    good = rate + 0.8 * (1 - rate)
    table["source"] = np.where(referred, "referral", "web")
    table["converted"] = rng.random(3000) < np.where(referred, good, rate)
    assert leaks.audit(table, specify()).found == {}


def test_a_moderate_field_next_to_noise_is_no_leak() -> None:
    """A weak file: one field tells something, and the others nothing."""
    rng = np.random.default_rng(7)
    table = made(3000, engagement_score=rng.uniform(0, 100, 3000))
    score = rng.normal(50, 10, 3000)
    cold = rng.random(3000) < 0.1
    table["lead_score"] = np.where(cold, 0.0, score)
    chance = np.where(cold, 0.004, 0.1 + 0.002 * (score - 50))
    table["converted"] = rng.random(3000) < chance
    assert leaks.audit(table, specify()).found == {}


def test_a_reason_that_only_lost_leads_have_is_caught() -> None:
    rng = np.random.default_rng(8)
    table = made(3000)
    reasons = rng.choice(["budget", "no contact", "competitor"], 3000)
    given = ~table.converted & (rng.random(3000) < 0.4)
    for empty in (None, "n/a"):
        table["status"] = [r if g else empty for r, g in zip(reasons, given, strict=True)]
        assert set(leaks.audit(table, specify(), {"status": "DisqualifiedReason"}).found) == {
            "status"
        }
        assert set(leaks.audit(table, specify()).found) == {"status"}, empty


def test_a_status_of_the_reservation_is_caught_even_where_half_of_it_is_missing() -> None:
    rng = np.random.default_rng(9)
    table = made(3000)
    state = np.where(table.converted, "Check-Out", rng.choice(["Canceled", "No-Show"], 3000))
    table["status"] = [s if k else None for s, k in zip(state, rng.random(3000) < 0.5, strict=True)]
    assert set(leaks.audit(table, specify()).found) == {"status"}


def test_a_number_that_is_missing_exactly_where_nothing_was_sold_is_caught() -> None:
    table = made()
    table["engagement_score"] = np.where(table.converted, 50.0, np.nan)
    assert set(leaks.audit(table, specify()).found) == {"engagement_score"}


def test_a_field_that_only_some_of_the_converted_have_is_caught_by_its_certainty() -> None:
    table = made()
    known = table.converted & (np.arange(len(table)) % 2 == 0)
    table["status"] = ["contract sent" if one else None for one in known]
    assert (
        "leads with the value 'contract sent' convert"
        in leaks.audit(table, specify()).found["status"]
    )


def test_a_number_that_ranks_nearly_perfectly_is_caught() -> None:
    table = made()
    table["engagement_score"] = np.where(table.converted, 60.0, 40.0) + np.random.default_rng(
        1
    ).normal(0, 6, len(table))
    assert (
        "alone it reaches a ROC-AUC of 0.9"
        in leaks.audit(table, specify()).found["engagement_score"]
    )


def test_one_category_that_nearly_always_converts_is_a_good_source_not_a_leak() -> None:
    table = made()
    rng = np.random.default_rng(2)
    referred = (rng.random(len(table)) < 0.05).astype(bool)
    table["source"] = np.where(referred, "referral", "web")
    table["converted"] = np.where(referred, rng.random(len(table)) < 0.93, table.converted)
    assert leaks.audit(table, specify()).found == {}


def test_a_field_whose_power_is_gone_one_step_earlier_is_caught_and_a_lasting_one_is_not() -> None:
    newest = made(1500)
    rng = np.random.default_rng(3)
    newest["status"] = np.where(
        rng.random(1500) < np.where(newest.converted, 0.7, 0.2), "visited", "called"
    )
    before = newest.assign(as_of=newest.as_of - DAY, status=rng.choice(["visited", "called"], 1500))
    table = check_table(pd.concat([before, newest]).assign(created_at=START_MS - DAY), 1, 1)
    found = leaks.audit(table, specify()).found
    assert set(found) == {"status"}
    assert "if read one step earlier" in found["status"]


def test_a_leak_that_is_allowed_by_name_stays_in_the_manifest() -> None:
    table = made()
    table["engagement_score"] = np.where(table.converted, 60.0, 40.0)
    manifest = train(table, TrainOptions(allow_leaks=("engagement_score",))).manifest
    assert manifest["leaks"]["allowed"] == ["engagement_score"]
    assert "one value alone" in manifest["leaks"]["found"]["engagement_score"] or "ROC-AUC" in str(
        manifest["leaks"]
    )


def test_allowing_one_leak_does_not_allow_another_nor_a_misspelt_one() -> None:
    with pytest.raises(UserError, match="into status"):
        leaks.refuse({"source": "a", "status": "b"}, ["source"], specify())
    with pytest.raises(UserError, match="--allow-leak sourc: there is no such feature"):
        leaks.refuse({}, ["sourc"], specify())


def test_leads_of_one_outcome_only_are_no_division_by_zero() -> None:
    assert leaks.audit(made().assign(converted=False), specify()).found == {}


@pytest.mark.data
@pytest.mark.parametrize("oldest", [None, 0.8])
def test_what_staff_wrote_late_about_real_leads_is_caught_and_the_rest_is_not(
    oldest: float | None, tmp_path: Path
) -> None:
    if not XEDUCATION.exists():
        pytest.skip(f"{XEDUCATION} is not here")
    late = 'tags = "Tags"\nlead_quality = "Lead Quality"\n'
    (tmp_path / "late.toml").write_text(
        MAPPING.read_text().replace("[lead.categories]\n", f"[lead.categories]\n{late}")
    )
    for path, caught in (
        (MAPPING, set()),
        (tmp_path / "late.toml", {"categories.tags", "categories.lead_quality"}),
    ):
        mapping = load_mapping(path)
        table, _ = read_table(XEDUCATION, mapping, oldest=oldest)
        own = specify(numbers=tuple(mapping.numbers), categories=tuple(mapping.categories))
        assert set(leaks.audit(check_table(table, 1, 1), own).found) == caught


@pytest.mark.data
def test_the_length_of_a_call_is_known_only_after_it_and_is_caught() -> None:
    if not BANK.exists():
        pytest.skip(f"{BANK} is not here")
    table, numbers, categories = bank_table(BANK)
    given = specify(numbers=numbers, categories=categories)
    found = leaks.audit(check_table(table, 1, 1), given).found
    assert set(found) == {"numbers.duration"}
    clean = specify(
        numbers=tuple(name for name in numbers if name != "duration"), categories=categories
    )
    assert leaks.audit(check_table(table, 1, 1), clean).found == {}
