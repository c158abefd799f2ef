"""`leadstream dead-letters watch` on a terminal of 80 by 24, as a process on a real Kafka."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from consumer.dead_letters.audit import Action, decode_decision
from leadstream.local.broker import Broker
from schemas.codec import Reader, Writer
from tests.integration.running import Stage
from tests.letters import letter_output
from tests.unit.pipelines import event

pytestmark = pytest.mark.broker


class Terminal:
    """The side of a person: keys go in, and what was written to the screen comes out."""

    def __init__(self, master: int, pid: int) -> None:
        self._master = master
        self.pid = pid
        self.written = b""

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def sees(self, words: str, seconds: float = 60) -> None:
        """Wait until the words were written since this was last asked; a button that is chosen is
        `[in brackets]`.
        """
        deadline = time.monotonic() + seconds
        chosen = rb"\x1b\[1;7;[\d;]*m %s " if words.startswith("[") else b"%s"
        pattern = chosen % re.escape(words.strip("[]").encode())
        while not (found := re.search(pattern, self.written)):
            assert time.monotonic() < deadline, f"not seen: {words}, but {self.written[-3000:]!r}"
            self._read(0.2)
        self.written = self.written[found.end() :]

    def ends(self, seconds: float = 30) -> int:
        """Wait for the exit code."""
        deadline = time.monotonic() + seconds
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < deadline, "it does not end"
            self._read(0.1)
        self.pid = 0
        return os.waitstatus_to_exitcode(ended[1])

    def _read(self, seconds: float) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            try:
                self.written += os.read(self._master, 65_536)
            except OSError:  # so Linux says that the other side has gone
                return


@contextmanager
def terminal(environment: dict[str, str], *words: str) -> Iterator[Terminal]:
    """A `leadstream` process on a terminal of 80 by 24."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    arguments = [sys.executable, "-m", "leadstream.cli.main", *words]
    text = {**os.environ, **environment, "TERM": "xterm-256color"}
    pid = os.posix_spawn(
        sys.executable,
        arguments,
        text,
        file_actions=[(os.POSIX_SPAWN_DUP2, slave, number) for number in range(3)],
        setsid=True,
    )
    os.close(slave)
    found = Terminal(master, pid)
    try:
        yield found
    finally:
        if found.pid:
            os.kill(found.pid, signal.SIGKILL)
            os.waitpid(found.pid, 0)
        os.close(master)


def test_an_operator_replays_one_cause_and_gives_up_another_without_typing_a_command(
    kafka: Broker, model_store: str, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, model_store, partitions=2)
    topics, now = stage.topics, time.time_ns() // 1_000_000
    fields: Any = {
        "origin": topics.lead_changes,
        "topic": topics.dead_letters,
        "sent_at": now,
        "failed_at": now,
    }
    write = Writer("LeadChanged").encode
    # Nine letters that could not be decoded, and three of leads that were not found.
    causes = [0] * 9 + [1] * 3
    stage.send(
        [
            letter_output(i * 6 + cause, b"lead", write(event("lead")), **fields)
            for i, cause in enumerate(causes)
        ]
    )
    with terminal(stage.environment, "dead-letters", "watch", "--by", "anna") as screen:
        screen.sees("12 open dead letters, 2 causes")
        screen.press("r")
        screen.sees("[Replay 9 letters]")
        screen.press("\r")
        screen.sees("9 letters sent back")
        screen.press("\r")
        screen.sees("3 open dead letters, 1 cause")
        screen.press("d")
        screen.sees("3 letters would be discarded")
        screen.press("the CRM was mended\r")
        screen.sees("[Discard 3 letters]")
        screen.press("\r")
        screen.sees("3 letters discarded")
        screen.press("\r")
        screen.sees("no open dead letters match")
        screen.press("q")
        assert screen.ends() == 0
    found = [
        decode_decision(m, Reader("TriageDecision"))
        for m in stage.read(topics.dead_letter_audit, 12)
    ]
    assert {(each.action, each.comment, each.decided_by) for each in found} == {
        (Action.REPLAYED, None, "anna"),
        (Action.DISCARDED, "the CRM was mended", "anna"),
    }
    assert len(stage.read(topics.lead_changes, 9)) == 9


def test_brokers_that_never_answered_are_a_sentence_and_leaving_does_not_wait_for_them(
    tmp_path: Path,
) -> None:
    stage = Stage.on("127.0.0.1:1", tmp_path, "", create=False)
    with terminal(stage.environment, "dead-letters", "watch") as screen:
        screen.sees("Reading the letters")
        screen.press("q")
        assert screen.ends() == 0
