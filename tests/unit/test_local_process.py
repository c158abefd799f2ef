"""Programs of the local ground: how they end, what they leave, what their errors say."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from leadstream.local.process import (
    Child,
    StartError,
    accepts_connections,
    await_ready,
    free_ports,
    run_to_end,
    scratch,
)


@contextlib.contextmanager
def program(folder: Path, script: str) -> Iterator[Child]:
    child = Child(["sh", "-c", script], folder, folder / "log")
    try:
        yield child
    finally:
        child.end(signal.SIGKILL, 5)


def test_a_program_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    with program(tmp_path, "trap '' TERM; echo ready; while :; do sleep 60; done") as child:
        await_ready("it", child, lambda: "ready" in child.log_tail(), 5)
        assert child.end(signal.SIGTERM, seconds=0.1) == -signal.SIGKILL
        assert not child.alive()
        assert child.end(signal.SIGTERM, seconds=0.1) == -signal.SIGKILL


def test_a_program_has_a_session_of_its_own_that_a_ctrl_c_at_our_terminal_does_not_reach(
    tmp_path: Path,
) -> None:
    with program(tmp_path, "echo ready; sleep 60") as child:
        await_ready("it", child, lambda: "ready" in child.log_tail(), 5)
        assert os.getsid(child.pid) == child.pid


def test_a_program_that_reads_its_input_finds_it_empty_and_not_the_pipe_of_its_guard(
    tmp_path: Path,
) -> None:
    with program(tmp_path, "cat; echo end") as child:
        assert child.wait(5) == 0
        assert child.log_tail() == "end"


def test_a_missing_program_is_told_by_name(tmp_path: Path) -> None:
    child = Child([tmp_path / "missing"], tmp_path, tmp_path / "log")
    with pytest.raises(StartError, match=r"exit code 127[\s\S]*not found"):
        run_to_end("missing", child, 5)


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"exit code -{signal.SIGKILL.value}"):
        run_to_end("it", Child(["sleep", "60"], tmp_path, tmp_path / "log"), 0.1)


def test_a_program_that_ends_while_starting_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with (
        program(tmp_path, "seq 100; echo Address already in use") as child,
        pytest.raises(
            StartError, match=r"it ended while starting[\s\S]*100\nAddress already in use"
        ) as caught,
    ):
        await_ready("it", child, lambda: False, 5)
    assert caught.value.port_taken
    assert "\n50\n" not in str(caught.value)


def test_a_program_that_never_answers_is_told_after_its_time(tmp_path: Path) -> None:
    with (
        program(tmp_path, "sleep 60") as child,
        pytest.raises(StartError, match="did not answer") as caught,
    ):
        await_ready("it", child, lambda: False, 0)
    assert not caught.value.port_taken
    assert "(its log is empty)" in str(caught.value)


def test_a_folder_is_removed_after_a_failure_too() -> None:
    def fail() -> None:
        (folder / "deep" / "er").mkdir(parents=True)
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), scratch("test") as folder:
        fail()
    assert not folder.exists()


def test_ports_are_different_and_free() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    with socket.create_server(("127.0.0.1", ports[0])):
        assert accepts_connections("127.0.0.1", ports[0])
    assert not accepts_connections("127.0.0.1", ports[0])
