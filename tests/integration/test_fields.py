"""`leadstream fields`: a description proposed from a catalog, and one compared with it."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from leadstream.cli.main import main
from leadstream.local.postgres import Postgres
from schemas.crm_description import TableName
from schemas.description_file import load_description
from tests.docs.own_table import SHAPES, CrmShape
from tests.integration.databases import database_of_its_own
from tests.integration.described import ContactsCrm, contacts_crm

pytestmark = pytest.mark.postgres


@pytest.fixture
def crm(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ContactsCrm]:
    with contacts_crm(postgres.url, tmp_path) as crm:
        for number in range(8):
            crm.add(stage=("open", "hot")[number % 2], full_name=f"Secret {number}")
        crm.add(gpa=None, has_consent=False)
        monkeypatch.setenv("DATABASE_URL", crm.url)
        yield crm


def suggested(crm: ContactsCrm, capsys: pytest.CaptureFixture[str], path: Path) -> str:
    table = f"sales{crm.suffix}.contacts"
    arguments = ["fields", "suggest", "--postgres", "--table", table, "--output", str(path)]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "File exists" in capsys.readouterr().err
    return path.read_text()


def test_what_is_suggested_loads_fits_and_has_no_personal_column(
    crm: ContactsCrm, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "first.toml"
    text = suggested(crm, capsys, path)
    assert "full_name" not in text
    assert "Secret" not in text
    assert 'gpa" = "gpa"  # 11% missing' in text
    found = load_description(path)
    assert found.database is not None
    assert found.outcome is not None
    assert found.database.table == TableName("contacts", f"sales{crm.suffix}")
    assert (found.id, found.version) == ("contact_uuid", "row_version")
    assert found.database.deleted is not None
    assert {field.name: field.column for field in found.fields} == {
        "created_at": "created_on",
        "touchpoint_count": "touches",
        "status": "stage",
        "source": "source_id",
        "numbers.gpa": "gpa",
        "categories.country_code": "country_code",
        "categories.has_consent": "has_consent",
    }
    assert found.lookups()["source"][1].value == "label"
    assert found.outcome.columns() == ("contact_id", "submitted_on")
    assert main(["fields", "check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"ok    {path} fits; 9 leads were read"
    assert "note  lead.numbers.gpa: 11% of 9 leads have no value" in lines
    local = "times of created_on, submitted_on, deleted_at have no zone, and are read as UTC"
    assert f"note  database.time_zone: {local}" in lines


def test_a_schema_without_leads_is_one_sentence(
    crm: ContactsCrm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fields", "suggest", "--postgres", "--table", "nowhere"]) == 1
    assert "--table nowhere: this role sees no such table" in capsys.readouterr().err


def test_odd_names_and_types_come_back_as_they_are(
    crm: ContactsCrm, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    crm.do(
        'create table "Lead ""list"" 100%" ("Id" bigint primary key, "Created" timestamptz,'
        ' "größe %s" float8, "select" text, tags text[], doc jsonb)'
    )
    crm.do("""insert into "Lead ""list"" 100%" values (1, now(), 1.5, 'a', '{x}', '{}')""")
    assert main(["fields", "suggest", "--postgres", "--table", 'Lead "list" 100%']) == 0
    path = tmp_path / "odd.toml"
    path.write_text(capsys.readouterr().out)
    found = load_description(path)
    assert [f.column for f in found.fields] == ["Created", "größe %s", "select"]
    assert main(["fields", "check", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["problems"], report["rows"]) == ([], 1)


def test_every_difference_is_a_line(
    crm: ContactsCrm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEADSTREAM_FIELDS", str(crm.file))
    assert main(["fields", "check"]) == 0
    text = crm.file.read_text()
    crm.file.write_text(text.replace('"gpa", range', '"gpaa", range').replace('"stage"', '"sage"'))
    capsys.readouterr()
    assert main(["fields", "check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines] == ["FAIL  "] * 2
    assert "lead.numbers.gpa" in lines[1]
    assert lines[1].endswith("has no column 'gpaa'; did you mean 'gpa'?")
    # Columns that exist, and whose values fit no field.
    crm.file.write_text(text.replace('"gpa", range', '"has_consent", range'))
    assert main(["fields", "check"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL  lead.numbers.gpa: 9 of 9 values of 'has_consent' cannot be read" in printed
    crm.file.write_text(text.replace('id = "contact_uuid"', 'id = "stage"'))
    assert main(["fields", "check"]) == 1
    printed = capsys.readouterr().out
    assert "2 ids are in several rows" in printed
    assert "no index begins with 'stage'" in printed


# Of each CRM: the id, the fields that are not own numbers and categories, the mark of deleted rows,
# the columns of outcomes with the values that count, and whether a field is left out.
PROPOSED = {
    "contacts": (
        "contact_uuid",
        "created_on touches stage source_id",
        "deleted_at",
        "contact_id submitted_on state: submitted",
        False,
    ),
    "school": (
        "ProspectId",
        "EnquiryDate StatusId CourseCode",
        None,
        "ProspectId happened_at event_type: APPLICATION_SUBMITTED",
        False,
    ),
    "party": (
        "prospect_ref",
        "entered score channel",
        "status_code",
        "party_ref closed_on outcome: WON",
        True,
    ),
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_quoted_names_events_and_views_would_have_to_be_described_by_hand(
    shape: CrmShape,
    postgres: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "first.toml"
    with database_of_its_own(postgres.url) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        shape.fill(url)
        assert main(["fields", "suggest", "--postgres", "--output", str(path)]) == 0
        assert main(["fields", "check", str(path)]) == 0
    capsys.readouterr()
    found = load_description(path)
    assert found.database is not None
    assert found.outcome is not None
    assert found.outcome.where is not None
    deleted = found.database.deleted
    fields = [field.column for field in found.fields if "." not in field.name]
    where = f"{' '.join(found.outcome.columns())}: {' '.join(found.outcome.where.values or ())}"
    assert PROPOSED[shape.name] == (
        found.id,
        " ".join(map(str, fields)),
        deleted and deleted.column,
        where,
        '# status = "status_code"' in path.read_text(),
    )


def test_postgres_that_does_not_answer_is_named_with_host_and_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://crm:hush@127.0.0.1:1/crm")
    for arguments in (
        ["fields", "suggest", "--postgres"],
        ["db", "migrate"],
        ["rescore", "--all"],
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert '"127.0.0.1", port 1 failed: Connection refused' in error, arguments
        assert "hush" not in error


def test_times_of_another_zone_and_a_field_of_the_outcome_are_named_before_training(
    crm: ContactsCrm, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    now = "now() at time zone 'Asia/Kolkata'"
    crm.do(
        f"insert into {crm.contacts} (contact_uuid, created_on, stage) select gen_random_uuid(), "
        f"{now} - n * interval '1 hour', case when n % 3 = 0 then 'Student' else 'open' end "
        "from generate_series(0, 299) n"
    )
    crm.do(
        f"insert into {crm.applications} (contact_id, state, submitted_on) "
        f"select contact_uuid, 'submitted', '2026-02-01' from {crm.contacts} "
        "where stage = 'Student'"
    )
    table = ["fields", "suggest", "--postgres", "--table", f"sales{crm.suffix}.contacts"]
    assert main([*table, "--time-zone", "Asia/Kolkatta"]) == 2
    assert "--time-zone: 'Asia/Kolkatta' is not a time zone" in capsys.readouterr().err
    path = tmp_path / "first.toml"
    assert main([*table, "--output", str(path)]) == 0
    zone, field, _ = capsys.readouterr().out.splitlines()
    assert zone.startswith("say the zone in the file, or with --time-zone: times of created_on, ")
    assert zone.endswith("the newest created_on would be 5 h 30 min ahead of now")
    assert field.startswith("status is left out")
    assert '100% of the leads with "Student" convert' in field
    text = path.read_text()
    assert '# status = "stage"' in text
    path.write_text(text.replace("# status", "status"))
    assert main(["fields", "check", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "note  database.time_zone: the newest 'created_on' would be 5 h 30 min ahead" in printed
    assert "note  lead.status seems to come with the outcome, so remove it: 100%" in printed
    assert "note  outcome" not in printed
    wrong = path.read_text().replace("# where", "where").replace('"submitted"]', '"Submitted"]')
    path.write_text(wrong)
    assert main(["fields", "check", str(path)]) == 0
    assert "note  outcome: none of the 309 leads that were read has one" in capsys.readouterr().out
    # The right zone, output by its reader or by the database, is proposed without a warning.
    assert main([*table, "--time-zone", "Asia/Kolkata"]) == 0
    output = capsys.readouterr()
    assert 'time_zone = "Asia/Kolkata"' in output.out.splitlines()
    assert "zone" not in output.err
    path.write_text(output.out)
    assert main(["fields", "check", str(path)]) == 0
    assert "time_zone" not in capsys.readouterr().out


def test_the_zone_of_the_database_is_proposed_where_nobody_says_one(
    crm: ContactsCrm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{crm.url}%20-cTimeZone%3DAmerica/Lima")
    assert main(["fields", "suggest", "--postgres", "--table", f"sales{crm.suffix}.contacts"]) == 0
    output = capsys.readouterr()
    assert 'time_zone = "America/Lima"' in output.out
    assert "America/Lima is a guess" in output.err
    assert "ahead" not in output.err


def test_outcomes_of_a_view_are_said_to_be_never_sent(
    crm: ContactsCrm, capsys: pytest.CaptureFixture[str]
) -> None:
    view = f"admissions{crm.suffix}.v_apps"
    crm.do(f"create view {view} as select * from {crm.applications}")
    crm.file.write_text(crm.file.read_text().replace('"applications"', '"v_apps"'))
    expected = f"{view} is no table: triggers cannot see its outcomes, so none are sent; `train`"
    assert main(["fields", "check", str(crm.file)]) == 0
    assert f"note  {expected}" in capsys.readouterr().out
    assert main(["db", "migrate", "--fields", str(crm.file)]) == 0
    assert f"note: {expected}" in capsys.readouterr().out


ODD_TABLES = """
create table "odd{s}"."lead_master" (
    tenant smallint, lead_code char(8), created_ms bigint not null, points text, zip text,
    archived char(1) default 'N', rating float8, primary key (tenant, lead_code)
);
insert into "odd{s}"."lead_master"
select n % 2, 'L' || n, 1767225600000 + n * 1000, n + 0.5, lpad(n::text, 5, '0'),
       case when n % 9 = 0 then 'Y' else 'N' end, case when n % 5 = 0 then 'NaN' else n::float8 end
