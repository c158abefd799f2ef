"""Parquet is read as the CSV that it would make; what it has and CSV has not is refused by name."""

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from leadstream.errors import SettingsError, UserError
from producer import parquet as module
from producer.importer import ImportedRow, RefusedRow, read_rows
from producer.mapping import load_mapping

MAPPING = """
[lead]
lead_id = "id"
created_at = "created"
lead_score = "score"
[lead.categories]
what = "what"
"""
CREATED = pa.array([datetime(2025, 3, 1, 10, tzinfo=UTC)] * 3, pa.timestamp("ms", tz="UTC"))
Read = Callable[..., list[ImportedRow | RefusedRow]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def _read(mapping: str = MAPPING, **columns: Any) -> list[ImportedRow | RefusedRow]:
        (tmp_path / "m.toml").write_text(mapping, "utf-8")
        table = {
            "id": ["a", "b", "c"],
            "created": CREATED,
            "score": [1.0, 2.5, None],
            "what": ["x", None, ""],
        }
        parquet.write_table(pa.table(table | columns), tmp_path / "leads.parquet")
        return list(
            read_rows(tmp_path / "leads.parquet", load_mapping(tmp_path / "m.toml"), parquet=True)
        )

    return _read


def good(results: list[ImportedRow | RefusedRow]) -> list[ImportedRow]:
    return [result for result in results if isinstance(result, ImportedRow)]


def whats(results: list[ImportedRow | RefusedRow]) -> list[Any]:
    return [row.state["categories"].get("what") for row in good(results)]


def test_rows_are_counted_as_lines_of_a_csv_with_a_header(read: Read) -> None:
    assert [row.line for row in good(read())] == [2, 3, 4]
    assert [row.state["lead_score"] for row in good(read())] == [1.0, 2.5, None]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array([7, -7, None], pa.int8()), ["7", "-7", None]),
        (pa.array([2**64 - 1, 0, None], pa.uint64()), ["18446744073709551615", "0", None]),
        (pa.array([3.0, 0.1, float("nan")], pa.float64()), ["3", "0.1", None]),
        (pa.array([3.0, 0.1, 1e20], pa.float32()), ["3", "0.1", "1e+20"]),
        (pa.array([-0.0, float("inf"), 1e300]), ["0", "inf", "1e+300"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (
            pa.array([Decimal("1.50"), Decimal("2"), None], pa.decimal128(5, 2)),
            ["1.50", "2.00", None],
        ),
        (pa.array([date(2025, 3, 1), date(1, 1, 1), None]), ["2025-03-01", "0001-01-01", None]),
        (
            pa.array([2**31 - 1, 0, None], pa.int32()).cast(pa.date32()),
            ["outside the years 1 to 9999", "1970-01-01", None],
        ),
        (
            pa.array([1_500, 0, None], pa.timestamp("ms")),
            ["1970-01-01T00:00:01.500000", "1970-01-01T00:00:00", None],
        ),
        (
            pa.array([1_999, 0, -1], pa.timestamp("ns", tz="Europe/Berlin")),
            [
                "1970-01-01T00:00:00.000001+00:00",
                "1970-01-01T00:00:00+00:00",
                "1970-01-01T00:00:00+00:00",
            ],
        ),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([" x ", "", None], pa.large_string()), ["x", None, None]),
        (pa.nulls(3), [None, None, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_cell_is_the_text_that_a_csv_of_it_would_hold(
    read: Read, cells: pa.Array, expected: list[Any]
) -> None:
    assert whats(read(what=cells)) == expected


def test_a_time_that_no_calendar_has_costs_only_its_own_row(read: Read) -> None:
    results = read(created=pa.array([2**60, 0, None], pa.timestamp("us", tz="UTC")))
    assert [result.what for result in results if isinstance(result, RefusedRow)] == [
        "created: is not a time in the format of the mapping",
        "created: is missing",
    ]
    assert [row.lead_id for row in good(results)] == ["b"]


def test_a_time_without_a_zone_is_in_the_mappings_zone(read: Read) -> None:
    naive = pa.array([datetime(2025, 3, 1, 10)] * 3, pa.timestamp("us"))  # noqa: DTZ001
    results = read('[file]\ntime_zone = "Asia/Kolkata"\n' + MAPPING, created=naive)
    assert {row.occurred_at for row in good(results)} == {1_740_803_400_000}


def test_a_comma_for_the_decimal_sign_does_not_turn_numbers_into_ten_times_as_much(
    read: Read,
) -> None:
    results = read('[file]\ndecimal = ","\nthousands = "."\n' + MAPPING)
    assert [row.state["lead_score"] for row in good(results)] == [1.0, 2.5, None]


def test_bytes_that_are_no_text_cost_only_their_own_cell(read: Read) -> None:
    results = read(what=pa.array([b"x", b"\xff", b"y"]).view(pa.string()))
    cells = [cell for result in results for cell in getattr(result, "unreadable", ())]
    assert [(cell.field.column, cell.what) for cell in cells] == [("what", "is not utf-8")]
    assert whats(results) == ["x", None, "y"]


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        (pa.array([[1], [2], None]), "list<"),
        (pa.array([{"a": 1}] * 3), "struct<"),
        (pa.array([b"x"] * 3), "binary"),
    ],
    ids=["list", "struct", "binary"],
)
def test_a_column_that_is_no_text_is_named_with_its_type(
    read: Read, cells: pa.Array, named: str
) -> None:
    with pytest.raises(
        SettingsError,
        match=rf"m\.toml: lead\.categories\.what: leads\.parquet has 'what' as {named}",
    ):
        read(what=cells)


def test_a_column_that_the_mapping_does_not_read_may_be_anything(read: Read) -> None:
    assert len(good(read(other=pa.array([{"what": 1}] * 3)))) == 3


def test_a_missing_column_is_named_with_the_one_that_was_meant(read: Read) -> None:
    with pytest.raises(
        SettingsError, match=r"leads\.parquet has no column 'scores'; did you mean 'score'\?"
    ):
        read(MAPPING.replace('"score"', '"scores"'))


def test_batches_follow_one_another_without_a_gap(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", 2)
    assert [(row.line, row.lead_id) for row in good(read())] == [(2, "a"), (3, "b"), (4, "c")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"id,created\n", r"leads\.parquet: is not Parquet that can be read \("),
        (b"", r"leads\.parquet: is not Parquet that can be read \("),
        (b"PAR1" + b"\0" * 40 + b"\x10\0\0\0PAR1", r"leads\.parquet: "),
        (None, r"leads\.parquet: No such file or directory"),
    ],
    ids=["csv", "empty", "damaged", "absent"],
)
def test_what_is_no_parquet_is_one_sentence(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    (tmp_path / "m.toml").write_text(MAPPING)
    path = tmp_path / "leads.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as raised:
        list(read_rows(path, load_mapping(tmp_path / "m.toml"), parquet=True))
    assert "\n" not in str(raised.value)


def test_a_file_that_breaks_off_in_a_row_group_is_one_sentence(tmp_path: Path, read: Read) -> None:
    read()
    path = tmp_path / "leads.parquet"
    full = path.read_bytes()
    path.write_bytes(full[:4] + b"\xff" * 150 + full[154:])
    with pytest.raises(UserError, match=r"leads\.parquet: ") as raised:
        list(read_rows(path, load_mapping(tmp_path / "m.toml"), parquet=True))
    assert "\n" not in str(raised.value)


def test_without_the_extra_it_says_how_to_install_it(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'leadstream\[parquet\]'"):
        read()
