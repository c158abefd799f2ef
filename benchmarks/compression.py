"""What a compression costs where predictions are published, and what it saves.

    python -m benchmarks.compression [--events 50000] [--repeats 5] [--json PATH]

A real broker. `leadstream run` scores changes of different leads with three reasons each. Its
predictions are then published again in transactions of 2,000, with the producer's settings of
`run`. Only LEADSTREAM_KAFKA_COMPRESSION_TYPE differs, and the runs are interleaved. CPU is that of
this process, where librdkafka compresses. Bytes are those that librdkafka sent to the broker.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.environment import BenchmarkEnvironment, open_environment
from benchmarks.figures import (
    FigureRow,
    Spread,
    arguments,
    finish,
    interleaved,
    main_of,
    ratios,
    say,
)
from benchmarks.leads import events
from leadstream.deadline import Deadline
from leadstream.errors import UserError
from leadstream.kafka.batch import Output
from leadstream.kafka.config import make_producer, producer_config
from leadstream.kafka.transaction import produce
from leadstream.settings import load_settings

CODECS = ("none", "lz4", "zstd", "snappy", "gzip")
BATCH = 2_000
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PublishRun:
    """One run: microseconds of CPU and of time, and bytes sent, each of one prediction."""

    cpu_us: float
    time_us: float
    sent_bytes: float


def main() -> int:
    """Run the benchmark; returns the exit code."""
    options = arguments(
        "What each compression costs where predictions are published.",
        events=(50_000, "predictions"),
        repeats=(5, "runs of each"),
    )
    with open_environment("compression", say) as environment:
        predictions = _predictions(environment, options.events)
        contenders = {codec: partial(publish, environment, predictions, codec) for codec in CODECS}
        runs = interleaved(contenders, options.repeats, say, warm=True)
    found = {codec: [asdict(run) for run in each] for codec, each in runs.items()}
    title = f"Publishing {options.events:,} predictions, by compression"
    return finish(title, options.json, *rows(runs), runs=found)


def _predictions(environment: BenchmarkEnvironment, count: int) -> list[tuple[bytes, bytes]]:
    """Return key and value of the predictions of `run` for as many leads."""
    changes = environment.topic("changes")
    environment.preload(changes, events(count))
    contender = environment.contender(changes)
    with contender.leadstream() as process:
        environment.watch(contender.predictions, count, process)
        process.end()
    read = environment.read(contender.predictions)
    found = [(message.key() or b"", message.value() or b"") for message in read]
    environment.remove(changes, *contender.topics)
    if len(found) != count:
        raise UserError(f"{len(found):,} predictions were read, not {count:,}")
    return found


def publish(
    environment: BenchmarkEnvironment, predictions: Sequence[tuple[bytes, bytes]], codec: str
) -> PublishRun:
    """Publish the predictions to a new topic, in transactions, and return what it took."""
    names = {
        "KAFKA_BOOTSTRAP_SERVERS": environment.bootstrap,
        "LEADSTREAM_KAFKA_COMPRESSION_TYPE": codec,
    }
    sent: dict[str, int] = {}
    config: dict[str, Any] = {
        **producer_config(load_settings(names, None), transactional=True),
        "statistics.interval.ms": 50,
        "stats_cb": lambda text: sent.update(bytes=json.loads(text)["tx_bytes"]),
    }
    topic = environment.topic(codec, partitions=6)
    producer = make_producer(config)
    producer.init_transactions(WAIT_SECONDS)
    records = [Output(topic, key, value) for key, value in predictions]
    before, cpu, began = _sent(producer, sent), time.process_time(), time.perf_counter()
    for start in range(0, len(records), BATCH):
        producer.begin_transaction()
        produce(producer, records[start : start + BATCH], Deadline.after(WAIT_SECONDS))
        producer.commit_transaction(WAIT_SECONDS)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    after = _sent(producer, sent)
    environment.remove(topic)
    count = len(records)
    return PublishRun(1e6 * cpu / count, 1e6 * seconds / count, (after - before) / count)


def _sent(producer: Any, sent: Mapping[str, int]) -> int:
    """Return how many bytes librdkafka has sent, as of two more of its reports."""
    for _ in range(2):
        producer.poll(0)
        time.sleep(0.1)
    producer.poll(0)
    return sent["bytes"]


def rows(runs: Mapping[str, list[PublishRun]]) -> tuple[list[FigureRow], ...]:
    """Return the figures of each compression, and its CPU next to none."""
    cpu = {codec: [run.cpu_us for run in each] for codec, each in runs.items()}
    return (
        [FigureRow(f"{codec}: CPU, µs", Spread.from_values(cpu[codec]), ".2f") for codec in runs],
        [
            FigureRow(f"{codec} / none, CPU", ratios(cpu[codec], cpu["none"]), ".2f")
            for codec in runs
            if codec != "none"
        ],
        [
            FigureRow(f"{codec}: time, µs", Spread.from_values(run.time_us for run in each), ".1f")
            for codec, each in runs.items()
        ],
        [
            FigureRow(f"{codec}: bytes", Spread.from_values(run.sent_bytes for run in each), ",.0f")
            for codec, each in runs.items()
        ],
    )


if __name__ == "__main__":
    sys.exit(main_of(main))