from generate_series(1, 90) n;
create table "odd{s}".enrolment (lead_code char(8), enrolled_day integer);
insert into "odd{s}".enrolment values ('L1', 20260201), ('L2', 20260301);
create table "odd{s}"."select" ("user" text primary key, "from" timestamptz, "order" text);
insert into "odd{s}"."select" values ('7', '2026-01-01', 'x');
create table "odd{s}".typed (id int primary key, "Created" text, created_by text, kind text);
insert into "odd{s}".typed
select n, case when n = 50 then 'soon' else to_char('2026-01-01'::date + n, 'DD/MM/YYYY') end,
       'x', 'y'
from generate_series(1, 100) n;
"""


@pytest.fixture
def odd(crm: ContactsCrm) -> Iterator[str]:
    """The name of a schema with tables that have other types and names than most."""
    crm.do(f'create schema "odd{crm.suffix}"')
    crm.do(ODD_TABLES.replace("{s}", crm.suffix))
    yield f"odd{crm.suffix}"
    crm.do(f'drop schema "odd{crm.suffix}" cascade')


def test_several_keys_times_as_numbers_and_numbers_as_texts_are_proposed(
    odd: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["fields", "suggest", "--postgres", "--table", f"{odd}.lead_master"]) == 0
    path = tmp_path / "odd.toml"
    path.write_text(capsys.readouterr().out)
    found = load_description(path)
    assert found.database is not None
    assert found.database.deleted is not None
    assert found.outcome is not None
    assert found.outcome.decided_at is not None
    assert (found.id, found.database.deleted.column) == ("lead_code", "archived")
    assert found.outcome.decided_at.times.forms == ("%Y%m%d",)
    fields = {field.name: field.times.forms for field in found.fields}
    assert fields.pop("created_at") == ("epoch_ms",)
    # A code with zeros in front is no number.
    assert set(fields) == {"numbers.points", "numbers.rating"}
    assert main(["fields", "check", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "note  lead.numbers.rating: 20% of 80 leads have no value" in printed
    assert "no unique index is on 'lead_code' alone" in printed


def test_a_time_of_creation_is_found_by_its_values_and_a_few_wrong_ones_are_a_note(
    odd: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["fields", "suggest", "--postgres", "--table", f"{odd}.select"]) == 0
    assert 'created_at = "from"' in capsys.readouterr().out
    assert main(["fields", "suggest", "--postgres", "--table", f"{odd}.typed"]) == 0
    output = capsys.readouterr()
    assert 'created_at = { column = "Created", format = "%d/%m/%Y" }' in output.out
    assert "times of Created have no zone" in output.err
    path = tmp_path / "typed.toml"
    path.write_text(output.out)
    assert main(["fields", "check", str(path)]) == 0
    assert "note  lead.created_at: 1 of 100 values of 'Created'" in capsys.readouterr().out


def test_a_role_that_may_not_read_all_columns_gets_a_description_of_the_others(
    crm: ContactsCrm,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    role = f"narrow{crm.suffix}"
    crm.do(f"create role {role} login password 'secret'")
    try:
        crm.do(f"grant usage on schema sales{crm.suffix} to {role}")
        crm.do(f"grant select (contact_uuid, created_on, stage) on {crm.contacts} to {role}")
        url = psycopg.conninfo.make_conninfo(crm.url, user=role, password="secret")
        monkeypatch.setenv("DATABASE_URL", url)
        table = f"sales{crm.suffix}.contacts"
        assert main(["fields", "suggest", "--postgres", "--table", table]) == 0
        path = tmp_path / "narrow.toml"
        path.write_text(capsys.readouterr().out)
        assert {each.column for each in load_description(path).fields} == {"created_on", "stage"}
        assert main(["fields", "check", str(path)]) == 0
        path.write_text(path.read_text().replace('"stage"', '"touches"'))
        capsys.readouterr()
        assert main(["fields", "check", str(path)]) == 1
        forbidden = f"this role may not read 'touches' of sales{crm.suffix}.contacts"
        assert f"FAIL  lead.status: {forbidden}" in capsys.readouterr().out
    finally:
        crm.do(f"drop owned by {role}; drop role {role}")
