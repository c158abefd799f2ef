"""Lead state from a real Postgres: one answer for each lead, whatever the CRM holds, and nothing
that is personal.
"""

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

import consumer.run.postgres
import leadstream.postgres
from consumer.run.postgres import PostgresLeads
from consumer.scoring.leads import Lead
from leadstream.errors import Poison, Reason, SettingsError, Transient
from leadstream.local.postgres import Postgres
from producer.crm import create_schema
from tests.faults.proxy import Proxy, proxying
from tests.integration.conftest import CrmTables

pytestmark = pytest.mark.postgres
UUID = "0d4f1f0e-6c1e-4f0a-9a55-1f2b3c4d5e6f"
DOMAINS = {
    "domain_text": "text check (value <> 'never')",
    "domain_bigint": "bigint",
    "domain_uuid": "uuid",
    "domain_numeric": "numeric",
    "domain_of_domain": "domain_bigint",
}
PERSONAL = ("first_name", "last_name", "email", "phone", "conversion_probability")


@pytest.fixture
def bare(postgres: Postgres) -> Iterator[CrmTables]:
    """An empty schema, for a CRM of another shape."""
    schema = f"bare_{uuid.uuid4().hex[:8]}"
    url = f"{postgres.url}{'&' if '?' in postgres.url else '?'}options=-csearch_path%3D{schema}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create schema {schema}")
        yield CrmTables(url, connection)
        connection.execute(f"drop schema {schema} cascade")


@pytest.fixture
def leads(crm: CrmTables) -> Iterator[PostgresLeads]:
    yield from reading(crm.url)


def reading(url: str) -> Iterator[PostgresLeads]:
    leads = PostgresLeads(url)
    yield leads
    leads.close()


def fetched(url: str, *lead_ids: str) -> dict[str, dict[str, Any]]:
    leads = PostgresLeads(url)
    try:
        found = leads.fetch(lead_ids).items()
        return {lead_id: lead.state for lead_id, lead in found if isinstance(lead, Lead)}
    finally:
        leads.close()


def new_id() -> str:
    return f"lead-{uuid.uuid4().hex}"


def test_a_lead_with_several_applications_is_answered_once_and_with_its_enquiry(
    crm: CrmTables, leads: PostgresLeads
) -> None:
    lead, other, unknown = new_id(), new_id(), new_id()
    crm.add(lead, other, source="enquiry", programme_id=1, campus_id=1, lead_version=7)
    for source in ("first", "second", "third"):
        crm.connection.execute(
            "insert into applications (person_id, source, programme_id, campus_id, submitted_at)"
            " values (%s, %s, 2, 2, now())",
            (lead, source),
        )
    found = leads.fetch([lead, unknown, other, lead])
    assert sorted(found) == sorted([lead, other])
    names = crm.connection.execute(
        "select (select name from programmes where id = 1), (select name from campuses "
        "where id = 1)"
    )
    [(programme, campus)] = names.fetchall()
    one = found[lead]
    assert isinstance(one, Lead)
    state = one.state
    assert (state["source"], state["programme_name"], state["campus_name"]) == (
        "enquiry",
        programme,
        campus,
    )
    assert one.version == 7


