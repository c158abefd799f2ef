"""Lead state from a real Postgres: one answer a lead, whatever else the CRM's tables hold."""

import uuid
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from consumer import leads as leads_module
from consumer.leads import PostgresLeads
from leadstream.errors import Transient
from local.postgres import Postgres
from producer.crm import create_schema


@pytest.fixture
def database(postgres: Postgres) -> Iterator[tuple[str, psycopg.Connection]]:
    """An empty schema of this test's own, and a connection to fill it."""
    schema = f"leads_{uuid.uuid4().hex[:8]}"
    url = f"{postgres.url}{'&' if '?' in postgres.url else '?'}options=-csearch_path%3D{schema}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create schema {schema}")
        yield url, connection
        connection.execute(f"drop schema {schema} cascade")


Database = tuple[str, psycopg.Connection]


def test_a_lead_with_three_applications_must_be_answered_once(database: Database) -> None:
    url, connection = database
    create_schema(connection)
    connection.execute("insert into programmes values (901, 'MBA'); insert into campuses values (901, 'Berlin')")
    connection.execute(
        "insert into people (id, created_at, lead_score, touchpoint_count, source, programme_id, campus_id,"
        " lead_version) values ('lead_1', '2025-03-01 12:00:00.5+01', 55.5, 3, 'web', 901, 901, 7)"
    )
    for _ in range(3):
        connection.execute(
            "insert into applications (person_id, source, submitted_at) values ('lead_1', 'fair', now())"
        )
    with closing(PostgresLeads(url)) as reader:
        found = reader.fetch(["lead_1", "nobody"])
    assert list(found) == ["lead_1"]
    assert found["lead_1"].version == 7
    assert found["lead_1"].state == {
        "created_at": 1_740_826_800_500,
        "lead_score": 55.5,
        "engagement_score": None,
        "touchpoint_count": 3,
        "lifecycle_state": None,
        "status": None,
        "source": "web",
        "programme_name": "MBA",
        "campus_name": "Berlin",
        "numbers": {},
        "categories": {},
    }


def test_a_crm_with_only_the_audited_columns_is_read_with_the_others_missing(database: Database) -> None:
    url, connection = database
    connection.execute("create table people (id text primary key, created_at timestamp, lead_score numeric)")
    connection.execute("insert into people values ('a', '1970-01-02', 'NaN'), ('b', 'infinity', 1), ('c', null, 1e400)")
    with closing(PostgresLeads(url)) as reader:
        with pytest.raises(Transient, match="out of range"):
            reader.fetch(["a", "b", "c"])
        found = reader.fetch(["a", "b"])
    assert found["a"].state["created_at"] == 86_400_000
    assert found["a"].state["lead_score"] != found["a"].state["lead_score"]
    assert found["b"].state["created_at"] is None
    assert found["a"].state["source"] is found["a"].state["campus_name"] is None
    assert found["a"].version == 0


@pytest.mark.parametrize(
    ("kind", "good", "malformed"),
    [
        ("bigint", "42", ["fortytwo", "042", "4.2", "9" * 30, "", "lead\0"]),
        ("integer", "42", ["9999999999999", "-", "٤٢"]),
        ("uuid", "11111111-2222-3333-4444-555555555555", ["no-uuid", "1" * 32, "{" + "1" * 32 + "}"]),
        ("text", "lead_1", ["lead\0", "\ud800", "'; drop table people; --", ""]),
    ],
)
def test_one_malformed_id_must_not_fail_the_query_for_its_neighbours(
    database: Database, kind: str, good: str, malformed: list[str]
) -> None:
    url, connection = database
    connection.execute(f"create table people (id {kind} primary key, created_at timestamptz)")
    connection.execute("insert into people values (%s, now())", (good,))
    with closing(PostgresLeads(url)) as reader:
        assert list(reader.fetch([*malformed, good, *malformed])) == [good]
        assert reader.fetch(malformed) == {}


def test_a_database_without_the_table_is_trouble_that_says_so_and_no_dead_letter(database: Database) -> None:
    url, connection = database
    with closing(PostgresLeads(url)) as reader:
        with pytest.raises(Transient, match="the table people has no column id, or does not exist"):
            reader.fetch(["a"])
        connection.execute("create table people (id text primary key, created_at timestamptz)")
        assert reader.fetch(["a"]) == {}


def test_a_role_that_may_only_select_is_enough_and_nothing_can_be_written(database: Database) -> None:
    url, connection = database
    connection.execute("create table people (id text primary key, created_at timestamptz)")
    with closing(PostgresLeads(url)) as reader:
        reader.fetch(["a"])
        assert reader._connection is not None
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            reader._connection.execute("insert into people values ('b', now())")


def test_a_table_that_is_locked_must_not_hold_the_loop_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, connection = database
    connection.execute("create table people (id text primary key, created_at timestamptz)")
    monkeypatch.setattr(leads_module, "STATEMENT_MS", 200)
    with closing(PostgresLeads(url)) as reader:
        reader.fetch(["a"])
        with connection.transaction():
            connection.execute("lock table people in access exclusive mode")
            with pytest.raises(Transient, match="statement timeout"):
                reader.fetch(["a"])
        assert reader.fetch(["a"]) == {}


def test_no_personal_column_and_no_application_is_ever_in_the_query(database: Database) -> None:
    url, connection = database
    create_schema(connection)
    with closing(PostgresLeads(url)) as reader:
        reader.fetch(["a"])
        assert reader._query is not None
        query = reader._query.as_string(connection)
    for word in ("name,", "first_name", "last_name", "email", "phone", "conversion_probability", "applications", "*"):
        assert word not in query.replace(" * 1000", "")


def test_ten_thousand_ids_are_found_by_the_primary_key_and_not_by_reading_the_table(database: Database) -> None:
    url, connection = database
    create_schema(connection)
    connection.execute(
        "insert into people (id, created_at) select 'lead_' || n, now() from generate_series(1, 50000) as n"
    )
    connection.execute("analyze people")
    with closing(PostgresLeads(url)) as reader:
        assert len(reader.fetch([f"lead_{n}" for n in range(1, 501)])) == 500
        assert reader._query is not None
        ids = [f"lead_{n}" for n in range(1, 501)]
        plan = connection.execute(psycopg.sql.SQL("explain ") + reader._query, (ids,)).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "people_pkey" in text
    assert "Seq Scan on people" not in text
