"""The demo's CRM in Postgres: what would leak the outcome into training, or lose a change."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest

from leadstream.cli.main import main
from leadstream.errors import UserError
from leadstream.local.postgres import Postgres
from producer.crm import (
    Connection,
    connected,
    create_schema,
    fill,
    refuse_foreign,
    training_table,
    write_applications,
    write_changes,
)
from producer.rescore import all_leads, count_leads
from producer.simulator import DAY_MS, DeliveryKind, Shares, SimulatedCrm

START = 1_735_689_600_000
pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def crm() -> SimulatedCrm:
    return SimulatedCrm(5, start=START, leads=1500, days=200)


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """The URL of a schema of this test's own, with the tables of the CRM."""
    name = f"crm_{uuid.uuid4().hex[:12]}"
    with closing(psycopg.connect(postgres.url, autocommit=True)) as conn:
        conn.execute(f"create schema {name}")
        try:
            own = (
                f"{postgres.url}{'&' if '?' in postgres.url else '?'}options=-csearch_path%3D{name}"
            )
            with connected(own) as inside:
                create_schema(inside)
            yield own
        finally:
            conn.execute(f"drop schema {name} cascade")


@pytest.fixture
def conn(url: str) -> Iterator[Connection]:
    with connected(url) as conn:
        yield conn


def _count(conn: Connection, table: str) -> int:
    row = conn.execute(f"select count(*) from {table}").fetchone()
    assert row
    return int(row[0])


def test_creating_the_schema_again_changes_nothing(conn: Connection, crm: SimulatedCrm) -> None:
    fill(conn, crm)
    create_schema(conn)
    assert _count(conn, "lead_history") == len(crm)


