"""`leadstream` processes that are forked from one which has already imported everything.

To import the consumer takes more processor time than most tests take. A forked process has a
session, folder, environment and log of its own, and runs the same `main`. Only what happens before
`main` and after its return differs: tests of starts and ends begin a new interpreter.

`python -m tests.integration.forked` is the server: it reads one JSON object a line, and answers
with the id of each process that it forked, and with the exit code of each that ended.
"""

import atexit
import ctypes
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from leadstream.local.process import log_tail

PRELOADED = ("leadstream.cli.main", "consumer.run.app", "consumer.deliver.sink")
ROOT = Path(__file__).parents[2]
KILLED_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


class ForkedProcess:
    """A `leadstream` process with the methods of `leadstream.local.process.Child`."""

    def __init__(
        self, arguments: tuple[str, ...], folder: Path, log: Path, environ: Mapping[str, str]
    ) -> None:
        self.log = log
        self.pid = _fork(arguments, folder, (log, log), environ)

    def alive(self) -> bool:
        """Return whether the process still runs."""
        return _server().exit_code(self.pid, 0) is None

    def wait(self, seconds: float) -> int:
        """Wait for the process to end, kill it after `seconds`, and return its exit code."""
        _server().exit_code(self.pid, seconds)
        return self.end(signal.SIGKILL, seconds=10)

    def end(self, sign: signal.Signals, seconds: float) -> int:
        """Send `sign`, then SIGKILL after `seconds`, and return the exit code."""
        for sent, patience in ((sign, seconds), (signal.SIGKILL, 10)):
            if self.alive():
                os.kill(self.pid, sent)
                _server().exit_code(self.pid, patience)
        code = _server().exit_code(self.pid, 0)
        assert code is not None, f"process {self.pid} outlives SIGKILL"
        return code

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        return log_tail(self.log)


def run_verb(
    *arguments: str, folder: Path, environ: Mapping[str, str], seconds: float = 120
) -> "subprocess.CompletedProcess[str]":
    """Run a verb to its end, as `subprocess.run` does with its output captured."""
    with tempfile.TemporaryDirectory() as outputs:
        output, errors = Path(outputs, "output"), Path(outputs, "errors")
        pid = _fork(arguments, folder, (output, errors), environ)
        code = _server().exit_code(pid, seconds)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(arguments, seconds)
        return subprocess.CompletedProcess(
            arguments, code, output.read_text("utf-8"), errors.read_text("utf-8")
        )


def _fork(
    arguments: tuple[str, ...],
    folder: Path,
    outputs: tuple[Path, Path],
    environ: Mapping[str, str],
) -> int:
    for output in outputs:
        output.touch()
    return _server().fork(
        {
            "arguments": arguments,
            "folder": str(folder),
            "outputs": list(map(str, outputs)),
            "environ": dict(environ),
        }
    )


class ForkServer:
    """The other end of the server: one for each process of the tests."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        self._forked: queue.Queue[int] = queue.Queue()
        self._codes: dict[int, int] = {}
        self._ended = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        atexit.register(self.close)

    def fork(self, request: dict[str, Any]) -> int:
        """Return the id of a new process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._forked.get(timeout=120)

    def exit_code(self, pid: int, seconds: float) -> int | None:
        """Return the exit code of a process, or None if it still runs after `seconds`."""
        with self._ended:
            self._ended.wait_for(lambda: pid in self._codes, seconds)
            return self._codes.get(pid)

    def close(self) -> None:
        """End the server, and with it the processes that still run."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "code" in answer:
                with self._ended:
                    self._codes[answer["pid"]] = answer["code"]
                    self._ended.notify_all()
            else:
                self._forked.put(answer["pid"])


@cache
def _server() -> ForkServer:
    return ForkServer()


def serve() -> None:
    """Fork a process for each line of standard input, until it ends."""
    for module in PRELOADED:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, _report_exits)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run_verb(**json.loads(line))
        _answer(pid=pid)


def _report_exits(*_: object) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _answer(pid=pid, code=os.waitstatus_to_exitcode(status))


def _answer(**fields: int) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


def _run_verb(
    arguments: list[str], folder: str, outputs: list[str], environ: dict[str, str]
) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(KILLED_WITH_PARENT, signal.SIGKILL)
        os.setsid()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environ)
        _write_to(*outputs)
        sys.argv = ["leadstream", *arguments]
        code = _exit_code()
        atexit._run_exitfuncs()
    finally:
        os._exit(code)


def _exit_code() -> int:
    from leadstream.cli.main import main  # the server has imported it

    try:
        return main()
    except SystemExit as end:
        return int(end.code or 0)


def _write_to(output: str, errors: str) -> None:
    for target, path in enumerate((os.devnull, output, errors)):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), target)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1)  # noqa: SIM115


if __name__ == "__main__":
    serve()
