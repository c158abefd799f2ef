"""What must hold for every export: no row disappears unreported, and shares share out."""

import csv
from datetime import UTC
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from pyarrow import parquet

from producer.importer import (
    ImportedRow,
    RefusedRow,
    lead_change_of_row,
    read_rows,
    read_table,
    select,
)
from producer.mapping import load_mapping
from schemas.codec import Reader, Writer
from tests.examples import examples

MAPPING = """
[lead]
lead_id = "id"
created_at = "created"
lead_score = "score"
status = "status"
[lead.categories]
where = "where"
"""
WRITER, READER = Writer("LeadChanged"), Reader("LeadChanged")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
CELLS = st.tuples(
    TEXT,
    st.one_of(TEXT, st.datetimes().map(str)),
    st.one_of(TEXT, st.floats().map(str)),
    TEXT,
    TEXT,
)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(CELLS, max_size=15))
def test_every_row_is_read_or_refused_and_what_is_read_can_be_written(
    table: list[tuple[str, ...]],
) -> None:
    with TemporaryDirectory() as folder:
        path, mapping = Path(folder) / "leads.csv", Path(folder) / "m.toml"
        mapping.write_text(MAPPING)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
                [("id", "created", "score", "status", "where"), *table]
            )
        results = list(read_rows(path, load_mapping(mapping)))
    # Spreadsheets write empty rows below the last one.
    table = [row for row in table if any(cell.strip() for cell in row)]
    assert len(results) == len(table)
    for result, cells in zip(results, table, strict=True):
        if isinstance(result, ImportedRow):
            event = lead_change_of_row(result)
            assert event["lead_id"] == cells[0].strip()
            assert READER.decode(WRITER.encode(event)) == event
        else:
            assert isinstance(result, RefusedRow)


@given(st.integers(0, 300), st.floats(0, 1))
def test_the_oldest_and_the_newest_share_take_every_row_once(size: int, share: float) -> None:
    rows = [ImportedRow(line, str(line), line % 7, 0, {}, None, 0) for line in range(size)]
    older, newer = select(rows, oldest=share), select(rows, newest=1 - share)
    assert [row.line for row in older + newer] == [row.line for row in select(rows)]


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12)
TYPED = st.fixed_dictionaries(
    {
        "id": st.one_of(WORDS, st.integers(0, 30).map(str)),
        "created": st.one_of(st.none(), st.datetimes(timezones=st.just(UTC))),
        "score": st.one_of(st.none(), st.floats(allow_nan=False)),
        "status": st.one_of(st.none(), WORDS),
        "where": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "won": st.one_of(st.none(), st.booleans()),
    }
).filter(lambda row: any(str(value).strip() for value in row.values() if value is not None))
TYPES = pa.schema(
    [
        ("id", pa.string()),
        ("created", pa.timestamp("us", tz="UTC")),
        ("score", pa.float64()),
        ("status", pa.string()),
        ("where", pa.int64()),
        ("won", pa.bool_()),
    ]
)
OUTCOME = '[outcome]\ncolumn = "won"\ntrue = ["true"]\nfalse = ["false"]\n'


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(TYPED, max_size=15))
def test_the_same_leads_as_parquet_and_as_csv_are_the_same_table_and_the_same_events(
    rows: list[dict[str, Any]],
) -> None:
    with TemporaryDirectory() as folder:
        path, mapping = Path(folder) / "m.toml", Path(folder) / "leads"
        path.write_text(MAPPING + OUTCOME)
        parquet.write_table(pa.Table.from_pylist(rows, TYPES), mapping.with_suffix(".parquet"))
        with mapping.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(TYPES.names)
            writer.writerows([_text(row[name]) for name in TYPES.names] for row in rows)
        own = load_mapping(path)
        read = [
            list(read_rows(mapping.with_suffix(suffix), own, parquet=suffix == ".parquet"))
            for suffix in (".csv", ".parquet")
        ]
        assert read[0] == read[1]
        tables = [
            read_table(mapping.with_suffix(suffix), own, parquet=suffix == ".parquet")
            for suffix in (".csv", ".parquet")
        ]
    assert_frame_equal(tables[0][0], tables[1][0])
    assert tables[0][1] == tables[1][1]
    events = [
        [lead_change_of_row(row) for row in rows if isinstance(row, ImportedRow)] for rows in read
    ]
    assert events[0] == events[1]


def _text(value: Any) -> str:
    """As a CSV writer of data frames would: Python's own words, but for booleans."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
