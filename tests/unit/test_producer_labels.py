import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from leadstream.errors import SettingsError, UserError
from producer.importer import (
    ImportedRow,
    LabeledTable,
    RefusedRow,
    labeled_table,
    read_decided,
    read_rows,
)
from producer.labels import DAY_MS, OutcomeOfRow, check_balance, label_rows
from producer.mapping import LeadMapping, load_mapping

MAPPING = """
[lead]
lead_id = "id"
created_at = "created"
lead_score = "score"
[outcome]
column = "won"
true = ["1"]
false = ["0"]
"""


def written(folder: Path, lines: list[str], decided: bool = True) -> tuple[Path, Path]:
    (folder / "map.toml").write_text(MAPPING + ('decided_at = "decided"\n' if decided else ""))
    (folder / "leads.csv").write_text("\n".join(["id,created,score,won,decided", *lines]) + "\n")
    return folder / "leads.csv", folder / "map.toml"


def read_training(path: Path, mapping: LeadMapping, days: float | None = None) -> LabeledTable:
    return labeled_table(read_decided(path, mapping, horizon_days=days), days)


def row(day: float, converted: bool | None, decided: float | None) -> OutcomeOfRow:
    at = None if decided is None else round(decided * DAY_MS)
    return OutcomeOfRow(round(day * DAY_MS), converted, at)


def test_a_conversion_after_the_horizon_is_none_and_one_within_it_is() -> None:
    rows = [row(0, True, 10), row(0, True, 40), row(0, False, 5), row(0, None, None)]
    rows.append(row(90, False, 100))
    assert label_rows(rows, 30).labels == [True, False, False, False, None]
    assert label_rows(rows, None).labels == [True, True, False, None, False]


def test_rows_that_are_younger_than_the_horizon_are_left_out_and_counted() -> None:
    rows = [row(day, False, None) for day in range(100)] + [row(0, True, 100)]
    labeled = label_rows(rows, 30)
    assert labeled.young == 29
    assert labeled.labels[70] is False
    assert labeled.labels[71] is None
    assert labeled.newest == 100 * DAY_MS


def test_a_conversion_without_a_date_has_no_label_within_a_horizon() -> None:
    labeled = label_rows([row(0, True, None), row(0, False, None), row(90, False, 90)], 30)
    assert (labeled.labels, labeled.undated) == ([None, False, None], 1)


def test_a_horizon_without_a_date_of_decisions_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path, mapping = written(tmp_path, ["a,2024-01-01,1,1,2024-01-05"], decided=False)
    with pytest.raises(SettingsError, match=r"outcome\.decided_at: is missing: a horizon needs"):
        read_training(path, load_mapping(mapping), 30)


def test_a_date_of_the_future_costs_its_own_row_and_no_other(tmp_path: Path) -> None:
    now = int(datetime(2026, 11, 30, tzinfo=UTC).timestamp() * 1000)
    lines = [
        "a,2026-11-01T00:00:00,1,0,",
        "b,2203-01-01T00:00:00,1,0,",
        "c,2026-11-02T00:00:00,1,1,2203-05-01T00:00:00",
        "d,2026-11-30T12:00:00,1,0,",
    ]
    path, mapping = written(tmp_path, lines)
    results = list(read_rows(path, load_mapping(mapping), now_ms=now))
    assert [r.lead_id for r in results if isinstance(r, ImportedRow)] == ["a", "d"]
    refused = [r for r in results if isinstance(r, RefusedRow)]
    assert [(r.line, r.what) for r in refused] == [
        (3, "changed later than now: correct its date"),
        (4, "was decided later than now: correct its date"),
    ]


def test_a_label_within_the_horizon_changes_the_table(tmp_path: Path) -> None:
    lines = [
        f"l{i},2024-{1 + i // 20:02}-{1 + i % 20:02}T00:00:00,1,{i % 3 == 0:d},"
        + (f"2024-{2 + i // 20:02}-{1 + i % 20 + i % 5:02}T00:00:00" if i % 3 == 0 else "")
        for i in range(200)
    ]
    path, mapping = written(tmp_path, lines)
    every, within = (read_training(path, load_mapping(mapping), days) for days in (None, 31))
    assert every.table["converted"].sum() == 67
    assert 0 < within.table["converted"].sum() < 30
    assert len(within.table) + within.labels.young == 200


def test_rows_that_are_left_out_by_their_outcome_stop_the_training(tmp_path: Path) -> None:
    lines = [
        f"l{i},2024-01-{1 + i % 28:02}T12:00:00,1,{i % 2},"
        + ("2023-12-31T00:00:00" if i % 4 == 1 else "2024-06-01T00:00:00")
        for i in range(200)
    ]
    path, mapping = written(tmp_path, lines)
    with pytest.raises(UserError, match="50 of 100 that converted, and 0 of 100 that did not"):
        read_training(path, load_mapping(mapping))


@pytest.mark.parametrize("left_out", [(0, 0), (10, 30), (6, 17), (15, 30)])
def test_rows_that_are_left_out_alike_do_not_stop_it(left_out: tuple[int, int]) -> None:
    check_balance((1000 - left_out[0], 3000 - left_out[1]), left_out, "cannot be read")


def test_one_outcome_only_is_no_division_by_zero() -> None:
    check_balance((0, 10), (0, 3), "cannot be read")
    assert json.dumps(label_rows([], 30).labels) == "[]"
