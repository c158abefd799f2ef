"""The outbox of a CRM that a file describes: what fills it, and what the relay makes of it."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from consumer.deliver.sink import ScoreTable
from consumer.run.postgres import PostgresLeads
from consumer.scoring.leads import Lead
from leadstream.cli.main import main
from leadstream.errors import UserError
from leadstream.local.postgres import Postgres
from producer.crm import create_schema
from producer.described_triggers import LEAD_TRIGGER, OUTCOME_TRIGGER
from producer.migrate import migrate
from producer.outbox import Outbox, OutboxRow
from producer.outbox_records import lead_change_record, lead_outcome_record
from producer.postgres_status import read_postgres_status
from tests.integration.described import ContactsCrm, contacts_crm
from tests.subscriber import prediction

pytestmark = pytest.mark.postgres


@pytest.fixture
def bare(postgres: Postgres, tmp_path: Path) -> Iterator[ContactsCrm]:
    with contacts_crm(postgres.url, tmp_path) as crm:
        yield crm


@pytest.fixture
def crm(bare: ContactsCrm) -> ContactsCrm:
    migrate(bare.url, description=bare.description)
    return bare


def rows(crm: ContactsCrm, after: int = 0) -> list[OutboxRow]:
    with closing(Outbox(crm.url, crm.description)) as outbox:
        outbox.connect()
        return outbox.rows(after, 100)


def changes(crm: ContactsCrm) -> list[tuple[str, str | None, str]]:
    return [(row.lead_id, row.change_type, row.origin) for row in rows(crm)]


def test_a_change_of_any_described_column_is_a_row_and_of_no_other(crm: ContactsCrm) -> None:
    lead_id = crm.add(full_name="Zaphod")
    for change in ("gpa = 3.6", "has_consent = false", "country_code = 'FR'", "source_id = 2"):
        crm.do(f"update {crm.contacts} set {change}")
    for change in ("full_name = 'Ford'", "row_version = 9", "updated_by = 'ada'", "gpa = gpa"):
        crm.do(f"update {crm.contacts} set {change}")
    assert [kind for _, kind, _ in changes(crm)] == ["CREATED"] + ["UPDATED"] * 4
    crm.do(f"delete from {crm.contacts}")
    assert changes(crm)[-1] == (lead_id, "DELETED", "crm")


def test_a_row_gives_the_state_that_postgres_gives_and_its_version(crm: ContactsCrm) -> None:
    lead_id = crm.add(row_version=7, full_name="Zaphod", gpa="3.10")
    [row] = rows(crm)
    assert "Zaphod" not in str(row)
    record = lead_change_record(row, crm.description)
    with closing(PostgresLeads(crm.url, crm.description)) as leads:
        lead = leads.fetch([lead_id])[lead_id]
    assert isinstance(lead, Lead)
    assert record["lead"] == lead.state
    assert record["lead_version"] == lead.version == 7
    assert lead.state["numbers"] == {"gpa": 3.1}


def test_a_soft_delete_erases_and_its_undoing_creates(crm: ContactsCrm) -> None:
    crm.add()
    for change in ("deleted_at = now()", "gpa = 1", "deleted_at = null", "gpa = 2"):
        crm.do(f"update {crm.contacts} set {change}, row_version = row_version + 1")
    found = [lead_change_record(row, crm.description) for row in rows(crm)]
    assert [(each["change_type"], each["lead_version"]) for each in found] == [
        ("CREATED", 1),
        ("DELETED", 2),
        ("CREATED", 4),
        ("UPDATED", 5),
    ]
    assert [each["lead"] is None for each in found] == [False, True, False, False]
    crm.do(f"update {crm.contacts} set deleted_at = now()")
    crm.do(f"delete from {crm.contacts}")
    crm.add(deleted_at="2026-01-01")
    assert len(rows(crm)) == 5


def test_an_id_that_changes_is_a_lead_that_goes_and_one_that_comes(crm: ContactsCrm) -> None:
    before, after = crm.add(), str(uuid.uuid4())
    crm.do(f"update {crm.contacts} set contact_uuid = %s", after)
    assert [each[:2] for each in changes(crm)][1:] == [(before, "DELETED"), (after, "CREATED")]


def test_a_write_back_is_marked_and_an_erasure_never_is(crm: ContactsCrm) -> None:
    crm.add()
    crm.do(f"update {crm.contacts} set gpa = 1, updated_by = 'leadstream'")
    crm.do(f"update {crm.contacts} set gpa = 2, updated_by = 'ada'")
    with psycopg.connect(crm.url, autocommit=True) as connection:
        connection.execute("set leadstream.origin = 'leadstream'")
        connection.execute(f"update {crm.contacts} set gpa = 3".encode())
    crm.do(f"update {crm.contacts} set deleted_at = now(), updated_by = 'leadstream'")
    assert [origin for _, _, origin in changes(crm)] == [
        "crm",
        "leadstream",
        "crm",
        "leadstream",
        "crm",
    ]


def test_an_application_of_another_schema_is_an_outcome_once(crm: ContactsCrm) -> None:
    lead_id = str(uuid.uuid4())
    table = crm.applications
    crm.do(f"insert into {table} (contact_id, state) values (%s, 'draft')", lead_id)
    crm.do(f"update {table} set submitted_on = '2026-01-31'")
    crm.do(f"update {table} set state = 'submitted'")
    crm.do(f"update {table} set submitted_on = '2026-02-01'")
    crm.do(f"insert into {table} (state, submitted_on) values ('submitted', now())")
    [row] = rows(crm)
    assert lead_outcome_record(row, crm.description) == {
        "lead_id": lead_id,
        "converted": True,
        "decided_at": 1_769_900_399_999,
    }


def test_a_column_that_is_dropped_later_fails_no_write_of_the_crm(crm: ContactsCrm) -> None:
    crm.do(f"alter table {crm.contacts} drop column gpa, drop column deleted_at")
    crm.do(f"alter table {crm.contacts} drop column updated_by, drop column row_version")
    crm.do(f"alter table {crm.applications} drop column state, drop column submitted_on")
    crm.do(
        f"insert into {crm.contacts} (contact_uuid, created_on) values (%s, now())",
        str(uuid.uuid4()),
    )
    crm.do(f"insert into {crm.applications} (contact_id) values (%s)", str(uuid.uuid4()))
    [row] = rows(crm)
    record = lead_change_record(row, crm.description)
    assert (record["lead"]["numbers"], record["lead_version"]) == ({}, 0)


def test_a_session_that_shortens_numbers_changes_no_state(crm: ContactsCrm) -> None:
    crm.do(f"alter table {crm.contacts} alter gpa type float8")
    with psycopg.connect(crm.url, autocommit=True) as connection:
        connection.execute("set extra_float_digits = -5; set datestyle = 'SQL, DMY'")
        connection.execute(
            f"insert into {crm.contacts} (contact_uuid, created_on, gpa) values "
            f"(gen_random_uuid(), '31/01/2026 12:00', 0.1::float8 + 0.2)".encode()
        )
    [row] = rows(crm)
    lead = lead_change_record(row, crm.description)["lead"]
    assert (lead["created_at"], lead["numbers"]) == (1_769_857_200_000, {"gpa": 0.1 + 0.2})


def test_a_changed_description_replaces_the_triggers_and_an_equal_one_changes_nothing(
    crm: ContactsCrm,
) -> None:
    assert migrate(crm.url, description=crm.description).applied == []
    crm.file.write_text(crm.file.read_text().replace('consent = "has_consent"\n', ""))
    assert migrate(crm.url, description=crm.description, dry_run=True).applied == [
        f"triggers of {crm.contacts} and {crm.applications}"
    ]
    assert len(migrate(crm.url, description=crm.description).applied) == 1
    crm.add()
    crm.do(f"update {crm.contacts} set has_consent = false")
    assert [kind for _, kind, _ in changes(crm)] == ["CREATED"]
    # A trigger that somebody dropped comes back.
    crm.do(f"drop trigger {OUTCOME_TRIGGER} on {crm.applications}")
    assert len(migrate(crm.url, description=crm.description).applied) == 1


def test_an_outbox_of_people_becomes_one_of_a_described_crm(bare: ContactsCrm) -> None:
    create_schema(bare.connection)
    migrate(bare.url)
    bare.do("insert into people (id, created_at) values ('ada', now())")
    migrate(bare.url, description=bare.description)
    bare.do("insert into people (id, created_at) values ('ben', now())")
    lead_id = bare.add()
    old, new = rows(bare)
    assert (old.lead_id, new.lead_id) == ("ada", lead_id)
    assert lead_change_record(old, bare.description)["lead"] is None
    with pytest.raises(UserError, match="set LEADSTREAM_FIELDS"):
        lead_change_record(new)
    with pytest.raises(UserError, match="set LEADSTREAM_FIELDS"):
        migrate(bare.url)


def test_a_partitioned_table_of_leads_is_served(bare: ContactsCrm) -> None:
    parted = f"create table parted (like {bare.contacts} including defaults)"
    bare.do(f"{parted} partition by hash (contact_uuid)")
    bare.do("create table part partition of parted for values with (modulus 1, remainder 0)")
    text = bare.file.read_text().replace(f'schema = "sales{bare.suffix}"\n', "", 1)
    bare.file.write_text(text.replace('"contacts"', '"parted"'))
    for _ in range(2):
        migrate(bare.url, description=bare.description)
    bare.do("insert into part (contact_uuid, created_on) values (gen_random_uuid(), now())")
    assert [kind for _, kind, _ in changes(bare)] == ["CREATED"]


def test_a_view_is_refused_with_the_way_to_poll_it(
    bare: ContactsCrm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare.do(f"create view everyone as select * from {bare.contacts}")
    text = bare.file.read_text()
    view = text.replace(f'schema = "sales{bare.suffix}"\n', "", 1)
    bare.file.write_text(view.replace('"contacts"', '"everyone"'))
    monkeypatch.setenv("DATABASE_URL", bare.url)
    monkeypatch.setenv("LEADSTREAM_FIELDS", str(bare.file))
    assert main(["db", "migrate", "--fields"]) == 1
    assert "`leadstream rescore --all` on a schedule" in capsys.readouterr().err
    assert main(["db", "migrate", "--without-triggers"]) == 0
    assert "0002_lead_scores.sql" in capsys.readouterr().out
    # Nobody is told that triggers are missing which were not wanted, until they are.
    found = read_postgres_status(bare.url, bare.description)
    assert (found.polled, found.missing, found.absent_triggers) == (True, [], [])
    bare.file.write_text(text)
    migrate(bare.url, description=bare.description)
    found = read_postgres_status(bare.url, bare.description)
    assert (found.polled, found.missing, found.absent_triggers) == (False, [], [])
    bare.file.write_text(view.replace('"contacts"', '"everyone"'))
    monkeypatch.delenv("LEADSTREAM_FIELDS")
    assert main(["db", "migrate"]) == 1
    assert "set LEADSTREAM_FIELDS" in capsys.readouterr().err
    assert main(["db", "migrate", "--fields", str(bare.file)]) == 1


def test_a_description_that_does_not_fit_is_refused_with_every_difference(
    bare: ContactsCrm,
) -> None:
    text = bare.file.read_text().replace('"has_consent"', '"has_concent"')
    bare.file.write_text(text.replace('table = "sources"', 'table = "origins"'))
    with pytest.raises(UserError) as caught:
        migrate(bare.url, description=bare.description)
    assert "has no column 'has_concent'; did you mean 'has_consent'?" in str(caught.value)
    assert f"there is no table ref{bare.suffix}.origins" in str(caught.value)


# What a role with LOGIN alone may do by default: tables of its own, if only temporary ones.
FORGERIES = {
    LEAD_TRIGGER: (
        "create temp table contacts (contact_uuid text, created_on timestamp)",
        "create trigger forged after insert on contacts for each row execute function "
        f"{{schema}}.{LEAD_TRIGGER}()",
        "insert into contacts values ('ada', now())",
    ),
    OUTCOME_TRIGGER: (
        "create temp table applications (contact_id text, state text, submitted_on date)",
        "create trigger forged after insert on applications for each row execute function "
        f"{{schema}}.{OUTCOME_TRIGGER}()",
        "insert into applications values ('ada', 'submitted', now())",
    ),
}


@pytest.mark.parametrize("function", FORGERIES)
def test_a_role_that_may_only_log_in_cannot_forge_a_row(crm: ContactsCrm, function: str) -> None:
    role, schema = f"stranger{crm.suffix}", f"own{crm.suffix}"
    crm.do(f"create role {role} login password 'hush'")
    url = psycopg.conninfo.make_conninfo(crm.url, user=role, password="hush")

    def forge() -> None:
        with psycopg.connect(url, autocommit=True) as stranger:
            for statement in FORGERIES[function]:
                stranger.execute(statement.format(schema=schema).encode())

    try:
        crm.do(f"grant usage on schema {schema} to public")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="for function"):
            forge()
        crm.do(f"grant execute on function {schema}.{function}() to public")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="serves the table"):
            forge()
        assert rows(crm) == []
    finally:
        crm.do(f"drop owned by {role} cascade; drop role {role}")


def test_a_writer_of_the_crm_needs_no_right_on_the_outbox(crm: ContactsCrm) -> None:
    role = f"writer{crm.suffix}"
    crm.do(f"create role {role}")
    crm.do(f"grant usage on schema sales{crm.suffix} to {role}")
    crm.do(f"grant select, insert, update on {crm.contacts} to {role}")
    try:
        with psycopg.connect(crm.url, autocommit=True) as writer:
            writer.execute(f"set role {role}".encode())
            writer.execute("create temp table leadstream_outbox (record text)")
            insert: Any = f"insert into {crm.contacts} (contact_uuid, created_on)"
            writer.execute(f"{insert} values (gen_random_uuid(), now())".encode())
        assert [kind for _, kind, _ in changes(crm)] == ["CREATED"]
    finally:
        crm.do(f"drop owned by {role}; drop role {role}")


def test_a_missing_trigger_and_an_older_description_are_reported(crm: ContactsCrm) -> None:
    found = read_postgres_status(crm.url, crm.description)
    assert (found.missing, found.absent_triggers) == ([], [])
    crm.do(f"alter table {crm.contacts} disable trigger {LEAD_TRIGGER}")
    crm.file.write_text(crm.file.read_text().replace('consent = "has_consent"\n', ""))
    found = read_postgres_status(crm.url, crm.description)
    assert found.missing == [f"the triggers of {crm.file}"]
    assert found.absent_triggers == [(f'"sales{crm.suffix}"."contacts"', LEAD_TRIGGER)]


def test_a_score_in_the_table_says_which_inputs_it_had(crm: ContactsCrm) -> None:
    score = {**prediction("ada"), "feature_coverage": 0.75, "imputed": ["numbers.gpa"]}
    with closing(ScoreTable(crm.url)) as table:
        assert table.write([score]) == {}
    found = crm.connection.execute("select feature_coverage, imputed from lead_scores").fetchall()
    assert found == [(0.75, ["numbers.gpa"])]