def test_a_role_that_may_not_see_personal_columns_or_applications_is_enough(
    crm: CrmTables, postgres: Postgres
) -> None:
    """Were any of them named in the query, Postgres would refuse it."""
    lead, role = new_id(), f"reader_{uuid.uuid4().hex[:8]}"
    crm.add(lead, first_name="Zaphod")
    schema = crm.connection.execute("show search_path").fetchone()[0]  # type: ignore[index]
    columns = crm.connection.execute(
        "select column_name from information_schema.columns where table_schema = %s and "
        "table_name = 'people'",
        (schema,),
    ).fetchall()
    allowed = ", ".join(name for (name,) in columns if name not in PERSONAL)
    crm.connection.execute(f"create role {role} login password 'secret'")
    try:
        crm.connection.execute(f"grant usage on schema {schema} to {role}")
        crm.connection.execute(f"grant select on programmes, campuses to {role}")
        crm.connection.execute(f"grant select ({allowed}) on people to {role}")
        url = psycopg.conninfo.make_conninfo(crm.url, user=role, password="secret")
        assert fetched(url, lead)[lead]["lead_score"] == 55.0
        with (
            psycopg.connect(url) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("select email from people")
    finally:
        crm.connection.execute(f"drop owned by {role}")
        crm.connection.execute(f"drop role {role}")


def test_a_query_that_could_write_must_be_refused_by_the_session(bare: CrmTables) -> None:
    bare.connection.execute("create table audit (seen text)")
    bare.connection.execute(
        "create function peek() returns timestamptz language plpgsql as"
        " $$ begin insert into audit values ('x'); return now(); end $$"
    )
    bare.connection.execute("create view people as select 'a'::text as id, peek() as created_at")
    with pytest.raises(Transient, match="read-only transaction"):
        fetched(bare.url, "a")


def test_a_crm_without_the_optional_columns_and_tables_has_missing_values_and_no_error(
    bare: CrmTables,
) -> None:
    bare.connection.execute(
        "create table people (id varchar(40) primary key, created_at date, status text)"
    )
    bare.connection.execute("insert into people values ('a', '1999-12-31', 'new')")
    assert fetched(bare.url, "a", "b") == {
        "a": {
            "created_at": 946_598_400_000,
            "lead_score": None,
            "engagement_score": None,
            "touchpoint_count": None,
            "lifecycle_state": None,
            "status": "new",
            "source": None,
            "programme_name": None,
            "campus_name": None,
            "numbers": {},
            "categories": {},
        }
    }


def test_a_crm_with_names_in_place_of_ids_is_read_as_it_is(bare: CrmTables) -> None:
    bare.connection.execute(
        "create table people (id text, created_at timestamptz, programme_name text, "
        "campus_name text)"
    )
    bare.connection.execute("insert into people values ('a', now(), 'MBA', 'Berlin')")
    [state] = fetched(bare.url, "a").values()
    assert (state["programme_name"], state["campus_name"]) == ("MBA", "Berlin")


def test_a_crm_without_people_or_without_created_at_is_waited_for_and_told(bare: CrmTables) -> None:
    with pytest.raises(Transient, match="people has no column id, or does not exist"):
        fetched(bare.url, "a")
    bare.connection.execute("create table people (id text)")
    with pytest.raises(Transient, match="people has no column created_at"):
        fetched(bare.url, "a")


@pytest.mark.parametrize(
    ("kind", "good", "malformed"),
    [
        (
            "bigint",
            "42",
            ["", "x", "4 2", "042", "+42", "4.2", "--5", "-", "４２", str(2**63), "42\0", "\ud800"],
        ),
        ("integer", "42", ["3000000000", "--5", "-2147483649", "-", "٤٢"]),
        ("smallint", "-7", ["40000", "-40000", "7.0"]),
        (
            "uuid",
            UUID,
            ["", "x", UUID.upper(), UUID.replace("-", ""), UUID[:8], UUID + "\0", "{" + UUID + "}"],
        ),
        ("text", "é ' \" \\ % {} ,", ["x\0y", "\ud800", "'; drop table people; --", ""]),
        ("char(8)", "abc", ["abcd\0"]),
        ("numeric", "12345678901234567890", ["", "x", "1e3", "NaN", "Infinity", "1_0", " 7", "٣"]),
        ("numeric(10,2)", "7.50", ["7.5", "", "x"]),
        ("double precision", "7.5", ["", "x", "NaN"]),
        ("date", "2026-01-31", ["", "x", "yesterday"]),
        ("domain_text", "lead", ["x\0y", ""]),
        ("domain_bigint", "42", ["", "x", "042", "9" * 19]),
        ("domain_uuid", UUID, ["", "x", UUID.upper()]),
        ("domain_numeric", "7", ["", "x", "7.0"]),
        ("domain_of_domain", "42", ["", "x"]),
    ],
)
def test_a_malformed_id_must_not_cost_its_neighbours_their_answer(
    bare: CrmTables, kind: str, good: str, malformed: list[str]
) -> None:
    for name, base in DOMAINS.items():
        bare.connection.execute(f"create domain {name} as {base}")
    bare.connection.execute(
        f"create table people (id {kind} primary key, created_at timestamptz default now())"
    )
    bare.connection.execute("insert into people (id) values (%s)", (good,))
    assert list(fetched(bare.url, *malformed, good, *malformed)) == [good]
    assert fetched(bare.url, *malformed) == {}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", {"'7'": 7, "'v7'": 0, "''": 0, "'7.0'": 7, "null": 0, "'9999999999999999999'": 0}),
        ("numeric", {"7": 7, "7.5": 0, "'NaN'": 0, "1e30": 0, "-3": -3}),
        ("double precision", {"7": 7, "7.5": 0, "'NaN'": 0, "1e30": 0}),
        ("smallint", {"7": 7}),
        ("domain_bigint", {"7": 7}),
        ("timestamptz", {"now()": 0}),
        ("jsonb", {"'7'": 7, "'{}'": 0}),
    ],
)
def test_a_version_that_is_no_number_must_not_cost_any_lead_its_answer(
    bare: CrmTables, kind: str, values: dict[str, int]
) -> None:
    bare.connection.execute("create domain domain_bigint as bigint check (value > 0)")
    bare.connection.execute(
        f"create table people (id text, created_at timestamptz default now(), lead_version {kind})"
    )
    for number, value in enumerate(values):
        bare.connection.execute(
            f"insert into people (id, lead_version) values ('{number}', {value})"
        )
    leads = PostgresLeads(bare.url)
    with closing(leads):
        found = leads.fetch([str(number) for number in range(len(values))])
    versions = [lead.version for lead in found.values() if isinstance(lead, Lead)]
    assert versions == list(values.values())


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("bigint", "1700000000", 1_700_000_000_000),
        ("numeric", "1700000000000", 1_700_000_000_000),
        ("numeric", "'NaN'", None),
        ("text", "'2023-11-14T22:13:20Z'", 1_700_000_000_000),
        ("text", "'last summer'", None),
        ("date", "'2023-11-14'", 1_699_920_000_000),
        ("domain_time", "'2023-11-14 22:13:20Z'", 1_700_000_000_000),
        ("jsonb", "'{}'", None),
    ],
)
def test_a_time_of_creation_of_another_type_must_not_hold_its_batch_for_ever(
    bare: CrmTables, kind: str, value: str, expected: int | None
) -> None:
    bare.connection.execute("create domain domain_time as timestamptz")
    bare.connection.execute(f"create table people (id text, created_at {kind})")
    bare.connection.execute(f"insert into people values ('a', {value})")
    assert fetched(bare.url, "a")["a"]["created_at"] == expected


