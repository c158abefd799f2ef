"""What odd logs become: missing fields and counted reasons, never a value that was not there."""

import json
from pathlib import Path
from typing import Any

import pytest

from leadstream.errors import SettingsError, UserError
from producer.field_log import Unplaced
from producer.log_import import LeadPast, LogReport, import_log
from producer.log_sources import CrmLogFormat, LogSource, open_log
from producer.mapping import load_mapping
from producer.state_rows import states_of_file
from tests.crm_logs import MAPPING, write_csv

NOW = 1_780_000_000_000
HEADER = ["LeadId", "Field", "OldValue", "NewValue", "CreatedDate", "DataType"]
LEADS = ["Id", "Created", "Status", "Score", "Budget", "Topics", "Source"]
ANN = ["00Q000000000001AAA", "2025-01-01T00:00:00Z", "C", "3", "9", "Art;Law", "Web"]
JAN, FEB, MAR = "2025-01-15T00:00:00Z", "2025-02-15T00:00:00Z", "2025-03-15T00:00:00Z"


def read_log(
    folder: Path, log: Path, form: CrmLogFormat, **options: Any
) -> tuple[list[LeadPast], LogReport]:
    """Return the pasts of leads.csv by a log and m.toml, and the report."""
    source = LogSource(
        log, form, leads=folder / "leads.csv", described=folder / "m.toml", **options
    )
    report, opened = LogReport(), open_log(source, NOW)
    return list(import_log(opened.leads, opened.entries, opened.how, report)), report


def imported(
    folder: Path,
    log: list[list[str]],
    leads: list[list[str]] | None = None,
    *,
    mapping: str = MAPPING.split("[history]", maxsplit=1)[0],
    **options: Any,
) -> tuple[list[dict[str, Any]], dict[Unplaced, int]]:
    """Return the changes that an import makes, and its reasons."""
    (folder / "m.toml").write_text(mapping)
    write_csv(folder / "log.csv", HEADER, log)
    write_csv(folder / "leads.csv", LEADS, [ANN] if leads is None else leads)
    pasts, report = read_log(folder, folder / "log.csv", CrmLogFormat.SALESFORCE, **options)
    return [change for past in pasts for change in past.changes], dict(+report.counts.unplaced)


def statuses(changes: list[dict[str, Any]]) -> list[str | None]:
    return [change["lead"].get("status") for change in changes]


def row(field: str, old: str, new: str, at: str, lead: str = ANN[0], kind: str = "") -> list[str]:
    return [lead, field, old, new, at, kind]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (row("Status", "B", "C", "2024-12-31T00:00:00Z"), Unplaced.BEFORE_CREATION),
        (row("Status", "B", "C", "2099-01-01T00:00:00Z"), Unplaced.FUTURE),
        (row("Status", "B", "C", "yesterday"), Unplaced.WITHOUT_TIME),
        (row("Status", "B", "C", ""), Unplaced.WITHOUT_TIME),
        (row("Status", "B", "C", MAR, lead=""), Unplaced.WITHOUT_LEAD),
        (row("Status", "B", "C", MAR, lead="x" * 257), Unplaced.WITHOUT_LEAD),
        (row("Status", "B", "C", MAR, lead="00Q000000000009"), Unplaced.UNKNOWN_LEAD),
        (row("Owner", "Ann", "Bob", MAR), Unplaced.UNREAD_FIELD),
        (row("", "Ann", "Bob", MAR), Unplaced.NOT_A_ROW),
        (["too", "long", *"abcdefgh"], Unplaced.NOT_A_ROW),
        (row("Status", "B", "D", MAR), Unplaced.CONTRADICTION),
        (row("Topics", "", "", MAR), Unplaced.NOT_RECORDED),
        (row("Status", "x" * 5000, "C", MAR), Unplaced.NOT_RECORDED),
        (row("Status", "\udc80", "C", MAR), Unplaced.NOT_RECORDED),
        (row("Score", "many", "3", MAR), Unplaced.UNREADABLE),
        (row("Status", "ann@example.com", "C", MAR), Unplaced.UNREADABLE),
    ],
)
def test_a_row_that_cannot_be_placed_is_not_counted(
    log: list[str], reason: Unplaced, tmp_path: Path
) -> None:
    good = row("Status", "A", "C", FEB)
    if log[1] == "Status":
        good = row("Budget", "8", "9", FEB)
    changes, counts = imported(tmp_path, [good, log], tracked_since=0)
    assert counts == {reason: 1}
    assert [change["lead_id"] for change in changes][:2] == [ANN[0]] * 2


def test_a_value_holds_past_the_change_that_contradicts_it(tmp_path: Path) -> None:
    log = [
        row("Status", "A", "B", JAN),
        row("Status", "X", "C", FEB),  # the log lacks the change from B to X
        row("Budget", "8", "9", "2025-01-20T00:00:00Z"),
    ]
    changes, counts = imported(tmp_path, log, tracked_since=0)
    assert statuses(changes) == ["A", None, None, "C"]
    assert counts == {Unplaced.CONTRADICTION: 1}


