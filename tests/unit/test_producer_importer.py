"""Importing a CRM export: bad rows are named by line and stop nothing; wrong mappings are one
sentence.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leadstream.cli import import_
from leadstream.errors import SettingsError, UserError
from producer.importer import (
    ImportedRow,
    RefusedRow,
    lead_change_of_row,
    lead_outcome_of_row,
    read_rows,
    read_table,
    select,
)
from producer.mapping import load_mapping, parse_mapping
from schemas.codec import Reader, Writer

DATA = Path(__file__).parents[3] / "shared" / "data" / "xeducation_leads.csv"
MAPPINGS = Path(__file__).parents[2] / "producer" / "mappings"
BASIC = """
[lead]
lead_id = "id"
created_at = "created"
lead_score = "score"
status = "status"
touchpoint_count = "touches"
"""
OUTCOME = """
[outcome]
column = "won"
true = ["yes"]
false = ["no"]
"""

Read = Callable[..., list[ImportedRow | RefusedRow]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def _read(csv: str | bytes, mapping: str = BASIC) -> list[ImportedRow | RefusedRow]:
        (tmp_path / "m.toml").write_text(mapping, "utf-8")
        (tmp_path / "leads.csv").write_bytes(csv.encode() if isinstance(csv, str) else csv)
        return list(read_rows(tmp_path / "leads.csv", load_mapping(tmp_path / "m.toml")))

    return _read


def _good(results: list[ImportedRow | RefusedRow]) -> ImportedRow:
    (result,) = results
    assert isinstance(result, ImportedRow)
    return result


def test_a_good_row_becomes_a_change_that_can_be_written(read: Read) -> None:
    row = _good(read("id,created,score,status,touches\n L1 ,2025-03-01T10:00:00Z,1.5,,3\n"))
    event = lead_change_of_row(row)
    assert Reader("LeadChanged").decode(Writer("LeadChanged").encode(event)) == event
    assert event["lead_id"] == "L1"
    assert event["change_type"] == "CREATED"
    assert event["occurred_at"] == event["lead"]["created_at"] == 1_740_823_200_000
    assert event["lead"]["touchpoint_count"] == 3
    assert event["lead"]["status"] is None


def test_the_same_row_imported_again_is_the_same_event(read: Read) -> None:
    csv = "id,created,score,status,touches\nL1,2025-03-01,1,new,3\n"
    assert lead_change_of_row(_good(read(csv))) == lead_change_of_row(_good(read(csv)))
    other = csv.replace("03-01", "03-02")
    assert (
        lead_change_of_row(_good(read(csv)))["event_id"]
        != lead_change_of_row(_good(read(other)))["event_id"]
    )


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (",2025-03-01,1,new,3", "id: is missing"),
        ("L" * 257 + ",2025-03-01,1,new,3", "id: is longer than 256 characters"),
        ("ada@example.com,2025-03-01,1,new,3", "id: is an e-mail address, which is never read"),
        ("L1,,1,new,3", "created: is missing"),
        ("L1,last week,1,new,3", "created: is not a time in the format of the mapping"),
        ("L1,1969-12-31,1,new,3", "created: is outside the years 1970 to 9999"),
        ("L1", "created: the row ends before it"),
        ("L1,2025-03-01,1,new,3,4", "has 6 fields, the header has 5"),
        ("L0,2025-03-01,1,new,3", "tells of the same lead at the same moment as line 2"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_stops_nothing(read: Read, row: str, what: str) -> None:
    csv = f"id,created,score,status,touches\nL0,2025-03-01,1,new,3\n{row}\nL2,2025-03-01,1,new,3\n"
    first, problem, last = read(csv)
    assert isinstance(problem, RefusedRow)
    assert (problem.line, problem.what) == (3, what)
    assert isinstance(first, ImportedRow)
    assert isinstance(last, ImportedRow)


@pytest.mark.parametrize(
    ("row", "column", "what"),
    [
        ("L1,2025-03-01,much,new,3", "score", "is not a number"),
        ("L1,2025-03-01,nan,new,3", "score", "is not a number"),
        ("L1,2025-03-01,1e999,new,3", "score", "is too large a number"),
        ("L1,2025-03-01,1,new,2.5", "touches", "is not a whole number in range"),
        ("L1,2025-03-01,1,new,3000000000", "touches", "is not a whole number in range"),
        ("L1,2025-03-01,1,a@b.example,3", "status", "is an e-mail address, which is never read"),
        ("L1,2025-03-01,1,new", "touches", "ends before the column"),
    ],
)
def test_an_optional_cell_that_cannot_be_read_is_missing_and_named(
    read: Read, row: str, column: str, what: str
) -> None:
    [result] = read(f"id,created,score,status,touches\n{row}\n")
    assert isinstance(result, ImportedRow)
    assert [(cell.field.column, cell.what) for cell in result.unreadable] == [(column, what)]
    assert result.state[result.unreadable[0].field.key.removeprefix("lead.")] is None


def test_lines_are_counted_across_quoted_line_breaks_and_blank_lines(read: Read) -> None:
    csv = 'id,created,score,status,touches\nL1,2025-03-01,1,"a\nb",3\n\nL2,x,1,new,3\n'
    assert [result.line for result in read(csv) if isinstance(result, RefusedRow)] == [5]


def test_bytes_that_are_no_text_cost_only_their_own_cell(read: Read) -> None:
    csv = (
        b"id,created,score,status,touches\nL1,2025-03-01,1,\xff\xfe,3\nL2,2025-03-01,1,\xc3\xa9,3\n"
    )
    bad, good = read(csv)
    assert isinstance(bad, ImportedRow)
    assert [cell.what for cell in bad.unreadable] == ["is not utf-8"]
    assert isinstance(good, ImportedRow)
    assert good.state["status"] == "é"


def test_a_field_that_is_too_long_for_csv_refuses_only_its_own_row(read: Read) -> None:
    csv = (
        f"id,created,score,status,touches\nL1,2025-03-01,1,{'x' * 200_000},3\n"
        "L2,2025-03-01,1,new,3\n"
    )
    bad, good = read(csv)
    assert isinstance(bad, RefusedRow)
    assert bad.line == 2
    assert isinstance(good, ImportedRow)


def test_the_signature_that_excel_writes_is_no_part_of_the_first_column(read: Read) -> None:
    assert (
        _good(read(b"\xef\xbb\xbfid,created,score,status,touches\nL1,2025-03-01,1,new,3\n")).lead_id
        == "L1"
    )


def test_a_german_export_is_read_as_it_is_meant(read: Read) -> None:
    mapping = BASIC.replace('"created"', '{ column = "created", format = "%d.%m.%Y %H:%M" }') + (
        '[file]\ndelimiter = ";"\nencoding = "cp1252"\ndecimal = ","\n'
        'thousands = "."\ntime_zone = "Europe/Berlin"\n'
    )
    csv = "id;created;score;status;touches\nL1;01.07.2025 12:00;1.234,5;Prüfung;3\n".encode(
        "cp1252"
    )
    row = _good(read(csv, mapping))
    assert row.state["lead_score"] == 1234.5
    assert row.state["status"] == "Prüfung"
    assert row.occurred_at == 1_751_364_000_000  # 10:00 UTC


@pytest.mark.parametrize(
    ("spec", "text", "expected"),
    [
        ('{ column = "created", format = "epoch_ms" }', "1740823200000", 1_740_823_200_000),
        ('{ column = "created", format = "epoch_s" }', "1740823200.5", 1_740_823_200_500),
        (
            '{ column = "created", format = "%m/%d/%Y", time_zone = "America/New_York" }',
            "03/01/2025",
            1_740_805_200_000,
        ),
        ('{ column = "created", base = "2025-01-01", step_ms = 1000 }', "60", 1_735_689_660_000),
        ('{ base = "2025-01-01", step_ms = 60000 }', "ignored", 1_735_689_720_000),  # line 2
        ('{ constant = "2025-03-01T10:00:00+00:00" }', "ignored", 1_740_823_200_000),
        ('"created"', "2025-03-01T11:00:00+01:00", 1_740_823_200_000),
    ],
)
def test_times_are_read_in_every_form(read: Read, spec: str, text: str, expected: int) -> None:
    csv = f"id,created,score,status,touches\nL1,{text},1,new,3\n"
    assert _good(read(csv, BASIC.replace('"created"', spec))).state["created_at"] == expected


def test_values_are_recoded_scaled_or_counted_as_missing(read: Read) -> None:
    mapping = BASIC.replace(
        '"status"', '{ column = "status", values = { "2" = "hot" }, missing = ["Select"] }'
    )
    mapping = mapping.replace('"score"', '{ column = "score", scale = 0.1 }')
    mapping += '[lead.categories]\nwhere = { constant = "fair" }\n[lead.numbers]\nraw = "score"\n'
    one, other = read(
        "id,created,score,status,touches\nL1,2025-03-01,5,2,\nL2,2025-03-01,,Select,\n", mapping
    )
    assert isinstance(one, ImportedRow)
    assert isinstance(other, ImportedRow)
    assert one.state["lead_score"] == 0.5
    assert one.state["status"] == "hot"
    assert one.state["numbers"] == {"raw": 5.0}
    assert one.state["categories"] == {"where": "fair"}
    assert other.state["status"] is None
    assert other.state["numbers"] == {}


def test_only_the_chosen_rows_are_read(read: Read) -> None:
    mapping = BASIC + '[rows]\nonly = { status = ["new", "old"] }\n'
    csv = (
        "id,created,score,status,touches\nL1,2025-03-01,1,new,3\n"
        "L2,bad,1,gone,3\nL3,2025-03-01,1,old,3\n"
    )
    assert [result.lead_id for result in read(csv, mapping) if isinstance(result, ImportedRow)] == [
        "L1",
        "L3",
    ]
    assert len(read(csv, mapping)) == 2


def test_an_export_brings_no_lead_back_that_the_crm_has_soft_deleted(read: Read) -> None:
    rows = {"L1": "f", "L2": "2026-01-01 10:00:00", "L3": "", "L4": "t", "L5": "NULL"}
    csv = "id,created,score,status,touches,deleted_at\n" + "".join(
        f"{name},2025-03-01,1,new,3,{mark}\n" for name, mark in rows.items()
    )
    for mark, there in (
        ('"deleted_at"', ["L1", "L3"]),
        ('{ column = "deleted_at", values = ["t"] }', ["L1", "L2", "L3", "L5"]),
        ('"gone"', list(rows)),  # an export need not have the column
    ):
        mapping = f'[database]\ntable = "people"\ndeleted = {mark}\n{BASIC}'
        found = [row.lead_id for row in read(csv, mapping) if isinstance(row, ImportedRow)]
        assert found == there, mark


def test_a_lead_created_after_it_changed_is_refused(read: Read) -> None:
    mapping = BASIC + 'occurred_at = "changed"\n'
    csv = "id,created,changed,score,status,touches\nL1,2025-03-02,2025-03-01,1,new,3\n"
    assert read(csv, mapping) == [RefusedRow(2, "was created after it changed")]


def test_an_outcome_is_yes_or_no_or_unknown_and_nothing_else(read: Read) -> None:
    csv = "id,created,score,status,touches,won\n" + "".join(
        f"L{i},2025-03-01,1,new,3,{won}\n" for i, won in enumerate(["yes", "no", "", "maybe"])
    )
    *rows, problem = read(csv, BASIC + OUTCOME)
    assert [row.converted for row in rows if isinstance(row, ImportedRow)] == [True, False, None]
    assert [bool(lead_outcome_of_row(row)) for row in rows if isinstance(row, ImportedRow)] == [
        True,
        True,
        False,
    ]
    assert problem == RefusedRow(
        5, "won: is listed neither as true nor as false in the mapping", "won"
    )


def test_a_state_from_after_the_decision_is_refused_as_a_leak(read: Read) -> None:
    mapping = BASIC + 'occurred_at = "changed"\n' + OUTCOME + 'decided_at = "decided"\n'
    csv = (
        "id,created,changed,score,status,touches,won,decided\n"
        "L1,2025-03-01,2025-03-05,1,new,3,yes,2025-03-04\n"
        "L2,2025-03-01,2025-03-05,1,new,3,yes,2025-03-06\n"
    )
    bad, good = read(csv, mapping)
    assert bad == RefusedRow(2, "was decided before it changed, so its fields may tell the outcome")
    assert isinstance(good, ImportedRow)
    assert lead_outcome_of_row(good) == {
        "lead_id": "L2",
        "converted": True,
        "decided_at": 1_741_305_599_999,  # the end of that day
    }


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ("[lead]\n", "lead.lead_id: is missing"),
        ('[lead]\nlead_id = "id"\n', "lead.created_at: is missing"),
        (BASIC + "emial = 1\n", "lead.emial: is not known here"),
        (BASIC + "[leads]\n", "leads: is not known here"),
        (BASIC + "source = 3\n", "lead.source: must be the name of a column or a table"),
        (BASIC + "source = {}\n", "lead.source: needs a column, a constant or a base"),
        (
            BASIC + 'source = { column = "a", constant = "b" }\n',
            "lead.source: takes a column or a constant",
        ),
        (BASIC + 'source = { column = "a", typ = "b" }\n', "lead.source.typ: is not known here"),
        (
            BASIC + 'source = { column = "a", format = "iso" }\n',
            "lead.source.format: is for times only",
        ),
        (
            BASIC + 'source = { column = "a", scale = 2 }\n',
            "lead.source.scale: is for numbers only",
        ),
        (
            BASIC + 'engagement_score = { column = "a", scale = "x" }\n',
            "lead.engagement_score.scale: must be a number",
        ),
        (
            BASIC + 'occurred_at = { column = "a", base = "noon" }\n',
            "lead.occurred_at.base: is not an ISO 8601 time",
        ),
        (
            BASIC + 'occurred_at = { column = "a", step_ms = 1 }\n',
            "lead.occurred_at.step_ms: needs a base",
        ),
        (
            BASIC + 'occurred_at = { column = "a", time_zone = "Mars" }\n',
            "lead.occurred_at.time_zone: 'Mars' is not",
        ),
        (BASIC + '[file]\ndelimiter = "||"\n', "file.delimiter: must be one character"),
        (BASIC + '[file]\nmissing = "x"\n', "file.missing: must be a list of texts"),
        (BASIC + '[outcome]\ntrue = ["1"]\nfalse = ["0"]\n', "outcome.column: is missing"),
        (
            BASIC + '[outcome]\ncolumn = "w"\ntrue = ["1"]\nfalse = ["1"]\n',
            "outcome.true: true and false",
        ),
        (
            BASIC + 'source = "E-Mail"\n',
            "lead.source: the column 'E-Mail' looks like personal data",
        ),
        (
            BASIC + '[lead.categories]\nwho = "First Name"\n',
            "lead.categories.who: the column 'First Name' looks like",
        ),
        (
            BASIC + '[lead.numbers]\ncall = "phone_number_2"\n',
            "lead.numbers.call: the column 'phone_number_2' looks",
        ),
        (BASIC + 'source = "campaign"\n', "lead.source: leads.csv has no column 'campaign'"),
        (
            BASIC + 'source = "Status"\n',
            "lead.source: leads.csv has no column 'Status'; did you mean 'status'?",
        ),
        (BASIC + 'source = "twice"\n', "lead.source: leads.csv has more than one column 'twice'"),
        (BASIC + '[file]\nencoding = "klingon"\n', "file.encoding: 'klingon' is not known"),
        ("= broken", "not TOML"),
    ],
)
def test_a_wrong_mapping_is_one_sentence_that_names_the_key(
    read: Read, mapping: str, sentence: str
) -> None:
    with pytest.raises(SettingsError) as error:
        read("id,created,score,status,touches,twice,twice\nL1,2025-03-01,1,new,3,,\n", mapping)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(BASIC)
    with pytest.raises(UserError, match=r"leads\.csv: No such file"):
        list(read_rows(tmp_path / "leads.csv", load_mapping(tmp_path / "m.toml")))
    with pytest.raises(SettingsError, match=r"none\.toml: No such file"):
        load_mapping(tmp_path / "none.toml")


def test_a_file_in_another_encoding_is_one_sentence(read: Read) -> None:
    with pytest.raises(UserError, match=r"is not utf-16; set file\.encoding in m\.toml"):
        read(
            "id,created,score,status,touches\nL1,2025-03-01,1,new,3\n",
            BASIC + '[file]\nencoding = "utf-16"\n',
        )


def test_training_needs_an_outcome(read: Read, tmp_path: Path) -> None:
    read("id,created,score,status,touches,won\nL1,2025-03-01,1,new,3,yes\nL2,2025-03-01,1,new,3,\n")
    with pytest.raises(SettingsError, match="outcome: is missing"):
        read_table(tmp_path / "leads.csv", load_mapping(tmp_path / "m.toml"))
    (tmp_path / "m.toml").write_text(BASIC + OUTCOME)
    table, problems = read_table(tmp_path / "leads.csv", load_mapping(tmp_path / "m.toml"))
    assert problems == []
    assert table["lead_id"].tolist() == ["L1"]
    assert table["converted"].tolist() == [True]
    assert table["source"].tolist() == [None]


def test_the_verb_reports_refused_rows_by_reason_and_exits_1(
    read: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read("id,created,score,status,touches\nL1,2025-03-01,1,new,3\nL2,never,1,new,3\n")
    arguments = [str(tmp_path / "leads.csv"), "--mapping", str(tmp_path / "m.toml"), "--dry-run"]
    assert _import(*arguments) == 1
    out, err = capsys.readouterr()
    assert err == (
        "leads.csv: refused: 1 of 2 rows, first on line 3: `created` is not a time in the\n"
        "  format of the mapping (it looks like xxxxx); name its format in\n"
        "  lead.created_at\n"
    )
    assert out.splitlines()[-1] == "1 changes and 0 outcomes would be sent; 1 rows were refused"
    assert _import(*arguments, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["changes"] == 1
    assert report["refused"] == [
        {"line": 3, "problem": "created: is not a time in the format of the mapping"}
    ]
    assert report["file"]["refused_groups"][0]["first_line"] == 3
    assert report["first_change"]["lead_id"] == "L1"


def test_the_verb_wants_an_outcome_before_it_sends_outcomes(read: Read, tmp_path: Path) -> None:
    read("id,created,score,status,touches\nL1,2025-03-01,1,new,3\n")
    with pytest.raises(SettingsError, match="outcome: is missing"):
        _import(
            str(tmp_path / "leads.csv"),
            "--mapping",
            str(tmp_path / "m.toml"),
            "--dry-run",
            "--outcomes",
        )


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="needs xeducation_leads.csv in ../shared/data")
def test_every_real_lead_is_read_and_falls_into_one_part() -> None:
    mapping = load_mapping(MAPPINGS / "xeducation.toml")
    older, problems = read_table(DATA, mapping, oldest=0.8)
    newer, _ = read_table(DATA, mapping, newest=0.2)
    assert problems == []
    assert (len(older), len(newer)) == (7392, 1848)
    assert older["as_of"].max() < newer["as_of"].min()
    assert len({*older["lead_id"], *newer["lead_id"]}) == 9240
    late = {"Tags", "Lead Quality", "Lead Profile", "Last Notable Activity", "Last Activity"}
    assert not any(
        column in late or column.startswith("Asymmetrique") for column in mapping.columns()
    )


def test_a_limit_takes_the_oldest_rows_first(read: Read) -> None:
    rows = read("id,created,score,status,touches\nL1,2025-03-02,1,new,3\nL2,2025-03-01,1,new,3\n")
    assert [
        r.lead_id for r in select([r for r in rows if isinstance(r, ImportedRow)], limit=1)
    ] == ["L2"]


def _import(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    import_.add_parser(parser.add_subparsers())
    given = parser.parse_args(["import", *arguments])
    return int(given.func(given))


def test_a_long_text_costs_no_square_of_its_length() -> None:
    table: dict[str, Any] = {
        "lead": {"lead_id": "id", "created_at": "at", "lead_score": "score", "source": "web"}
    }
    mapping = parse_mapping("map", table)
    row = {"score": "1" * 200_000 + "x", "web": "a@" + "b." * 100_000 + "@"}
    with pytest.raises(ValueError, match="is not a number"):
        mapping.fields["lead_score"].read(row, 1)
    assert mapping.fields["source"].read(row, 1) == row["web"]
