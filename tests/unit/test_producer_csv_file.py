"""The reader finds what a person would find in a CSV, or names the setting that says it."""

import random
from pathlib import Path

import pytest

from leadstream.errors import SettingsError, UserError
from producer.importer import ImportedRow, RefusedRow, read_rows
from producer.mapping import load_mapping
from producer.suggest import suggest

MAPPING = """
[lead]
lead_id = "id"
created_at = "created"
source = "källa"
[lead.numbers]
visits = "visits"
"""
HEADER = ["id", "created", "källa", "visits"]
ROWS = [[f"L{i}", f"2025-03-{i + 1:02}", f"Grüße {i}", str(i)] for i in range(20)]


def _read(folder: Path, content: bytes, mapping: str = MAPPING) -> list[ImportedRow | RefusedRow]:
    (folder / "m.toml").write_text(mapping, "utf-8")
    (folder / "leads.csv").write_bytes(content)
    return list(read_rows(folder / "leads.csv", load_mapping(folder / "m.toml")))


def _leads(results: list[ImportedRow | RefusedRow]) -> list[tuple[str, object, object]]:
    rows = [row for row in results if isinstance(row, ImportedRow)]
    return [(row.lead_id, row.state["source"], row.state["numbers"].get("visits")) for row in rows]


EXPECTED = [(row[0], row[2], float(row[3])) for row in ROWS]


def _line(cells: list[str], delimiter: str, quoted: bool) -> str:
    quote = '"' if quoted else ""
    return delimiter.join(f"{quote}{cell}{quote}" for cell in cells)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"], ids=["comma", "semi", "tab", "bar"])
def test_encoding_delimiter_titles_and_dirt_change_nothing(
    tmp_path: Path, encoding: str, delimiter: str
) -> None:
    random_of = random.Random(f"{encoding}{delimiter}")
    for _ in range(4):
        quoted = random_of.random() < 0.5
        trailing = random_of.choice(["", delimiter])
        end = random_of.choice(["\n", "\r\n"])
        titles = random_of.sample(["My leads", "", "Export of 2025; March, all", delimiter * 3], 2)
        first = [f"sep={delimiter}"] if random_of.random() < 0.3 else []
        blank = random_of.choice([[], [""], [delimiter * 3]])
        header = _line([*HEADER, *random_of.choice([[], ["", ""]])], delimiter, quoted)
        body = [_line(row, delimiter, quoted) + trailing for row in ROWS]
        text = end.join([*first, *titles, header, *body, *blank, ""])
        results = _read(tmp_path, text.encode(encoding))
        assert [r for r in results if isinstance(r, RefusedRow)] == []
        assert _leads(results) == EXPECTED


def test_a_quote_that_nobody_closed_costs_its_own_line_and_swallows_no_other(
    tmp_path: Path,
) -> None:
    for place in (1, 7, 18):
        for opened in range(4):
            rows = [list(row) for row in ROWS]
            rows[place][opened] = f'"{rows[place][opened]}'
            text = "\n".join([",".join(row) for row in [HEADER, *rows]])
            results = _read(tmp_path, text.encode())
            refused = [r for r in results if isinstance(r, RefusedRow)]
            assert [r.line for r in refused] == [place + 2]
            assert len(results) == len(ROWS)


def test_a_cell_with_line_breaks_is_one_record(tmp_path: Path) -> None:
    text = 'id,created,källa,visits\nL1,2025-03-01,"a\nb, ""c""",1\nL2,2025-03-01,x,2\n'
    assert _leads(_read(tmp_path, text.encode())) == [("L1", 'a\nb, "c"', 1.0), ("L2", "x", 2.0)]


def test_a_header_in_another_form_of_the_same_letters_is_found(tmp_path: Path) -> None:
    text = "\u200bid , created,ka\u0308lla,visits\u00a0\nL1,2025-03-01,x,1\n"
    assert _leads(_read(tmp_path, text.encode())) == [("L1", "x", 1.0)]


def test_a_wrong_delimiter_of_the_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"file\.delimiter: leads\.csv separates its .* ';'"):
        _read(tmp_path, b"id;created;k\xc3\xa4lla;visits\n", MAPPING + '[file]\ndelimiter = ","\n')


def test_a_header_in_another_encoding_is_named_with_the_setting(tmp_path: Path) -> None:
    text = "\n".join(",".join(row) for row in [HEADER, *ROWS]).encode("cp1252")
    with pytest.raises(UserError, match=r'set file\.encoding in m\.toml, for example "cp1252"'):
        _read(tmp_path, text)
    assert _leads(_read(tmp_path, text, MAPPING + '[file]\nencoding = "cp1252"\n')) == EXPECTED


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"PK\x03\x04rest", "is a workbook or a ZIP file; save the sheet as CSV"),
        (b"PAR1rest", "is Parquet"),
        (b"\x1f\x8b\x08rest", "is compressed by gzip"),
        (b"<html><table></table></html>", "is a web page"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        _read(tmp_path, content)


@pytest.mark.parametrize("value", ["12", "-3.5", "1,234.50", "2025-03-01", "01.03.2025 10:00"])
def test_a_file_without_a_header_is_told_to_get_one(tmp_path: Path, value: str) -> None:
    text = f'L1,"{value}",x,new\nL2,"{value}",y,old\n'
    with pytest.raises(UserError, match="its first line has values in place of names"):
        _read(tmp_path, text.encode())
    with pytest.raises(UserError, match="its first line has values in place of names"):
        suggest(tmp_path / "leads.csv")
