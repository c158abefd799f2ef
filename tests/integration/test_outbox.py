"""The outbox in real Postgres, the oldest and the newest there is: what fills it, and in which
order it is read.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from leadstream.cli.main import main
from leadstream.errors import Transient, UserError
from leadstream.local.postgres import Own, Postgres, local_server
from producer.crm import create_schema
from producer.migrate import FOLDER, migrate
from producer.outbox import Outbox
from tests.integration.outboxes import OutboxCrm, outbox_crm, schema_of_its_own

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module", params=["wheel", "installed"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The newest version that Leadstream knows, and this machine's, with two-phase commit."""
    kind: Own = request.param
    with contextlib.ExitStack() as stack:
        try:
            postgres = stack.enter_context(local_server(lambda _: None, kind))
        except UserError as error:
            pytest.skip(f"no Postgres of the kind {kind}: {error}")
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("alter system set max_prepared_transactions = 2")
        postgres.stop()
        postgres.start()
        yield postgres.url


@pytest.fixture
def crm(server: str) -> Iterator[OutboxCrm]:
    with outbox_crm(server) as crm:
        yield crm


@pytest.fixture
def outbox(crm: OutboxCrm) -> Iterator[Outbox]:
    with contextlib.closing(Outbox(crm.url)) as outbox:
        outbox.connect()
        yield outbox


def leads(outbox: Outbox, after: int = 0) -> list[tuple[int, str]]:
    return [(row.position, row.lead_id) for row in outbox.rows(after, 100)]


def test_a_row_waits_for_the_transaction_that_drew_the_position_before_it(
    crm: OutboxCrm, outbox: Outbox
) -> None:
    crm.add("slow", "quick")
    assert leads(outbox) == [(1, "slow"), (2, "quick")]
    with psycopg.connect(crm.url) as slow:
        slow.execute("update people set lead_score = 1 where id = 'slow'")
        crm.score("quick", 1)
        # Read now, position 4 would be the last published one, and 3 be skipped for good.
        assert leads(outbox, 2) == []
        assert outbox.has_open_writers
        crm.score("quick", 2)
        assert leads(outbox, 2) == []
        slow.commit()
        assert leads(outbox, 2) == [(3, "slow"), (4, "quick"), (5, "quick")]
    assert not outbox.has_open_writers


def test_a_transaction_that_is_rolled_back_holds_nothing_up(crm: OutboxCrm, outbox: Outbox) -> None:
    crm.add("ada")
    with psycopg.connect(crm.url) as undone:
        undone.execute("update people set lead_score = 1 where id = 'ada'")
        crm.add("ben")
        assert leads(outbox) == []
        undone.rollback()
    assert leads(outbox) == [(1, "ada"), (3, "ben")]


@pytest.mark.parametrize("change", ["cache 20", "increment -1 minvalue -100", "cycle"])
def test_a_sequence_that_hands_out_blocks_would_pass_rows_over(crm: OutboxCrm, change: str) -> None:
    with psycopg.connect(crm.url, autocommit=True) as connection:
        connection.execute(f"alter sequence leadstream_outbox_position_seq {change}")
    with contextlib.closing(Outbox(crm.url)) as outbox:
        with pytest.raises(UserError, match="cache 1 increment 1 no cycle"):
            outbox.connect()
        with psycopg.connect(crm.url, autocommit=True) as connection:
            connection.execute(
                "alter sequence leadstream_outbox_position_seq cache 1 increment 1 no cycle"
            )
        assert outbox.connect()


def test_an_outbox_that_begins_anew_under_a_running_relay_must_not_be_skipped(
    crm: OutboxCrm, outbox: Outbox
) -> None:
    crm.add("ada", "ben")
    [_, last] = outbox.rows(0, 100)
    crm.do("truncate leadstream_outbox restart identity")
    crm.add("cleo")
    with pytest.raises(Transient, match="begins again"):
        outbox.rows(last.position, 100)
    outbox.connect()
    with pytest.raises(UserError, match="does not have the row that was published last"):
        outbox.check(last.position, last.event_id)


