"""`leadstream dead-letters` as operators use it: processes on a real Kafka, some killed."""

import io
import json
import random
import re
import signal
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from consumer.dead_letters.audit import Decision, decode_decision
from consumer.dead_letters.letters import LetterId
from leadstream.cli.main import main
from leadstream.errors import Reason
from leadstream.kafka.batch import Message, Output
from leadstream.local.broker import Broker
from schemas.codec import Reader, Writer
from tests.integration.conftest import ServedConsumer
from tests.integration.running import Running, Stage, headers_of, until
from tests.letters import letter_output
from tests.registry_server import registry_server
from tests.unit.pipelines import event

pytestmark = pytest.mark.broker
CHANGE, PREDICTION, DECISION = (
    Writer("LeadChanged"),
    Reader("LeadPrediction"),
    Reader("TriageDecision"),
)


def leadstream(stage: Stage, *words: str, code: int = 0, **settings: str) -> str:
    """What `leadstream dead-letters` prints, which must exit so; in this process, for starting one
    takes a second.
    """
    out, errors = io.StringIO(), io.StringIO()
    environment = {**stage.environment, "COLUMNS": "80", **settings}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            ended = main(["dead-letters", *words])
        except SystemExit as usage:
            ended = usage.code  # type: ignore[assignment]  # argparse gives a number
    assert ended == code, errors.getvalue() + out.getvalue()
    return out.getvalue() + (errors.getvalue() if code else "")


def replies(stage: Stage, *words: str) -> Any:
    return json.loads(leadstream(stage, *words, "--json"))


def written(stage: Stage, topic: str) -> int:
    """Records and transaction markers in a topic, committed or not."""
    config = {
        "bootstrap.servers": stage.bootstrap,
        "group.id": "x",
        "isolation.level": "read_uncommitted",
    }
    consumer = Consumer(config)
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    ends = [
        consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
        for partition in partitions
    ]
    consumer.close()
    return sum(ends)


def decisions(stage: Stage, count: int) -> dict[LetterId, Decision]:
    """What was decided, of which the chain must hold and no letter come twice."""
    messages = stage.read(stage.topics.dead_letter_audit, count)
    found = {
        decision.letter: decision
        for message in messages
        if (decision := decode_decision(message, DECISION))
    }
    assert len(found) == len(messages) == count
    verification = replies(stage, "audit", "verify")
    assert verification["breaks"] == []
    assert sum(verification["decisions"].values()) == count
    return found


