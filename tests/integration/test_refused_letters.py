"""Letters and predictions that brokers would refuse: too large, too early, too late, without a key.

None of them may hold the stream, and triage gets the original back while it is there.
"""

import hashlib
import json
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from tests.integration.running import Running, Stage, headers_of, until
from tests.zipped_records import send_zeros

pytestmark = pytest.mark.broker
NO_LIMIT = {"LEADSTREAM_DEAD_LETTER_MAX_RATIO": "1", "LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE": "0"}
BOTH = pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
HUGE = b"\x00" * 9_000_000


def send_large(stage: Stage, topic: str, *records: tuple[bytes | None, bytes], codec: str) -> None:
    """Send records that only fit because they compress well."""
    producer = Producer(
        {
            "bootstrap.servers": stage.bootstrap,
            "message.max.bytes": 64_000_000,
            "compression.type": codec,
        }
    )
    for key, value in records:
        producer.produce(topic, value, key, headers=[("trace", b"\x01")])
        assert producer.flush(60) == 0


def configure(stage: Stage, topic: str, **settings: str) -> None:
    changes = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in settings.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=changes)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


def triage(stage: Stage, name: str, *arguments: str) -> tuple[int, str]:
    """Run a verb of dead-letters; return its exit code and its output."""
    process = Running(stage.environment, stage.folder / name, "dead-letters", *arguments)
    code = process.exit_code(120)
    return code, "\n".join(process.lines())


