"""The writer of the history on a real Kafka: changes a second, its memory, and the size of a row.

    python -m benchmarks.history [--events 1000000]

All changes are in the topic before the writer starts; the clock runs from its first commit to its
last. Exit code 1 where a bar is missed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import Producer

from benchmarks.leads import events
from benchmarks.process import BenchmarkProcess
from leadstream.local.kafka import local_kafka
from tests.integration.running import Stage

PARTITIONS = 2
MIN_PER_SECOND = 100_000
MAX_BYTES = 500_000_000
LOOK_SECONDS = 0.1


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    count = parser.parse_args().events
    with (
        tempfile.TemporaryDirectory(prefix="bench-history-") as name,
        local_kafka(lambda _: None) as kafka,
    ):
        folder = Path(name)
        stage = Stage.on(kafka.bootstrap, folder, "unused", partitions=PARTITIONS)
        send(stage, count)
        found = measure(stage, folder, count)
    print(json.dumps(found, indent=2))
    missed = found["per_second"] < MIN_PER_SECOND or found["largest_bytes"] > MAX_BYTES
    return int(missed)


def send(stage: Stage, count: int) -> None:
    """Send all changes."""
    producer = Producer(
        {
            "bootstrap.servers": stage.bootstrap,
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for number, (key, value) in enumerate(events(count)):
        while True:
            try:
                producer.produce(stage.topics.lead_changes, value, key)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 10_000 == 0:
            producer.poll(0)
    producer.flush(120)


def measure(stage: Stage, folder: Path, count: int) -> dict[str, float]:
    """Write all changes with one process."""
    history = folder / "history"
    environ = dict(os.environ) | stage.environment | {"LEADSTREAM_HISTORY": str(history)}
    process = BenchmarkProcess(
        ["leadstream.cli.main", "history", "write"], folder / "process", environ
    )
    written = f'history_records_total{{fate="written",topic="{stage.topics.lead_changes}"}}'
    process.event("started")
    largest, done, times = 0, 0.0, list[tuple[float, float, float]]()
    while done < count:
        time.sleep(LOOK_SECONDS)
        process.must_live()
        largest = max(largest, process.resident())
        metrics = process.metrics()
        if (now := metrics.get(written, 0.0)) != done:
            done = now
            times.append((time.monotonic(), done, cpu_seconds(process.pid)))
    process.end()
    (first, before, began), (last, after, ended) = times[0], times[-1]
    size = sum(path.stat().st_size for path in history.rglob("changes/**/*.parquet"))
    shutil.rmtree(history)
    return {
        "changes": count,
        "per_second": round((after - before) / max(last - first, 0.001)),
        "per_second_of_cpu": round((after - before) / max(ended - began, 0.001)),
        "largest_bytes": largest,
        "bytes_a_change": round(size / count, 1),
    }


def cpu_seconds(pid: int) -> float:
    """Return the seconds of processors that a process took."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
