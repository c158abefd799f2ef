"""Presets: the exports of Salesforce and HubSpot are understood as they come."""

import json
from pathlib import Path

import pytest

from leadstream.cli.main import main
from leadstream.errors import SettingsError
from producer.importer import ImportedRow, read_rows
from producer.presets import NAMES, load_preset

# As Data Loader writes it: API names, every cell in quotes, ISO times with the zone as +0000 or Z.
SALESFORCE = """\
"ID","LASTNAME","EMAIL","LEADSOURCE","STATUS","RATING","ISCONVERTED","CREATEDDATE","LASTMODIFIEDDATE","NUMBEROFEMPLOYEES"
"00Q01","Berg","ada@example.com","Web","Contacted","Hot","false","2026-01-31T08:15:00.000+0000","2026-02-01T09:00:00Z","12"
"00Q02","Costa","ben@example.com","Fair","Won","Warm","true","2026-01-31T08:15:00.000Z","2026-02-01T09:00:00.000Z",""
"00Q03","Dimov","cleo@example.com","","Open","","false","2026-02-02T00:00:00.000Z","2026-02-02T00:00:00.000Z",""
"""
HUBSPOT = """\
Record ID,Email,Create Date,Lifecycle Stage,Lead Status,\
Original Traffic Source,Number of times contacted
51,ada@example.com,2026-01-31 08:15,Lead,In progress,Organic search,3
"""
HUBSPOT_INTERNAL = """\
hs_object_id,createdate,lifecyclestage,hs_analytics_source,num_contacted_notes
51,2026-01-31 08:15,lead,ORGANIC_SEARCH,3
"""


def rows(folder: Path, preset: str, text: str) -> tuple[list[ImportedRow], list[str]]:
    path = folder / "export.csv"
    path.write_text(text)
    mapping, absent = load_preset(preset, path)
    read = list(read_rows(path, mapping))
    return [row for row in read if isinstance(row, ImportedRow)], absent


def test_a_salesforce_export_needs_no_mapping_and_converted_leads_are_left_out(
    tmp_path: Path,
) -> None:
    [ada, cleo], absent = rows(tmp_path, "salesforce", SALESFORCE)
    assert (ada.lead_id, ada.state["created_at"], ada.occurred_at) == (
        "00Q01",
        1_769_847_300_000,
        1_769_936_400_000,
    )
    assert (ada.state["source"], ada.state["status"]) == ("Web", "Contacted")
    assert ada.state["numbers"] == {"employees": 12}
    assert ada.state["categories"] == {"rating": "Hot"}
    assert cleo.state["source"] is None
    assert "lead_score" in absent
    assert "categories.industry" in absent


@pytest.mark.parametrize(
    ("text", "source"), [(HUBSPOT, "Organic search"), (HUBSPOT_INTERNAL, "ORGANIC_SEARCH")]
)
def test_a_hubspot_export_is_read_by_labels_or_by_internal_names(
    tmp_path: Path, text: str, source: str
) -> None:
    ada = rows(tmp_path, "hubspot", text)[0][0]
    assert (ada.lead_id, ada.state["created_at"]) == ("51", 1_769_847_300_000)
    assert (ada.state["source"], ada.state["touchpoint_count"]) == (source, 3)


def test_a_file_of_another_kind_is_refused_by_the_column_that_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"export.csv has no column Id, which is the lead_id"):
        rows(tmp_path, "salesforce", HUBSPOT.replace("Record ID", "Something"))


def test_nobodys_name_or_address_leaves_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Lead.csv"
    path.write_text(SALESFORCE)
    assert main(["import", str(path), "--preset", "salesforce", "--dry-run", "--json"]) == 0
    displayed = capsys.readouterr()
    assert json.loads(displayed.out)["changes"] == 2
    assert "no column for lead_score" in displayed.err
    assert not any(word in displayed.out + displayed.err for word in ("Ada", "Berg", "@"))


def test_every_preset_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    assert "{" + ",".join(NAMES) + "}" in capsys.readouterr().out


HUBSPOT_SCORES = "Record ID,Create Date,{}\n51,2026-01-31 08:15,60\n"


@pytest.mark.parametrize(
    ("header", "score"),
    [("Lead Score", 60), ("lead_score", 60), ("HubSpot Score", 60), ("hubspotscore", 60)],
)
def test_the_score_of_hubspots_scoring_tool_is_read_and_the_old_one_only_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str, score: float
) -> None:
    path = tmp_path / "contacts.csv"
    path.write_text(HUBSPOT_SCORES.format(header))
    assert main(["import", str(path), "--preset", "hubspot", "--dry-run", "--json"]) == 0
    displayed = capsys.readouterr()
    assert json.loads(displayed.out)["first_change"]["lead"]["lead_score"] == score
    retired = header.lower().startswith("hubspot")
    assert ("stopped updating it on 31 August 2025" in displayed.err) == retired


def test_a_new_score_wins_over_the_old_one_and_a_named_one_over_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "contacts.csv"
    path.write_text(
        "Record ID,Create Date,HubSpot Score,Lead Score,Buyer Fit,GPA\n"
        "51,2026-01-31 08:15,1,2,3,3.5\n"
    )
    command = ["import", str(path), "--preset", "hubspot", "--dry-run", "--json"]
    named = ["--columns", "lead_score=Buyer Fit, numbers.gpa=GPA"]
    for more, score, numbers in (([], 2, {}), (named, 3, {"gpa": 3.5})):
        assert main([*command, *more]) == 0
        displayed = capsys.readouterr()
        lead = json.loads(displayed.out)["first_change"]["lead"]
        assert (lead["lead_score"], lead["numbers"]) == (score, numbers)
        assert "warning" not in displayed.err


def test_a_preset_takes_the_own_columns_of_the_description_that_the_file_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, crm = tmp_path / "Lead.csv", tmp_path / "crm.toml"
    path.write_text('"ID","CREATEDDATE","PROGRAMME__C"\n"00Q01","2026-01-31T08:15:00Z","MBA"\n')
    crm.write_text(
        '[lead]\ncreated_at = "made"\nprogramme_name = "Programme__c"\n'
        '[lead.numbers]\ngpa = { column = "GPA__c", range = [0, 4] }\n'
    )
    monkeypatch.setenv("LEADSTREAM_FIELDS", str(crm))
    assert main(["import", str(path), "--preset", "salesforce", "--dry-run", "--json"]) == 0
    lead = json.loads(capsys.readouterr().out)["first_change"]["lead"]
    assert (lead["programme_name"], lead["numbers"]) == ("MBA", {})


def test_an_import_uses_the_description_where_no_mapping_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, crm = tmp_path / "leads.csv", tmp_path / "crm.toml"
    path.write_text("uid,made,gpa\nada,2026-01-31T12:00:00,3.5\n")
    crm.write_text(
        '[database]\ntable = "contacts"\nid = "uid"\ntime_zone = "Europe/Berlin"\n'
        '[lead]\ncreated_at = "made"\n[lead.numbers]\ngpa = "gpa"\n'
    )
    assert main(["import", str(path), "--dry-run"]) == 2
    assert "--mapping M.toml, --preset, or LEADSTREAM_FIELDS" in capsys.readouterr().err
    monkeypatch.setenv("LEADSTREAM_FIELDS", str(crm))
    assert main(["import", str(path), "--dry-run", "--json"]) == 0
    lead = json.loads(capsys.readouterr().out)["first_change"]["lead"]
    assert (lead["created_at"], lead["numbers"]) == (1_769_857_200_000, {"gpa": 3.5})