class LetterHistory:
    """Letters of six causes, and live changes of their leads: versions 1 and 3 of each failed, and
    some have a 4.
    """

    def __init__(self, stage: Stage, letters: int, seed: int) -> None:
        self.stage = stage
        self.letters = letters
        chance = random.Random(seed)
        changes = [
            (f"lead_{i % (letters // 2)}", 1 + 2 * (i // (letters // 2))) for i in range(letters)
        ]
        self.newest = dict(sorted(changes))
        topics, now = stage.topics, time.time_ns() // 1_000_000
        self._letters = [
            letter_output(
                i,
                lead.encode(),
                self._value(lead, version),
                origin=topics.lead_changes,
                topic=topics.dead_letters,
                headers=[("number", b"%d" % i)],
                sent_at=now,
                failed_at=now + i,
            )
            for i, (lead, version) in enumerate(changes)
        ]
        self.live = [(lead, 4) for lead in self.newest if chance.random() < 0.3]
        chance.shuffle(self.live)
        self.newest |= dict(self.live)

    def send_letters(self) -> None:
        self.stage.send(self._letters)

    def send_live(self, share: float) -> None:
        """Send the next part of the live changes."""
        count = round(len(self.live) * share) or len(self.live)
        some, self.live = self.live[:count], self.live[count:]
        topic = self.stage.topics.lead_changes
        self.stage.send(
            [Output(topic, lead.encode(), self._value(lead, version)) for lead, version in some]
        )

    @contextmanager
    def coming_in(self) -> Iterator[None]:
        """Live changes come in, one after the other, for as long as the block lasts."""
        done = threading.Event()

        def send() -> None:
            while self.live and not done.wait(0.02):
                self.send_live(1 / len(self.live))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def check(self) -> Counter[str]:
        """Each letter decided once, sent once if it was sent, and every lead's score that of its
        newest change.
        """
        found = decisions(self.stage, self.letters)
        actions = Counter(decision.action.value for decision in found.values())
        changes = self.stage.read(self.stage.topics.lead_changes, 0)
        sent = Counter(
            number for message in changes if (number := headers_of(message).get("number"))
        )
        assert max(sent.values()) == 1
        assert len(sent) == actions["REPLAYED"]
        assert {headers_of(m)["dlq.replays"] for m in changes if "number" in headers_of(m)} == {"1"}

        def table() -> dict[str, int]:
            records = self.stage.read(self.stage.topics.lead_predictions, 0)
            scored = [PREDICTION.decode(message.value() or b"") for message in records]
            return {record["lead_id"]: record["lead_version"] for record in scored}

        until(
            lambda: self.stage.committed(self.stage.topics.lead_changes) >= len(changes),
            "all is consumed",
        )
        assert table() == self.newest
        return actions

    @staticmethod
    def _value(lead: str, version: int) -> bytes:
        fields = {"lead_version": version, "event_id": f"{lead} {version}"}
        return CHANGE.encode(event(lead, {"lead_score": float(version)}, **fields))


def _ripe(stage: Stage, process: Running, target: int) -> bool:
    return written(stage, stage.topics.dead_letter_audit) >= target or not process.alive()


def count_kills_while_deciding(
    stage: Stage, kills: int, seed: int, max_decisions: int, rate: int
) -> int:
    """Kill replays at random moments, within `max_decisions` each; return how many still ran."""
    chance, audit, caught = random.Random(seed), stage.topics.dead_letter_audit, 0
    for _ in range(kills):
        target = written(stage, audit) + chance.randint(1, max_decisions)
        with stage.running("dead-letters", "replay", "--yes", "--rate", str(rate)) as process:
            until(partial(_ripe, stage, process, target), "it is worth killing")
            caught += process.alive()
            process.kill()
    return caught


def test_replays_interrupted_killed_and_two_at_once_decide_each_letter_once_and_set_no_lead_back(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=2)
    history = LetterHistory(stage, 800, seed=1)
    history.send_letters()
    audit, words = (
        stage.topics.dead_letter_audit,
        ("dead-letters", "replay", "--yes", "--rate", "400"),
    )
    with stage.running() as consumer:
        with stage.running(*words) as one:
            until(lambda: written(stage, audit) > 0, "it has begun")
            one.signal(signal.SIGINT)
            assert one.exit_code() == 130
        output = "\n".join(one.lines())
        assert "interrupted; run it again to go on" in output
        assert "letters sent back" in output
        history.send_live(0.3)
        assert count_kills_while_deciding(stage, 2, seed=1, max_decisions=150, rate=100) == 2
        with history.coming_in(), stage.running(*words) as one, stage.running(*words) as other:
            assert (one.exit_code(120), other.exit_code(120)) == (0, 0), (
                one.lines(),
                other.lines(),
            )
        history.send_live(1)
        assert history.check()["SUPERSEDED"] > 0
        assert consumer.stop() == 0


@pytest.mark.long
@pytest.mark.timeout(600)
def test_of_ten_thousand_letters_each_is_decided_once_over_twenty_kills(
    kafka: Broker, model_store: str, tmp_path: Path, record_property: Any
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=6)
    history = LetterHistory(stage, 10_000, seed=2)
    history.send_letters()
    with stage.running() as consumer:
        with history.coming_in():
            caught = count_kills_while_deciding(stage, 20, seed=2, max_decisions=500, rate=2000)
            leadstream(stage, "replay", "--yes", "--rate", "2000")
        history.send_live(1)
        actions = history.check()
        assert consumer.stop() == 0
    print(f"killed while deciding: {caught} of 20; {dict(actions)}")
    assert caught >= 15
    assert actions["SUPERSEDED"] > 0


@pytest.fixture(scope="module")
def many(kafka: Broker, model_store: str, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """10,000 letters of six causes, and nobody who consumes."""
    stage = Stage.on(kafka.bootstrap, tmp_path_factory.mktemp("many"), model_store, partitions=3)
    LetterHistory(stage, 10_000, seed=4).send_letters()
    return stage


def test_ten_thousand_letters_of_six_causes_are_six_groups(many: Stage) -> None:
    groups = replies(many, "groups")
    assert sorted(group["count"] for group in groups) == [1666, 1666, 1667, 1667, 1667, 1667]
    assert {group["reason"] for group in groups} == set(Reason) - {
        Reason.UNKNOWN_FRAMING,
        Reason.UNKNOWN_SCHEMA,
        Reason.INVALID_REQUEST,
        Reason.ENCODE_FAILED,
    }
    assert {tuple(group["partitions"]) for group in groups} == {(0, 1, 2)}
    assert abs(sum(group["share"] for group in groups) - 1) < 1e-9
    output = leadstream(many, "groups")
    assert "10,000 open dead letters, 6 causes" in output
    assert all(len(line) <= 80 for line in output.splitlines())


def test_more_than_a_hundred_letters_are_only_rehearsed_unless_somebody_says_yes(
    many: Stage,
) -> None:
    print_ = replies(many, "groups")[0]["fingerprint"]
    output = leadstream(many, "replay", "--fingerprint", print_)
    assert "Nothing was done, because these are more than 100 letters: add --yes." in output
    assert re.search(r"1,667 +1,667", output)
    output = leadstream(many, "discard", "--fingerprint", print_, "--comment", "a test")
    assert "Nothing was done, because these are more than 100 letters: add --yes." in output
    output = replies(many, "replay", "--fingerprint", print_, "--dry-run", "--limit", "50")
    [dry_run_report] = output["groups"]
    assert output["dry_run"] is True
    assert (dry_run_report["count"], dry_run_report["passes"]) == (50, 50)
    assert (
        written(many, many.topics.dead_letter_audit) == written(many, many.topics.lead_changes) == 0
    )


def test_an_export_has_every_letter_and_a_manifest(many: Stage, tmp_path: Path) -> None:
    manifest = replies(
        many, "export", str(tmp_path / "letters"), "--reason", "oversized", "--limit", "20"
    )
    assert manifest["letters"] == 20
    assert len(list((tmp_path / "letters" / "values").iterdir())) == 20
    assert "is there already" in leadstream(many, "export", str(tmp_path), code=1)


@pytest.fixture
def lead() -> str:
    return f"lead_{uuid.uuid4().hex[:8]}"


def letter_of(stage: Stage, lead: str) -> str:
    """The id of the only open letter of a lead, waited for."""

    def found() -> list[Message]:
        return [m for m in stage.read(stage.topics.dead_letters, 1) if m.key() == lead.encode()]

    until(found, "the letter")
    [one] = replies(stage, "list", "--lead", lead)
    return str(one["id"])


def prediction_of(stage: Stage, lead: str) -> dict[str, Any]:
    """The newest prediction of a lead, waited for."""

    def found() -> list[dict[str, Any]]:
        return [each for each in stage.predictions(0) if each["lead_id"] == lead]

    return dict(until(found, "the prediction")[-1])


@pytest.mark.postgres
def test_a_letter_without_state_is_scored_from_the_present_state_once_the_lead_is_there(
    served: ServedConsumer, lead: str
) -> None:
    stage = served.stage
    stage.send([stage.change(lead, lead=None)])
    letter_of(stage, lead)
    [before] = replies(stage, "replay", "--lead", lead, "--dry-run")["groups"]
    assert (before["passes"], before["fails"]) == (0, {"LEAD_NOT_FOUND": 1})
    served.crm.add(lead)
    [after] = replies(stage, "replay", "--lead", lead, "--dry-run")["groups"]
    assert (after["passes"], after["fails"]) == (1, {})
    assert leadstream(stage, "replay", "--lead", lead) == "1 letter sent back\n"
    assert prediction_of(stage, lead)["lead_id"] == lead
    assert leadstream(stage, "replay", "--lead", lead) == "no open dead letters match\n"


@pytest.mark.postgres
def test_a_letter_shows_the_byte_where_it_fails_and_may_be_given_up_with_a_reason(
    served: ServedConsumer, lead: str
) -> None:
    stage = served.stage
    value = CHANGE.encode(event(lead, {"status": "MARK"})).replace(b"MARK", b"MA\xffK")
    stage.send([Output(stage.topics.lead_changes, lead.encode(), value)])
    id_ = letter_of(stage, lead)
    at = value.index(b"MA\xffK") + 2
    displayed = replies(stage, "show", id_)
    assert displayed["failure"] == {
        "offset": at,
        "field": "lead.status",
        "why": "the text is not UTF-8",
    }
    output = leadstream(stage, "show", id_)
    assert f"fails at byte {at}, in lead.status: the text is not UTF-8" in output
    assert "[ff]" in output
    assert all(len(line) <= 80 for line in output.splitlines())
    assert "one of the arguments --comment is required" in leadstream(
        stage, "discard", "--lead", lead, code=2
    )
    assert "--comment is empty" in leadstream(
        stage, "discard", "--lead", lead, "--comment", " ", code=2
    )
    words = ("discard", "--lead", lead, "--comment", "the CRM was mended", "--by", "anna")
    assert leadstream(stage, *words) == "1 letter discarded\n"
    decided = replies(stage, "show", id_)["decided"]
    assert (decided["action"], decided["decided_by"]) == ("DISCARDED", "anna")
    assert decided["because"] == "the CRM was mended"
    assert replies(stage, "list", "--lead", lead) == []
    assert [each["decided"] for each in replies(stage, "list", "--lead", lead, "--all")] == [
        "DISCARDED"
    ]


@pytest.mark.postgres
def test_a_mended_letter_passes_and_the_patch_is_in_the_audit_and_the_original_in_its_topic(
    served: ServedConsumer, lead: str
) -> None:
    stage = served.stage
    value = CHANGE.encode(event(lead, {"created_at": event()["occurred_at"] + 1}))
    stage.send([Output(stage.topics.lead_changes, lead.encode(), value)])
    id_ = letter_of(stage, lead)
    assert leadstream(stage, "replay", "--lead", lead, "--set", "lead.status=won", "--dry-run")
    assert "the patch does not fit" in leadstream(
        stage, "replay", "--lead", lead, "--set", "origin=3", code=1
    )
    assignment = f"lead.created_at={event()['occurred_at']}"
    assert (
        leadstream(stage, "replay", "--lead", lead, "--set", assignment) == "1 letter sent back\n"
    )
    prediction_of(stage, lead)
    displayed = replies(stage, "show", id_)
    assert json.loads(displayed["decided"]["patch"]) == {
        "lead": {"created_at": event()["occurred_at"]}
    }
    assert bytes.fromhex(displayed["value_hex"]) == value


@pytest.mark.postgres
def test_a_letter_that_is_sent_back_and_fails_again_comes_back_and_is_parked_after_three_returns(
    served: ServedConsumer, lead: str
) -> None:
    stage = served.stage
    stage.send([Output(stage.topics.lead_changes, lead.encode(), b"junk")])
    for _ in range(3):
        letter_of(stage, lead)
        assert leadstream(stage, "replay", "--lead", lead) == "1 letter sent back\n"
        until(lambda: replies(stage, "list", "--lead", lead), "it comes back")
    assert "1 letter parked" in leadstream(stage, "replay", "--lead", lead)
    reply = replies(stage, "list", "--lead", lead, "--all")
    assert [(each["replays"], each["decided"]) for each in reply] == [
        (0, "REPLAYED"),
        (1, "REPLAYED"),
        (2, "REPLAYED"),
        (3, "PARKED"),
    ]


@pytest.mark.postgres
def test_a_letter_that_spring_kafka_wrote_is_sent_back_too_and_one_of_elsewhere_is_not(
    served: ServedConsumer, lead: str
) -> None:
    stage = served.stage
    for topic in (stage.topics.lead_changes, "orders"):
        headers: list[tuple[str, bytes | None]] = [
            ("kafka_dlt-original-topic", topic.encode()),
            ("kafka_dlt-original-partition", struct.pack(">i", 1)),
            ("kafka_dlt-original-offset", struct.pack(">q", 4711)),
            ("kafka_dlt-exception-fqcn", b"com.example.UnknownLeadException"),
            ("kafka_dlt-exception-message", b"lead 4711 is unknown"),
        ]
        stage.send(
            [Output(stage.topics.dead_letters, lead.encode(), CHANGE.encode(event(lead)), headers)]
        )
    until(lambda: len(replies(stage, "list", "--lead", lead)) == 2, "two letters")
    [group] = replies(stage, "groups", "--lead", lead)
    assert (group["reason"], group["writer"], group["count"]) == (
        "UnknownLeadException",
        "Spring Kafka",
        2,
    )
    output = leadstream(stage, "replay", "--lead", lead, code=1)
    assert "1 letter sent back" in output
    assert "1 letter left open: it came from orders, which is not read here" in output
    assert prediction_of(stage, lead)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("show", "17"), "17 is not a letter id: write partition-offset, for example 0-17"),
        (("list", "--since", "yesterday"), "--since yesterday: write a time as 2026-11-24T08:00"),
        (("replay", "--set", "status"), "--set status: write field=value"),
        (("replay", "--patch", "nowhere.json"), "--patch nowhere.json: No such file or directory"),
    ],
)
def test_what_a_person_writes_wrong_is_one_sentence(
    many: Stage, words: tuple[str, ...], sentence: str
) -> None:
    output = leadstream(many, *words, code=2)
    assert sentence in output
    assert len(output.splitlines()) == 1