def test_a_long_transaction_that_does_not_touch_leads_holds_nothing_up(
    crm: OutboxCrm, outbox: Outbox
) -> None:
    with psycopg.connect(crm.url) as report:
        report.execute("create table report as select 1 as one")
        crm.add("ada")
        assert leads(outbox) == [(1, "ada")]


def test_changes_of_a_lead_keep_their_order_though_the_later_transaction_is_the_older(
    crm: OutboxCrm, outbox: Outbox
) -> None:
    crm.add("ada", "other")
    with psycopg.connect(crm.url) as older, psycopg.connect(crm.url) as between:
        # Transaction ids are given at the first write: older < between < that of the score.
        older.execute("update people set lead_score = 0 where id = 'other'")
        between.execute("create table something (else_ int)")
        crm.score("ada", 1)
        older.execute("update people set lead_score = 2 where id = 'ada'")
        older.commit()
        # By ids below the oldest in flight, only that of `older` could be read here, and 2 would
        # come first.
        scores = [row.crm["lead_score"] for row in outbox.rows(2, 100) if row.lead_id == "ada"]
        assert scores == [1, 2]


def test_a_transaction_prepared_for_two_phase_commit_is_still_waited_for(
    crm: OutboxCrm, outbox: Outbox
) -> None:
    crm.add("ada", "ben")
    with psycopg.connect(crm.url) as other:
        other.execute("update people set lead_score = 1 where id = 'ada'")
        crm.score("ben", 1)
        assert leads(outbox, 2) == []
        other.execute("prepare transaction 'two phases'")
        assert leads(outbox, 2) == []
    crm.do("commit prepared 'two phases'")
    assert leads(outbox, 2) == [(3, "ada"), (4, "ben")]


def test_a_commit_wakes_who_waits(postgres: Postgres) -> None:
    with outbox_crm(postgres.url) as crm, contextlib.closing(Outbox(crm.url)) as outbox:
        outbox.connect()
        crm.add("ada")
        outbox.wait(1000)  # far beyond the time that a test may take
        assert leads(outbox) == [(1, "ada")]


def test_a_crm_with_the_audited_columns_alone_or_with_others_is_served(server: str) -> None:
    with schema_of_its_own(server) as (url, connection):
        connection.execute(
            "create table people (id bigint primary key, created_at timestamp, status "
            "varchar(20), lead_score numeric)"
        )
        done = migrate(url)
        assert done.notes == ["there is no table applications: no outcomes will be sent"]
        crm = OutboxCrm(url, connection)
        crm.add("7", status="new", lead_score=1.5)
        # A column that comes, and one that goes: triggers must never fail the CRM's own writes.
        crm.do("alter table people add column source text default 'web'")
        crm.do("alter table people drop column status")
        crm.do("update people set lead_score = 'NaN' where id = 7")
        with contextlib.closing(Outbox(url)) as outbox:
            outbox.connect()
            first, second = outbox.rows(0, 100)
        assert (first.lead_id, first.crm["status"], first.crm["lead_score"]) == (
            "7",
            "new",
            1.5,
        )
        assert (second.crm["status"], second.crm["source"], second.crm["lead_score"]) == (
            None,
            "web",
            "NaN",
        )


def test_an_application_is_an_outcome_when_it_is_submitted_and_only_then(
    crm: OutboxCrm, outbox: Outbox
) -> None:
    crm.add("ada")
    crm.do("alter table applications alter submitted_at drop not null")
    crm.do("insert into applications (person_id) values ('ada')")
    crm.do("update applications set submitted_at = now()")
    crm.do("update applications set source = 'fair', submitted_at = now()")
    assert [row.record for row in outbox.rows(0, 100)] == ["LeadChanged", "LeadOutcome"]


