"""States from a CRM that a file describes: real Postgres, other names, types and schemas."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from consumer.run.postgres import PostgresLeads
from consumer.scoring.leads import Lead
from leadstream.cli.training_database import described_table
from leadstream.errors import Transient, UserError
from leadstream.local.postgres import Postgres
from producer.rescore import all_leads, count_leads
from schemas.description_file import parse_description
from tests.integration.described import ContactsCrm, contacts_crm

pytestmark = pytest.mark.postgres


@pytest.fixture
def crm(postgres: Postgres, tmp_path: Path) -> Iterator[ContactsCrm]:
    with contacts_crm(postgres.url, tmp_path) as crm:
        yield crm


@pytest.fixture
def leads(crm: ContactsCrm) -> Iterator[PostgresLeads]:
    with closing(PostgresLeads(crm.url, crm.description)) as leads:
        yield leads


def test_every_described_field_comes_from_its_column_and_lookup(
    crm: ContactsCrm, leads: PostgresLeads
) -> None:
    lead_id = crm.add(full_name="Zaphod", row_version=7)
    found = leads.fetch([lead_id, str(uuid.uuid4()), "no uuid", lead_id])
    assert list(found) == [lead_id]
    assert found[lead_id] == Lead(
        {
            "created_at": 1_769_857_200_500,
            "lead_score": None,
            "engagement_score": None,
            "touchpoint_count": 3,
            "lifecycle_state": None,
            "status": "open",
            "source": "fair",
            "programme_name": None,
            "campus_name": None,
            "numbers": {"gpa": 3.5},
            "categories": {"country": "DE", "consent": "true"},
        },
        7,
    )
    assert not leads.lacking


def test_a_soft_deleted_lead_is_one_that_postgres_does_not_have(
    crm: ContactsCrm, leads: PostgresLeads
) -> None:
    there, gone = crm.add(), crm.add(deleted_at="2026-02-01")
    assert list(leads.fetch([there, gone])) == [there]


def test_a_role_that_may_only_read_described_columns_is_enough(crm: ContactsCrm) -> None:
    lead_id, role = crm.add(full_name="Zaphod"), f"reader{crm.suffix}"
    columns = "contact_uuid, created_on, stage, source_id, touches, gpa, country_code, has_consent"
    crm.do(f"create role {role} login password 'secret'")
    try:
        crm.do(f"grant usage on schema sales{crm.suffix}, ref{crm.suffix} to {role}")
        crm.do(f"grant select on ref{crm.suffix}.sources to {role}")
        crm.do(f"grant select ({columns}, deleted_at, row_version) on {crm.contacts} to {role}")
        url = psycopg.conninfo.make_conninfo(crm.url, user=role, password="secret")
        with closing(PostgresLeads(url, crm.description)) as leads:
            assert list(leads.fetch([lead_id])) == [lead_id]
    finally:
        crm.do(f"drop owned by {role}; drop role {role}")


def test_a_column_that_goes_is_missing_and_named_and_one_that_all_leads_need_is_waited_for(
    crm: ContactsCrm, leads: PostgresLeads
) -> None:
    lead_id = crm.add()
    crm.do(f"alter table {crm.contacts} drop column gpa")
    crm.do(f"alter table ref{crm.suffix}.sources rename column label to title")
    found = leads.fetch([lead_id])[lead_id]
    assert isinstance(found, Lead)
    assert (found.state["source"], found.state["numbers"]) == (None, {})
    assert leads.lacking == ("source", "numbers.gpa")
    crm.do(f"alter table {crm.contacts} rename column deleted_at to removed_at")
    leads.close()
    with pytest.raises(Transient, match="contacts has no column deleted_at"):
        leads.fetch([lead_id])
    crm.do(f"alter table {crm.contacts} rename to people")
    with pytest.raises(Transient, match="there is no table sales"):
        leads.fetch([lead_id])


@pytest.mark.parametrize(
    ("kind", "values", "asked"),
    [
        ("bigint", ["7", "8"], ["7", "8", "07", "9" * 30, "x", "7.0"]),
        ("text", ["a b", "7"], ["a b", "7", "A B"]),
        ("citext", ["Ada", "ben"], ["Ada", "ada", "ben", "BEN"]),
        ("numeric", ["7.50", "8"], ["7.50", "7.5", "8", "NaN"]),
        ("mood", ["glad", "sad"], ["glad", "sad", "neither"]),
        ("inet", ["10.0.0.1/8", "::1"], ["10.0.0.1/8", "::1", "10.0.0.1"]),
        ("char(5)", ["ab", "abc"], ["ab", "abc", "ab   "]),
    ],
)
def test_an_id_of_any_type_is_found_by_its_text_and_by_no_other(
    crm: ContactsCrm, kind: str, values: list[str], asked: list[str]
) -> None:
    crm.do("create extension if not exists citext schema pg_catalog")
    crm.do("create type mood as enum ('glad', 'sad')")
    crm.do(f"create domain own_id as {kind}")
    crm.do('create table "Leads, all" ("The ""id"" %s" own_id primary key, at timestamptz)')
    for value in values:
        crm.do('insert into "Leads, all" values (%s, now())'.replace("%s", f"'{value}'"))
    description = parse_description(
        "crm.toml",
        {
            "database": {"table": "Leads, all", "id": 'The "id" %s'},
            "lead": {"created_at": "at"},
        },
    )
    with closing(PostgresLeads(crm.url, description)) as leads:
        found = leads.fetch(asked)
    assert sorted(key for key, lead in found.items() if isinstance(lead, Lead)) == sorted(values)


def test_a_lead_among_many_is_found_by_the_index(crm: ContactsCrm, leads: PostgresLeads) -> None:
    crm.do(
        f"insert into {crm.contacts} (contact_uuid, created_on)"
        " select gen_random_uuid(), now() from generate_series(1, 20000)"
    )
    crm.do(f"analyze {crm.contacts}")
    rows = crm.connection.execute(f"select contact_uuid from {crm.contacts} limit 100".encode())
    ids = [lead_id for (lead_id,) in rows]
    assert len(leads.fetch([str(lead_id) for lead_id in ids])) == 100
    assert leads._query is not None
    explained = psycopg.sql.SQL("explain ") + leads._query.statement
    plan = "\n".join(line for (line,) in crm.connection.execute(explained, (ids,)))
    assert "contacts_pkey" in plan
    assert "Seq Scan on contacts" not in plan


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        ("uuid", ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"]),
        ("bigint", ["7", "11"]),
        ("text", ["a", "b"]),
    ],
)
@pytest.mark.parametrize("version", ["", ", lead_version numeric default 4"])
def test_all_leads_are_rescored_whatever_their_ids_are_and_without_a_version(
    crm: ContactsCrm, kind: str, ids: list[str], version: str
) -> None:
    crm.do(f"create table people (id {kind} primary key, created_at timestamptz{version})")
    for lead_id in ids:
        crm.do("insert into people (id, created_at) values (%s, now())", lead_id)
    assert list(all_leads(crm.connection)) == [(each, 4 if version else 0) for each in ids]
    assert count_leads(crm.connection) == len(ids)


def test_all_leads_of_a_described_crm_are_those_that_are_not_deleted(crm: ContactsCrm) -> None:
    there, _ = crm.add(row_version=9), crm.add(deleted_at="2026-02-01")
    assert list(all_leads(crm.connection, crm.description)) == [(there, 9)]
    crm.do(f"create view everyone as select * from {crm.contacts}")
    text = crm.file.read_text().replace(f'schema = "sales{crm.suffix}"', "", 1)
    text = text.replace('"contacts"', '"everyone"').replace('"row_version"', '"created_on"')
    crm.file.write_text(text)
    assert list(all_leads(crm.connection, crm.description)) == [(there, 1_769_857_200_500)]
    crm.do("drop view everyone")
    with pytest.raises(UserError, match="there is no table everyone"):
        list(all_leads(crm.connection, crm.description))
    with pytest.raises(UserError, match="DATABASE_URL: there is no table people"):
        list(all_leads(crm.connection))


def test_training_takes_each_lead_with_the_state_that_run_reads_and_its_own_outcome(
    crm: ContactsCrm, leads: PostgresLeads
) -> None:
    early, late, never = (crm.add(created_on=f"2026-01-0{day} 12:00") for day in (3, 2, 1))
    crm.add(created_on="2026-01-01 12:00", deleted_at="2026-02-01")
    now = crm.connection.execute("select localtimestamp").fetchone()
    assert now is not None
    crm.add(created_on=now[0])  # too young to have an outcome
    apply = f"insert into {crm.applications} (contact_id, state, submitted_on) values (%s, %s, %s)"
    for lead_id, state, day in (
        (early, "submitted", "2026-03-01"),
        (early, "submitted", "2026-01-20"),
        (late, "submitted", "2026-06-01"),
        (never, "started", "2026-01-10"),
    ):
        crm.do(apply, lead_id, state, day)
    table = described_table(crm.url, crm.description, 60)
    assert table["lead_id"].tolist() == [never, late, early]
    assert table["converted"].tolist() == [False, False, True]
    assert table["as_of"].tolist() == table["created_at"].tolist()
    found = leads.fetch([early])[early]
    assert isinstance(found, Lead)
    assert {name: table[name].iloc[2] for name in found.state} == found.state


def test_a_lead_whose_creation_cannot_be_read_would_end_the_training(
    crm: ContactsCrm, capsys: pytest.CaptureFixture[str]
) -> None:
    dated = crm.add()
    crm.add(created_on="infinity")
    assert described_table(crm.url, crm.description, 60)["lead_id"].tolist() == [dated]
    assert "1 leads without a time of creation" in capsys.readouterr().err


def test_training_without_a_table_of_outcomes_says_what_is_missing(crm: ContactsCrm) -> None:
    with pytest.raises(UserError, match=r"crm.toml: training needs \[outcome\]"):
        described_table(crm.url, replace(crm.description, outcome=None), 60)
