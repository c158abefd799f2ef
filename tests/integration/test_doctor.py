"""Every mistake of a newcomer, made for real: each must have a sentence that says how to fix it."""

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    OffsetSpec,
    ResourceType,
)

from leadstream.cli.doctor import cluster
from leadstream.cli.main import main
from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from leadstream.local.kafka import KafkaProcess, fetch_jars, find_java
from leadstream.local.postgres import Postgres
from leadstream.local.process import free_ports, scratch
from leadstream.settings import load_settings
from producer.migrate import migrations
from schemas.codec import Writer
from schemas.registry import Registry
from tests.integration.outboxes import OutboxCrm, outbox_crm, schema_of_its_own
from tests.integration.running import Stage, until
from tests.registry_server import registry_server
from tests.unit.pipelines import event

pytestmark = [pytest.mark.broker, pytest.mark.postgres]
HOUR = 3600
SETTINGS = ("LEADSTREAM_", "KAFKA_", "SCHEMA_REGISTRY_URL", "DATABASE_URL", "MODEL_STORE")


class Patient:
    """A stage, and what the doctor says of it."""

    def __init__(
        self, stage: Stage, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.stage, self._patch, self._capture = stage, patch, capture
        self.admin = AdminClient({"bootstrap.servers": stage.bootstrap})
        self.changes = stage.topics.lead_changes
        self.set(**stage.environment)

    def set(self, **settings: str) -> None:
        for name, value in settings.items():
            self._patch.setenv(name, value)

    def unset(self, name: str) -> None:
        self._patch.delenv(name)

    def findings(self, *words: str) -> list[dict[str, Any]]:
        """What it finds; the exit code must fit."""
        self._capture.readouterr()
        code = main(["doctor", "--json", *words])
        findings: list[dict[str, Any]] = json.loads(self._capture.readouterr().out)
        assert code == int(any(not finding["ok"] for finding in findings))
        return findings

    def failures(self, *words: str) -> list[tuple[str, str]]:
        """Return the check and the sentence of each failure."""
        return [(f["check"], f["detail"]) for f in self.findings(*words) if f["verdict"] == "mend"]

    def sentence(self, check: str, *words: str) -> str:
        """Return the sentence of the only failure."""
        [(found, detail)] = self.failures(*words)
        assert found == check, detail
        assert "Traceback" not in detail
        return detail

    def configure(self, topic: str, **values: str) -> None:
        entries = [
            ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for name, value in values.items()
        ]
        asked = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for future in self.admin.incremental_alter_configs([asked]).values():
            future.result(30)

    def commit(self, *offsets: int) -> None:
        """Have the group stand at these offsets of the changes' partitions."""
        places = [
            TopicPartition(self.changes, number, offset) for number, offset in enumerate(offsets)
        ]
        group = ConsumerGroupTopicPartitions(self.stage.environment["LEADSTREAM_GROUP_ID"], places)
        for future in self.admin.alter_consumer_group_offsets([group]).values():
            future.result(30)

    def send(self, value: bytes, *, age: float = 0, key: bytes = b"lead_1") -> None:
        """A record that was sent so many seconds ago."""
        self.stage.send(
            [Output(self.changes, key, value, timestamp=int((time.time() - age) * 1000))]
        )


@pytest.fixture
def patient(
    kafka: Broker,
    model_store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Patient:
    """Topics as the contract says, a champion, and no mistake."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        monkeypatch.delenv(name)
    patient = Patient(Stage.on(kafka.bootstrap, tmp_path, model_store), monkeypatch, capsys)
    patient.set(
        LEADSTREAM_DELIVERY="at-least-once"
    )  # asking for a transactional id takes half a second
    return patient


@pytest.fixture
def crm(patient: Patient, postgres: Postgres) -> Iterator[OutboxCrm]:
    with outbox_crm(postgres.url) as crm:
        patient.set(DATABASE_URL=crm.url)
        yield crm


def test_where_nothing_is_wrong_the_doctor_must_not_invent_anything(
    patient: Patient, crm: OutboxCrm
) -> None:
    patient.unset("LEADSTREAM_DELIVERY")
    patient.stage.send(patient.stage.changes("lead", 3))
    found = patient.findings("--processes", "2")
    assert {finding["verdict"] for finding in found} == {"ok"}, found
    checks = [
        "settings",
        "brokers",
        "delivery",
        "topics",
        "processes",
        "retention",
        "changes",
        "registry",
    ]
    assert [finding["check"] for finding in found] == [*checks, "database", "outbox", "model"]


def test_a_wrong_port_is_told_at_once(patient: Patient) -> None:
    [port] = free_ports(1)
    patient.set(KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")
    assert f"nothing listens at 127.0.0.1:{port}: check host and port" in patient.sentence(
        "brokers"
    )


def test_a_wrong_protocol_is_not_taken_for_a_broker_that_is_down(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ASK_SECONDS", 2)
    patient.set(LEADSTREAM_KAFKA_SECURITY_PROTOCOL="SSL")
    sentence = patient.sentence("brokers")
    assert "does not answer as a broker" in sentence
    assert "SSL" in sentence
    assert "LEADSTREAM_KAFKA_SECURITY_PROTOCOL" in sentence


@contextmanager
def misled_broker() -> Iterator[tuple[str, str]]:
    """A broker with two listeners: one is advertised where nobody is, and no transaction can begin
    at the other.
    """
    well, controller, badly = free_ports(3)
    with scratch("misled") as folder:
        node = KafkaProcess(
            folder,
            fetch_jars(lambda _: None),
            find_java(),
            ports=(well, controller),
            properties=f"listeners=PLAINTEXT://127.0.0.1:{well},ELSE://127.0.0.1:{badly},"
            f"CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{well},ELSE://127.0.0.1:1\n"
            "listener.security.protocol.map="
            "PLAINTEXT:PLAINTEXT,ELSE:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            "transaction.state.log.replication.factor=3\n",
        )
        try:
            node.start()
            yield node.bootstrap, f"127.0.0.1:{badly}"
        finally:
            node.kill()


def test_what_a_broker_in_a_container_gets_wrong_is_named(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ASK_SECONDS", 2)
    with misled_broker() as (well, badly):
        patient.set(KAFKA_BOOTSTRAP_SERVERS=badly)
        assert f"{badly} answers, but advertises the brokers 127.0.0.1:1" in patient.sentence(
            "brokers"
        )
        patient.set(KAFKA_BOOTSTRAP_SERVERS=well, LEADSTREAM_DELIVERY="exactly-once")
        details = dict(patient.failures())
        assert "transaction.state.log.replication.factor" in details["delivery"]
        patient.set(LEADSTREAM_DELIVERY="at-least-once")
        assert "delivery" not in dict(patient.failures())


def test_a_missing_topic_is_named_with_the_command_that_creates_it(patient: Patient) -> None:
    patient.set(LEADSTREAM_TOPIC_LEAD_OUTCOMES="crm.nowhere")
    assert "missing: crm.nowhere; `leadstream topics create`" in patient.sentence("topics")
    patient.set(LEADSTREAM_TOPIC_LEAD_CHANGES="crm.neither")
    assert "crm.neither, crm.nowhere" in patient.sentence("topics")


def test_a_topic_that_forgets_too_soon_is_told_with_what_sets_it(
    patient: Patient, capsys: pytest.CaptureFixture[str]
) -> None:
    patient.configure(patient.changes, retention_ms="3600000")
    until(patient.failures, "the broker has it")
    assert f"--topic {patient.changes} --add-config retention.ms=604800000" in patient.sentence(
        "topics"
    )
    capsys.readouterr()
    assert main(["topics", "check"]) == 1
    first, command = capsys.readouterr().out.splitlines()
    assert first == f"{patient.changes}: retention.ms is 3600000, should be 604800000"
    assert command.endswith(f"--topic {patient.changes} --add-config retention.ms=604800000")
    patient.configure(patient.changes, retention_ms="-1")
    until(lambda: not patient.failures(), "longer is no fault")
    assert [f["check"] for f in patient.findings() if f["verdict"] == "note"] == ["topics"]


def test_requests_in_many_partitions_would_take_the_changes_away_from_some_processes(
    patient: Patient,
) -> None:
    requests = patient.stage.topics.rescore_requests
    for future in patient.admin.create_partitions([NewPartitions(requests, 4)]).values():
        future.result(30)
    until(patient.failures, "the brokers have them")
    assert f"{requests}: partitions is 4, should be 1" in patient.sentence("topics")


def test_more_processes_than_partitions_are_told_before_and_while_they_run(
    patient: Patient,
) -> None:
    sentence = patient.sentence("processes", "--processes", "3")
    assert "2 partitions for 3 processes, so 1 of them would get no changes" in sentence
    assert f"--topic {patient.changes} --partitions 3" in sentence
    with (
        patient.stage.running() as one,
        patient.stage.running() as two,
        patient.stage.running() as three,
    ):
        for process in (one, two, three):
            process.event("rebalance")
        until(patient.failures, "three are in the group")
        assert "for 3 processes" in patient.sentence("processes")


def test_framing_of_a_registry_without_its_url_is_told_before_all_become_dead_letters(
    patient: Patient,
) -> None:
    with registry_server() as server:
        registry = Registry(server.url)
        patient.send(Writer("LeadChanged", registry, patient.changes).encode(event("framed")))
        registry.close()
        patient.set(SCHEMA_REGISTRY_URL=server.url)
        assert patient.failures() == []
        patient.unset("SCHEMA_REGISTRY_URL")
        assert "Set SCHEMA_REGISTRY_URL to the registry of the producer" in patient.sentence(
            "changes"
        )
    with registry_server() as another:
        patient.set(SCHEMA_REGISTRY_URL=another.url)
        assert "has no schema with id 1" in patient.sentence("changes")
    patient.set(SCHEMA_REGISTRY_URL=another.url)
    assert {check for check, _ in patient.failures()} == {"changes", "registry"}


def test_json_in_place_of_avro_is_told(patient: Patient) -> None:
    patient.send(json.dumps(event("plain")).encode())
    assert "looks like JSON" in patient.sentence("changes")


def test_a_clock_that_is_behind_the_senders_is_told(patient: Patient) -> None:
    patient.send(Writer("LeadChanged").encode(event("early")), age=-HOUR / 2)
    assert "30 min after now by this machine's clock" in patient.sentence("clock")


@pytest.mark.parametrize(("jump", "way"), [(-HOUR, "ahead of"), (HOUR, "behind")])
def test_a_clock_that_is_not_that_of_the_database_is_told(
    patient: Patient, crm: OutboxCrm, monkeypatch: pytest.MonkeyPatch, jump: int, way: str
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    assert f"Postgres's clock is 1 h {way} this machine's" in patient.sentence("clock")


def first_offset(patient: Patient, partition: int) -> int:
    place = TopicPartition(patient.changes, partition)
    earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    [future] = patient.admin.list_offsets({place: earliest}).values()
    return int(future.result(30).offset)


def test_changes_that_were_deleted_unread_do_not_go_unnoticed(patient: Patient) -> None:
    patient.stage.send(patient.stage.changes("lead", 40))
    patient.commit(1, 1)
    assert patient.failures() == []
    place = TopicPartition(patient.changes, 0, 5)
    for future in patient.admin.delete_records([place]).values():
        future.result(30)
    assert first_offset(patient, 0) == 5
    assert "up to 4 changes of" in (sentence := patient.sentence("retention"))
    assert "`leadstream rescore --all`" in sentence


def test_a_downtime_that_is_about_to_outlast_the_retention_is_told_in_time(
    patient: Patient,
) -> None:
    change = Writer("LeadChanged").encode(event("old"))
    patient.send(change, age=100 * HOUR)
    patient.send(change)
    patient.commit(0, 0)
    assert "unread change of" in (sentence := patient.sentence("retention"))
    assert "is 4 days old, and the topic keeps changes for 7 days" in sentence
    patient.commit(
        *(
            state.end
            for state in cluster.open_cluster(load_settings()).partition_states(patient.changes)
        )
    )
    assert patient.failures() == []


def test_an_empty_model_store_is_told_with_the_two_steps_to_a_model(
    patient: Patient, tmp_path: Path
) -> None:
    patient.set(MODEL_STORE=str(tmp_path / "nothing"))
    assert "run `leadstream train`, then `leadstream models promote VERSION`" in patient.sentence(
        "model"
    )
    patient.unset("MODEL_STORE")
    assert "MODEL_STORE is not set" in patient.sentence("model")


def test_a_model_of_an_unknown_key_is_told(patient: Patient, tmp_path: Path) -> None:
    patient.unset("LEADSTREAM_MODEL_VERIFY_KEYS")
    patient.set(HOME=str(tmp_path))
    assert "LEADSTREAM_MODEL_VERIFY_KEYS" in patient.sentence("model")


def test_a_setting_that_is_misspelt_is_told_with_the_one_that_was_meant(patient: Patient) -> None:
    patient.set(LEADSTREAM_GROUPID="mine")
    assert "did you mean LEADSTREAM_GROUP_ID?" in patient.sentence("settings")


def test_a_database_without_the_table_or_that_does_not_answer_is_told(
    patient: Patient, postgres: Postgres
) -> None:
    with schema_of_its_own(postgres.url) as (url, _):
        patient.set(DATABASE_URL=url)
        assert "the table people has no column id, or does not exist" in patient.sentence(
            "database"
        )
    [port] = free_ports(1)
    patient.set(DATABASE_URL=f"postgresql://crm:hush@127.0.0.1:{port}/crm")
    sentence = patient.sentence("database")
    assert "refused" in sentence
    assert "hush" not in sentence


def dropped(crm: OutboxCrm) -> None:
    crm.do("drop trigger leadstream_person_changed on people")


def disabled(crm: OutboxCrm) -> None:
    crm.do("alter table people disable trigger leadstream_person_changed")


@pytest.mark.parametrize("mistake", [dropped, disabled])
def test_a_trigger_that_does_not_fire_is_told(
    patient: Patient, crm: OutboxCrm, mistake: Callable[[OutboxCrm], None]
) -> None:
    mistake(crm)
    assert (
        "the trigger leadstream_person_changed on people is missing or disabled"
        in patient.sentence("outbox")
    )


def test_an_outbox_that_nobody_made_brought_up_to_date_or_empties_is_told(
    patient: Patient, crm: OutboxCrm, postgres: Postgres
) -> None:
    crm.do("delete from leadstream_migrations where number > 1")
    later = [migration.name for migration in migrations() if migration.number > 1]
    assert f"without {', '.join(later)}: run `leadstream db migrate`" in patient.sentence("outbox")
    for number, name in enumerate(later, 2):
        crm.do(
            "insert into leadstream_migrations (number, name, sha256) values (%s, %s, '')",
            number,
            name,
        )
    crm.add("ada")
    assert patient.failures() == []
    crm.do("update leadstream_outbox set occurred_at = now() - interval '3 hours'")
    assert "its newest row has waited for 3 h: start `leadstream relay`" in patient.sentence(
        "outbox"
    )
    with patient.stage.running("relay", DATABASE_URL=crm.url, LEADSTREAM_HTTP_PORT="0") as relay:
        relay.event("batch")
        assert relay.stop() == 0
    assert patient.failures() == []
    crm.do("drop table leadstream_outbox cascade")
    [found] = [finding for finding in patient.findings() if finding["verdict"] == "note"]
    assert (found["check"], "`leadstream db migrate` adds it" in found["detail"]) == (
        "outbox",
        True,
    )


def test_an_alias_that_was_moved_by_hand_is_told(
    patient: Patient, tmp_path: Path, model_store: str
) -> None:
    store = tmp_path / "moved"
    shutil.copytree(model_store, store)
    alias = store / "aliases" / "champion.json"
    alias.write_text(json.dumps(json.loads(alias.read_text()) | {"moved_at": 1}))
    patient.set(MODEL_STORE=str(store))
    assert "somebody moved it by hand" in patient.sentence("model")


def test_people_read_it_in_a_terminal_and_programs_line_by_line(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    with stage.running("doctor", MODEL_STORE=str(tmp_path / uuid.uuid4().hex)) as process:
        assert process.exit_code() == 1
        lines = process.sentences()
    assert [line[:4].strip() for line in lines] == ["ok"] * (len(lines) - 1) + ["FAIL"]
    assert lines[-1].startswith("FAIL  model     no model is promoted")