def test_a_writer_of_the_crm_needs_no_right_on_the_outbox_and_cannot_put_a_table_in_its_way(
    crm: OutboxCrm,
) -> None:
    role = f"writer_{crm.url[-8:]}"
    schema = crm.connection.execute("select current_schema()").fetchone()
    assert schema
    crm.do(f"create role {role}")
    crm.do(f"grant usage on schema {schema[0]} to {role}")
    crm.do(f"grant select, insert, update on people to {role}")
    try:
        with psycopg.connect(crm.url, autocommit=True) as writer:
            writer.execute(f"set role {role}")
            writer.execute("create temp table leadstream_outbox (like people)")
            writer.execute("insert into people (id, created_at) values ('ada', now())")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                writer.execute(f"select * from {schema[0]}.leadstream_outbox")
        assert [lead_id for lead_id, _ in crm.outbox()] == ["ada"]
    finally:
        crm.do(f"drop owned by {role}")
        crm.do(f"drop role {role}")


# What a role with LOGIN alone may do by default: tables of its own, if only temporary ones.
FORGERIES = {
    "leadstream_person_changed": (
        "create temp table forged (id text, created_at timestamptz)",
        "create trigger forged after insert or delete on forged for each row execute function "
        "{schema}.leadstream_person_changed()",
        "insert into forged values ('ada', now())",
        "delete from forged",
    ),
    "leadstream_application_submitted": (
        "create temp table people (person_id text, submitted_at timestamptz)",
        "create trigger forged after insert on people for each row execute function "
        "{schema}.leadstream_application_submitted()",
        "insert into people values ('ada', now())",
    ),
}


@pytest.fixture
def login_role(crm: OutboxCrm) -> Iterator[tuple[str, str]]:
    """Yield a role with LOGIN and nothing else, and the CRM's schema."""
    [schema] = crm.connection.execute("select current_schema()").fetchone() or [""]
    role = f"stranger_{crm.url[-8:]}"
    crm.do(f"create role {role} login password 'hush'")
    yield role, schema
    crm.do(f"drop owned by {role} cascade")
    crm.do(f"drop role {role}")


def forge(crm: OutboxCrm, login_role: tuple[str, str], statements: tuple[str, ...]) -> None:
    role, schema = login_role
    url = psycopg.conninfo.make_conninfo(crm.url, user=role, password="hush")
    with psycopg.connect(url, autocommit=True) as stranger:
        for statement in statements:
            stranger.execute(statement.format(schema=schema).encode())


@pytest.mark.parametrize("function", FORGERIES)
def test_a_role_that_may_only_log_in_cannot_forge_a_change_or_erase_a_lead(
    crm: OutboxCrm, login_role: tuple[str, str], function: str
) -> None:
    crm.do(f"grant usage on schema {login_role[1]} to public")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="for function"):
        forge(crm, login_role, FORGERIES[function])
    # Somebody granted it, or the trigger is older than the migration that revokes.
    crm.do(f"grant execute on function {function}() to public")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="serves the table"):
        forge(crm, login_role, FORGERIES[function])
    assert crm.connection.execute("select * from leadstream_outbox").fetchall() == []


def test_an_outbox_that_exists_is_bound_to_its_tables_by_the_next_migration(
    postgres: Postgres, tmp_path: Path
) -> None:
    older = tmp_path / "migrations"
    older.mkdir()
    for path in sorted(FOLDER.glob("000[12]_*.sql")):
        shutil.copy(path, older)
    with schema_of_its_own(postgres.url) as (url, connection):
        create_schema(connection)
        migrate(url, folder=older)
        crm = OutboxCrm(url, connection)
        crm.do("create table strangers (id text, created_at timestamptz)")
        crm.do(
            "create trigger forged after insert on strangers for each row execute function "
            "leadstream_person_changed()"
        )
        migrate(url)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="serves the table"):
            crm.do("insert into strangers values ('ada', now())")
        crm.add("ada")
        assert [lead_id for lead_id, _ in crm.outbox()] == ["ada"]


