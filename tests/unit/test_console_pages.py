"""The gate of `leadstream console` over real HTTP, and its pages over letters in memory."""

import http.client
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from consumer.current_prediction import LeadRecord
from consumer.dead_letters.audit import Action, AuditReport, Decision, DecisionIndex
from consumer.dead_letters.dry_run_summary import DryRunGroup
from consumer.dead_letters.groups import LetterGroup, group_letters
from consumer.dead_letters.inspection import Inspection, inspect
from consumer.dead_letters.letters import Letter, LetterId
from consumer.dead_letters.replay import DecisionProgress
from consumer.dead_letters.selection import Filter, Selection
from leadstream.cli.console.jobs import JobKind, Jobs
from leadstream.cli.console.pages import Pages
from leadstream.cli.console.server import MAX_FORM_BYTES, Console, PageResponse
from leadstream.errors import Transient, UserError
from leadstream.settings import load_settings
from schemas.codec import Writer
from tests.integration.running import until
from tests.letters import letter
from tests.subscriber import prediction
from tests.unit.pipelines import event

VALUE = Writer("LeadChanged").encode(event())


class MemoryTriageService:
    """A triage service over letters in memory; each call can be made to fail."""

    settings = load_settings({"KAFKA_BOOTSTRAP_SERVERS": "kafka-1:9092"}, None)

    def __init__(self) -> None:
        self.all = [letter(i, f"lead_{i}".encode(), VALUE) for i in range(120)]
        self.trouble: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def letters(self, wanted: Filter, decided: DecisionIndex | None = None) -> Iterator[Letter]:
        if self.trouble:
            raise self.trouble
        return wanted.select(self.all, decided or self.decided())

    def decided(self) -> DecisionIndex:
        return DecisionIndex("")

    def groups(self, wanted: Filter) -> list[LetterGroup]:
        return group_letters(self.letters(wanted))

    def letter(self, id_: LetterId) -> tuple[Letter, Inspection, Decision | None]:
        if id_.offset >= len(self.all):
            raise UserError(f"there is no letter {id_}")
        found = self.all[id_.offset]
        return found, inspect(found, self.settings.topics, None), None

    def select(self, wanted: Filter) -> Selection:
        return Selection(wanted, {0: len(self.all)}, sum(1 for _ in self.letters(wanted)))

    def groups_of(self, selection: Selection) -> list[LetterGroup]:
        return self.groups(selection.wanted)

    def dry_run(self, selection: Selection, patch: object) -> list[DryRunGroup]:
        return [DryRunGroup(each, each.count) for each in self.groups_of(selection)]

    def discard(
        self, selection: Selection, *, report: Any, stop: threading.Event, **_: object
    ) -> DecisionProgress:
        progress = DecisionProgress()
        progress.decided[Action.DISCARDED] = 1
        report(progress)
        assert self.may_go_on.wait(30)
        progress.stopped = stop.is_set()
        return progress

    def current_score(self, lead_id: str) -> LeadRecord | None:
        if self.trouble:
            raise self.trouble
        return {
            "lead_1": LeadRecord(prediction(lead_id), 0, 0, 0),
            "gone": LeadRecord(None, 0, 0, 0),
        }.get(lead_id)

    def verify(self) -> AuditReport:
        return AuditReport()

    def decisions(self) -> list[Decision]:
        return []


LINK = r"http://leadstream-\w+\.localhost:\d+(/\?token=[\w-]+)"


