"""What must hold for every export: no row disappears unreported, and shares share out."""

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from producer.importer import Problem, Row, event_of, read_rows, select
from producer.mapping import load_mapping
from schemas.codec import Reader, Writer

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
CELLS = st.tuples(TEXT, st.one_of(TEXT, st.datetimes().map(str)), st.one_of(TEXT, st.floats().map(str)), TEXT, TEXT)


@settings(max_examples=60, deadline=None)
@given(st.lists(CELLS, max_size=15))
def test_every_row_is_read_or_refused_and_what_is_read_can_be_written(table: list[tuple[str, ...]]) -> None:
    with TemporaryDirectory() as folder:
        path, mapping = Path(folder) / "leads.csv", Path(folder) / "m.toml"
        mapping.write_text(MAPPING)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("id", "created", "score", "status", "where"), *table])
        results = list(read_rows(path, load_mapping(mapping)))
    assert len(results) == len(table)
    for result, cells in zip(results, table, strict=True):
        if isinstance(result, Row):
            event = event_of(result)
            assert event["lead_id"] == cells[0].strip()
            assert READER.decode(WRITER.encode(event)) == event
        else:
            assert isinstance(result, Problem)


@given(st.integers(0, 300), st.floats(0, 1))
def test_the_oldest_and_the_newest_share_take_every_row_once(size: int, share: float) -> None:
    rows = [Row(line, str(line), line % 7, 0, {}, None, 0) for line in range(size)]
    older, newer = select(rows, oldest=share), select(rows, newest=1 - share)
    assert [row.line for row in older + newer] == [row.line for row in select(rows)]
