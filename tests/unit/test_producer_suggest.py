"""A suggested mapping loads, reads the file that it was made from, and leaves leaks out."""

import csv
import io
import json
import random
import tomllib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from leadstream.cli.main import main
from producer.importer import ImportedRow, read_rows, read_table
from producer.mapping import LeadMapping, parse_mapping
from producer.suggest import Suggestion, suggest

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROWS = 400
Row = dict[str, str]


def _moment(i: int) -> datetime:
    return datetime(2023, 1, 5, 8, 30) + timedelta(hours=31 * i)  # noqa: DTZ001


def _salesforce(i: int, won: bool, random_of: random.Random) -> Row:
    return {
        "Lead ID": f"00Q5g{i:010}AAA",
        "First Name": "Ada",
        "Email": f"a{i}@example.com",
        "Lead Source": random_of.choice(["Web", "Fair", "Partner"]),
        "Industry": random_of.choice(["Education", "Health", ""]),
        "Annual Revenue": f"${random_of.randrange(1_000, 9_000_000):,}",
        "Create Date": _moment(i).strftime("%m/%d/%Y"),
        "Converted Date": (_moment(i) + timedelta(days=9)).strftime("%m/%d/%Y") if won else "",
        "Converted": "true" if won else "false",
        "Disqualified Reason": "" if won else random_of.choice(["Budget", "Timing"]),
    }


def _hubspot(i: int, won: bool, random_of: random.Random) -> Row:
    return {
        "Record ID": str(51_000_000_000 + 7 * i),
        "Create Date": _moment(i).strftime("%Y-%m-%d %H:%M"),
        "Original Source": random_of.choice(["Organic search", "Paid social"]),
        "Number of Pageviews": str(random_of.randrange(90)),
        "Phone Number": "+49 30 123",
        "Lifecycle Stage": "Customer" if won else random_of.choice(["Lead", "Unqualified", "Lost"]),
    }


def _german(i: int, won: bool, random_of: random.Random) -> Row:
    months = "Jan. Feb. März Apr. Mai Juni Juli Aug. Sept. Okt. Nov. Dez."
    at = _moment(i)
    return {
        "Kontakt-Nr": f"K{i:05}",
        "Angelegt am": f"{at.day}. {months.split()[at.month - 1]} {at.year}",
        "Umsatz": f"{random_of.randrange(1_000, 99_999):,}".replace(",", ".") + ",50 €",
        "Anteil": f"{random_of.randrange(100)},5 %",
        "Dauer": f"{random_of.randrange(90)} min",
        "Studiengang": random_of.choice(["Maschinenbau", "Ökonomie", "k. A."]),
        "Ergebnis": "Gewonnen" if won else "Verloren" if i % 5 else "Offen",
    }


def _excel(i: int, won: bool, random_of: random.Random) -> Row:
    return {
        "No.": str(i + 1),
        "Enquiry Date": str(44_900 + i),
        "Course Fee": str(random_of.randrange(100, 900)),
        "Region": random_of.choice(["North", "South", "N/A"]),
        "Enrolled?": "Yes" if won else "",
        "": "",
    }


def _events(i: int, won: bool, random_of: random.Random) -> Row:
    lead = i // 3
    return {
        "lead_id": f"L{lead}",
        "created_at": _moment(3 * lead).isoformat() + "Z",
        "event_time": (_moment(3 * lead) + timedelta(hours=i % 3)).isoformat() + "Z",
        "visits": str(random_of.randrange(9)),
        "applied": "1" if (lead * 7919) % 3 == 0 else "0",
    }


FILES: dict[str, tuple[Callable[[int, bool, random.Random], Row], str, str, str]] = {
    "salesforce": (_salesforce, ",", "utf-8", ""),
    "hubspot": (_hubspot, ",", "utf-8-sig", ""),
    "german": (_german, ";", "cp1252", "Export vom 1.2.2025\n\n"),
    "excel": (_excel, "\t", "utf-16", ""),
    "events": (_events, "|", "utf-8", "sep=|\n"),
}


def _write(folder: Path, name: str) -> Path:
    row_of, delimiter, encoding, title = FILES[name]
    random_of = random.Random(name)
    rows = [row_of(i, random_of.random() < 0.3, random_of) for i in range(ROWS)]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = folder / f"{name}.csv"
    path.write_bytes((title + text.getvalue()).encode(encoding))
    return path


def _suggested(path: Path) -> tuple[Suggestion, LeadMapping, list[ImportedRow]]:
    suggestion = suggest(path)
    mapping = parse_mapping("suggested", tomllib.loads(suggestion.text))
    rows = list(read_rows(path, mapping))
    return suggestion, mapping, [row for row in rows if isinstance(row, ImportedRow)]


