"""Rescore on request, as who asks meets it: docs/how-to/rescoring.md word for word, and the largest
request there is.
"""

import itertools
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from consumer.request_replies import receiving_replies
from consumer.scoring.requests import MAX_REQUEST_LEADS, SLICE
from leadstream.kafka.batch import Message, Output
from leadstream.kafka.config import consumer_config
from leadstream.kafka.source import KafkaSource
from leadstream.settings import load_settings
from schemas.codec import Reader, Writer
from tests.integration.conftest import ServedConsumer
from tests.integration.running import Running, headers_of, until
from tests.unit.pipelines import NOW_MS

pytestmark = [pytest.mark.broker, pytest.mark.postgres]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "rescoring.md"
EXAMPLE = re.compile(r"^<!-- (\w+) ?([^\n]*?) -->\n```\w+\n(.*?)```$", re.MULTILINE | re.DOTALL)
# Another scikit-learn may grow a forest that differs a little.
NEAR = 0.02


def examples(kind: str) -> list[tuple[str, str]]:
    """The blocks of this kind on the page, each with what its marker says of it."""
    return [
        (about, block) for found, about, block in EXAMPLE.findall(PAGE.read_text()) if found == kind
    ]


@pytest.fixture(scope="module")
def example(served: ServedConsumer) -> Iterator[ServedConsumer]:
    """The page's leads:

    A-1001 and A-1002 can be scored, A-1003 was erased, A-1004 is beyond all numbers.
    """
    crm, stage = served.crm, served.stage
    crm.add("A-1001", lead_score=92, engagement_score=95, touchpoint_count=14, source="referral")
    crm.add("A-1002", lead_score=12, engagement_score=8, touchpoint_count=1)
    crm.add("A-1004", lead_score=10**14)
    erased = served.process.accounting()["erased"]
    stage.send([stage.change("A-1003"), Output(stage.topics.lead_changes, b"A-1003", None)])
    until(lambda: served.process.accounting()["erased"] > erased, "it is erased")
    yield served
    crm.connection.execute("delete from people where id like 'A-100_'")


def ours(served: ServedConsumer, topic: str, name: str, *ids: str) -> list[dict[str, Any]]:
    """The records of these requests."""
    field = "request_id" if name == "RescoreResult" else "event_id"
    reader = Reader(name)
    records = [
        reader.decode(value)
        for m in served.stage.read(topic, 0)
        if (value := m.value()) is not None
    ]
    return [record for record in records if record[field] in ids]


def replies(served: ServedConsumer, *ids: str) -> dict[str, dict[str, Any]]:
    """The results of these requests once each has one; none has two."""
    results = until(
        lambda: (
            found
            if len(
                found := ours(served, served.stage.topics.rescore_results, "RescoreResult", *ids)
            )
            >= len(ids)
            else []
        ),
        f"answers to {ids}",
    )
    assert sorted(result["request_id"] for result in results) == sorted(ids)
    return {result["request_id"]: result for result in results}


