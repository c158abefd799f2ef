"""The sink as a CRM meets it: one current score a lead in Postgres, whatever comes, comes again, or
comes late.
"""

import random
from pathlib import Path
from typing import Any

import psycopg
import pytest

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres, PostgresProcess
from producer.crm import create_schema
from producer.migrate import migrate
from schemas.codec import Writer
from tests.integration.outboxes import OutboxCrm, outbox_crm
from tests.integration.running import QUICK, Stage, until
from tests.subscriber import prediction

pytestmark = [pytest.mark.broker, pytest.mark.postgres]
_WRITER = Writer("LeadPrediction")


def scores(crm: OutboxCrm) -> dict[str, tuple[int, float]]:
    """Version and probability of each lead."""
    rows = crm.connection.execute(
        "select lead_id, lead_version, probability from lead_scores"
    ).fetchall()
    return {lead_id: (version, probability) for lead_id, version, probability in rows}


def test_the_table_holds_the_newest_score_of_each_lead_after_kills_late_repeats_and_erasures(
    kafka: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused")

    def scored(lead_id: str, version: int, probability: float, at: int) -> Output:
        record = prediction(lead_id) | {
            "lead_version": version,
            "probability": probability,
            "scored_at": at,
        }
        return Output(stage.topics.lead_predictions, lead_id.encode(), _WRITER.encode(record))

    with outbox_crm(postgres.url) as crm:
        stage.environment["DATABASE_URL"] = crm.url
        # What a CRM may make of a score must start no loop: here its own trigger changes the lead.
        crm.do("""create function follow_score() returns trigger language plpgsql as $$
            begin
            update people set status = 'hot', conversion_probability = new.probability
            where id = new.lead_id;
            return null; end $$""")
        crm.do(
            "create trigger follow_score after insert or update on lead_scores"
            " for each row execute function follow_score()"
        )
        crm.add("ada")
        stage.send(
            [
                scored("ada", 2, 0.2, 1000),
                scored("ada", 1, 0.9, 2000),  # the versions of the CRM went back
                scored("ada", 1, 0.1, 1500),  # from a batch that was written twice
                scored("ben", 5, 0.5, 1000),
                scored("ben", 5, 0.6, 3000),  # scored again, by another model
                scored("uncounted", 0, 0.1, 1000),
                scored("uncounted", 0, 0.3, 2000),
                scored("gone", 1, 0.7, 1000),
                Output(stage.topics.lead_predictions, b"gone", None),
                Output(stage.topics.lead_predictions, b"junk", b"junk"),
            ]
        )
        expected = {"ada": (1, 0.9), "ben": (5, 0.6), "uncounted": (0, 0.3)}
        with stage.running("sink", **QUICK) as process:
            until(lambda: scores(crm) == expected, "the table is as it should be")
            process.event("record.skipped", reason="UNKNOWN_FRAMING")
            until(lambda: process.metric("sink_records_total", fate="erased") == 1, "it is counted")
            process.kill()
        [(explained, until_ms)] = crm.connection.execute(
            "select explanation, extract(epoch from valid_until) * 1000 from lead_scores"
            " where lead_id = 'ada'"
        ).fetchall()
        assert explained == "For: lead score 82, higher than 9 in 10 leads: +10 points."
        assert int(until_ms) == prediction("ada")["valid_until"]
        rows = crm.connection.execute(
            "select origin, facts ->> 'status' from leadstream_outbox where lead_id = 'ada'"
        )
        assert rows.fetchall() == [("crm", None), ("leadstream", "hot")]
        # Everything again, as after a crash before the offsets were committed.
        with stage.running("sink", **QUICK, LEADSTREAM_GROUP_ID="again") as process:
            until(
                lambda: sum(line["records"] for line in process.events("batch")) == 10,
                "all was read again",
            )
            assert scores(crm) == expected
            assert process.stop() == 0


def test_a_batch_that_is_killed_anywhere_comes_again(
    kafka: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused")
    rng, newest = random.Random(3), dict[str, tuple[int, float]]()
    outputs: list[Any] = []
    for number in range(4000):
        lead_id = f"lead_{rng.randrange(200)}"
        newest[lead_id] = (number + 1, rng.random())
        record = prediction(lead_id) | {
            "lead_version": number + 1,
            "probability": newest[lead_id][1],
        }
        outputs.append(
            Output(stage.topics.lead_predictions, lead_id.encode(), _WRITER.encode(record))
        )
    stage.send(outputs)
    with outbox_crm(postgres.url) as crm:
        stage.environment["DATABASE_URL"] = crm.url
        with stage.running("sink", **QUICK, LEADSTREAM_BATCH_MAX_RECORDS="100") as process:
            process.event("batch")
            process.kill()
        with stage.running("sink", **QUICK) as process:
            until(lambda: scores(crm) == newest, "the newest of each lead")
            # A server that ends its connections is waited for.
            with psycopg.connect(crm.url, autocommit=True) as other:
                other.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'leadstream sink' and pid <> pg_backend_pid()"
                )
            record = prediction("late") | {"lead_version": 1, "probability": 0.5}
            stage.send([Output(stage.topics.lead_predictions, b"late", _WRITER.encode(record))])
            until(lambda: scores(crm).get("late") == (1, 0.5), "the late one")
            # Where the versions of the CRM went back, the later scoring is the truth.
            record |= {"lead_version": 9, "probability": 0.8, "scored_at": record["scored_at"] + 1}
            stage.send([Output(stage.topics.lead_predictions, b"late", _WRITER.encode(record))])
            record |= {"lead_version": 2, "probability": 0.7, "scored_at": record["scored_at"] + 1}
            stage.send([Output(stage.topics.lead_predictions, b"late", _WRITER.encode(record))])
            until(lambda: scores(crm)["late"] == (2, 0.7), "the one that was scored last")
            assert process.stop() == 0
            assert process.sentences() == []


def test_a_row_that_postgres_refuses_costs_itself_and_is_counted(
    kafka: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused", partitions=1)
    topic = stage.topics.lead_predictions

    def scored(lead_id: str, **fields: Any) -> Output:
        record = prediction(lead_id) | {"lead_version": 1} | fields
        return Output(topic, lead_id.encode(), _WRITER.encode(record))

    with outbox_crm(postgres.url) as crm:
        stage.environment["DATABASE_URL"] = crm.url
        crm.do("alter table lead_scores add check (lead_id <> 'secret_unchecked')")
        crm.do("""create function object() returns trigger language plpgsql as $$
            begin
            case new.lead_id
            when 'secret_raised' then raise exception 'secret %%', new.lead_id;
            when 'secret_custom' then
                raise exception 'secret %%', new.lead_id using errcode = 'LS001';
            when 'secret_divided' then perform 1 / 0;
            when 'secret_absent' then perform 1 from no_such_table;
            else null; end case;
            return new; end $$""")
        crm.do(
            "create trigger object before insert on lead_scores"
            " for each row execute function object()"
        )
        bad = ["unchecked", "raised", "custom", "divided", "absent", "nul\0"]
        good = [scored(f"good_{number}") for number in range(40)]
        refused = [
            *(scored(f"secret_{name}") for name in bad),
            scored("secret_beyond", occurred_at=2**60),
            Output(topic, b"secret_nul\0", None),
            Output(topic, b"secret\xff", None),
        ]
        mixed = [*good[:10], *refused[:3], *good[10:20], *refused[3:], *good[20:]]
        stage.send(mixed)
        with stage.running("sink", **QUICK) as process:
            until(lambda: len(scores(crm)) == 40, "the good ones")
            until(
                lambda: process.metric("sink_records_total", fate="skipped") == len(refused),
                "the bad ones are counted",
            )
            assert process.metric("sink_records_total", fate="scored") == 40
            assert process.events("sink.held") == []
            places = {
                (line["partition"], line["offset"]) for line in process.events("record.skipped")
            }
            assert len(places) == len(refused)
            assert not any("secret" in line for line in process.lines())
            # What is wrong with the table is no row's fault.
            crm.do("alter table lead_scores drop column grade")
            stage.send([scored("later")])
            assert process.exit_code() == 1
        assert "lead_scores has no column grade" in process.sentences()[0]


def test_an_id_that_the_encoding_of_the_database_lacks_costs_its_row(
    kafka: Broker, fresh_postgres: PostgresProcess, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused", partitions=1)
    with psycopg.connect(fresh_postgres.url, autocommit=True) as connection:
        connection.execute("create database latin template template0 encoding latin1 locale 'C'")
    server = psycopg.conninfo.make_conninfo(fresh_postgres.url, dbname="latin")
    with psycopg.connect(server, autocommit=True) as connection:
        create_schema(connection)
        migrate(server)
        stage.environment["DATABASE_URL"] = server
        ids = ["plain", "café", "čeština", "日本", "later"]
        records = [(name, prediction(name) | {"lead_version": 1}) for name in ids]
        stage.send(
            Output(stage.topics.lead_predictions, name.encode(), _WRITER.encode(record))
            for name, record in records
        )
        with stage.running("sink", **QUICK) as process:
            until(
                lambda: process.metric("sink_records_total", fate="skipped") == 2, "two are skipped"
            )
            assert process.metric("sink_records_total", fate="scored") == 3
            assert process.stop() == 0
        found = connection.execute("select lead_id from lead_scores order by 1").fetchall()
        assert [lead_id for (lead_id,) in found] == ["café", "later", "plain"]