@pytest.mark.parametrize("name", FILES)
def test_a_suggested_mapping_reads_every_row_with_its_outcome(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    suggestion, mapping, rows = _suggested(path)
    assert len(rows) == ROWS
    assert sum(len(row.unreadable) for row in rows) == 0
    assert {True, False} <= {row.converted for row in rows}
    assert max(map(len, suggestion.text.splitlines())) <= 100
    table, refused = read_table(path, mapping)
    assert refused == []
    assert table["converted"].mean() == pytest.approx(0.33, abs=0.12)


def test_types_formats_and_leaks_of_well_known_exports_are_found(tmp_path: Path) -> None:
    _, mapping, rows = _suggested(_write(tmp_path, "salesforce"))
    assert (mapping.lead_id.column, mapping.fields["source"].column) == ("Lead ID", "Lead Source")
    assert set(mapping.numbers) == {"annual_revenue"}
    assert set(mapping.categories) == {"industry"}  # neither people nor the reason
    assert mapping.outcome
    assert mapping.outcome.decided_at
    assert rows[0].occurred_at == 1_672_876_800_000
    _, mapping, rows = _suggested(_write(tmp_path, "german"))
    assert mapping.fields["programme_name"].column == "Studiengang"
    assert rows[0].state["numbers"]["umsatz"] % 1 == 0.5
    assert set(mapping.numbers) == {"umsatz", "anteil", "dauer"}
    assert rows[0].occurred_at == 1_672_876_800_000
    suggestion, mapping, rows = _suggested(_write(tmp_path, "events"))
    assert mapping.occurred_at
    assert mapping.occurred_at.column == "event_time"
    assert any("event of a lead" in sentence for sentence in suggestion.unsure)
    _, mapping, rows = _suggested(_write(tmp_path, "excel"))
    assert rows[0].occurred_at == 1_670_198_400_000
    assert rows[0].state["categories"].keys() <= {"region"}


def test_what_no_column_holds_is_said(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("job,calls\n" + "clerk,1\nnurse,2\n" * 30)
    suggestion, mapping, rows = _suggested(path)
    assert rows[0].lead_id == "lead-2"
    text = " ".join(suggestion.unsure)
    for word in (
        "no column of ids",
        "no column holds the time",
        "no column looks like the outcome",
    ):
        assert word in text
    assert mapping.outcome is None


def test_what_is_wrong_with_a_column_is_said_and_other_rows_are_read(tmp_path: Path) -> None:
    """Ids that a spreadsheet rounded, two forms of times, two columns of one name, open leads."""
    path = tmp_path / "odd.csv"
    times = ("2024-01-05T10:00:00Z", "01/25/2024 10:00 AM", "2024-01-05T10:00:00.500+02:00")
    outcomes = ("won", "lost", "Open", "Waiting")
    lines = [
        f"1.00{i:03}E+11,{times[i % 3]},a{i % 2},b{i % 2},{outcomes[i % 4]}" for i in range(120)
    ]
    path.write_text("\n".join(["Lead Id,Created,Source,Source,Outcome", *lines]) + "\n")
    suggestion, mapping, rows = _suggested(path)
    assert (len(rows), mapping.numbers, mapping.fields.get("source")) == (120, {}, None)
    text = " ".join(suggestion.unsure)
    assert "have no name" not in text
    assert "'Lead Id' cannot be the id: a value lost digits, as a spreadsheet rounds them" in text
    assert "the same name, and are left out: 'Source'" in text
    assert "'Outcome' is 'Open' or 'Waiting' count as not decided" in text


def test_a_column_without_a_name_is_named_by_its_place_if_it_has_values(tmp_path: Path) -> None:
    path = tmp_path / "blank.csv"
    lines = [f"l{i},2024-01-{i % 28 + 1:02},web,{i % 3},," for i in range(120)]
    path.write_text("\n".join(["Lead Id,Created,,Calls,,", *lines]) + "\n")
    suggestion, _, rows = _suggested(path)
    assert len(rows) == 120
    assert "columns with values have no name in the header, and are left out: 3 (" in " ".join(
        suggestion.unsure
    )


@pytest.mark.parametrize(
    ("header", "cell"),
    [
        ('a"b', 'x"y'),
        ("a\\b", "\\"),
        ("\u20ac", "\U0001f600"),
        ("tab\there", "a\tb"),
        ("new\nline", "a\nb"),
        ("\x7f\x01", "\x01"),
    ],
)
def test_a_suggestion_is_toml_whatever_the_names_are(
    tmp_path: Path, header: str, cell: str
) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["id", header, "won"]])
    csv.writer(text).writerows([f"L{i}", f"{cell}{i % 3}", i % 2] for i in range(40))
    path = tmp_path / 'a\n"b.csv'
    path.write_text(text.getvalue())
    _, _, rows = _suggested(path)
    assert len(rows) == 40


def test_the_verb_writes_a_new_file_only_and_prints_json_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = _write(tmp_path, "hubspot"), tmp_path / "m.toml"
    assert main(["mapping", "suggest", str(path), "--output", str(output)]) == 0
    assert "It reads 400 of 400 rows." in capsys.readouterr().err
    assert main(["mapping", "suggest", str(path), "--output", str(output)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert main(["mapping", "suggest", str(path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["mapping"] == output.read_text("utf-8")
    assert printed["file"]["rows"] == 400
    assert main(["mapping", "suggest", str(tmp_path / "none.csv")]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the files of ../shared/data")
@pytest.mark.parametrize(
    ("name", "outcome", "left_out"),
    [
        ("xeducation_leads", "Converted", {"Tags", "Lead Quality", "Last Notable Activity"}),
        ("bank_additional_full", "y", {"duration"}),
    ],
)
def test_the_real_files_are_read_without_their_leaks(
    name: str, outcome: str, left_out: set[str]
) -> None:
    path = SHARED / f"{name}.csv"
    suggestion = suggest(path)
    mapping = parse_mapping("suggested", tomllib.loads(suggestion.text))
    assert mapping.outcome
    assert mapping.outcome.column == outcome
    assert not left_out & set(mapping.columns())
    assert len(mapping.numbers) >= 3
    table, refused = read_table(path, mapping)
    assert refused == []
    assert len(table) > 9_000
