"""Child programs that end with this process, and temporary folders that are removed with it.

Each program runs in a session of its own, so Ctrl-C at a terminal does not reach it. A guard
watches each program: a shell that waits on a pipe, which closes when this process ends for any
reason. The guard then ends the program and removes its folder.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from leadstream.errors import UserError

Say = Callable[[str], object]

# The shell announces its process id before it becomes the program: the guard misses no moment.
_ANNOUNCE = 'echo $$ >&0; exec "$@" </dev/null'
# $1: the signal that ends the program, $2: its folder. `read` fails when this process is gone.
_GUARD = """
read -r program || exit 0
read -r _
kill -s "$1" -- "-$program"
tries=0
while kill -0 "$program" && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -s KILL -- "-$program"
rm -rf -- "$2" || { sleep 1; rm -rf -- "$2"; }
"""
# Below the range of ephemeral ports, so that a restarted server finds its port free.
_PORTS = range(20_000, 32_000)
_LOG_TAIL = 12
PORT_TAKEN = "Address already in use"


class StartError(UserError):
    """A program that did not start; the message ends with the tail of its log."""

    has_lines = True
    port_taken = False


class Child:
    """A running program, in its own session and with a guard.

    The guard removes `folder` if this process dies. `user` runs the program as that uid and gid
    (root only). `ending` is the signal that the guard sends. Output is appended to `log`.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        folder: Path,
        log: Path,
        *,
        user: int | None = None,
        environ: Mapping[str, str] | None = None,
        ending: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.log = log
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "leadstream-guard", ending.name.removeprefix("SIG"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            with log.open("ab") as output:
                self._program = subprocess.Popen(
                    ["sh", "-c", _ANNOUNCE, "sh", *map(str, arguments)],
                    stdin=self._guard.stdin,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=None if environ is None else dict(environ),
                    start_new_session=True,
                    user=user,
                    group=user,
                    extra_groups=None if user is None else [],
                )
        except BaseException:
            self._dismiss_guard()
            raise

    @property
    def pid(self) -> int:
        """Return the process id of the program."""
        return self._program.pid

    def alive(self) -> bool:
        """Return whether the program still runs."""
        return self._program.poll() is None

    def wait(self, seconds: float) -> int:
        """Wait for the program to end, kill it after `seconds`, and return its exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(seconds)
        return self.end(signal.SIGKILL, seconds=10)

    def end(self, sign: signal.Signals, seconds: float) -> int:
        """Send `sign`, then SIGKILL after `seconds`, and return the exit code.

        Repeated calls are safe.
        """
        if self.alive():
            self._send(sign)
            try:
                self._program.wait(seconds)
            except subprocess.TimeoutExpired:
                self._send(signal.SIGKILL)
        code = self._program.wait()
        self._dismiss_guard()
        return code

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        return log_tail(self.log)

    def _send(self, sign: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._program.pid, sign)

    def _dismiss_guard(self) -> None:
        self._guard.kill()
        self._guard.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()


def log_tail(log: Path, lines: int = _LOG_TAIL) -> str:
    """Return the last lines of a log, without the frames of Java stack traces."""
    text = log.read_text("utf-8", "replace") if log.exists() else ""
    kept_lines = [
        line for line in text.splitlines() if line.strip() and not line.startswith("\tat ")
    ]
    return "\n".join(kept_lines[-lines:]) or "(its log is empty)"


def run_to_end(name: str, child: Child, seconds: float) -> None:
    """Wait for a program that ends by itself. Raises StartError unless it succeeds in time."""
    try:
        code = child.wait(seconds)
    finally:
        child.end(signal.SIGKILL, seconds=10)
    if code != 0:
        raise start_error(f"{name} ended with exit code {code}", child.log)


def await_ready(name: str, child: Child, ready: Callable[[], bool], seconds: float) -> None:
    """Wait until `ready` returns true. Raises StartError if the program ends, or too late."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not child.alive():
            raise start_error(f"{name} ended while starting", child.log)
        if time.monotonic() > deadline:
            raise start_error(f"{name} did not answer within {seconds:.0f} s", child.log)
        time.sleep(0.05)


def start_error(sentence: str, log: Path) -> StartError:
    """Return the error of a program that did not start, with the tail of its log."""
    text = log_tail(log)
    error = StartError(f"{sentence}; its log ends with:\n{text}")
    error.port_taken = PORT_TAKEN in text
    return error


@contextlib.contextmanager
def scratch(name: str, parent: Path | None = None) -> Iterator[Path]:
    """Create a private folder `leadstream-<name>-…`, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"leadstream-{name}-", dir=parent)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Return different loopback TCP ports on which nothing listens now."""
    chosen: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            chosen.append(port)
        if len(chosen) == count:
            return chosen
    raise UserError("No free TCP port was found on 127.0.0.1 between 20000 and 32000.")


def accepts_connections(host: str, port: int, seconds: float = 1.0) -> bool:
    """Return whether a program accepts TCP connections at an address."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError:
        return False
    return True
