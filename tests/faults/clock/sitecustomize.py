"""The wall clock of a process that is told to jump:

Python imports this at start, from a folder on PYTHONPATH.

The file that FAULTS_CLOCK names holds by how many seconds. Only Python's clock jumps, the one that
Leadstream reads. To fake librdkafka's but not the kernel's (as libfaketime does) has it wait for as
long as the jump is.
"""

import os
import time
from pathlib import Path

_FILE = Path(os.environ["FAULTS_CLOCK"])
_time_ns = time.time_ns


def _jumped_ns() -> int:
    return _time_ns() + int(_FILE.read_text("utf-8")) * 1_000_000_000


time.time_ns = _jumped_ns
time.time = lambda: _jumped_ns() / 1e9
