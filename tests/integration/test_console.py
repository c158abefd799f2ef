"""`leadstream console` in a real browser without JavaScript, on a real Kafka: what an operator does
there, and sees.
"""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from consumer.dead_letters.audit import Action, decode_decision
from consumer.dead_letters.service import TriageService
from leadstream.cli.console.jobs import Jobs
from leadstream.cli.console.pages import Pages
from leadstream.kafka import topic_reader as reading
from leadstream.local.broker import Broker
from leadstream.settings import load_settings
from schemas.codec import Reader, Writer
from tests.browser import absent, chromium
from tests.integration.running import Running, Stage, until
from tests.letters import letter_output
from tests.unit.pipelines import event

pytestmark = [pytest.mark.broker, pytest.mark.browser]
CHANGE, DECISION = Writer("LeadChanged"), Reader("TriageDecision")
COUNT = 60


def good(lead: str) -> bytes:
    return CHANGE.encode(event(lead, lead_version=5))


@dataclass(slots=True)
class ConsoleBrowser:
    """A browser that has signed in to a console; `find` waits for nothing."""

    browser: Any
    home: str
    process: Running
    stage: Stage

    def text(self) -> str:
        return str(self.browser.find_element("tag name", "main").text)

    def find(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def click(self, label: str) -> None:
        self.browser.find_element("xpath", f"//button[contains(., '{label}')]").click()

    def press(self, label: str) -> None:
        """Click, and wait for the page that comes of it."""
        before = self.browser.find_element("tag name", "html").id
        self.click(label)
        until(lambda: [each for each in self.find("html") if each.id != before], "another page")

    def go(self, page: str) -> None:
        self.browser.get(self.home + page)

    def over(self) -> str:
        """What the page of a job says once it renews itself no more."""

        def is_still_there() -> bool:
            page = self.browser.page_source
            return "</main>" in page and 'http-equiv="refresh"' not in page

        until(is_still_there, "it is over")
        return self.text()


@pytest.fixture(scope="module")
def console(
    kafka: Broker, model_store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleBrowser]:
    if why := absent():
        if os.environ.get("LEADSTREAM_REQUIRE_BROWSER") == "1":
            pytest.fail(f"LEADSTREAM_REQUIRE_BROWSER=1, but: {why}", pytrace=False)
        pytest.skip(why)
    stage = Stage.on(kafka.bootstrap, tmp_path_factory.mktemp("console"), model_store, partitions=2)
    topics, now = stage.topics, time.time_ns() // 1_000_000
    fields: Any = {
        "origin": topics.lead_changes,
        "topic": topics.dead_letters,
        "sent_at": now,
        "failed_at": now,
    }
    values = [CHANGE.encode(event(f"lead_{i}", {"status": "MARK"})) for i in range(COUNT)]
    # Of the six causes the first cannot be decoded today either.
    values = [
        value.replace(b"MARK", b"MA\xffK") if i % 6 == 0 else value
        for i, value in enumerate(values)
    ]
    stage.send(
        [letter_output(i, f"lead_{i}".encode(), value, **fields) for i, value in enumerate(values)]
    )
    with (
        stage.running() as consumer,
        stage.running("console", "--port", "0", "--by", "anna") as process,
        chromium() as browser,
    ):
        link = until(lambda: re.findall(r"http://\S+", "\n".join(process.lines())), "the link")[0]
        browser.get(link)
        found = ConsoleBrowser(browser, link.split("?")[0], process, stage)
        until(lambda: found.find(".causes"), "the causes")
        yield found
        assert process.stop() == 0
        assert consumer.stop() == 0


def decisions(stage: Stage, count: int) -> dict[str, Any]:
    found = [
        decode_decision(message, DECISION)
        for message in stage.read(stage.topics.dead_letter_audit, count)
    ]
    return {str(decision.letter): decision for decision in found}


def test_whoever_opens_the_link_sees_the_causes_and_no_secret_stays_in_the_address(
    console: ConsoleBrowser,
) -> None:
    assert "token" not in console.browser.current_url
    assert f"{COUNT} open dead letters, 6 causes" in console.text()
    assert [each.text for each in console.find(".cause .number")] == ["10"] * 6
    # Nothing was loaded from elsewhere, and nothing was refused by the policy.
    assert [each for each in console.browser.get_log("browser") if each["level"] == "SEVERE"] == []


def test_a_letter_that_cannot_be_read_shows_the_byte(console: ConsoleBrowser) -> None:
    console.go("?reason=DECODE_FAILED")
    [cause] = console.find(".cause h2 a")
    cause.click()
    console.find("tbody a")[0].click()
    assert "in lead.status: the text is not UTF-8" in console.text()
    assert [each.text for each in console.find("mark")] == ["ff"]


def test_a_letter_that_can_be_read_is_beside_its_schema_and_every_field_of_a_form_has_a_name(
    console: ConsoleBrowser,
) -> None:
    console.go("letters?reason=FEATURE_FAILED")
    console.find("summary")[0].click()
    for field in console.find("input:not([type=hidden]), textarea"):
        assert field.accessible_name, field.get_attribute("name")
    console.find("tbody a")[0].click()
    rows = {row.text.split()[0]: row.text for row in console.find("tbody tr")}
    assert "int or null" in rows["lead.touchpoint_count"]


def test_a_replay_is_shown_before_it_is_done_and_done_as_it_was_shown(
    console: ConsoleBrowser,
) -> None:
    console.go("")
    console.press("Dry run of all")
    text = console.over()
    assert [each.text for each in console.find(".figures dd")] == ["60", "50", "10", "0", "0", "0"]
    assert "10 would fail with DECODE_FAILED" in text
    assert console.stage.read(console.stage.topics.dead_letter_audit, 0) == []

    console.go("?reason=FEATURE_FAILED")
    console.press("Dry run")
    console.over()
    # A letter that comes in after the rehearsal was not shown, and stays.
    late = console.stage
    now = time.time_ns() // 1_000_000
    fields: Any = {
        "origin": late.topics.lead_changes,
        "topic": late.topics.dead_letters,
        "sent_at": now,
    }
    late.send([letter_output(2, b"late", good("late"), failed_at=now, **fields)])
    console.find("#comment")[0].send_keys("mended <b>since</b>")
    console.press("Replay 10 letters")
    assert "10 letters sent back" in console.over()
    found = decisions(console.stage, 10)
    assert {(each.action, each.decided_by, each.comment) for each in found.values()} == {
        (Action.REPLAYED, "anna", "mended <b>since</b>")
    }
    console.go("letters?reason=FEATURE_FAILED")
    assert [
        row.find_element("css selector", "td.key").text for row in console.find("tbody tr")
    ] == ["late"]


def test_a_mended_replay_is_rehearsed_with_its_mend(console: ConsoleBrowser) -> None:
    console.go("?reason=INVALID_EVENT")
    console.press("Dry run")
    console.over()
    console.find("summary")[-1].click()
    console.find("#patch")[0].send_keys("lead.status=won\nlead.lead_score=71")
    console.press("Repeat the dry run")
    assert "Patched by lead.status=won, lead.lead_score=71" in console.over()
    console.press("Replay 10 letters")
    assert "10 letters sent back" in console.over()
    patches = {each.patch for each in decisions(console.stage, 20).values() if each.patch}
    assert patches == {'{"lead": {"lead_score": 71, "status": "won"}}'}


def test_nothing_is_given_up_without_a_reason(console: ConsoleBrowser) -> None:
    console.go("?reason=DECODE_FAILED")
    console.press("Discard")
    assert "10 letters would be discarded" in console.over()
    [field] = console.find("#comment")
    console.click("Discard 10 letters")  # the browser holds the form back
    assert field.get_attribute("required") == "true"
    field.send_keys(" ")
    console.press("Discard 10 letters")
    assert "say why the letters are discarded" in console.text()
    console.browser.back()
    [field] = console.find("#comment")
    field.clear()
    field.send_keys("the CRM was mended")
    console.press("Discard 10 letters")
    assert "10 letters discarded" in console.over()
    console.browser.find_element("link text", "Audit").click()
    text = console.text()
    assert "10 DISCARDED" in text
    assert "The chain holds." in text
    assert "the CRM was mended" in text


def test_brokers_that_do_not_answer_are_a_sentence_on_every_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ASK_SECONDS", 0.2)
    stage = Stage.on("127.0.0.1:1", tmp_path, "", create=False)
    with TriageService(load_settings(stage.environment, None)) as triage:
        pages = Pages(triage, Jobs(triage, "anna"))
        for path in ("/", "/letters", "/letters/0-1", "/audit"):
            answer = pages.get(path, {}, "token")
            assert answer is not None
            assert answer.status == 503, path
            assert b"check KAFKA_BOOTSTRAP_SERVERS, and that Kafka is up" in answer.body
        there = pages.post("/replay", {})
        assert there is not None
        page = there.headers["Location"]

        def over() -> bytes | None:
            answer = pages.get(page, {}, "token")
            return answer.body if answer and b'http-equiv="refresh"' not in answer.body else None

        assert b"check KAFKA_BOOTSTRAP_SERVERS" in until(over, "it is over")


def test_a_port_that_is_taken_is_one_sentence(kafka: Broker, tmp_path: Path) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "", create=False)
    with stage.running("console", "--port", kafka.bootstrap.rsplit(":", 1)[1]) as process:
        assert process.exit_code() == 2
    [sentence] = process.sentences()
    assert "cannot listen on 127.0.0.1: Address already in use; choose another port" in sentence
