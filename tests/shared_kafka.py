"""One Kafka for all workers of a parallel run; the first that asks starts it.

`python -m tests.shared_kafka FOLDER` is that Kafka. It ends with the run, however that ends.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from leadstream.errors import UserError
from leadstream.local.broker import Broker, local_broker
from leadstream.local.process import Say

# The run holds a lock on this file, which the Kafka waits for.
RUN = "run.lock"
ANSWER = "kafka.json"
ROOT = Path(__file__).parents[1]
START_SECONDS = 300
END_SECONDS = 30
# The Kafka outlives the worker that started it: nobody waits for it here.
_started: list["subprocess.Popen[bytes]"] = []


def hold_run(config: pytest.Config, folder: Path) -> None:
    """Keep what the workers share in `folder` alive until this run has ended."""
    held = (folder / RUN).open("w")
    fcntl.flock(held, fcntl.LOCK_EX)

    def end() -> None:
        held.close()
        until = time.monotonic() + END_SECONDS
        while (folder / ANSWER).exists() and time.monotonic() < until:
            time.sleep(0.05)

    config.add_cleanup(end)


@contextlib.contextmanager
def shared_kafka(folder: Path, say: Say) -> Iterator[Broker]:
    """Yield the Kafka of this run. Raises UserError where there is none."""
    with (folder / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ANSWER).exists():
            _start(folder)
    answer = json.loads((folder / ANSWER).read_text("utf-8"))
    for line in answer["lines"]:
        say(line)
    if answer["error"] is not None:
        raise UserError(answer["error"])
    yield Broker(**answer["broker"])


def _start(folder: Path) -> None:
    with (folder / "kafka.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.shared_kafka", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    _started.append(server)
    until = time.monotonic() + START_SECONDS
    while not (folder / ANSWER).exists():
        if server.poll() is not None or time.monotonic() > until:
            raise AssertionError((folder / "kafka.log").read_text("utf-8"))
        time.sleep(0.05)


def serve(folder: Path) -> None:
    """Run a broker, write its address, and end it when the run has ended."""
    lines: list[str] = []
    with contextlib.ExitStack() as stack, (folder / RUN).open() as run:
        broker, failure = None, None
        try:
            broker = asdict(stack.enter_context(local_broker(say=lines.append)))
        except UserError as error:
            failure = str(error)
        text = json.dumps({"broker": broker, "error": failure, "lines": lines})
        written = folder / f"{ANSWER}.new"
        written.write_text(text, "utf-8")
        written.rename(folder / ANSWER)
        fcntl.flock(run, fcntl.LOCK_EX)
    (folder / ANSWER).unlink(missing_ok=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
