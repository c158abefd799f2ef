"""Leads that were erased stay erased, even if the group reads everything again."""

from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from tests.integration.running import QUICK, Stage, until

pytestmark = pytest.mark.broker
PARTITIONS = 2


def read_again(stage: Stage) -> None:
    """Set the offsets of a group without members back to the beginning."""
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    places = [TopicPartition(stage.topics.lead_changes, number, 0) for number in range(PARTITIONS)]
    group = ConsumerGroupTopicPartitions(stage.environment["LEADSTREAM_GROUP_ID"], places)

    def done() -> bool:
        [future] = admin.alter_consumer_group_offsets([group]).values()
        try:
            return all(each.error is None for each in future.result(30).topic_partitions)
        except Exception:  # noqa: BLE001 -- the last member may not have left yet
            return False

    until(done, "the group is empty")


def displayed(stage: Stage, count: int) -> dict[str, list[bool]]:
    """By lead whether each of its records in the predictions topic shows a score, in order."""
    found: dict[str, list[bool]] = {}
    for record in stage.read(stage.topics.lead_predictions, count):
        found.setdefault((record.key() or b"").decode(), []).append(record.value() is not None)
    return found


def test_a_group_that_is_set_back_to_the_beginning_revives_no_erased_lead_not_even_for_a_moment(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=PARTITIONS)
    # One record in each batch: whatever would come back would be seen.
    one = QUICK | {"LEADSTREAM_BATCH_MAX_RECORDS": "1"}
    leads = {"without": 0, "with": 5, "deleted": 5, "again": 0, "lives": 0}
    sent = [stage.change(lead, lead_version=version) for lead, version in leads.items()]
    sent += [
        Output(stage.topics.lead_changes, b"without", None),
        Output(stage.topics.lead_changes, b"with", None),
        stage.change("deleted", change_type="DELETED", lead_version=0),
        Output(stage.topics.lead_changes, b"again", None),
        stage.change("again", change_type="CREATED"),
    ]
    with stage.running(**one) as process:
        stage.send(sent)
        until(lambda: sum(process.accounting().values()) == len(sent), "all are committed")
        assert process.stop() == 0
    before = displayed(stage, len(sent))
    assert before["without"] == before["with"] == before["deleted"] == [True, False]
    assert before["again"] == [True, False, True]
    read_again(stage)
    with stage.running(**one) as process:
        until(lambda: sum(process.accounting().values()) == len(sent), "all are read again")
        assert process.accounting() == {
            "scored": 2,
            "coalesced": 4,
            "dead_lettered": 0,
            "erased": 4,
            "ignored": 0,
        }
        assert process.metric("late_changes_total") == 4
        assert process.stop() == 0
    after = displayed(stage, len(sent) + 6)
    for lead in ("without", "with", "deleted"):
        assert after[lead] == [True, False, False], lead
    assert after["again"] == [True, False, True, False, True]
    assert after["lives"] == [True, True]