def test_the_fill_holds_what_happened_before_until_and_nothing_after(
    conn: Connection, crm: SimulatedCrm
) -> None:
    until = crm.moment(len(crm) // 2)
    filled = fill(conn, crm, until)
    assert (filled.people, filled.applications, filled.changes) == tuple(
        _count(conn, table) for table in ("people", "applications", "lead_history")
    )
    newest = {change.lead_id: change for change in crm.changes(until=until)}
    rows = conn.execute("select id, lead_score, status, lead_version from people").fetchall()
    expected = {i: c.record for i, c in newest.items()}
    assert {row[0] for row in rows} == set(expected)
    for lead_id, score, status, version in rows:
        record = expected[lead_id]
        assert record
        assert (score, status, version) == (
            record["lead"]["lead_score"],
            record["lead"]["status"],
            record["lead_version"],
        )
    row = conn.execute("select max(submitted_at) from applications").fetchone()
    assert row
    assert row[0].timestamp() * 1000 < until


def test_some_people_have_several_applications_and_most_have_none(
    conn: Connection, crm: SimulatedCrm
) -> None:
    filled = fill(conn, crm)
    counts = [n for (n,) in conn.execute("select count(*) from applications group by person_id")]
    assert max(counts) == 2
    assert 0 < len(counts) < 0.4 * filled.people


def test_the_training_table_is_what_the_simulator_knows(
    url: str, conn: Connection, crm: SimulatedCrm
) -> None:
    until = crm.moment(-200)
    fill(conn, crm, until)
    table = training_table(url, crm.horizon_days)
    youngest = crm.moment(-1, until=until) - int(crm.horizon_days * DAY_MS)
    expected = [
        (change.lead_id, change.record["occurred_at"], change.truth.converts, change.state)
        for change in crm.changes(until=youngest + 1)
        if change.record and change.truth and not change.truth.applied
    ]
    assert list(zip(table["lead_id"], table["as_of"], table["converted"], strict=True)) == [
        e[:3] for e in expected
    ]
    for name in ("created_at", "lead_score", "touchpoint_count", "campus_name", "numbers"):
        assert table[name].tolist() == [state[name] for *_, state in expected if state]
    assert table["as_of"].dtype == np.int64
    assert table["converted"].dtype == bool


def test_an_empty_history_is_an_empty_table(url: str) -> None:
    assert training_table(url, 30).empty


def test_a_database_without_the_crm_is_one_sentence(postgres: Postgres) -> None:
    elsewhere = (
        f"{postgres.url}{'&' if '?' in postgres.url else '?'}options=-csearch_path%3Dpg_temp"
    )
    with pytest.raises(UserError, match="not a CRM that can be used here"):
        training_table(elsewhere, 30)


def test_a_postgres_that_does_not_answer_is_one_sentence_without_the_password() -> None:
    with pytest.raises(UserError, match="does not answer") as error:
        training_table("postgresql://user:secret@127.0.0.1:1/crm", 30)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_live_writes_end_where_the_fill_ends_whatever_the_disorder(
    conn: Connection, crm: SimulatedCrm
) -> None:
    cut = crm.moment(-1500)
    fill(conn, crm, cut)
    delivered = list(
        crm.deliveries(Shares(late=0.2, repeated=0.1, without_state=0.2, loop=0.1), since=cut)
    )
    for start in range(0, len(delivered), 100):
        write_changes(conn, delivered[start : start + 100])
    write_applications(conn, crm.applications(since=cut))
    assert _count(conn, "lead_history") == len(crm)
    assert _count(conn, "applications") == len(crm.applications())
    newest = {
        change.lead_id: change.record["lead_version"] for change in crm.changes() if change.record
    }
    assert dict(all_leads(conn)) == newest
    assert count_leads(conn) == len(newest)


def test_an_erased_lead_leaves_nothing_behind(conn: Connection, crm: SimulatedCrm) -> None:
    cut = crm.moment(-1500)
    fill(conn, crm, cut)
    delivered = list(crm.deliveries(Shares(deleted=0.05, tombstone=0.05), since=cut))
    write_changes(conn, delivered)
    write_applications(conn, crm.applications(since=cut))
    erased = [
        change.lead_id
        for change in delivered
        if change.kind in {DeliveryKind.DELETED, DeliveryKind.TOMBSTONE}
    ]
    assert erased
    for table, column in (
        ("people", "id"),
        ("applications", "person_id"),
        ("lead_history", "lead_id"),
    ):
        left = conn.execute(f"select count(*) from {table} where {column} = any(%s)", [erased])
        assert left.fetchone() == (0,)


def test_no_name_ever_enters_the_history(conn: Connection, crm: SimulatedCrm) -> None:
    fill(conn, crm)
    people = conn.execute("select first_name, email, phone from people limit 20").fetchall()
    assert all(all(person) for person in people)
    states = " ".join(text for (text,) in conn.execute("select state::text from lead_history"))
    assert not any(email in states or phone in states for _, email, phone in people)


def test_a_crm_that_the_simulator_did_not_make_is_refused_and_not_changed(
    conn: Connection,
) -> None:
    refuse_foreign(conn)
    conn.execute("drop table lead_history")
    with pytest.raises(UserError, match="the table applications is that of a CRM"):
        refuse_foreign(conn)
    conn.execute("create table lead_history (lead_id text)")
    with pytest.raises(UserError, match="did not make"):
        refuse_foreign(conn)
    # Another CRM need not have a table of the same name.
    conn.execute("drop table people, applications, programmes, campuses, lead_history cascade")
    conn.execute("create table lead_scores (lead_id text)")
    refuse_foreign(conn)
    conn.execute('create table "Prospect" (id bigint)')
    with pytest.raises(UserError, match="the table Prospect is that of a CRM"):
        refuse_foreign(conn)


def test_a_described_crm_is_not_written_over_by_a_simulated_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "crm.toml"
    file.write_text("[database]\ntable = 'contacts'\nid = 'id'\n[lead]\ncreated_at = 'at'\n")
    monkeypatch.setenv("LEADSTREAM_FIELDS", str(file))
    assert main(["simulate", "--database"]) == 2
    assert "describes another one: unset it" in capsys.readouterr().err
