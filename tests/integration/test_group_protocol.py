"""KIP-848 (`group.protocol=consumer`): the same promises if the brokers assign partitions."""

from pathlib import Path

import pytest

from leadstream.cli.doctor.cluster import open_cluster
from leadstream.local.broker import Broker
from leadstream.settings import load_settings
from tests.integration.running import Stage, until

pytestmark = pytest.mark.broker


def test_where_the_brokers_assign_partitions_move_and_every_change_is_answered_once(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=4)
    settings = {"LEADSTREAM_KAFKA_GROUP_PROTOCOL": "consumer"}
    with stage.running(**settings) as one:
        stage.send(stage.changes("early", 40))
        stage.predictions(40)
        with stage.running(**settings) as two:
            until(
                lambda: two.events("rebalance") and two.metric("assigned_partitions"),
                "the second has its share",
            )
            stage.send(stage.changes("shared", 200))
            stage.predictions(240)
            until(
                lambda: one.accounting()["scored"] + two.accounting()["scored"] == 240,
                "each was counted once",
            )
            assert two.accounting()["scored"] > 0
            assert two.stop() == 0
        stage.send(stage.changes("late", 40))
        predictions = stage.predictions(280)
        assert one.stop() == 0
        assert one.sentences() == two.sentences() == []
    assert len({prediction["lead_id"] for prediction in predictions}) == len(predictions) == 280


def test_a_group_moves_to_the_other_protocol_by_a_rolling_restart(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=4)
    with stage.running() as old:
        stage.send(stage.changes("early", 40))
        stage.predictions(40)
        with stage.running(LEADSTREAM_KAFKA_GROUP_PROTOCOL="consumer") as new:
            until(
                lambda: new.events("rebalance") and new.metric("assigned_partitions"),
                "the new one has its share",
            )
            assert open_cluster(load_settings(stage.environment, None)).members() == 2, (
                "the doctor counts both"
            )
            stage.send(stage.changes("shared", 200))
            stage.predictions(240)
            assert old.stop() == 0
            stage.send(stage.changes("late", 40))
            predictions = stage.predictions(280)
            assert new.stop() == 0
            assert old.sentences() == new.sentences() == []
    assert len({prediction["lead_id"] for prediction in predictions}) == len(predictions) == 280


def test_a_group_of_several_moves_to_the_other_protocol_while_changes_arrive(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    """librdkafka's assignor leaves data in a classic group that Kafka refuses to convert: a new
    process waits until the last classic member has left.
    """
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=4)
    new = {"LEADSTREAM_KAFKA_GROUP_PROTOCOL": "consumer"}
    with stage.running() as one, stage.running() as two:
        until(
            lambda: all(each.metric("assigned_partitions") in (2, 3) for each in (one, two)),
            "both have their share",
        )
        with stage.running(**new) as three, stage.running(**new) as four:
            for each in (three, four):
                each.event("rejoining")
                assert "members of the classic protocol" in each.missing()["assignment"]
                assert each.metric("ready") == 0
            stage.send(stage.changes("before", 40))
            stage.predictions(40)
            assert one.stop() == 0
            stage.send(stage.changes("between", 40))
            stage.predictions(80)
            assert two.stop() == 0
            stage.send(stage.changes("after", 40))
            predictions = stage.predictions(120)
            until(lambda: not three.missing() and not four.missing(), "both joined")
            # And back, one by one: the brokers let classic members in at any time.
            with stage.running() as five:
                five.until_ready()
                assert three.stop() == 0
                assert four.stop() == 0
                stage.send(stage.changes("back", 40))
                predictions = stage.predictions(160)
                assert five.stop() == 0
            sentences = [each.sentences() for each in (one, two, three, four, five)]
            assert sentences == [[]] * 5
    assert len({prediction["lead_id"] for prediction in predictions}) == len(predictions) == 160


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_fenced_static_member_ends_with_a_sentence_and_the_other_one_reads(
    kafka: Broker, model_store: str, tmp_path: Path, delivery: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    static = {"LEADSTREAM_KAFKA_GROUP_INSTANCE_ID": "one", "LEADSTREAM_DELIVERY": delivery}
    with stage.running(**static) as first:
        first.until_ready()
        with stage.running(**static) as second:
            assert first.exit_code() == 1
            [sentence] = first.sentences()
            assert "LEADSTREAM_KAFKA_GROUP_INSTANCE_ID=one" in sentence
            stage.send(stage.changes("lead", 20))
            stage.predictions(20)
            second.until_ready()
            assert second.stop() == 0


def test_what_the_brokers_decide_on_cannot_be_set_as_well(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    settings = {
        "LEADSTREAM_KAFKA_GROUP_PROTOCOL": "consumer",
        "LEADSTREAM_KAFKA_SESSION_TIMEOUT_MS": "6000",
    }
    with stage.running(**settings) as process:
        assert process.exit_code() == 2
        [sentence] = process.lines()
        assert "session.timeout.ms" in sentence
