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