class Browser:
    """A client that sends requests with given headers."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.headers = {"Host": f"{host}:{port}"}

    def ask(
        self, method: str, path: str, form: Mapping[str, str] | None = None, **headers: str
    ) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        body = None if form is None else urlencode(form)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, self.headers | names)
        answer = connection.getresponse()
        answer.text = answer.read().decode()  # type: ignore[attr-defined]
        connection.close()
        return answer

    def sign_in(self, link: str) -> None:
        answer = self.ask("GET", link)
        assert answer.status == 200
        self.headers["Cookie"] = answer.headers["Set-Cookie"].split(";")[0]

    def form_token(self) -> str:
        return str(re.findall(r'name="form_token" value="([^"]+)"', self.ask("GET", "/").text)[0])


class ServedConsole:
    def __init__(self, site: Any) -> None:
        self.lines: list[str] = []
        self.console = Console(0, site, self.lines.append)
        self.thread = threading.Thread(target=self.console.serve)
        self.thread.start()
        until(lambda: self.lines, "the link")

    def link(self) -> str:
        return str(re.findall(LINK, self.lines[0])[0])

    def browser(self) -> Browser:
        return Browser(self.console.gate.host, self.console.port)


@pytest.fixture
def service() -> MemoryTriageService:
    return MemoryTriageService()


@pytest.fixture
def served(service: MemoryTriageService) -> Iterator[ServedConsole]:
    pytest.importorskip("jinja2")
    triage: Any = service
    found = ServedConsole(Pages(triage, Jobs(triage, "anna")))
    yield found
    found.console.stop()
    found.thread.join()


@pytest.fixture
def browser(served: ServedConsole) -> Browser:
    found = served.browser()
    found.sign_in(served.link())
    return found


def test_a_site_whose_name_is_made_to_mean_this_machine_gets_nothing(
    served: ServedConsole, browser: Browser
) -> None:
    for name in (
        "evil.example",
        f"evil.example:{browser.port}",
        "127.0.0.1.evil.example",
        "",
        "[::1",
        "127.0.0.2",
        f"evil.{browser.host}",
    ):
        answer = browser.ask("GET", "/", Host=name)
        assert answer.status == 421, name
        assert "crm.lead-changes" not in answer.text
        assert browser.host not in answer.text
    for name in (f"{browser.host}:1", browser.host.upper()):
        assert browser.ask("GET", "/", Host=name).status == 200, name


def test_a_cookie_for_127_0_0_1_would_go_to_every_program_that_listens_there(
    browser: Browser,
) -> None:
    assert re.fullmatch(r"leadstream-[0-9a-f]{32}\.localhost", browser.host)
    for name in ("localhost", f"127.0.0.1:{browser.port}", f"localhost:{browser.port}"):
        answer = browser.ask("GET", "/", Host=name)
        assert answer.status == 421, name
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "cookie", ["", "leadstream-console-{port}=guess", "other=1", "leadstream-console-{port}=é"]
)
def test_who_was_not_let_in_sees_no_letter_and_changes_nothing(
    served: ServedConsole, cookie: str
) -> None:
    browser = served.browser()
    browser.headers["Cookie"] = cookie.format(port=browser.port)
    for method, path in (
        ("GET", "/"),
        ("GET", "/letters/0-1"),
        ("GET", "/jobs/1"),
        ("POST", "/discard"),
    ):
        answer = browser.ask(method, path, {} if method == "POST" else None)
        assert answer.status == 403, path
        assert "LEAD_NOT_FOUND" not in answer.text
        assert "kafka-1" not in answer.text


def test_an_odd_cookie_of_another_program_locks_nobody_out(browser: Browser) -> None:
    browser.headers["Cookie"] = (
        f'theirs={{"a": [1, 2]}}; é=1; x@y=";"; {browser.headers["Cookie"]}; last'
    )
    assert browser.ask("GET", "/").status == 200


def test_a_link_that_is_good_twice_lets_in_whoever_reads_the_history(served: ServedConsole) -> None:
    link = served.link()
    answer = served.browser().ask("GET", link)
    assert answer.status == 200
    assert re.fullmatch(
        r"leadstream-console-\d+=[\w-]{43}; Path=/; HttpOnly; SameSite=Strict",
        answer.headers["Set-Cookie"],
    )
    again = served.browser().ask("GET", link)
    assert again.status == 403
    assert "Set-Cookie" not in again.headers
    assert served.browser().ask("GET", "/?token=guess").status == 403


def test_a_link_that_still_works_must_not_stay_in_the_terminal(
    served: ServedConsole, browser: Browser
) -> None:
    assert served.browser().ask("GET", served.link()).status == 403
    assert "token=" not in "".join(served.lines[1:])
    # A browser that has signed in shows the next one; others do not get it.
    assert served.browser().ask("GET", "/link").status == 403
    [link] = re.findall(LINK, browser.ask("GET", "/link").text)
    served.browser().sign_in(link)
    assert served.browser().ask("GET", link).status == 403


def test_a_head_request_has_the_headers_of_the_page(browser: Browser) -> None:
    answer = browser.ask("HEAD", "/")
    assert (answer.status, answer.text) == (200, "")
    assert int(answer.headers["Content-Length"]) == len(browser.ask("GET", "/").text.encode())


def test_a_form_of_another_site_or_without_its_token_decides_nothing(browser: Browser) -> None:
    form = {"reason": "OVERSIZED"}
    token = browser.form_token()
    assert browser.ask("POST", "/discard", form).status == 403
    assert browser.ask("POST", "/discard", form | {"form_token": "guess"}).status == 403
    for origin in ("http://evil.example", "null", f"http://localhost:{browser.port}"):
        answer = browser.ask("POST", "/discard", form | {"form_token": token}, Origin=origin)
        assert answer.status == 403, origin
    assert browser.ask("GET", "/jobs/1").status == 404
    own = f"http://{browser.host}:{browser.port}"
    assert browser.ask("POST", "/discard", form | {"form_token": token}, Origin=own).status == 303
    assert browser.ask("GET", "/jobs/1").status == 200


def test_a_page_that_may_load_or_be_framed_by_others_is_theirs(browser: Browser) -> None:
    for path in ("/", "/letters/0-0", "/style.css", "/nowhere"):
        headers = browser.ask("GET", path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == (
            "nosniff",
            "no-store",
        )
    assert "<script" not in browser.ask("GET", "/").text


@pytest.mark.parametrize("size", [str(MAX_FORM_BYTES + 1), "-1", "a", "9" * 30])
def test_a_form_without_an_end_is_not_waited_for(browser: Browser, size: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=10)
    connection.putrequest("POST", "/discard", skip_host=True)
    for name, value in (browser.headers | {"Content-Length": size}).items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_what_others_wrote_into_a_letter_is_text_and_never_markup(
    browser: Browser, service: MemoryTriageService
) -> None:
    evil = "<script>alert(1)</script>\x1b[31m"
    headers = [
        ("kafka_dlt-exception-fqcn", evil.encode()),
        ("kafka_dlt-exception-message", evil.encode()),
    ]
    first = service.all[0]
    service.all[0] = letter(0, evil.encode(), VALUE, headers=[(evil, evil.encode()), *headers])
    assert service.all[0].id == first.id
    for path in ("/", "/letters", "/letters/0-0"):
        text = browser.ask("GET", path).text
        assert "<script" not in text, path
        assert "\x1b" not in text, path
    assert "<script" not in browser.ask("GET", f"/?{urlencode({'lead': evil})}").text


@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        (Transient("brokers", "Local: Broker transport failure"), 503),
        (UserError("topic nowhere: `leadstream topics create` makes what is missing"), 404),
    ],
)
def test_a_trouble_is_a_sentence_on_the_page(
    browser: Browser, service: MemoryTriageService, trouble: Exception, status: int
) -> None:
    service.trouble = trouble
    answer = browser.ask("GET", "/")
    assert answer.status == status
    assert str(trouble) in answer.text
    assert "Traceback" not in answer.text


def test_a_bug_is_told_in_the_terminal_and_not_on_the_page(
    browser: Browser, service: MemoryTriageService, capfd: pytest.CaptureFixture[str]
) -> None:
    service.trouble = ZeroDivisionError("a secret")
    answer = browser.ask("GET", "/")
    assert answer.status == 500
    assert "a secret" not in answer.text
    until(lambda: "ZeroDivisionError: a secret" in capfd.readouterr().err, "the trace")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("since", "yesterday", "since yesterday: write a time as"),
        ("partition", "-1", "partition -1: write a whole number, 0 or more"),
        ("limit", "0", "limit 0: write a whole number, 1 or more"),
        ("offset", "²", "write a whole number"),
    ],
)
def test_what_a_person_writes_wrong_is_one_sentence(
    browser: Browser, name: str, text: str, sentence: str
) -> None:
    answer = browser.ask("GET", f"/letters?{urlencode({name: text})}")
    assert answer.status == 400
    assert sentence in answer.text


def test_a_letter_that_is_not_there_and_a_page_that_is_not_there_are_said_so(
    browser: Browser,
) -> None:
    answer = browser.ask("GET", "/letters/0-999")
    assert (answer.status, "there is no letter 0-999" in answer.text) == (404, True)
    assert browser.ask("GET", "/../style.css").status == 404


def test_a_score_is_shown_in_sentences_with_the_moment_that_it_is_of(browser: Browser) -> None:
    text = browser.ask("GET", "/leads?lead=lead_1").text
    assert "lead score 82, higher than 9 in 10 leads: +10 points" in text
    assert "2025-06-15 15:06:40 UTC" in text
    assert "/leads?lead=lead_7" in browser.ask("GET", "/letters/0-7").text


@pytest.mark.parametrize(
    ("lead", "expected"),
    [
        ("", "The current score of one lead"),
        ("nobody", "The lead has no score"),
        ("gone", "it has no score"),
        ("x" * 2000, "write an id of at most"),
        ("<b>", "&lt;b&gt;"),
    ],
)
def test_a_lead_without_a_score_is_said_so(browser: Browser, lead: str, expected: str) -> None:
    assert expected in browser.ask("GET", f"/leads?{urlencode({'lead': lead})}").text


def test_the_next_page_begins_where_the_last_one_ended(browser: Browser) -> None:
    seen: list[str] = []
    path = "/letters"
    while path:
        text = browser.ask("GET", path).text
        seen += re.findall(r'<th scope="row"><a href="/letters/([\d-]+)"', text)
        found = re.findall(r'<a href="([^"]+)" rel="next">', text)
        path = found[0].replace("&amp;", "&") if found else ""
    assert seen == [f"0-{i}" for i in range(120)]


def test_two_decisions_at_once_and_one_that_nobody_has_seen_are_refused(
    service: MemoryTriageService,
) -> None:
    triage: Any = service
    jobs = Jobs(triage, "anna")
    service.may_go_on.clear()

    def look() -> Any:
        job = jobs.preview(JobKind.COUNT, {}, Filter())
        assert job.done.wait(30)
        return job

    first, second = look(), look()
    with pytest.raises(UserError, match="say why"):
        jobs.decide(first, "  ")
    going_on = jobs.decide(first, "a test")
    with pytest.raises(UserError, match=f"job {going_on.number} decides now"):
        jobs.decide(second, "a test")
    with pytest.raises(UserError, match="only a preview can be decided"):
        jobs.decide(going_on, "a test")
    going_on.stop.set()
    service.may_go_on.set()
    assert going_on.done.wait(30)
    assert going_on.progress.stopped
    assert jobs.decide(second, "a test").done.wait(30)


def test_a_decision_on_a_preview_that_has_not_ended_or_failed_is_refused(
    service: MemoryTriageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    triage: Any = service
    jobs = Jobs(triage, "anna")
    may_end = threading.Event()

    def slow(selection: Selection) -> list[LetterGroup]:
        assert may_end.wait(30)
        raise Transient("brokers", "they went away")

    monkeypatch.setattr(service, "groups_of", slow)
    job = jobs.preview(JobKind.DRY_RUN, {}, Filter())
    # The letters are selected, but nobody has seen what a replay would do with them.
    until(lambda: job.selection is not None, "the selection")
    with pytest.raises(UserError, match="the preview has not ended"):
        jobs.decide(job, "a test")
    may_end.set()
    assert job.done.wait(30)
    with pytest.raises(UserError, match="the preview failed"):
        jobs.decide(job, "a test")


def test_a_console_that_ends_lets_the_transaction_at_hand_end(service: MemoryTriageService) -> None:
    triage: Any = service
    jobs = Jobs(triage, "anna")
    previewed = jobs.preview(JobKind.COUNT, {}, Filter())
    assert previewed.done.wait(30)
    service.may_go_on.clear()
    job = jobs.decide(previewed, "a test")
    closing = threading.Thread(target=jobs.close)
    closing.start()
    assert job.stop.wait(30)
    assert closing.is_alive()
    service.may_go_on.set()
    closing.join(30)
    assert job.finished
    assert job.progress.stopped


def test_without_its_libraries_the_console_says_what_to_install(
    service: MemoryTriageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    triage: Any = service
    with pytest.raises(UserError, match=r"pip install 'leadstream\[triage\]'"):
        Pages(triage, Jobs(triage, "anna"))


def test_a_site_is_asked_for_nothing_before_the_gate() -> None:
    class Deaf:
        def get(self, *_: object) -> PageResponse:
            raise AssertionError("asked")

        post = get

        def message(
            self, status: int, title: str, text: str, to: str | None = None
        ) -> PageResponse:
            return PageResponse(status, text.encode())

    found = ServedConsole(Deaf())
    try:
        assert found.browser().ask("GET", "/").status == 403
    finally:
        found.console.stop()
        found.thread.join()