def test_a_crm_whose_people_are_partitioned_is_served(server: str) -> None:
    with schema_of_its_own(server) as (url, connection):
        connection.execute(
            "create table people (id text, created_at timestamptz, lead_score float8) "
            "partition by hash (id)"
        )
        connection.execute(
            "create table people_0 partition of people for values with (modulus 1, remainder 0)"
        )
        migrate(url)
        crm = OutboxCrm(url, connection)
        crm.add("ada")
        connection.execute("update people_0 set lead_score = 1")
        connection.execute("delete from people")
        changes = connection.execute("select change_type from leadstream_outbox order by position")
        assert [kind for (kind,) in changes] == ["CREATED", "UPDATED", "DELETED"]


def migrated(crm: OutboxCrm) -> list[Any]:
    return crm.connection.execute(
        "select number, name from leadstream_migrations order by number"
    ).fetchall()


def test_a_migration_is_applied_once_and_an_edited_one_is_refused(
    postgres: Postgres, tmp_path: Path
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(FOLDER, folder)
    with schema_of_its_own(postgres.url) as (url, connection):
        with pytest.raises(UserError, match="no table people"):
            migrate(url, folder=folder)
        create_schema(connection)
        crm = OutboxCrm(url, connection)
        present = [path.name for path in sorted(FOLDER.glob("*.sql"))]
        assert migrate(url, folder=folder, dry_run=True).applied == present
        assert connection.execute("select to_regclass('leadstream_outbox')").fetchone() == (None,)
        crm.add("before")
        assert migrate(url, folder=folder).applied == present
        assert migrate(url, folder=folder).present == present
        crm.add("after")
        assert [lead_id for lead_id, _ in crm.outbox()] == ["after"]
        # One that fails leaves none of those that were applied with it.
        (folder / "0008_good.sql").write_text("create table good (id int);")
        (folder / "0009_bad.sql").write_text("create table bad (id int); select 1 / 0;")
        with pytest.raises(UserError, match="nothing was changed: division by zero"):
            migrate(url, folder=folder)
        assert connection.execute("select to_regclass('good')").fetchone() == (None,)
        (folder / "0009_bad.sql").unlink()
        assert migrate(url, folder=folder).applied == ["0008_good.sql"]
        numbers = [int(name[:4]) for name in present]
        assert [number for number, _ in migrated(crm)] == [*numbers, 8]
        (folder / "0008_good.sql").write_text("create table good (id bigint);")
        with pytest.raises(UserError, match=r"0008_good.sql was changed after it was applied"):
            migrate(url, folder=folder)
        with pytest.raises(
            UserError, match=r"has 0008_good.sql, which this Leadstream does not know"
        ):
            migrate(url)


def test_the_verb_says_what_it_would_add_and_what_it_added(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with schema_of_its_own(postgres.url) as (url, connection):
        monkeypatch.setenv("DATABASE_URL", url)
        assert main(["db", "migrate"]) == 1
        assert "no table people on its search path" in capsys.readouterr().err
        connection.execute("create table people (id text primary key, created_at timestamptz)")
        for arguments, words in ((["--dry-run"], "would be added"), ([], "added"), ([], "present")):
            assert main(["db", "migrate", *arguments]) == 0
            printed = capsys.readouterr().out.splitlines()
            assert printed[0].split("  ")[0] == words, printed
            assert printed[-1] == "note: there is no table applications: no outcomes will be sent"


def test_a_busy_crm_is_not_held_up_by_a_migration(postgres: Postgres) -> None:
    with schema_of_its_own(postgres.url) as (url, connection):
        create_schema(connection)
        with psycopg.connect(url) as busy:
            busy.execute("insert into people (id, created_at) values ('ada', now())")
            with pytest.raises(UserError, match="in use for over 3s: nothing was changed"):
                migrate(url)
        assert connection.execute("select to_regclass('leadstream_migrations')").fetchone() == (
            None,
        )