def test_a_change_without_values_lets_todays_value_reach_too_far_back(tmp_path: Path) -> None:
    log = [row("Topics", "", "", JAN), row("Topics", "", "", FEB), row("Status", "A", "C", MAR)]
    changes, counts = imported(tmp_path, log, tracked_since=0)
    topics = [change["lead"]["categories"].get("topics") for change in changes]
    assert topics == [None, None, "Art;Law", "Art;Law"]
    assert counts == {Unplaced.NOT_RECORDED: 2}


def test_values_in_another_form_contradict_each_other(tmp_path: Path) -> None:
    log = [
        row("Budget", "EUR 1200.00", "9.00", FEB),
        row("Topics", "Art", "Law;Art", FEB),
        row("Score", "2.50", "3.0", FEB),
    ]
    changes, counts = imported(tmp_path, log, tracked_since=0)
    assert counts == {}
    assert changes[0]["lead"]["numbers"] == {"budget": 1200.0}
    assert (changes[0]["lead"]["lead_score"], changes[1]["lead"]["lead_score"]) == (2.5, 3.0)


def test_changes_of_one_moment_are_undone_in_the_order_of_the_log(tmp_path: Path) -> None:
    # A → B → C within a second, in any order, once more as ids, and each row twice.
    log = [
        row("Status", "B", "C", FEB),
        row("Status", "A", "B", FEB),
        row("Status", "id1", "id2", FEB, kind="EntityId"),
        row("Status", "A", "B", FEB),
        row("Status", "B", "C", FEB),
    ]
    changes, counts = imported(tmp_path, log, tracked_since=0)
    assert statuses(changes) == ["A", "C"]
    assert counts == {Unplaced.DUPLICATE: 2}


def test_a_lead_is_not_found_by_the_other_form_of_its_id(tmp_path: Path) -> None:
    changes, counts = imported(
        tmp_path, [row("Status", "A", "C", FEB, lead=ANN[0][:15])], tracked_since=0
    )
    assert counts == {}
    assert {change["lead_id"] for change in changes} == {ANN[0]}


def test_a_clock_that_is_behind_makes_a_lead_change_before_its_creation(tmp_path: Path) -> None:
    log = [row("Status", "A", "C", "2024-12-31T23:59:30Z")]
    changes, counts = imported(tmp_path, log, tracked_since=0)
    assert (statuses(changes), counts) == (["C"], {})
    assert [change["change_type"] for change in changes] == ["CREATED"]


def test_leads_without_history_have_the_values_of_today_only_where_the_log_proves_them(
    tmp_path: Path,
) -> None:
    old, new = ["old", "2024-01-01", *ANN[2:]], ["new", "2025-03-01", *ANN[2:]]
    changes, counts = imported(tmp_path, [row("Status", "A", "C", FEB)], [ANN, old, new, new])
    assert {(change["lead_id"], change["lead"]["status"]) for change in changes} == {
        (ANN[0], "C"),
        ("new", "C"),
    }
    assert all(change["lead"].get("source") is None for change in changes)
    assert counts == {Unplaced.NOTHING_KNOWN: 2, Unplaced.REPEATED_LEAD: 1}


def test_a_report_with_labels_and_local_times_is_another_log(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        MAPPING.replace("%d.%m.%Y %H:%M:%S", "%d/%m/%Y, %H:%M").replace("when", "Edit Date")
    )
    header = ["Lead ID", "Edit Date", "Field / Event", "Old Value", "New Value"]
    write_csv(tmp_path / "log.csv", header, [[ANN[0], "15/02/2025, 01:00", "Status", "A", "C"]])
    write_csv(tmp_path / "leads.csv", LEADS, [ANN])
    [past], _ = read_log(tmp_path, tmp_path / "log.csv", CrmLogFormat.SALESFORCE)
    assert past.changes[0]["occurred_at"] == 1_739_577_600_000  # midnight in UTC


OUTCOME = """
[outcome]
column = "Status"
true = ["C"]
false = ["D"]
missing = ["A", "B"]
"""


@pytest.mark.parametrize(
    ("log", "today", "expected"),
    [
        ([row("Status", "A", "C", FEB)], "C", (True, FEB)),
        ([row("Status", "A", "C", JAN), row("Status", "C", "B", FEB)], "B", (True, JAN)),
        ([row("leadConverted", "", "", FEB)], "A", (True, FEB)),
        ([row("Status", "A", "B", FEB)], "B", None),
        ([row("Budget", "1", "9", FEB)], "C", None),  # it says not when
    ],
)
def test_an_outcome_has_the_time_of_something_else_than_the_conversion(
    log: list[list[str]], today: str, expected: tuple[bool, str] | None, tmp_path: Path
) -> None:
    mapping = MAPPING.split("[history]", maxsplit=1)[0] + OUTCOME
    (tmp_path / "m.toml").write_text(mapping)
    write_csv(tmp_path / "log.csv", HEADER, log)
    write_csv(tmp_path / "leads.csv", LEADS, [[*ANN[:2], today, *ANN[3:]]])
    [past], report = read_log(tmp_path, tmp_path / "log.csv", CrmLogFormat.SALESFORCE)
    times = {JAN: 1_736_899_200_000, FEB: 1_739_577_600_000}
    found = past.outcome and (past.outcome["converted"], past.outcome["decided_at"])
    assert found == (expected and (expected[0], times[expected[1]]))
    assert report.counts.unplaced[Unplaced.UNDATED_OUTCOME] == (today == "C" and not expected)


