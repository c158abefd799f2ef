"""Offsets of the input: what was deleted, held back or changed by others is never silent."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewPartitions,
    NewTopic,
)

from leadstream.local.broker import Broker
from tests.integration.forked import run_verb
from tests.integration.running import Running, Stage, until

pytestmark = pytest.mark.broker


def delete_before(stage: Stage, offset: int, partition: int = 0) -> None:
    """Delete the changes before an offset, as retention does."""
    place = TopicPartition(stage.topics.lead_changes, partition, offset)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    [future] = admin.delete_records([place]).values()
    future.result(30)


def verb(stage: Stage, *arguments: str) -> Any:
    """The JSON that a verb prints."""
    environ = os.environ | stage.environment
    done = run_verb(*arguments, "--json", folder=stage.folder, environ=environ)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def failed_checks(stage: Stage) -> dict[str, str]:
    return {each["check"]: each["detail"] for each in verb(stage, "doctor") if not each["ok"]}


def warnings(process: Running) -> dict[str, str]:
    found: dict[str, str] = json.loads(process.get("/readyz")[1])["warnings"]
    return found


def test_changes_that_were_deleted_unread_are_reported_until_they_are_acknowledged(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    topic = stage.topics.lead_changes
    with stage.running() as first:
        stage.send(stage.changes("read", 50))
        stage.predictions(50)
        assert first.stop() == 0
    stage.send(stage.changes("unread", 350))
    delete_before(stage, 300)
    assert "retention" in failed_checks(stage)
    with stage.running() as second:
        line = second.event("changes.lost")
        assert (line["topic"], line["partition"]) == (topic, 0)
        assert (line["first"], line["last"], line["records"]) == (50, 299, 250)
        stage.predictions(150)
        labels = {"topic": topic, "partition": "0", "first": "50", "last": "299"}
        assert second.metric("lost_records", **labels) == 250
        assert second.metric("lost_changes_total", topic=topic, partition="0") == 250
        assert "offsets 50 to 299" in warnings(second)["lost changes"]
        second.until_ready()
        assert second.stop() == 0
    assert "offsets 50 to 299" in failed_checks(stage)["losses"], "the doctor knows afterwards"
    with stage.running() as third:
        third.until_ready()
        stage.send(stage.changes("later", 1))
        stage.predictions(151)
        assert "offsets 50 to 299" in warnings(third)["lost changes"], "after a restart, too"
        assert third.events("changes.lost") == [], "it is logged once"
        assert [
            (loss["first"], loss["last"])
            for loss in verb(stage, "losses", "--acknowledge")["losses"]
        ] == [(50, 299)]
        until(lambda: "lost changes" not in warnings(third), "the warning ends")
        assert third.metric("lost_records", **labels) == 0
        assert verb(stage, "losses") == {"losses": [], "acknowledged": False}
        assert "losses" not in failed_checks(stage)
        assert third.stop() == 0


def test_changes_that_are_deleted_while_a_dependency_holds_the_loop_are_reported(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    held = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "LEADSTREAM_BATCH_MAX_RECORDS": "5",
    }
    with stage.running(**held) as process:
        process.until_ready()
        stage.send([stage.change(f"thin_{i}", None, lead=None) for i in range(20)])
        process.event("batch.held")
        until(
            lambda: process.metric("lag_records", topic=stage.topics.lead_changes, partition="0"),
            "the lag shows while the loop is held",
        )
        stage.send(stage.changes("fat", 30))
        delete_before(stage, 40)
        line = process.event("changes.lost")
        assert (line["first"], line["last"]) == (0, 39)
        stage.predictions(10)
        assert process.stop() == 0


def test_lag_is_zero_after_aborted_changes_and_markers_and_an_open_transaction_has_its_reason(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=2)
    topic = stage.topics.lead_changes
    foreign = Producer(
        {"bootstrap.servers": stage.bootstrap, "transactional.id": topic, "linger.ms": 5}
    )
    foreign.init_transactions(30)

    def write(lead: str, times: int) -> None:
        foreign.begin_transaction()
        for number in range(times):
            change = stage.change(f"{lead}_{number}")
            foreign.produce(topic, change.value, change.key, partition=0)
        foreign.flush(30)

    write("committed", 5)
    foreign.commit_transaction(30)
    write("aborted", 500)
    foreign.abort_transaction(30)

    def lag(process: Running, partition: str) -> float | None:
        families = process.get("/metrics")[1].decode()
        name = f'leadstream_lag_records{{partition="{partition}",topic="{topic}"}}'
        return next(
            (float(x.split()[1]) for x in families.splitlines() if x.startswith(name)), None
        )

    with stage.running() as process:
        stage.predictions(5)
        until(lambda: lag(process, "0") == 0, "nothing is left to read")
        assert lag(process, "1") == 0, "every assigned partition has a lag"
        write("open", 3)
        stage.send([change._replace(topic=topic) for change in stage.changes("waits", 1)])
        until(lambda: "open transaction" in process.missing(), "it has its own reason")
        sentence = process.missing()["open transaction"]
        assert f"{topic} partition 0" in sentence
        assert "since 20" in sentence
        assert (lag(process, "0") or 0) >= 3
        assert process.metric("open_transaction_seconds", topic=topic, partition="0") > 0
        assert process.event("transaction.open")["stable_offset"] == 507
        foreign.commit_transaction(30)
        stage.predictions(9)
        process.event("transaction.ended")
        until(lambda: not process.missing(), "ready again")
        until(lambda: lag(process, "0") == 0, "no lag again")
        assert process.stop() == 0


def test_a_group_that_an_operator_moved_and_a_topic_that_was_made_again_are_noticed(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    topic, group = stage.topics.lead_changes, stage.environment["LEADSTREAM_GROUP_ID"]
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    with stage.running() as process:
        stage.send(stage.changes("one", 10))
        stage.predictions(10)
        assert process.stop() == 0
        assert process.events("offset.foreign") == []
    moved = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 4)])
    [future] = admin.alter_consumer_group_offsets([moved]).values()
    future.result(30)
    with stage.running() as process:
        stage.send(stage.changes("two", 5))
        line = process.event("offset.foreign")
        assert (line["topic"], line["partition"], line["offset"]) == (topic, 0, 4)
        until(lambda: process.events("batch"), "it goes on")
        admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
        added = process.event("topic.partitions")
        assert (added["topic"], added["before"], added["partitions"]) == (topic, 1, 2)
        admin.delete_topics([topic])[topic].result(30)
        until(lambda: "topics" in process.missing(), "the topic is missing")
        admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
        assert process.event("topic.made_again")["topic"] == topic
        until(lambda: not process.missing(), "ready again")
        before = len(process.events("batch"))
        stage.send(stage.changes("again", 8))
        until(lambda: len(process.events("batch")) > before, "the new topic is read")
        assert process.stop() == 0


def test_an_output_topic_that_is_missing_is_named(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    missing = stage.topics.lead_predictions
    admin.delete_topics([missing])[missing].result(30)
    with stage.running() as process:
        until(lambda: missing in warnings(process).get("output topics", ""), "the warning")
        stage.send(stage.changes("lead", 3))
        until(lambda: missing in process.missing().get("brokers", ""), "the reason", 90)
        admin.create_topics([NewTopic(missing, 2, 1)])[missing].result(30)
        stage.predictions(3)
        until(lambda: not process.missing() and not warnings(process), "all is well")
        assert process.stop() == 0


def test_a_start_from_the_end_of_the_topic_is_refused(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    with stage.running(LEADSTREAM_KAFKA_AUTO_OFFSET_RESET="latest") as process:
        assert process.exit_code() == 2
        assert "LEADSTREAM_KAFKA_AUTO_OFFSET_RESET" in process.lines()[0]
