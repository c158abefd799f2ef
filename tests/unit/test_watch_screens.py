"""`leadstream dead-letters watch` on a screen of 80 by 24, over letters that need no broker."""

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, DataTable, Input, Static

from consumer.dead_letters.audit import Action
from consumer.dead_letters.replay import DecisionProgress
from consumer.dead_letters.selection import Filter, Selection
from leadstream.cli.dead_letters.watch import watch
from leadstream.cli.dead_letters.watch.app import WatchApp
from leadstream.cli.main import main
from leadstream.errors import Transient, UserError
from tests.letters import letter
from tests.unit.test_console_pages import VALUE, MemoryTriageService

pytestmark = pytest.mark.slow

Play = Callable[["PilotHarness"], Coroutine[Any, Any, None]]


class Recording(MemoryTriageService):
    """A service that records its calls; a replay waits until it may continue."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Filter, dict[str, Any]]] = []

    def dry_run(self, selection: Selection, patch: object) -> Any:
        self.calls.append(("dry_run", selection.wanted, {"patch": patch}))
        return super().dry_run(selection, patch)

    def replay(
        self, selection: Selection, *, report: Any, stop: threading.Event, **options: Any
    ) -> DecisionProgress:
        self.calls.append(("replay", selection.wanted, options))
        progress = DecisionProgress()
        progress.decided[Action.REPLAYED] = selection.count
        report(progress)
        assert self.may_go_on.wait(30)
        progress.stopped = stop.is_set()
        return progress

    def discard(
        self, selection: Selection, *, report: Any, stop: threading.Event, **options: Any
    ) -> DecisionProgress:
        self.calls.append(("discard", selection.wanted, options))
        return super().discard(selection, report=report, stop=stop)

    def asked(self, name: str) -> list[tuple[Filter, dict[str, Any]]]:
        return [(wanted, options) for call, wanted, options in self.calls if call == name]


class PilotHarness:
    """The running app, and the keys that a test presses."""

    def __init__(self, pilot: Pilot[None], service: Recording) -> None:
        self.pilot = pilot
        self.app: Any = pilot.app
        self.service = service

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, text: str) -> None:
        await self.pilot.press(*("space" if char == " " else char for char in text))

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, f"not seen: {what}, but {self.text()}"
            await self.pilot.pause(0.01)

    def text(self) -> str:
        """What the screen shows, line by line."""
        lines = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in lines)

    async def sees(self, words: str) -> None:
        await self.until(lambda: words in self.text(), words)

    def static(self, name: str) -> str:
        return str(self.app.screen.query_one(f"#{name}", Static).render())

    def button(self) -> Button:
        found: Button = self.app.screen.query_one("#decide", Button)
        return found


def played(play: Play, service: Recording | None = None) -> Recording:
    """Play a scene on a new app."""
    service = service or Recording()
    triage: Any = service

    async def scene() -> None:
        app = WatchApp(triage, Filter(), "anna")
        async with app.run_test(size=(80, 24)) as pilot:
            stage = PilotHarness(pilot, service)
            await stage.sees("open dead letter")
            await play(stage)
        app.finish()

    asyncio.run(scene())
    return service


def test_the_causes_and_the_keys_fit_a_screen_of_80_by_24() -> None:
    async def play(stage: PilotHarness) -> None:
        text = stage.text()
        assert "120 open dead letters, 6 causes" in text
        for group in stage.service.groups(Filter()):
            assert group.fingerprint in text
            assert group.reason in text
        assert "the forest cannot answer for 117" in text
        for key in (
            "l Letters",
            "e Example",
            "r Replay",
            "d Discard",
            "a All",
            "v Audit",
            "u Renew",
            "q Quit",
        ):
            await stage.sees(key)

    played(play)


def test_a_letter_is_three_keys_away_and_so_is_the_way_back() -> None:
    async def play(stage: PilotHarness) -> None:
        await stage.press("down", "enter")
        await stage.sees("20 letters of")
        await stage.press("down", "enter")
        await stage.sees("headers")
        assert "lead_11" in stage.text()
        await stage.press("escape", "escape")
        await stage.sees("6 causes")
        assert stage.app.screen.query_one(DataTable).cursor_row == 1

    played(play)


def test_a_replay_without_a_dry_run_must_not_be_a_key_away() -> None:
    async def play(stage: PilotHarness) -> None:
        await stage.press("r")
        await stage.sees("Replay 20 letters")
        assert stage.service.asked("replay") == []
        await stage.press("escape")
        await stage.sees("newest letter")
        assert stage.service.asked("replay") == []
        await stage.press("r")
        await stage.sees("Replay 20 letters")
        await stage.press("enter")
        await stage.sees("20 letters sent back")

    service = played(play)
    first = service.groups(Filter())[0]
    [(wanted, options)] = service.asked("replay")
    assert wanted == Filter(fingerprint=first.fingerprint)
    assert options == {"decided_by": "anna", "patch": {}, "comment": None}


def test_a_patch_without_a_dry_run_is_not_replayed() -> None:
    async def play(stage: PilotHarness) -> None:
        await stage.press("r")
        await stage.sees("Replay 20 letters")
        stage.app.screen.query_one("#patch", Input).focus()
        await stage.type("lead.status=won")
        assert stage.button().disabled
        await stage.press("enter")
        await stage.until(lambda: not stage.button().disabled, "the dry run")
        stage.app.screen.query_one("#comment", Input).focus()
        await stage.type("so it is")
        await stage.press("enter", "enter")
        await stage.sees("20 letters sent back")

    service = played(play)
    patch = {"lead": {"status": "won"}}
    assert [options["patch"] for _, options in service.asked("dry_run")] == [{}, patch]
    assert [(options["patch"], options["comment"]) for _, options in service.asked("replay")] == [
        (patch, "so it is")
    ]


def test_a_patch_that_cannot_be_read_is_a_sentence() -> None:
    async def play(stage: PilotHarness) -> None:
        await stage.press("r")
        await stage.sees("Replay 20 letters")
        stage.app.screen.query_one("#patch", Input).focus()
        await stage.type("status")
        await stage.press("enter")
        await stage.sees("write field=value")
        assert stage.button().disabled

    assert played(play).asked("replay") == []


def test_nothing_is_given_up_without_a_reason() -> None:
    async def play(stage: PilotHarness) -> None:
        await stage.press("d")
        await stage.sees("20 letters would be discarded")
        await stage.press("enter", "enter")
        assert stage.button().disabled
        stage.app.screen.query_one("#comment", Input).focus()
        await stage.press("space")
        assert stage.button().disabled
        await stage.type("a test")
        await stage.press("enter", "enter")
        await stage.sees("letter discarded")

    service = played(play)
    assert [options["comment"] for _, options in service.asked("discard")] == ["a test"]


def test_a_decision_that_is_stopped_says_that_the_rest_is_open() -> None:
    async def play(stage: PilotHarness) -> None:
        stage.service.may_go_on.clear()
        await stage.press("r")
        await stage.sees("Replay 20 letters")
        await stage.press("enter")
        await stage.sees("deciding")
        await stage.press("s")
        await stage.sees("Stopping after the current transaction")
        stage.service.may_go_on.set()
        await stage.sees("Stopped: all other letters are still open.")
        await stage.press("enter")
        await stage.sees("newest letter")

    played(play)


def test_a_user_who_leaves_during_a_decision_waits_for_the_transaction_at_hand() -> None:
    service = Recording()
    service.may_go_on.clear()
    triage: Any = service

    async def scene() -> WatchApp:
        app = WatchApp(triage, Filter(), "anna")
        async with app.run_test(size=(80, 24)) as pilot:
            stage = PilotHarness(pilot, service)
            await stage.sees("open dead letter")
            await stage.press("r")
            await stage.sees("Replay 20 letters")
            await stage.press("enter")
            await stage.sees("deciding")
            await stage.press("ctrl+c")
        return app

    app = asyncio.run(scene())
    ending = threading.Thread(target=app.finish)
    ending.start()
    assert app.stop.wait(30)
    assert ending.is_alive()
    service.may_go_on.set()
    ending.join(30)
    assert not ending.is_alive()


def test_brokers_that_go_away_are_a_sentence_and_the_view_stays() -> None:
    async def play(stage: PilotHarness) -> None:
        stage.service.trouble = Transient("brokers", "Local: Broker transport failure")
        await stage.press("u")
        await stage.sees("brokers: Local: Broker transport failure")
        stage.service.trouble = None
        await stage.press("u")
        await stage.sees("120 open dead letters, 6 causes")

    played(play)


def test_what_others_wrote_into_a_letter_is_text_and_no_markup() -> None:
    service = Recording()
    evil = "[bold]loud[/] [link=x]\x1b[31m"
    service.all = [letter(0, evil.encode(), VALUE, headers=[(evil, evil.encode())])]

    async def play(stage: PilotHarness) -> None:
        await stage.press("l")
        await stage.sees("[bold]loud[/] [link=x]\\x1b")
        await stage.press("s")
        await stage.sees("headers")
        assert stage.text().count("[bold]loud[/] [link=x]\\x1b[31m") == 3

    played(play, service)


def test_without_a_terminal_it_says_which_verb_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    assert main(["dead-letters", "watch"]) == 1
    assert "watch needs a terminal; `leadstream dead-letters groups`" in capsys.readouterr().err


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with pytest.raises(UserError, match=r"pip install 'leadstream\[triage\]'"):
        watch(argparse.Namespace(), None, None)