def test_a_letter_that_is_not_there_and_a_topic_that_is_not_there_are_one_sentence(
    many: Stage,
) -> None:
    assert "there is no letter 7-1 in" in leadstream(many, "show", "7-1", code=1)
    output = leadstream(many, "groups", code=1, LEADSTREAM_TOPIC_LEAD_CHANGES_DLQ_AUDIT="nowhere")
    assert "`leadstream topics create` makes what is missing" in output


def test_with_a_schema_registry_decisions_are_written_and_read_in_its_framing(
    kafka: Broker, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "", partitions=1)
    topics, now = stage.topics, time.time_ns() // 1_000_000
    stage.send(
        [
            letter_output(
                0, b"lead", b"", origin=topics.lead_changes, topic=topics.dead_letters, sent_at=now
            )
        ]
    )
    with registry_server() as state:
        stage.environment["SCHEMA_REGISTRY_URL"] = state.url
        assert leadstream(stage, "discard", "--comment", "a test") == "1 letter discarded\n"
        assert replies(stage, "audit", "verify")["decisions"]["DISCARDED"] == 1
        assert replies(stage, "groups") == []
    [decision] = stage.read(topics.dead_letter_audit, 1)
    assert (decision.value() or b"")[:5] == b"\x00\x00\x00\x00\x01"
    assert f"{topics.dead_letter_audit}-value" in state.subjects


def test_on_a_broker_without_transactions_letters_can_be_looked_at_and_not_decided(
    mock_broker: Broker, tmp_path: Path
) -> None:
    stage = Stage.on(mock_broker.bootstrap, tmp_path, "", create=False)
    stage.ask_for_topics()
    topics = stage.topics
    stage.send(
        [letter_output(0, b"lead", b"", origin=topics.lead_changes, topic=topics.dead_letters)]
    )
    assert [group["count"] for group in replies(stage, "groups")] == [1]
    output = leadstream(stage, "discard", "--comment", "a test", code=1)
    assert "this broker has no transactions" in output
