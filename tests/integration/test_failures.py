"""What a dependency that fails does: it costs time, and never a record."""

from collections import Counter
from pathlib import Path

import psycopg
import pytest

from consumer.batch import Output
from local.broker import Broker
from local.kafka import KafkaProcess
from local.postgres import PostgresProcess
from producer.crm import create_schema
from schemas.codec import Reader, Writer
from schemas.registry import Registry
from tests.integration.running import Stage, until
from tests.integration.test_delivery import Load, scored
from tests.registry_server import registry_server
from tests.unit.pipelines import event

pytestmark = pytest.mark.broker


def test_a_postgres_that_is_stopped_and_started_under_load_costs_time_and_not_one_record(
    tmp_path: Path, kafka: Broker, fresh_postgres: PostgresProcess, model_store: str
) -> None:
    with psycopg.connect(fresh_postgres.url, autocommit=True) as connection:
        create_schema(connection)
        connection.execute(
            "insert into people (id, created_at) select 'thin_' || n, now() - interval '9 days'"
            " from generate_series(0, 399) as n"
        )
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    stage.environment["DATABASE_URL"] = fresh_postgres.url
    thin = [stage.change(f"thin_{n}", lead=None, occurred_at=1_900_000_000_000) for n in range(400)]
    with stage.running() as process, Load(stage) as load:
        process.until_ready()
        stage.send(thin[:100])
        until(lambda: process.metric("database_leads_total", answer="found") == 100, "the first thin changes")
        fresh_postgres.stop()
        stage.send(thin[100:300])
        until(lambda: "postgres" in process.missing(), "readyz names postgres")
        assert process.metric("unavailable", dependency="postgres") == 1
        assert process.get("/healthz")[0] == 200
        fresh_postgres.start()
        until(lambda: not process.missing(), "ready again")
        stage.send(thin[300:])
        load.stop()
        count = len(load.leads) + 400
        assert scored(stage, count) == load.leads + Counter(f"thin_{n}" for n in range(400))
        assert stage.letters(0) == []
        until(lambda: process.books()["scored"] == count, "the books tell of every one")
        # Its membership outlived the outage: partitions were assigned once and never taken away.
        assert [line["kind"] for line in process.events("rebalance")] == ["assigned"]
        assert process.stop() == 0


def test_brokers_that_are_stopped_and_started_under_load_cost_time_and_not_one_record(
    tmp_path: Path, fresh_kafka: KafkaProcess, model_store: str
) -> None:
    stage = Stage.on(fresh_kafka.bootstrap, tmp_path, model_store)
    with stage.running() as process:
        process.until_ready()
        with Load(stage) as load:
            until(lambda: process.books()["scored"] > 100, "changes go through")
        before = load.leads.copy()
        fresh_kafka.stop()
        until(lambda: "brokers" in process.missing(), "readyz names the brokers")
        fresh_kafka.start()
        with Load(stage) as again:
            until(lambda: not process.missing(), "ready again")
            until(lambda: process.books()["scored"] > sum(before.values()) + 100, "changes go through again")
        # Both loads name their leads alike: each lead that both sent has two changes.
        everything = before + again.leads
        done = sum(everything.values())
        until(lambda: sum(process.books().values()) == done, "everything is accounted for")
        predictions = scored(stage, process.books()["scored"])
        assert predictions.keys() == everything.keys()
        assert all(predictions[lead] <= everything[lead] for lead in everything)
        assert stage.letters(0) == []
        assert process.stop() == 0


def test_a_registry_that_answers_500_or_nothing_must_never_make_a_dead_letter(
    tmp_path: Path, kafka: Broker, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    with registry_server() as state:
        registry = Registry(state.url)
        framed = Writer("LeadChanged", registry, stage.topics.lead_changes)
        changes = [
            Output(stage.topics.lead_changes, b"framed", framed.encode(event("framed"))),
            stage.change("single"),
        ]
        assert framed.encode(event("framed"))[0] == 0
        state.failure = 500
        with stage.running(SCHEMA_REGISTRY_URL=state.url) as process:
            stage.send(changes)
            until(lambda: "registry" in process.missing(), "readyz names the registry")
            assert stage.committed(stage.topics.lead_changes) == 0
            state.failure = None
            records = stage.read(stage.topics.lead_predictions, 2)
            until(lambda: not process.missing(), "ready again")
            assert process.stop() == 0
        # Both framings were understood on one topic, and answers are framed as the registry's users expect.
        reader = Reader("LeadPrediction", registry)
        assert {reader.decode(record.value() or b"")["lead_id"] for record in records} == {"framed", "single"}
        assert all((record.value() or b"")[:1] == b"\0" for record in records)
        assert stage.letters(0) == []
        registry.close()


def test_a_schema_id_that_the_registry_does_not_know_is_the_records_fault_and_its_neighbours_go_on(
    tmp_path: Path, kafka: Broker, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    with registry_server() as state, stage.running(SCHEMA_REGISTRY_URL=state.url) as process:
        stage.send([Output(stage.topics.lead_changes, b"lost", b"\0\0\0\x27\x0fwhatever"), stage.change("good")])
        [letter] = stage.letters(1)
        assert dict(letter.headers() or [])["dlq.reason"] == b"UNKNOWN_SCHEMA"
        assert letter.value() == b"\0\0\0\x27\x0fwhatever"
        assert len(stage.read(stage.topics.lead_predictions, 1)) == 1
        assert process.stop() == 0


def test_a_topic_that_is_created_late_is_waited_for_by_name(tmp_path: Path, kafka: Broker, model_store: str) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, create=False)
    with stage.running() as process:
        until(lambda: "topics create" in str(process.missing()), "readyz says what to do")
        stage.create_topics(1)
        stage.send(stage.changes("lead", 3))
        assert len(stage.predictions(3)) == 3
        until(lambda: not process.missing(), "ready")
        assert process.stop() == 0
