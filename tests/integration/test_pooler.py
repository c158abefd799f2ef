"""Postgres behind a pooler in transaction mode: what a session keeps elsewhere, each transaction
sets here.
"""

import contextlib
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg
import pytest

import consumer.run.postgres
from consumer.run.postgres import PostgresLeads
from consumer.scoring.leads import Lead
from leadstream.errors import SettingsError, Transient
from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres
from leadstream.postgres import connect
from producer.outbox import Outbox
from producer.postgres_status import read_postgres_status
from schemas.codec import Writer
from tests.integration.conftest import CrmTables
from tests.integration.outboxes import outbox_crm
from tests.integration.running import QUICK, Stage, until
from tests.pooler import pooled
from tests.subscriber import prediction

pytestmark = pytest.mark.postgres
BOTH = pytest.mark.parametrize("ignores", [False, True], ids=["refuses", "ignores"])


@BOTH
def test_time_outs_and_options_hold_in_each_transaction_behind_a_pooler(
    crm: CrmTables, ignores: bool
) -> None:
    with pooled(crm.url, ignores=ignores) as url:
        options = "-c default_transaction_read_only=on -c leadstream.origin=leadstream"
        with connect(url, statement_ms=200, options=options) as connection:
            for _ in range(12):  # psycopg prepares a statement that it repeats
                row = connection.execute(
                    "select current_setting('statement_timeout'),"
                    " current_setting('leadstream.origin'), to_regclass('people')::text"
                ).fetchone()
                assert row == ("200ms", "leadstream", "people")
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("select pg_sleep(5)")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("create table written (id int)")


def test_a_server_without_a_pooler_is_asked_for_nothing_more(crm: CrmTables) -> None:
    with connect(crm.url, statement_ms=200) as connection:
        assert connection.local_settings is None
        assert connection.prepare_threshold is not None


def test_options_that_no_pooler_can_take_are_one_sentence(crm: CrmTables) -> None:
    with pooled(crm.url) as url:
        odd = psycopg.conninfo.make_conninfo(url, options="-d 1 -c work_mem=8MB")
        with pytest.raises(SettingsError, match="takes no options other than -c name=value"):
            connect(odd, statement_ms=200)


def test_a_pooler_that_allows_no_transactions_is_refused_with_one_sentence(
    crm: CrmTables,
) -> None:
    with (
        pooled(crm.url, statements=True) as url,
        pytest.raises(SettingsError, match="set its pool_mode to transaction or session"),
    ):
        connect(url, statement_ms=200)


@BOTH
def test_states_are_read_through_a_pooler_and_a_slow_query_is_given_up(
    crm: CrmTables, ignores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    crm.add(f"pooled_{ignores}")
    monkeypatch.setattr(consumer.run.postgres, "STATEMENT_MS", 300)
    with pooled(crm.url, ignores=ignores) as url, closing(PostgresLeads(url)) as leads:
        for _ in range(8):
            assert isinstance(leads.fetch([f"pooled_{ignores}"])[f"pooled_{ignores}"], Lead)
        with crm.connection.transaction():
            crm.connection.execute("lock table people in access exclusive mode")
            with pytest.raises(Transient, match="statement timeout"):
                leads.fetch([f"pooled_{ignores}"])


@BOTH
def test_the_outbox_is_read_through_a_pooler(postgres: Postgres, ignores: bool) -> None:
    with outbox_crm(postgres.url) as crm, pooled(crm.url, ignores=ignores) as url:
        crm.add("ada", "ben")
        with closing(Outbox(url)) as outbox:
            assert outbox.connect()
            rows = until(lambda: outbox.rows(0, 10), "the rows")
            assert [row.lead_id for row in rows] == ["ada", "ben"]
            for _ in range(8):
                outbox.check(rows[-1].position, rows[-1].event_id)
                outbox.wait(0.01)
        assert read_postgres_status(url).missing == []


@pytest.mark.broker
@BOTH
def test_the_sink_writes_through_a_pooler_and_starts_no_loop(
    kafka: Broker, postgres: Postgres, tmp_path: Path, ignores: bool
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused", partitions=1)
    with outbox_crm(postgres.url) as crm, contextlib.ExitStack() as stack:
        stage.environment["DATABASE_URL"] = stack.enter_context(pooled(crm.url, ignores=ignores))
        crm.do("""create function follow_score() returns trigger language plpgsql as $$
            begin
            update people set status = 'hot' where id = new.lead_id;
            return null; end $$""")
        crm.do(
            "create trigger follow_score after insert or update on lead_scores"
            " for each row execute function follow_score()"
        )
        crm.add("ada")
        writer = Writer("LeadPrediction")

        def has(version: int) -> object:
            found = crm.connection.execute(
                "select 1 from lead_scores where lead_version = %s", (version,)
            )
            return found.fetchone()

        with stage.running("sink", **QUICK) as process:
            for version in range(1, 9):
                record = prediction("ada") | {"lead_version": version}
                stage.send(
                    [
                        stage.change("ada")._replace(
                            topic=stage.topics.lead_predictions, value=writer.encode(record)
                        )
                    ]
                )
                until(partial(has, version), f"version {version}")
            assert process.events("sink.held") == []
            assert process.stop() == 0
        origins = crm.connection.execute(
            "select distinct origin from leadstream_outbox where position >"
            " (select min(position) from leadstream_outbox)"
        ).fetchall()
        assert origins == [("leadstream",)]
