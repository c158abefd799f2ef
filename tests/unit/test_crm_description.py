"""The description of a CRM: its file, and the states that it makes of rows."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from features import own_fields
from leadstream.errors import SettingsError
from producer.mapping import load_mapping, parse_mapping
from schemas.crm_description import CrmDescription, TableName
from schemas.description_file import load_description, parse_description

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "describe-your-crm.md"
# 2026-01-31 12:00 in Berlin.
NOON = 1_769_857_200_000
ROW = {
    "contact_uuid": "6f1d9f3e-0000-4000-8000-000000000001",
    "created_on": "2026-01-31T12:00:00",
    "stage": " open ",
    "source_id": 7,
    "gpa": 3.5,
    "country_code": "DE",
    "has_consent": True,
    "row_version": 4,
}


def example() -> str:
    """The first TOML block of the page."""
    [block] = re.findall(r"## An example\n\n```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(block)


def described(text: str = "", **lead: Any) -> CrmDescription:
    table = tomllib.loads(text) if text else {"database": {"table": "contacts", "id": "id"}}
    table.setdefault("lead", {"created_at": "created"}).update(lead)
    return parse_description("crm.toml", table)


def value(spec: Any, found: Any, name: str = "lead_score") -> Any:
    return described(**{name: spec}).lead_state({"x": found})[name]


def test_the_example_of_the_page_describes_every_part() -> None:
    crm = parse_description("crm.toml", tomllib.loads(example()))
    assert crm.database is not None
    assert crm.outcome is not None
    assert crm.database.table == TableName("contacts", "sales")
    assert (crm.id, crm.version) == ("contact_uuid", "row_version")
    assert crm.outcome.columns() == ("contact_id", "submitted_on", "state")
    assert crm.lead_id(ROW) == ROW["contact_uuid"]
    assert crm.lead_version(ROW) == 4
    state = crm.lead_state(ROW, {"source": "fair"})
    assert {name: found for name, found in state.items() if found is not None} == {
        "created_at": NOON,
        "status": "open",
        "source": "fair",
        "numbers": {"gpa": 3.5},
        "categories": {"country": "DE", "consent": "true"},
    }
    [gpa, country, consent] = own_fields(crm.feature_document())
    assert (gpa.name, gpa.low, gpa.high) == ("numbers.gpa", 0.0, 4.0)
    assert [country.name, consent.name] == ["categories.country", "categories.consent"]
    assert set(crm.state_columns()).isdisjoint({"deleted_at", "updated_by", "contact_uuid"})


@pytest.mark.parametrize(
    ("spec", "found", "expected"),
    [
        ("x", 3, 3.0),
        ("x", "3.50", 3.5),
        ("x", " 1e3 ", 1000.0),
        ("x", "3,5", None),
        ("x", True, None),
        ("x", "NaN", None),
        ("x", "Infinity", None),
        ("x", 10**400, None),
        ("x", "9" * 500, None),
        ("x", [3], None),
        ({"column": "x", "scale": 0.01}, 350, 3.5),
        ({"column": "x", "scale": 1e300}, 1e300, None),
        ({"column": "x", "missing": ["-1"]}, -1, None),
        ({"column": "x", "values": {"high": "3"}}, "high", 3.0),
        ({"column": "x", "values": {"true": "1", "false": "0"}}, True, 1.0),
        ({"constant": 5}, None, 5.0),
    ],
)
def test_a_number_is_read_from_numbers_and_digits_and_else_missing(
    spec: Any, found: Any, expected: float | None
) -> None:
    assert value(spec, found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("open", "open"),
        ("", None),
        ("   ", None),
        (7, "7"),
        (False, "false"),
        ("ada@example.com", None),
        ("Straße\u00a07", "Straße\u00a07"),
        ({"a": [1]}, '{"a": [1]}'),
    ],
)
def test_a_text_is_stripped_and_an_address_is_never_read(found: Any, expected: str | None) -> None:
    assert value("x", found, "status") == expected


@pytest.mark.parametrize(
    ("spec", "found", "expected"),
    [
        ({"time_zone": "Europe/Berlin"}, "2026-01-31T12:00:00.000999", NOON),
        ({}, "2026-01-31 12:00:00+01", NOON),
        ({}, NOON, NOON),
        ({}, NOON // 1000, NOON),
        ({"format": "epoch_s"}, str(NOON // 1000), NOON),
        ({"format": "epoch_ms"}, "soon", None),
        ({"format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin"}, "31.01.2026 12:00", NOON),
        ({"format": "%Y%m%d%H"}, 2026013111, NOON),
        ({"format": "%Y"}, True, None),
        ({"base": "2026-01-31T12:00:00+01:00", "step_ms": 1000}, 2, NOON + 2000),
        ({"format": ["%d/%m/%Y", "iso"]}, "2026-01-31T11:00:00Z", NOON),
        ({"format": ["%Y", "%d.%m.%Y %H:%M"]}, "31.01.2026 11:00", NOON),
        ({"format": "excel", "time_zone": "Europe/Berlin"}, 46053.5, NOON),
        ({"format": "excel_1904", "time_zone": "Europe/Berlin"}, "44591.5", NOON),
        ({"format": "excel"}, "1e300", None),
        ({}, "infinity", None),
        ({}, "0044-03-15T00:00:00 BC", None),
        ({}, "1969-12-31T23:59:59Z", None),
        ({}, "294276-12-31T23:59:59", None),
        ({}, "9999-12-31T23:59:59-01:00", None),
        ({}, True, None),
        ({"format": "epoch_s"}, "9" * 300, None),
        # A local time that the clocks pass twice is the first; one that they leave out moves on.
        ({"time_zone": "Europe/Berlin"}, "2025-10-26T02:30:00", 1_761_438_600_000),
        ({"time_zone": "Europe/Berlin"}, "2026-03-29T02:30:00", 1_774_747_800_000),
    ],
)
def test_a_time_has_the_zone_of_the_file_and_else_is_missing(
    spec: dict[str, Any], found: Any, expected: int | None
) -> None:
    assert value({"column": "x", **spec}, found, "created_at") == expected


@pytest.mark.parametrize(
    ("found", "gone"),
    [
        (None, False),
        (False, False),
        (True, True),
        (0, False),
        (1, True),
        ("0.00", False),
        (" N ", False),
        ("", False),
        ("2026-01-31T12:00:00", True),
        ("yes", True),
    ],
)
def test_a_mark_of_deletion_is_anything_but_an_empty_or_false_value(found: Any, gone: bool) -> None:
    crm = described("[database]\ntable = 'c'\nid = 'id'\ndeleted = 'x'")
    assert crm.is_lead({"x": found}) is not gone


def test_a_deleted_state_and_the_rows_of_leads_are_those_of_the_listed_values() -> None:
    crm = described(
        "[database]\ntable='c'\nid='id'\ndeleted={column='state', values=['gone', 9]}\n"
        "origin={column='by', values=['leadstream']}\n[rows]\nonly={kind=['lead']}"
    )
    assert crm.is_lead({"kind": "lead", "state": "open"})
    assert not crm.is_lead({"kind": "lead", "state": 9})
    assert not crm.is_lead({"kind": "customer", "state": "open"})
    assert (crm.origin({"by": "leadstream"}), crm.origin({"by": "ada"})) == ("leadstream", None)


@pytest.mark.parametrize(
    ("found", "version"),
    [
        (7, 7),
        (7.0, 7),
        ("7", 7),
        (2**63 - 1, 2**63 - 1),
        (2**63, 0),
        (1e300, 0),
        ("x", 0),
        (True, 0),
        (None, 0),
        ("2026-01-31T12:00:00", NOON),
    ],
)
def test_a_version_is_a_whole_number_or_a_time(found: Any, version: int) -> None:
    crm = described("[database]\ntable='c'\nid='id'\nversion='v'\ntime_zone='Europe/Berlin'")
    assert crm.lead_version({"v": found}) == version


def test_outcomes_of_an_export_are_those_of_the_leads_table_too() -> None:
    crm = described(
        "[database]\ntable='c'\nid='id'\n"
        "[outcome]\ncolumn='applied'\ntrue=['true']\nfalse=['false']\ndecided_at='applied_on'"
    )
    assert crm.outcome is not None
    assert (crm.outcome.table.table, crm.outcome.lead) == ("c", "id")
    assert crm.outcome.decided_at is not None
    end = crm.outcome.decided_at.read({"applied_on": "2026-01-31"}, {})
    assert end == 1_769_903_999_999


def test_a_file_without_a_database_describes_exports_and_events_only() -> None:
    crm = described("[file]\ntime_zone='Europe/Berlin'\n[lead]\nlead_id='Id'\ncreated_at='x'")
    assert (crm.database, crm.outcome, crm.id) == (None, None, "Id")
    assert crm.lead_state({"x": "2026-01-31T12:00:00"})["created_at"] == NOON


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[databse]", "databse: is not known here"),
        ("database = 1", "database: must be a table"),
        ("[database]\nid='id'", "database.table: is missing"),
        ("[database]\ntable='c'", "database.id: is missing"),
        ("[database]\ntable='c'\nid='E-mail'", "looks like personal data"),
        ("[database]\ntable='c'\nid='id'\nversoin='v'", "database.versoin: is not known here"),
        ("[database]\ntable='c'\nid='id'\ntime_zone='Mars'", "'Mars' is not a time zone"),
        ("[database]\ntable='c'\nid='id'\norigin='by'", "database.origin: needs values"),
        ("[database]\ntable='c'\nid='id'\ndeleted=3", "database.deleted: must be"),
        ("[database]\ntable='c'\nid='id'\ndeleted={column='d', values=[]}", "must be a list"),
        ("[database]\ntable='c'\nid='id'\n[outcome]\ntable='a'", "outcome.lead: is missing"),
        ("[database]\ntable='c'\nid='id'\n[outcome]\ntable='a'\nlead='l'", "outcome: needs"),
        ("[outcome]\ntable='a'", "outcome.table: is for a database"),
        ("[lead]\ncreated_at='c'\nsatus='s'", "lead.satus: is not known here"),
        ("[lead]\ncreated_at='c'\nstatus={column='s', lookup={}}", "lookup.table: is missing"),
        ("[lead]\ncreated_at='c'\nstatus={lookup={table='t'}}", "needs the column"),
        ("[lead]\ncreated_at='c'\nstatus={column='s', range=[0, 1]}", "range: is not known here"),
        ("[lead]\ncreated_at='c'\n[lead.numbers]\ngpa={column=1}", "numbers.gpa.column: must be"),
        ("[lead]\ncreated_at='c'\n[lead.numbers]\n'a\\u0007b'='c'", "printable"),
        ("[lead]\ncreated_at={column='c', format=[]}", "must be text or a list of texts"),
        ("[lead]\ncreated_at={column='c', base='x'}", "created_at.base: is not an ISO 8601"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_the_key(text: str, sentence: str) -> None:
    table = tomllib.loads(text.replace("'a\\u0007b'", '"a\\u0007b"'))
    table.setdefault("lead", {"created_at": "c"})
    with pytest.raises(SettingsError, match=r"^crm\.toml: ") as caught:
        parse_description("crm.toml", table)
    assert sentence in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_description(tmp_path / "absent.toml")
    (tmp_path / "wrong.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not TOML"):
        load_description(tmp_path / "wrong.toml")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("producer/mappings/*.toml")), ids=lambda path: path.stem
)
def test_a_mapping_of_exports_is_a_description_as_well(path: Path) -> None:
    mapping, crm = load_mapping(path), load_description(path)
    own = [f"numbers.{name}" for name in mapping.numbers]
    own += [f"categories.{name}" for name in mapping.categories]
    assert [spec.name for spec in own_fields(crm.feature_document())] == own


def test_a_description_is_a_mapping_of_exports_as_well() -> None:
    mapping = parse_mapping("crm.toml", tomllib.loads(example()))
    row = {name: str(found) for name, found in ROW.items()}
    assert mapping.lead_id.read(row, 1) == ROW["contact_uuid"]
    assert mapping.fields["created_at"].read(row, 1) == NOON
    assert mapping.outcome is None
    assert mapping.numbers["gpa"].read(row, 1) == 3.5


def test_a_unit_or_a_month_in_words_that_an_export_reads_would_be_missing_from_the_database() -> (
    None
):
    spec = {"column": "x", "unit": ["min", "Std."], "scale": 2.0}
    for text, number in (("45 min", 90), ("min 45", 90), ("1.5 Std.", 3), ("45", 90), (45, 90)):
        assert value(spec, text) == number, text
    for text in ("45 days", "45 min min", "min", "4,5 min", "9" * 401 + " min", True):
        assert value(spec, text) is None, text
    assert value({"column": "x", "unit": "calls"}, "7 calls", "touchpoint_count") == 7
    assert value({"column": "x"}, "45 min") is None
    pytest.importorskip("babel")
    form = {"column": "x", "format": "%d. %B %Y %H:%M", "time_zone": "Europe/Berlin"}
    for text, locale in (("31. Januar 2026 12:00", "de"), ("31. January 2026 12:00", None)):
        own = form | ({"locale": locale} if locale else {})
        assert value(own, text, "created_at") == NOON, text
    assert value(form, "31. Januar 2026 12:00", "created_at") is None
    assert (
        described("[file]\nlocale = 'de'\n[lead]\n", created_at=form)
        .fields[0]
        .read({"x": "31. Januar 2026 12:00"}, {})
        == NOON
    )
    for text in ("numbers", "nowhere"):
        with pytest.raises(SettingsError, match="is not a locale"):
            described(created_at=form | {"locale": text})
