"""A short schedule of faults on three brokers, and a topic whose only broker is away."""

from pathlib import Path

import pytest

# not in its __all__
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.faults.environment import FaultEnvironment, staged
from tests.faults.test_one_broker import held_by, proved
from tests.integration.running import QUICK, until

pytestmark = [pytest.mark.broker, pytest.mark.postgres, pytest.mark.faults, pytest.mark.long]


def test_whatever_fails_on_three_brokers_nothing_is_lost_or_repeated(
    three_brokers: FaultEnvironment, tmp_path: Path
) -> None:
    proved(three_brokers, 11, tmp_path)


def test_a_topic_without_leaders_holds_the_work_until_its_broker_is_back(
    three_brokers: FaultEnvironment, tmp_path: Path
) -> None:
    stage = staged(three_brokers, tmp_path / "run", coalesce=True, batch_max_records=100)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    third = NewTopic(
        f"{stage.topics.lead_predictions}.third", num_partitions=1, replica_assignment=[[3]]
    )
    admin.create_topics([third])[third.topic].result(30)
    with stage.running(**QUICK, LEADSTREAM_TOPIC_LEAD_PREDICTIONS=third.topic) as process:
        process.until_ready()
        stage.send(stage.changes("before", 5))
        assert len(stage.read(third.topic, 5)) == 5
        three_brokers.kafka.nodes[2].kill()
        stage.send(stage.changes("lead", 5))
        until(lambda: held_by(process, "brokers"), "the brokers are named")
        three_brokers.kafka.nodes[2].start()
        assert len(stage.read(third.topic, 10)) == 10
        process.until_ready()
        assert process.metric("unavailable", dependency="brokers") == 0
        assert process.stop() == 0
        assert process.sentences() == []
    assert stage.letters(0) == []
