"""What a topic deleted before `sink` or `translate` read it is reported, as it is for `run`."""

import json
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres
from schemas.codec import Writer
from tests.integration.outboxes import outbox_crm
from tests.integration.running import Stage, until
from tests.integration.test_offsets import verb, warnings
from tests.subscriber import prediction

pytestmark = pytest.mark.broker


def proved(stage: Stage, topic: str, output: Output, service: list[str], losses: list[str]) -> None:
    """A service reads 5 records, 7 of the next 10 are deleted, and it reports them until then."""
    stage.send([output] * 5)
    with stage.running(*service) as process:
        until(lambda: sum(line["records"] for line in process.events("batch")) == 5, "it reads")
        assert process.stop() == 0
    stage.send([output] * 10)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    [future] = admin.delete_records([TopicPartition(topic, 0, 12)]).values()
    future.result(30)
    with stage.running(*service) as process:
        line = process.event("changes.lost")
        assert (line["topic"], line["first"], line["last"]) == (topic, 5, 11)
        until(lambda: sum(line["records"] for line in process.events("batch")) == 3, "it goes on")
        labels = {"topic": topic, "partition": "0", "first": "5", "last": "11"}
        assert process.metric("lost_records", **labels) == 7
        warning = warnings(process)["lost changes"]
        assert "offsets 5 to 11" in warning
        assert f"leadstream {losses[0]} {losses[1]}" in warning
        [loss] = verb(stage, *losses, "--acknowledge")["losses"]
        assert (loss["first"], loss["last"]) == (5, 11)
        until(lambda: "lost changes" not in warnings(process), "the warning ends")
        assert verb(stage, *losses)["losses"] == []
        assert process.stop() == 0


def test_events_that_were_deleted_before_translate_read_them_are_reported(
    kafka: Broker, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused", partitions=1)
    topic = f"foreign.{stage.topics.lead_changes}"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    row = {"id": "ada", "created_at": "2026-01-31T08:15:00Z", "__op": "u"}
    output = Output(topic, b"ada", json.dumps(row).encode())
    service = ["translate", "--from", topic, "--format", "debezium"]
    proved(stage, topic, output, service, ["losses", "--of", "translate", "--from", topic])


@pytest.mark.postgres
def test_predictions_that_were_deleted_before_the_sink_read_them_are_reported(
    kafka: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused", partitions=1)
    topic = stage.topics.lead_predictions
    # A topic that only compacts refuses to delete records; retention does it in others.
    compacts = NewTopic(topic + ".both", 1, 1, config={"cleanup.policy": "compact,delete"})
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([compacts])[compacts.topic].result(30)
    stage.environment["LEADSTREAM_TOPIC_LEAD_PREDICTIONS"] = compacts.topic
    value = Writer("LeadPrediction").encode(prediction("ada"))
    with outbox_crm(postgres.url) as crm:
        stage.environment["DATABASE_URL"] = crm.url
        output = Output(compacts.topic, b"ada", value)
        proved(stage, compacts.topic, output, ["sink"], ["losses", "--of", "sink"])