def test_a_name_whose_key_is_of_another_type_is_found_all_the_same(bare: CrmTables) -> None:
    bare.connection.execute("create table programmes (id bigint, name text)")
    bare.connection.execute("insert into programmes values (7, 'MBA')")
    bare.connection.execute(
        "create table people (id text, created_at timestamptz default now(), programme_id text)"
    )
    bare.connection.execute("insert into people (id, programme_id) values ('a', '7'), ('b', 'x')")
    found = fetched(bare.url, "a", "b")
    assert [found[lead]["programme_name"] for lead in ("a", "b")] == ["MBA", None]


def test_a_row_that_cannot_be_read_costs_its_own_lead(bare: CrmTables) -> None:
    bare.connection.execute(
        "create function judge(id text) returns text language plpgsql as $$ begin"
        " if id like 'bad%' then raise exception 'secret %', id; end if; return 'new'; end $$"
    )
    bare.connection.execute("create table leads (id text primary key)")
    bare.connection.execute(
        "create view people as select id, now() as created_at, judge(id) as status from leads"
    )
    ids = [f"good_{number}" for number in range(30)]
    mixed = [*ids[:10], "bad_1", *ids[10:], "bad_2"]
    for lead in mixed:
        bare.connection.execute("insert into leads values (%s)", (lead,))
    leads = PostgresLeads(bare.url)
    with closing(leads):
        found = leads.fetch(mixed)
    assert sorted(id_ for id_, lead in found.items() if isinstance(lead, Lead)) == sorted(ids)
    poisons = {id_: lead for id_, lead in found.items() if isinstance(lead, Poison)}
    assert set(poisons) == {"bad_1", "bad_2"}
    for poison in poisons.values():
        assert poison.reason is Reason.LEAD_NOT_FOUND
        assert poison.detail == "Postgres cannot return this lead: RaiseException (P0001)"


def test_numbers_that_are_none_and_times_without_end_are_handed_over_and_not_choked_on(
    bare: CrmTables,
) -> None:
    bare.connection.execute(
        "create table people (id text, created_at timestamptz, lead_score double precision,"
        " engagement_score numeric, touchpoint_count double precision)"
    )
    bare.connection.execute(
        "insert into people values ('nan', 'infinity', 'NaN', 'NaN', 'NaN'),"
        " ('inf', '-infinity', 'Infinity', 'Infinity', '-Infinity'), ('null', null, null, "
        "null, null),"
        " ('old', '4713-01-01 BC', -0.0, 1e300, 2.5), ('far', '294276-01-01', 1, 2, 3)"
    )
    found = fetched(bare.url, "nan", "inf", "null", "old", "far")
    assert len(found) == 5
    assert [found[lead]["created_at"] for lead in ("nan", "inf", "null")] == [None, None, None]
    assert found["old"]["created_at"] < -200_000_000_000_000
    assert found["far"]["created_at"] > 9_000_000_000_000_000
    for lead in ("nan", "inf", "null"):
        assert [
            found[lead][name] for name in ("lead_score", "engagement_score", "touchpoint_count")
        ] == [None] * 3
    assert (found["old"]["engagement_score"], found["old"]["touchpoint_count"]) == (1e300, 2.5)