@BOTH
def test_a_record_that_only_fits_compressed_is_a_cut_letter_and_its_original_can_be_replayed(
    kafka: Broker, model_store: str, tmp_path: Path, delivery: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    changes, requests = stage.topics.lead_changes, stage.topics.rescore_requests
    stage.send([stage.change("before")])
    send_large(stage, changes, (b"huge", HUGE), codec="lz4")
    send_large(stage, changes, (b"zipped", HUGE + b"1"), codec="zstd")
    send_large(stage, requests, (None, b"[" + b" " * 9_000_000), codec="gzip")
    stage.send([stage.change("after")])
    with stage.running(**NO_LIMIT, LEADSTREAM_DELIVERY=delivery) as process:
        letters = {letter.key(): letter for letter in stage.letters(3)}
        assert {p["lead_id"] for p in stage.predictions(2)} == {"before", "after"}
        assert process.until_ready().events("batch.held") == []
        assert process.stop() == 0
    assert len(letters) == 3
    for key, value in ((b"huge", HUGE), (b"zipped", HUGE + b"1")):
        headers = headers_of(letters[key])
        assert headers["dlq.reason"] == "OVERSIZED"
        assert headers["dlq.cut"] == "value"
        assert headers["dlq.value_bytes"] == str(len(value))
        assert headers["dlq.value_sha256"] == hashlib.sha256(value).hexdigest()
        assert headers["__connect.errors.topic"] == changes
        assert headers["trace"] == "\x01"
        assert value.startswith(letters[key].value() or b"-")
    code, text = triage(stage, "list", "list")
    assert (code, text.count("OVERSIZED, cut")) == (0, 2)
    number = f"{letters[b'huge'].partition()}-{letters[b'huge'].offset()}"
    code, text = triage(stage, "show", "show", number)
    assert code == 0
    assert "9,000,000 bytes" in text
    assert "the original is still there" in " ".join(text.split())
    code, text = triage(stage, "replay", "replay", "--lead", "huge", "--json")
    assert (code, json.loads(text)["replayed"]) == (0, 1), text
    [again] = [m for m in stage.read(changes, 5) if ("dlq.replays", b"1") in (m.headers() or [])]
    assert (again.key(), again.value()) == (b"huge", HUGE)
    assert ("trace", b"\x01") in (again.headers() or [])
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    for future in admin.delete_records([TopicPartition(changes, 0, 4)]).values():
        future.result(30)
    code, text = triage(stage, "gone", "replay", "--lead", "zipped", "--json")
    assert code == 1
    assert json.loads(text)["left"] == {"it was cut, and its original is no longer in its topic": 1}


@BOTH
def test_limits_of_the_topics_cost_the_records_that_exceed_them_even_if_lowered_while_running(
    kafka: Broker, model_store: str, tmp_path: Path, delivery: str
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    junk = [Output(stage.topics.lead_changes, None, b"\x07" * 40_000) for _ in range(30)]
    plain = {"LEADSTREAM_KAFKA_COMPRESSION_TYPE": "none", "LEADSTREAM_DELIVERY": delivery}
    with stage.running(**NO_LIMIT, **plain) as process:
        # A topic that is compacted refuses letters without a key.
        stage.send(junk[:1])
        stage.letters(1)
        letters_topic = stage.topics.dead_letters
        configure(stage, letters_topic, max_message_bytes="3000", cleanup_policy="compact")
        stage.send([*junk[1:], *stage.changes("lead", 5)])
        assert len(stage.letters(30)) == 30
        assert len(stage.predictions(5)) == 5
        # The id is in a prediction thrice; others are some 600 bytes smaller.
        sizes = [len(m.value() or b"") for m in stage.read(stage.topics.lead_predictions, 5)]
        limit = str(max(sizes) + 400)
        configure(stage, stage.topics.lead_predictions, max_message_bytes=limit)
        stage.send([stage.change("x" * 200), *stage.changes("later", 50)])
        letters = stage.letters(31)
        assert len(stage.predictions(55)) == 55
        assert process.until_ready().events("batch.held") == []
        assert process.accounting()["dead_lettered"] == 31
        assert process.stop() == 0
    [oversized] = [m for m in letters if headers_of(m)["dlq.reason"] == "OVERSIZED"]
    assert oversized.key() == b"x" * 200


def test_a_record_of_another_time_is_a_letter_of_now_and_its_replay_is_kept(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    changes, now = stage.topics.lead_changes, time.time_ns() // 1_000_000
    configure(stage, changes, message_timestamp_after_max_ms=str(2**63 - 1), retention_ms="-1")
    tomorrow, old = now + 86_400_000, now - 40 * 86_400_000
    stage.send(
        [
            Output(changes, b"tomorrow", b"junk", timestamp=tomorrow),
            Output(changes, b"old", b"junk", timestamp=old),
            stage.change("good")._replace(timestamp=tomorrow),
        ]
    )
    with stage.running(**NO_LIMIT) as process:
        letters = {letter.key(): letter for letter in stage.letters(2)}
        assert len(stage.predictions(1)) == 1
        assert process.until_ready().events("batch.held") == []
        assert process.stop() == 0
    for key, at in ((b"tomorrow", tomorrow), (b"old", old)):
        assert headers_of(letters[key])["dlq.original_timestamp"] == str(at)
        assert now <= letters[key].timestamp()[1] < tomorrow
    configure(stage, changes, message_timestamp_after_max_ms="3600000", retention_ms="604800000")
    code, text = triage(stage, "replay", "replay")
    assert (code, "2 letters with the present time" in text) == (0, True), text
    again = [m for m in stage.read(changes, 5) if ("dlq.replays", b"1") in (m.headers() or [])]
    assert len(again) == 2
    assert all(now <= message.timestamp()[1] < tomorrow for message in again)


def test_at_least_once_a_letter_that_cannot_be_written_repeats_no_other_record(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    configure(stage, stage.topics.dead_letters, max_message_bytes="100")
    stage.send(
        [
            *stage.changes("first", 5),
            Output(stage.topics.lead_changes, b"bad", b"junk"),
            *stage.changes("second", 5),
        ]
    )
    with stage.running(**NO_LIMIT, LEADSTREAM_DELIVERY="at-least-once") as process:
        until(
            lambda: process.metric("held_batches_total", dependency="brokers") >= 2, "tried twice"
        )
        assert stage.topics.dead_letters in process.missing()["brokers"]
        assert len(stage.read(stage.topics.lead_predictions, 10)) == 10
        configure(stage, stage.topics.dead_letters, max_message_bytes="1000000")
        assert len(stage.letters(1)) == 1
        until(lambda: stage.committed(stage.topics.lead_changes) == 11, "all is committed")
        assert process.stop() == 0
    assert len(stage.read(stage.topics.lead_predictions, 10)) == 10


def test_a_batch_that_the_client_cannot_decompress_ends_the_process_with_its_place(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    topic = stage.topics.lead_changes
    stage.send([stage.change("before")])
    send_zeros(kafka.bootstrap, topic, b"bomb", 200_000_000)
    with stage.running(**NO_LIMIT) as process:
        assert len(stage.predictions(1)) == 1
        assert process.exit_code() == 1
    [sentence] = process.sentences()
    assert f"topic {topic}, partition 0, offset 1: the client cannot read" in sentence
    assert stage.committed(topic) == 1


def test_a_large_record_of_another_client_is_a_letter_and_not_the_end(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    send_zeros(kafka.bootstrap, stage.topics.lead_changes, b"large", 30_000_000)
    stage.send([stage.change("after")])
    with stage.running(**NO_LIMIT) as process:
        [letter] = stage.letters(1)
        assert headers_of(letter)["dlq.value_bytes"] == "30000000"
        assert len(stage.predictions(1)) == 1
        assert process.stop() == 0
