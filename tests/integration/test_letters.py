"""The dead-letter topic: what lies there is the original, and says why; and too much of it stops
the process.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Producer

from leadstream.errors import Reason
from leadstream.kafka.batch import Message, Output
from leadstream.kafka.config import Headers
from leadstream.local.broker import Broker
from producer.bad_records import BUILDERS, BadRecord, bad_records
from schemas.codec import Writer
from tests.integration.running import Stage, headers_of
from tests.raw_records import send_raw
from tests.unit.pipelines import NOW_MS

pytestmark = pytest.mark.broker
NO_LIMIT = {"LEADSTREAM_DEAD_LETTER_MAX_RATIO": "1", "LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE": "0"}
GOOD = 40


def every_bad_record(seed: int) -> list[BadRecord]:
    """One record of every builder."""
    writers = {
        "encode_event": Writer("LeadChanged").encode,
        "encode_request": Writer("RescoreRequest").encode,
    }
    wanted = {what for builders in BUILDERS.values() for _, what, _ in builders}
    found: dict[str, BadRecord] = {}
    for record in bad_records(seed, now=NOW_MS, **writers):
        found.setdefault(record.what, record)
        if len(found) == len(wanted):
            return list(found.values())
    raise AssertionError("bad_records never ends")


@dataclass(frozen=True, slots=True)
class Post:
    """Bad records as they stood in their topics, and the letters that became of them, by the number
    in a header.
    """

    records: dict[str, BadRecord]
    originals: dict[str, Message]
    letters: dict[str, Message]
    good: list[dict[str, object]]


def number_of(message: Message) -> str:
    return dict(message.headers() or [])["number"].decode()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def post(kafka: Broker, model_store: str, tmp_path_factory: pytest.TempPathFactory) -> Post:
    """Every bad record, thrice: another of its kind the second time, and the same again in another
    process.
    """
    stage = Stage.on(kafka.bootstrap, tmp_path_factory.mktemp("letters"), model_store, partitions=2)
    records: dict[str, BadRecord] = {}
    for life, seeds in (("first", (1, 2)), ("second", (1,))):
        outputs = []
        for seed in seeds:
            for record in every_bad_record(seed):
                number = f"{life} {seed} {record.what}"
                records[number] = record
                topic = getattr(stage.topics, record.topic)
                outputs.append(
                    Output(
                        topic,
                        record.key,
                        record.value,
                        headers(number),
                        1_234_567_890_123 + len(records),
                    )
                )
        good = stage.changes(life, GOOD)
        mixed = [o for pair in itertools.zip_longest(outputs, good) for o in pair if o is not None]
        with stage.running(**NO_LIMIT) as process:
            stage.send(mixed)
            letters = stage.letters(len(records))
            predictions = stage.predictions(GOOD * (1 + (life == "second")))
            assert process.stop() == 0
    sent = [
        message
        for topic in (stage.topics.lead_changes, stage.topics.rescore_requests)
        for message in stage.read(topic, 0)
        if message.headers()
    ]
    return Post(
        records,
        {number_of(m): m for m in sent},
        {number_of(m): m for m in letters},
        predictions,
    )


def headers(number: str) -> Headers:
    """Headers that are hard to keep, and some of an earlier failure."""
    return [
        ("number", number.encode()),
        ("trace", b"\x00\xff"),
        ("trace", b"again"),
        ("empty", b""),
        ("null", None),
        ("dlq.reason", b"AN_EARLIER_ONE"),
        ("dlq.replays", b"2"),
        ("__connect.errors.topic", b"elsewhere"),
    ]


def test_every_bad_record_is_one_letter_with_its_reason_and_its_neighbours_are_predicted(
    post: Post,
) -> None:
    assert post.letters.keys() == post.originals.keys() == post.records.keys()
    wrong = {
        number: reason
        for number, letter in post.letters.items()
        if (reason := headers_of(letter)["dlq.reason"]) != post.records[number].reason
    }
    assert wrong == {}
    assert {headers_of(letter)["dlq.reason"] for letter in post.letters.values()} == set(Reason)
    assert sorted(str(p["lead_id"]) for p in post.good) == sorted(
        f"{life}_{i}" for life in ("first", "second") for i in range(GOOD)
    )


def test_a_letter_that_differs_from_its_original_by_a_byte_cannot_be_replayed(post: Post) -> None:
    for number, letter in post.letters.items():
        original = post.originals[number]
        assert (letter.key(), letter.value()) == (original.key(), original.value()), number
        times = headers_of(letter)
        assert times["dlq.original_timestamp"] == str(original.timestamp()[1]), number
        assert times["dlq.original_timestamp_type"] == "CreateTime"
        # Its own is of now: with a timestamp of 2009 retention would delete it within minutes.
        assert abs(letter.timestamp()[1] - int(times["dlq.failed_at"])) < 600_000
        own = [
            (name, value)
            for name, value in letter.headers() or []
            if not name.startswith(("dlq.", "__connect."))
        ]
        assert own == headers(number)[:5], number


def test_a_letter_must_say_where_it_came_from_and_what_went_wrong_exactly_once(post: Post) -> None:
    for number, letter in post.letters.items():
        original, headers = post.originals[number], headers_of(letter)
        names = [
            name for name, _ in letter.headers() or [] if name.startswith(("dlq.", "__connect."))
        ]
        assert sorted(names) == sorted(
            [
                "__connect.errors.topic",
                "__connect.errors.partition",
                "__connect.errors.offset",
                "__connect.errors.stage",
                "__connect.errors.exception.class.name",
                "__connect.errors.exception.message",
                "dlq.reason",
                "dlq.fingerprint",
                "dlq.failed_at",
                "dlq.consumer_group",
                "dlq.model_version",
                "dlq.replays",
                "dlq.original_timestamp",
                "dlq.original_timestamp_type",
            ]
        )
        assert headers["__connect.errors.topic"] == original.topic()
        assert headers["__connect.errors.partition"] == str(original.partition())
        assert headers["__connect.errors.offset"] == str(original.offset())
        assert 0 < len(headers["__connect.errors.exception.message"]) <= 1000
        assert headers["dlq.model_version"] == "1.0.0"
        assert headers["dlq.replays"] == "0", "another producer's count is not believed"
        assert headers["dlq.consumer_group"].startswith("group-")


def test_a_cause_must_have_the_same_fingerprint_after_a_restart_and_in_another_record(
    post: Post,
) -> None:
    prints = {
        number: headers_of(letter)["dlq.fingerprint"] for number, letter in post.letters.items()
    }
    causes = {record.what for record in post.records.values()}
    for what in causes:
        assert prints[f"first 1 {what}"] == prints[f"second 1 {what}"], what
    # Where bytes are cut or added at random, what the reader stumbles over differs, and so does the
    # cause.
    same = {what for what in causes if prints[f"first 1 {what}"] == prints[f"first 2 {what}"]}
    assert causes - same <= {"a truncated value"}


def test_the_first_bad_record_of_a_quiet_topic_is_a_letter_and_too_many_in_a_row_are_the_end(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    junk = Output(stage.topics.lead_changes, b"lead", b"junk")
    with stage.running(
        LEADSTREAM_DEAD_LETTER_MAX_RATIO="0.01", LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE="5"
    ) as process:
        stage.send([junk])
        assert len(stage.letters(1)) == 1
        stage.send([stage.change("good")])
        assert len(stage.predictions(1)) == 1
        producer = Producer(
            {"bootstrap.servers": stage.bootstrap, "transactional.id": tmp_path.name}
        )
        producer.init_transactions(30)
        producer.begin_transaction()
        for output in [stage.change("beside"), *[junk] * 6]:
            producer.produce(output.topic, output.value, output.key)
        producer.commit_transaction(30)
        assert process.exit_code() == 3
    [sentence] = process.sentences()
    assert sentence.startswith(
        "leadstream: 6 records in a row are dead letters, more than "
        "LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE=5; their batch was not committed: "
        "100% of them are UNKNOWN_FRAMING in the step decode, dlq.fingerprint "
    )
    assert sentence.endswith(
        f", for example {stage.topics.lead_changes} partition 0 offset 3; "
        "fix the cause or raise the limit"
    )
    assert stage.committed(stage.topics.lead_changes) == 2
    assert len(stage.letters(1)) == 1
    assert len(stage.predictions(1)) == 1


def test_a_share_of_dead_letters_over_the_limit_ends_the_process_before_anything_is_committed(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    stage.send(
        [*stage.changes("good", 30), *[Output(stage.topics.lead_changes, b"lead", b"junk")] * 40]
    )
    with stage.running(LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE="0") as process:
        assert process.exit_code() == 3
    [sentence] = process.sentences()
    assert (
        "40 of the last 70 records are dead letters, more than LEADSTREAM_DEAD_LETTER_MAX_RATIO=0.5"
        in sentence
    )
    assert stage.committed(stage.topics.lead_changes) == 0
    assert stage.letters(0) == []


def test_names_of_headers_that_are_not_utf_8_stop_neither_the_consumer_nor_triage(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    headers = [(b"\xff\xfe", b"a"), (b"name", b"b")]
    good = stage.change("lead_1")
    for value in (good.value or b"", b"junk"):
        send_raw(stage.bootstrap, stage.topics.lead_changes, b"lead_1", value, headers)
    with stage.running(**NO_LIMIT) as process:
        [prediction] = stage.predictions(1)
        [letter] = stage.letters(1)
        assert process.stop() == 0
    assert prediction["lead_id"] == "lead_1"
    assert (letter.headers() or [])[:2] == [("unreadable-header-name", b"a"), ("name", b"b")]
    # A letter of another program may have such names, too.
    send_raw(stage.bootstrap, stage.topics.dead_letters, b"lead_2", b"junk", headers)
    for verb in (("list", "--json"), ("show", "0-0"), ("groups",)):
        with stage.running("dead-letters", *verb) as triage:
            assert triage.exit_code() == 0, triage.lines()


def json_records(stage: Stage) -> list[Output]:
    """By key: good JSON, the same without its header, cut JSON, an unfit field, and no object."""
    change = {"event_id": "e", "change_type": "UPDATED", "occurred_at": NOW_MS}
    state = {"created_at": "2025-01-01T00:00:00Z", "numbers": {"gpa": 3.5}}
    named: Headers = [("content-type", b"application/json; charset=utf-8")]
    texts: dict[str, tuple[str, Headers]] = {
        "good": (json.dumps(change | {"lead_id": "good", "lead": state}), named),
        "bare": (json.dumps(change | {"lead_id": "bare", "lead": state}), []),
        "cut": (json.dumps(change | {"lead_id": "cut"})[:-1], named),
        "unfit": (json.dumps(change | {"lead_id": "unfit", "lead_version": "one"}), named),
        "list": ("[]", []),
    }
    return [
        Output(stage.topics.lead_changes, key.encode(), text.encode(), headers)
        for key, (text, headers) in texts.items()
    ]


def test_json_is_read_by_its_header_or_where_it_is_accepted_and_costs_no_neighbour(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=1)
    broken = {"cut": "DECODE_FAILED", "unfit": "INVALID_EVENT", "list": "UNKNOWN_FRAMING"}
    sent = json_records(stage)
    with stage.running(**NO_LIMIT) as process:
        stage.send([*sent, stage.change("avro")])
        assert {each["lead_id"] for each in stage.predictions(2)} == {"good", "avro"}
        letters = stage.letters(4)
        assert process.stop() == 0
    assert reasons(letters) == broken | {"bare": "UNKNOWN_FRAMING"}
    assert {m.key(): m.value() for m in letters}.items() <= {o.key: o.value for o in sent}.items()
    [unfit] = [headers_of(m) for m in letters if m.key() == b"unfit"]
    assert "lead_version" in unfit["__connect.errors.exception.message"]
    with stage.running(**NO_LIMIT, LEADSTREAM_JSON="accept") as process:
        stage.send(sent)
        assert {each["lead_id"] for each in stage.predictions(4)[2:]} == {"good", "bare"}
        letters = stage.letters(7)[4:]
        assert process.stop() == 0
    assert reasons(letters) == broken


def reasons(letters: list[Message]) -> dict[str, str]:
    return {(m.key() or b"").decode(): headers_of(m)["dlq.reason"] for m in letters}