def test_a_number_too_large_for_a_double_or_kept_as_text_must_not_hold_its_batch_for_ever(
    bare: CrmTables,
) -> None:
    bare.connection.execute(
        "create table people (id text, created_at timestamptz, lead_score numeric, "
        "engagement_score text)"
    )
    bare.connection.execute(
        "insert into people values ('huge', now(), 1e400, 'high'), ('good', now(), 7, '50')"
    )
    found = fetched(bare.url, "huge", "good")
    assert (found["huge"]["lead_score"], found["good"]["lead_score"]) == (None, 7.0)
    assert found["huge"]["engagement_score"] is found["good"]["engagement_score"] is None


def test_a_query_that_takes_too_long_is_given_up_and_tried_again(
    bare: CrmTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer.run.postgres, "STATEMENT_MS", 200)
    bare.connection.execute("create table people (id text primary key, created_at timestamptz)")
    bare.connection.execute("insert into people values ('a', now())")
    leads = PostgresLeads(bare.url)
    try:
        with bare.connection.transaction():
            bare.connection.execute("lock table people in access exclusive mode")
            with pytest.raises(Transient, match="statement timeout"):
                leads.fetch(["a"])
        assert list(leads.fetch(["a"])) == ["a"]
    finally:
        leads.close()


def test_a_database_that_falls_silent_is_given_up_though_every_packet_is_acknowledged(
    crm: CrmTables, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never gets to its own time-out, and TCP sees nothing wrong."""
    monkeypatch.setattr(consumer.run.postgres, "STATEMENT_MS", 300)
    monkeypatch.setattr(leadstream.postgres, "MARGIN_SECONDS", 0.1)
    monkeypatch.setattr(leadstream.postgres, "CONNECT_SECONDS", 2)
    lead = new_id()
    crm.add(lead)
    info = psycopg.conninfo.conninfo_to_dict(postgres.url)
    with (
        proxying() as loop,
        closing(Proxy(loop, str(info["host"]), int(info["port"] or 0))) as proxy,
    ):
        leads = PostgresLeads(
            psycopg.conninfo.make_conninfo(crm.url, host="127.0.0.1", port=proxy.port)
        )
        with closing(leads):
            assert list(leads.fetch([lead])) == [lead]
            proxy.set("stall")
            with pytest.raises(Transient, match=r"no answer within 0\.4 s"):
                leads.fetch([lead])
            with pytest.raises(Transient, match="timeout"):
                leads.fetch([lead])
            proxy.set("pass")
            assert list(leads.fetch([lead])) == [lead]


def test_a_connection_that_the_server_ended_is_replaced_at_the_next_try(
    crm: CrmTables, leads: PostgresLeads
) -> None:
    lead = new_id()
    crm.add(lead)
    ours = "select pid from pg_stat_activity where application_name = 'leadstream'"
    before = crm.connection.execute(ours).fetchall()
    assert list(leads.fetch([lead])) == [lead]
    [opened] = {*crm.connection.execute(ours).fetchall()} - {*before}
    crm.connection.execute("select pg_terminate_backend(%s)", opened)
    with pytest.raises(Transient):
        leads.fetch([lead])
    assert list(leads.fetch([lead])) == [lead]


def test_what_the_database_says_must_not_give_away_the_password(crm: CrmTables) -> None:
    url = psycopg.conninfo.make_conninfo(crm.url, password="a wrong secret")
    with pytest.raises(Transient) as refused:
        fetched(url, "a")
    assert "secret" not in str(refused.value)


def test_an_address_that_cannot_be_read_is_a_wrong_setting_and_not_a_database_that_is_down() -> (
    None
):
    with pytest.raises(SettingsError, match="DATABASE_URL cannot be read"):
        PostgresLeads("postgres//user:secret@host")


def test_five_hundred_ids_are_found_by_the_primary_key_and_not_by_reading_the_table(
    bare: CrmTables,
) -> None:
    connection = bare.connection
    create_schema(connection)
    connection.execute(
        "insert into people (id, created_at) select 'lead_' || n, now() from "
        "generate_series(1, 50000) as n"
    )
    connection.execute("analyze people")
    with closing(PostgresLeads(bare.url)) as reader:
        assert len(reader.fetch([f"lead_{n}" for n in range(1, 501)])) == 500
        assert reader._query is not None
        ids = [f"lead_{n}" for n in range(1, 501)]
        plan = connection.execute(
            psycopg.sql.SQL("explain ") + reader._query.statement, (ids,)
        ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "people_pkey" in text
    assert "Seq Scan on people" not in text


def test_a_column_that_is_renamed_is_named_as_lacking_after_the_next_connection(
    bare: CrmTables,
) -> None:
    create_schema(bare.connection)
    with closing(PostgresLeads(bare.url)) as reader:
        reader.fetch(["nobody"])
        assert not reader.lacking
        bare.connection.execute("alter table people rename column lead_score to leadscore")
        with pytest.raises(Transient):
            reader.fetch(["nobody"])
        reader.fetch(["nobody"])
        assert reader.lacking == ("lead_score",)