def displayed(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with the fields of scores that the page has; the others must be there."""
    for score in answer["predictions"]:
        assert score["grade"] in "ABCD"
        assert score["probability_low"] <= score["probability"] <= score["probability_high"]
        assert score["reasons"]
        assert score["valid_until"] is None or score["valid_until"] > NOW_MS
    names = ("lead_id", "prediction", "probability", "confidence")
    return answer | {
        "predictions": [{name: score[name] for name in names} for score in answer["predictions"]]
    }


def near(answer: dict[str, Any]) -> dict[str, Any]:
    """The same answer, if its numbers are about the same."""
    numbers = ("probability", "confidence")
    return answer | {
        "predictions": [
            score | {name: pytest.approx(score[name], abs=NEAR) for name in numbers}
            for score in answer["predictions"]
        ]
    }


def format_reply(answer: dict[str, Any]) -> str:
    """An answer as the page has it: a line for each lead, numbers with three digits."""
    text = json.dumps(answer, indent=2, ensure_ascii=False)
    text = re.sub(r"\d\.\d+", lambda number: f"{float(number[0]):.3f}", text)
    return (
        re.sub(
            r"\{\n {6}(.*?)\n {4}\}",
            lambda entry: "{" + re.sub(r"\n +", " ", entry[1]) + "}",
            text,
            flags=re.DOTALL,
        )
        + "\n"
    )


def test_a_page_whose_answers_are_not_what_the_software_says_misleads_who_builds_on_it(
    example: ServedConsumer,
) -> None:
    topic, writer = example.stage.topics.rescore_requests, Writer("RescoreRequest")
    sent = []
    for about, block in examples("request"):
        form, _, key = about.partition(" ")
        value = writer.encode(json.loads(block)) if form == "avro" else block.encode()
        sent.append(Output(topic, key.encode() or None, value, timestamp=NOW_MS))
    assert len(sent) == 3, "the page has not all three forms"
    example.stage.send(sent)
    expected = {name: json.loads(block) for name, block in examples("answer")}
    found = {name: displayed(answer) for name, answer in replies(example, *expected).items()}
    page = "\n".join(map(format_reply, found.values()))
    assert found == {name: near(answer) for name, answer in expected.items()}, (
        f"the page should have:\n{page}"
    )
    predictions = ours(example, example.stage.topics.lead_predictions, "LeadPrediction", *expected)
    published = {(p["event_id"], p["lead_id"]): p["probability"] for p in predictions}
    assert len(published) == len(predictions)
    assert published == {
        (name, score["lead_id"]): score["probability"]
        for name, answer in found.items()
        for score in answer["predictions"]
    }


def leadstream(served: ServedConsumer, *arguments: str, **settings: str) -> Running:
    """A verb that has ended."""
    with served.stage.running(*arguments, **settings) as process:
        process.exit_code()
    return process


def test_who_waits_for_an_answer_must_get_the_one_to_his_own_request(
    example: ServedConsumer,
) -> None:
    [(_, block)] = examples("console")
    command, *expected = block.splitlines()
    arguments = command.removeprefix("$ leadstream ").split()
    done = leadstream(example, *arguments)
    output = done.lines()
    assert max(map(len, output)) <= 80
    assert "applies" not in " ".join(output)
    assert re.search(r"^  A-1001: (For|Against): \w", "\n".join(output), re.MULTILINE)
    assert list(rows_of(output)) == list(rows_of(expected)), "\n".join(output)
    assert done.exit_code() == 0


def rows_of(lines: list[str]) -> Iterator[str]:
    """The rows without what differs from run to run: the request's id, the numbers, the grade, and
    the reasons.
    """
    for line in lines:
        if not line or line.startswith(" "):
            continue
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "#", line)
        text = re.sub(r"as of .+ UTC", "as of #", text)
        text = re.sub(r"[\d.]+ % +[\d.]+ to [\d.]+ % +[A-D]\b", "# % # to # % #", text)
        yield " ".join(text.split())


def test_one_lead_s_score_is_shown_in_words_and_an_unknown_or_erased_one_is_told(
    example: ServedConsumer,
) -> None:
    assert leadstream(example, "rescore", "A-1001", "--wait", "--json").exit_code() == 0
    displayed = leadstream(example, "lead", "A-1001")
    text = "\n".join(displayed.lines())
    assert re.search(
        r"^A-1001\n  grade +[A-D]\n  probability +[\d.]+ %, from [\d.]+ to [\d.]+ %\n", text
    ), text
    assert re.search(r"^  (for|against) +\w.*: [+-][\d.]+ points$", text, re.MULTILINE), text
    assert max(map(len, displayed.lines())) <= 80
    found = json.loads("\n".join(leadstream(example, "lead", "A-1001", "--json").lines()))
    assert (found["prediction"]["lead_id"], found["erased"]) == ("A-1001", False)
    erased = leadstream(example, "lead", "A-1003")
    assert (erased.exit_code(), "was erased at 2" in erased.lines()[0]) == (0, True)
    missing = leadstream(example, "lead", "A-9999")
    assert missing.exit_code() == 1
    [sentence] = missing.lines()
    assert "lead A-9999 has no score" in sentence
    assert "`leadstream rescore A-9999 --wait`" in sentence


def test_an_answer_that_was_there_before_anyone_looked_is_found_and_one_that_was_aborted_never(
    served: ServedConsumer,
) -> None:
    topic, name = served.stage.topics.rescore_results, uuid.uuid4().hex
    written = Writer("RescoreResult")
    nothing = {
        "request_id": name,
        "predictions": [],
        "total_processed": 0,
        "successful_predictions": 0,
        "errors": [],
    }
    with receiving_replies(load_settings(served.stage.environment, None)) as replies:
        producer = Producer({"bootstrap.servers": served.stage.bootstrap, "transactional.id": name})
        producer.init_transactions(30)
        for model, end in (
            ("aborted", producer.abort_transaction),
            ("committed", producer.commit_transaction),
        ):
            producer.begin_transaction()
            producer.produce(
                topic, written.encode(nothing | {"model_used": model}), name, partition=0
            )
            producer.flush(30)
            end(30)
        assert [answer["model_used"] for answer in replies.receive([name], 60)] == ["committed"]


def test_who_waits_in_vain_is_told_so_in_one_sentence(served: ServedConsumer) -> None:
    # Nobody consumes the topic of the outcomes.
    swapped = {
        "LEADSTREAM_TOPIC_RESCORE_REQUESTS": served.stage.topics.lead_outcomes,
        "LEADSTREAM_TOPIC_LEAD_OUTCOMES": served.stage.topics.rescore_requests,
    }
    done = leadstream(served, "rescore", "lead", "--wait", "--timeout", "1", **swapped)
    assert done.exit_code() == 1
    [sentence] = done.lines()
    assert re.match(
        r"leadstream: no answer to request \S{36} within 1 s: check that `leadstream run` is up",
        sentence,
    )


def test_the_largest_request_has_one_answer_and_one_more_id_is_refused(
    served: ServedConsumer, tmp_path: Path
) -> None:
    known = [str(uuid.uuid4()) for _ in range(5000)]
    unknown = [str(uuid.uuid4()) for _ in range(MAX_REQUEST_LEADS - len(known))]
    served.crm.add(*known)
    asked = [id_ for pair in zip(known, unknown, strict=True) for id_ in pair]
    (tmp_path / "ids").write_text("\n".join(asked))
    queries = served.process.metric("database_queries_total")
    done = leadstream(served, "rescore", "--file", str(tmp_path / "ids"), "--wait", "--json")
    output = json.loads("\n".join(done.lines()))
    [request_id] = output["request_ids"]
    answer = replies(served, request_id)[request_id]
    assert [answer] == output["results"]
    assert [score["lead_id"] for score in answer["predictions"]] == known
    assert [(error["lead_id"], error["code"]) for error in answer["errors"]] == [
        (id_, "LEAD_NOT_FOUND") for id_ in unknown
    ]
    predictions = ours(served, served.stage.topics.lead_predictions, "LeadPrediction", request_id)
    assert sorted(p["lead_id"] for p in predictions) == sorted(known)
    assert served.process.metric("database_queries_total") - queries == MAX_REQUEST_LEADS / SLICE

    name = uuid.uuid4().hex
    served.stage.send(
        [served.stage.request(name, [*asked, "one more"]), served.stage.request(f"{name} 2", [])]
    )
    replies(served, f"{name} 2")
    [letter] = [headers_of(m) for m in served.stage.letters(1) if m.key() == name.encode()]
    assert letter["dlq.reason"] == "INVALID_REQUEST"
    assert (
        letter["__connect.errors.exception.message"]
        == "the request has 10001 ids; at most 10000 are answered together"
    )


def test_who_waits_for_more_leads_than_a_request_can_name_gets_the_answers_to_all_of_them(
    served: ServedConsumer, tmp_path: Path
) -> None:
    ids = [f"nobody {i}" for i in range(MAX_REQUEST_LEADS + 1)]
    (tmp_path / "ids").write_text("\n".join(ids))
    done = leadstream(served, "rescore", "--file", str(tmp_path / "ids"), "--wait", "--json")
    output = json.loads("\n".join(done.lines()))
    assert output["leads"] == len(ids)
    assert [result["request_id"] for result in output["results"]] == output["request_ids"]
    assert [error["lead_id"] for result in output["results"] for error in result["errors"]] == ids
    assert [result["total_processed"] for result in output["results"]] == [MAX_REQUEST_LEADS, 1]


def test_a_backlog_of_large_requests_must_not_become_one_endless_transaction_nor_hold_changes(
    served: ServedConsumer,
) -> None:
    stage = served.stage
    name = uuid.uuid4().hex
    requests = [
        stage.request(f"{name} {i}", [f"{name} {n:010}" for n in range(900)]) for i in range(4)
    ]
    changes = stage.changes(name, 30)
    topics = [stage.topics.lead_changes, stage.topics.rescore_requests]
    settings = load_settings(stage.environment | {"LEADSTREAM_GROUP_ID": name}, None)
    source = KafkaSource(
        consumer_config(settings) | {"auto.offset.reset": "latest"},
        topics,
        max_records=2000,
        linger_ms=500,
        requests=topics[1],
    )
    until(lambda: source.poll(0.1) or len(source.assigned()) == 3, "it is a member")
    source.poll(0.5)
    stage.send([*requests, *changes])
    batches: list[list[Message]] = []

    def polled() -> bool:
        if batch := source.poll(0.2):
            batches.append(batch.messages)
        return sum(map(len, batches)) >= len(requests) + len(changes)

    until(polled, "all are there")
    source.close()
    keys = {
        topic: [[m.key() for m in batch if m.topic() == topic] for batch in batches]
        for topic in topics
    }
    asked, changed = (list(itertools.chain(*keys[topic])) for topic in reversed(topics))
    assert max(map(len, keys[topics[1]])) == 1
    assert asked == [request.key for request in requests]
    assert set(changed) == {change.key for change in changes}
    assert len(changed) == len(changes)
    assert sorted(replies(served, *(f"{name} {i}" for i in range(4)))) == [
        f"{name} {i}" for i in range(4)
    ]
