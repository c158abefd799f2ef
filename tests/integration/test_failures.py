"""What a dependency that fails does: it costs time, and never a record."""

import bisect
import itertools
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from leadstream.local.kafka import KafkaProcess
from leadstream.local.postgres import PostgresProcess
from models.registry.versions import ModelRegistry
from producer.crm import create_schema
from schemas.codec import Reader, Writer
from schemas.registry import Registry
from tests.integration.conftest import CrmTables
from tests.integration.running import QUICK, Stage, until
from tests.integration.test_delivery import EACH, SLOW, ConstantLoad, scored
from tests.registry_server import registry_server
from tests.trained_models import TRUST, promoted_store, trained
from tests.unit.pipelines import event

pytestmark = pytest.mark.broker


def test_a_database_that_is_gone_for_longer_than_a_session_holds_the_work_and_keeps_the_membership(
    kafka: Broker, fresh_postgres: PostgresProcess, tmp_path: Path, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    stage.environment["DATABASE_URL"] = fresh_postgres.url
    leads = [f"lead_{i}" for i in range(600)]
    with psycopg.connect(fresh_postgres.url, autocommit=True) as connection:
        create_schema(connection)
        CrmTables(fresh_postgres.url, connection).add(*leads)
    with stage.running(**QUICK) as process:
        process.until_ready()
        stage.send([stage.change(lead, lead=None) for lead in leads[:200]])
        assert len(stage.predictions(200)) == 200
        rebalances = process.events("rebalance")
        fresh_postgres.kill()
        stage.send([stage.change(lead, lead=None) for lead in leads[200:400]])
        stage.send(stage.changes("fat", 100))
        reported = until(
            lambda: process.missing().get("postgres"), "it says that Postgres is missing"
        )
        assert "leadstream" not in reported, "the connection string may hold secrets"
        # Held for longer than the group would wait for a member that does not poll.
        held = process.metric("held_batches_total", dependency="postgres")
        deadline = time.monotonic() + 3
        while (
            time.monotonic() < deadline
            or process.metric("held_batches_total", dependency="postgres") < held + 2
        ):
            assert process.missing().keys() == {"postgres"}, "it must not look ready while it waits"
        assert process.metric("unavailable", dependency="postgres") == 1
        fresh_postgres.start()
        stage.send([stage.change(lead, lead=None) for lead in leads[400:]])
        expected = Counter([*leads, *(f"fat_{i}" for i in range(100))])
        assert scored(stage, 700) == expected
        process.until_ready()
        assert process.metric("unavailable", dependency="postgres") == 0
        assert process.events("rebalance") == rebalances
        assert process.accounting()["dead_lettered"] == 0
        assert process.stop() == 0
    assert scored(stage, 700) == expected
    assert stage.letters(0) == []


def test_brokers_that_go_away_under_load_are_named_and_the_work_resumes_by_itself(
    fresh_kafka: KafkaProcess, tmp_path: Path, model_store: str
) -> None:
    stage = Stage.on(fresh_kafka.bootstrap, tmp_path, model_store, partitions=4)
    (tmp_path / "quiet").mkdir()
    quiet = Stage.on(fresh_kafka.bootstrap, tmp_path / "quiet", model_store)
    slow = QUICK | EACH | SLOW | {"LEADSTREAM_BATCH_MAX_RECORDS": "1500"}
    slow["LEADSTREAM_KAFKA_TRANSACTION_TIMEOUT_MS"] = "5000"
    with (
        stage.running(**slow) as process,
        stage.running(**slow) as stopped,
        quiet.running(**QUICK) as idle,
    ):
        idle.until_ready()
        for each in (process, stopped):
            until(lambda e=each: e.until_ready().metric("assigned_partitions") >= 2, "they share")  # type: ignore[misc]
        # Much at once, so that the brokers go away while both are in the middle of a batch.
        expected = Counter(f"lead_{i}" for i in range(6000))
        stage.send(map(stage.change, expected))
        stage.grows(stage.topics.lead_predictions)
        fresh_kafka.kill()
        for each in (process, stopped, idle):
            missing = each.missing
            until(lambda m=missing: "brokers" in m(), "the brokers are missing", 20)  # type: ignore[misc]
            assert each.get("/healthz")[0] == 200
        began = time.monotonic()
        assert stopped.stop() == 0, stopped.events()[-1]
        assert time.monotonic() - began < 25
        lines = len(process.lines())
        fresh_kafka.start()
        assert scored(stage, expected.total()) == expected
        process.until_ready()
        # It had paused its partitions when it lost them, and its producer's coordinator was gone:
        # it must work again.
        quiet.send(quiet.changes("late", 10))
        assert scored(quiet, 10) == Counter(f"late_{i}" for i in range(10))
        assert len(process.lines()) - lines < 60, "the log was flooded"
        assert process.stop() == 0
        assert idle.stop() == 0
        assert [*process.sentences(), *idle.sentences(), *stopped.sentences()] == []
    assert scored(stage, expected.total()) == expected
    assert stage.letters(0) == []


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
        # Both framings were understood on one topic, and answers are framed as the registry's users
        # expect.
        reader = Reader("LeadPrediction", registry)
        assert {reader.decode(record.value() or b"")["lead_id"] for record in records} == {
            "framed",
            "single",
        }
        assert all((record.value() or b"")[:1] == b"\0" for record in records)
        assert stage.letters(0) == []
        registry.close()


def test_a_schema_id_that_the_registry_does_not_know_is_the_records_fault_and_its_neighbours_go_on(
    tmp_path: Path, kafka: Broker, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    with registry_server() as state, stage.running(SCHEMA_REGISTRY_URL=state.url) as process:
        stage.send(
            [
                Output(stage.topics.lead_changes, b"lost", b"\0\0\0\x27\x0fwhatever"),
                stage.change("good"),
            ]
        )
        [letter] = stage.letters(1)
        assert dict(letter.headers() or [])["dlq.reason"] == b"UNKNOWN_SCHEMA"
        assert letter.value() == b"\0\0\0\x27\x0fwhatever"
        assert len(stage.read(stage.topics.lead_predictions, 1)) == 1
        assert process.stop() == 0


def test_a_topic_that_is_created_late_is_waited_for_by_name(
    tmp_path: Path, kafka: Broker, model_store: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, create=False)
    with stage.running() as process:
        until(lambda: "topics create" in str(process.missing()), "readyz says what to do")
        stage.create_topics(1)
        stage.send(stage.changes("lead", 3))
        assert len(stage.predictions(3)) == 3
        until(lambda: not process.missing(), "ready")
        assert process.stop() == 0


def test_a_model_promoted_under_load_takes_over_between_two_batches(
    kafka: Broker, tmp_path: Path
) -> None:
    store = promoted_store(tmp_path / "models")
    registry = ModelRegistry(store, TRUST)
    version = registry.publish(trained(3))
    stage = Stage.on(kafka.bootstrap, tmp_path, store, partitions=1)
    with stage.running(**EACH) as process, ConstantLoad(stage) as load:
        process.until_ready()
        process.event("batch", model_version="1.0.0")
        registry.promote(version)
        process.event("batch", model_version=version)
        load.stop()
        predictions = sorted(
            stage.predictions(load.leads.total()), key=lambda p: int(p["source_offset"])
        )
        assert process.stop() == 0
        batches = process.events("batch")
    ends = list(itertools.accumulate(batch["records"] for batch in batches))
    assert Counter(p["lead_id"] for p in predictions) == load.leads
    assert [p["source_offset"] for p in predictions] == list(range(load.leads.total()))
    for prediction in predictions:
        batch = batches[bisect.bisect_right(ends, prediction["source_offset"])]
        assert prediction["model_version"] == batch["model_version"]
    assert {p["model_version"] for p in predictions} == {"1.0.0", version}
    assert len({(p["model_version"], p["model_sha256"]) for p in predictions}) == 2