def test_rows_with_their_own_time_are_states_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        '[lead]\nlead_id = "Id"\ncreated_at = "Created"\noccurred_at = "At"\nstatus = "Status"\n'
    )
    write_csv(
        tmp_path / "rows.csv",
        ["Id", "Created", "At", "Status"],
        [
            ["a", "2025-01-01", "2025-01-01", "A"],
            ["a", "2025-01-01", "2025-02-01", "B"],
            ["a", "2025-03-01", "2025-02-01", "B"],
            ["", "2025-01-01", "2025-02-01", "B"],
        ],
    )
    report = LogReport()
    unplaced = report.counts.unplaced
    mapping = load_mapping(tmp_path / "m.toml")
    pasts = list(states_of_file(tmp_path / "rows.csv", mapping, NOW, unplaced))
    changes = [change for past in pasts for change in past.changes]
    assert [(each["change_type"], each["lead"]["status"]) for each in changes] == [
        ("CREATED", "A"),
        ("UPDATED", "B"),
    ]
    assert dict(+unplaced) == {Unplaced.REFUSED_ROW: 2}


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "1", "propertiesWithHistory": {"Status": 7, "Score": [1, {"timestamp": 1e99}]}}',
        '[1, null, "x", {"a": []}]',
        '{"results": [{"propertiesWithHistory": {"Status": [{}]}}]}',
        '"text"',
        "{}\nnot json\n[1]\n",
        '{"results": [{"id": "x", "propertiesWithHistory": {"Status": [{"timestamp": 1e12}]}}]}',
        '{"id": "\\ud800", "propertiesWithHistory": {"Status": [{"timestamp": 1e12}]}}',
        '{"id": "1", "propertiesWithHistory": {"Status": [{"value": ' + "9" * 5000 + "}]}}",
    ],
)
def test_json_of_another_shape_ends_the_import_with_a_trace(text: str, tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(text)
    source = LogSource(tmp_path / "log.json", CrmLogFormat.HUBSPOT)
    report, opened = LogReport(), open_log(source, NOW)
    assert not [
        past.changes for past in import_log(opened.leads, opened.entries, opened.how, report)
    ]
    assert report.counts.unplaced.total() > 0


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("log.csv", "a,b\n1,2\n", "has no column 'leadid' or 'lead id'"),
        ("log.json", "not json", "is neither JSON nor JSON lines"),
        ("log.json", "[" * 100_000, "neither JSON|nested too deeply"),
        ("absent.csv", None, "No such file"),
        ("absent.json", None, "No such file"),
    ],
)
def test_a_file_that_is_no_log_ends_with_a_trace(
    name: str, text: str | None, error: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    (tmp_path / "m.toml").write_text(MAPPING)
    write_csv(tmp_path / "leads.csv", LEADS, [ANN])
    source = LogSource(
        tmp_path / name,
        CrmLogFormat.SALESFORCE,
        leads=tmp_path / "leads.csv",
        described=tmp_path / "m.toml",
    )
    opened = open_log(source, NOW)
    with pytest.raises(UserError, match=error):
        list(import_log(opened.leads, opened.entries, opened.how, LogReport()))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            LogSource(Path("x.csv"), CrmLogFormat.SALESFORCE),
            "name the leads of today",
        ),
        (
            LogSource(Path("x.csv"), CrmLogFormat.DYNAMICS, leads=Path("l.csv")),
            "--format dynamics: name the columns",
        ),
    ],
)
def test_what_an_import_lacks_is_not_named(source: LogSource, error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        open_log(source, NOW)


def test_an_audit_names_leads_and_references_in_other_forms(tmp_path: Path) -> None:
    guid = "6F1D9F3E-0000-4000-8000-000000000001"
    (tmp_path / "m.toml").write_text(MAPPING.split("[history]", maxsplit=1)[0])
    change = {"logicalName": "status", "oldValue": f"stage,{guid}", "newValue": "C"}
    audit = {"changedAttributes": [change]}
    rows = [
        {"_objectid_value": guid.lower(), "createdon": FEB, "changedata": json.dumps(audit)},
        {"_objectid_value": guid.lower(), "createdon": FEB, "changedata": "a~b~c"},
        {"_objectid_value": guid.lower(), "createdon": FEB, "changedata": None, "action": 3},
    ]
    (tmp_path / "log.json").write_text(json.dumps({"value": rows}))
    write_csv(tmp_path / "leads.csv", LEADS, [[f"{{{guid}}}", *ANN[1:]]])
    [past], report = read_log(
        tmp_path, tmp_path / "log.json", CrmLogFormat.DYNAMICS, tracked_since=0
    )
    assert statuses(past.changes) == [guid, "C"]
    assert dict(+report.counts.unplaced) == {Unplaced.NOT_A_ROW: 1, Unplaced.DELETED: 1}
