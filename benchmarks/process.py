"""One contender: `leadstream run`, or a module of benchmarks, as a process of its own."""

import json
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from leadstream.errors import UserError
from leadstream.local.process import Child


class BenchmarkProcess:
    """A contender, `leadstream run` or a module of benchmarks, as a process of its own."""

    def __init__(self, arguments: Sequence[str], folder: Path, environ: Mapping[str, str]) -> None:
        folder.mkdir()
        self._log = folder / "log"
        self.began, self._began_at = time.monotonic(), time.time()
        self._child = Child([sys.executable, "-m", *arguments], folder, self._log, environ=environ)

    @property
    def pid(self) -> int:
        return self._child.pid

    def must_live(self) -> None:
        """UserError where it has ended by itself."""
        if not self._child.alive():
            raise UserError(f"a process ended by itself; its log ends:\n{self.last_lines()}")

    def event(self, name: str, seconds: float = 60) -> dict[str, Any]:
        """The first structured log line of this event, waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := self.events(name):
                return found[0]
            self.must_live()
            time.sleep(0.02)
        raise UserError(f"a process did not log {name}; its log ends:\n{self.last_lines()}")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Every structured log line of this event so far."""
        lines = self._log.read_text("utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines if f'"event": "{name}"' in line]

    def when(self, line: Mapping[str, Any]) -> float:
        """When a structured line was logged, in seconds from the start of the process."""
        return datetime.fromisoformat(line["timestamp"]).timestamp() - self._began_at

    def last_lines(self) -> str:
        """The last lines of its log."""
        return self._child.log_tail()

    def metrics(self) -> dict[str, float]:
        """The samples of its /metrics by name and labels, as Prometheus writes them without the
        common prefix.
        """
        with urlopen(f"{self.event('started')['http']}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return {_sample(s.name, s.labels): s.value for family in families for s in family.samples}

    def resident(self) -> int:
        """Bytes of memory that it has resident now."""
        return resident(self.pid)

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        return self._child.end(sign, seconds=40)


def resident(pid: int) -> int:
    """Bytes of memory that a process has resident now."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise UserError(f"process {pid} has ended")
    return int(found[1]) * 1024


def _sample(name: str, labels: Mapping[str, str]) -> str:
    selector = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return name.removeprefix("leadstream_") + (f"{{{selector}}}" if selector else "")
