"""From an event to its prediction, as a subscriber of committed records sees it, at several loads.

    python -m benchmarks.latency [--rate-of N] [--seconds 20] [--minutes 1] [--repeats 3] [--json
    PATH]

An open loop: when events are sent is fixed beforehand, and a latency counts from the moment when
its event was due, so that a stall meets every event that it delays (no coordinated omission). Loads
are shares of the throughput, measured first unless `--rate-of` states it. The lag is what was due
and has no visible prediction yet. Sender, consumer, broker and subscriber share the machine. Exit
code 1 where a bar is missed.
"""

import sys
import time
from array import array
from dataclasses import dataclass
from functools import partial

import numpy as np
from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from numpy.typing import NDArray

from benchmarks.environment import BenchmarkEnvironment, Contender, open_environment
from benchmarks.figures import FigureRow, Spread, arguments, finish, interleaved, main_of, say
from benchmarks.leads import events
from benchmarks.process import BenchmarkProcess
from leadstream.errors import UserError
from leadstream.log import SILENT

LOADS = (0.1, 0.5)
HEAVY = 0.8
IDLE_PER_SECOND = 5.0
WARM_SECONDS = 2.0  # of each run that are not counted
READY_SECONDS = 5.0  # for the sender to start
LATE_SECONDS = 60.0  # after the last event was due
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LatencyRun:
    """One run: when each event was due and when its prediction was seen, both (n,), in seconds from
    the beginning.
    """

    per_second: float
    due: Floats
    seen: Floats

    @property
    def latencies(self) -> Floats:
        """Seconds from due to seen, without the events of the warm-up."""
        counted: Floats = (self.seen - self.due)[self.due >= min(WARM_SECONDS, self.due[-1] / 2)]
        return counted

    def at(self, share: float) -> float:
        """A percentile of the latencies in milliseconds: the smallest that this share does not
        exceed.
        """
        return float(np.quantile(self.latencies, share, method="inverted_cdf")) * 1000

    def lag(self) -> tuple[float, float, float]:
        """Events due and not seen: means of the first fifth after the warm-up and of the last, and
        growth a second.
        """
        moments = np.arange(WARM_SECONDS, self.due[-1], 0.1)
        lags = np.searchsorted(self.due, moments, side="right") - np.searchsorted(
            np.sort(self.seen), moments
        )
        fifth = max(1, len(lags) // 5)
        growth = float(np.polyfit(moments, lags, 1)[0]) if len(lags) > 1 else 0.0
        return float(lags[:fifth].mean()), float(lags[-fifth:].mean()), growth


def main() -> int:
    """Run the benchmark; returns the exit code."""
    options = arguments(
        "Event to visible prediction, open loop.",
        rate_of=(0, "throughput that loads are shares of; 0 = measure it first"),
        seconds=(20, "seconds of each run at 10 % and 50 %"),
        minutes=(1, "minutes of the one run at 80 %"),
        idle=(300, "events of a run on an idle topic"),
        repeats=(3, "runs of each but the one at 80 %"),
    )

    def measure() -> int:
        with open_environment("latency", say) as environment:
            quick_rate(environment, "warming the broker up")
            rate = float(options.rate_of) or quick_rate(environment, "measuring the throughput")
            say(f"loads are shares of {rate:,.0f} events a second")
            changes = environment.topic("changes")
            contender = environment.contender(changes)
            with contender.leadstream() as process:
                environment.preload(changes, events(2_000))
                environment.watch(contender.predictions, 2_000, process)
                sender = _Sender(environment, contender, process, first=2_000)
                loads = {"idle": partial(sender.run, IDLE_PER_SECOND, options.idle)}
                for load in LOADS:
                    loads[f"{load:.0%}"] = partial(
                        sender.run, load * rate, int(load * rate * options.seconds)
                    )
                runs = interleaved(loads, options.repeats, say)
                say(f"80% for {options.minutes} minutes")
                heavy = sender.run(HEAVY * rate, int(HEAVY * rate * options.minutes * 60))
                process.end()
        return finish(
            f"Event to visible prediction, loads of {rate:,.0f} events a second",
            options.json,
            *rows(runs, heavy),
            throughput=rate,
            minutes=options.minutes,
            counted={
                name: [len(run.latencies) for run in each]
                for name, each in {**runs, "80%": [heavy]}.items()
            },
        )

    return main_of(measure)


def quick_rate(environment: BenchmarkEnvironment, why: str, count: int = 100_000) -> float:
    """Events a second of one consumer on a preloaded topic, measured once; `why` is shown."""
    say(why)
    changes = environment.topic("changes")
    environment.preload(changes, events(count))
    contender = environment.contender(changes)
    with contender.leadstream() as process:
        return environment.watch(contender.predictions, count, process).per_second


def rows(runs: dict[str, list[LatencyRun]], heavy: LatencyRun) -> tuple[list[FigureRow], ...]:
    """The percentiles of each load in milliseconds, and the lag of the heavy run."""
    bars = {("idle", "p50"): 10.0, ("idle", "p99"): 25.0, ("50%", "p99"): 100.0}
    sections = [
        [
            FigureRow(
                f"{load}: {name}, ms",
                Spread.from_values(run.at(share) for run in each),
                ",.1f",
                maximum=bars.get((load, name)),
            )
            for name, share in PERCENTILES.items()
        ]
        for load, each in {**runs, "80%": [heavy]}.items()
    ]
    first, last, growth = heavy.lag()
    lag = [
        FigureRow("80%: lag at the begin, events", Spread.from_values([first])),
        FigureRow("80%: lag at the end, events", Spread.from_values([last])),
        FigureRow(
            "80%: growth of the lag / load",
            Spread.from_values([growth / heavy.per_second]),
            ".4f",
            maximum=0.005,
        ),
    ]
    return *sections, lag


class _Sender:
    """Sends runs of events one after the other to a consumer that stays, and sees what comes of
    them.
    """

    def __init__(
        self,
        environment: BenchmarkEnvironment,
        contender: Contender,
        consumer: BenchmarkProcess,
        first: int,
    ) -> None:
        self._environment, self._stage, self._consumer, self._next = (
            environment,
            contender,
            consumer,
            first,
        )

    def run(self, per_second: float, count: int) -> LatencyRun:
        """Send `count` events at this rate and wait for each one's prediction; UserError where one
        is not seen once.
        """
        first, self._next = self._next, self._next + count
        subscriber = Consumer(
            {
                "bootstrap.servers": self._environment.bootstrap,
                "group.id": "unused",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 20,
            },
            logger=SILENT,
        )
        subscriber.assign([TopicPartition(self._stage.predictions, 0, OFFSET_END)])
        subscriber.poll(0.5)
        begin = time.monotonic() + READY_SECONDS
        options = (
            self._stage.environ["LEADSTREAM_TOPIC_LEAD_CHANGES"],
            first,
            count,
            per_second,
            begin,
        )
        try:
            with self._stage.program("benchmarks.sender", *map(str, options)) as sender:
                seen = self._see(
                    subscriber, first, count, begin + count / per_second + LATE_SECONDS, sender
                )
        finally:
            subscriber.close()
        return LatencyRun(per_second, np.arange(count) / per_second, seen - begin)

    def _see(
        self,
        subscriber: Consumer,
        first: int,
        count: int,
        deadline: float,
        sender: BenchmarkProcess,
    ) -> Floats:
        """When the prediction of each event was seen (n,), by time.monotonic."""
        seen = array("d", bytes(8 * count))
        left, looked = count, time.monotonic()
        while left:
            message = subscriber.poll(0.1)
            messages = [] if message is None else [message, *subscriber.consume(10_000, 0)]
            now = time.monotonic()
            for each in messages:
                if error := each.error():
                    raise UserError(f"the predictions cannot be read: {error.str()}")
                place = int((each.key() or b"")[5:]) - first
                if not 0 <= place < count or seen[place]:
                    raise UserError("a prediction came twice, or one that nobody asked for")
                seen[place] = now
                left -= 1
            if now - looked > 1:
                looked = now
                self._consumer.must_live()
                if left and now > deadline:
                    raise UserError(
                        f"{left:,} of {count:,} predictions were not seen in time; "
                        f"{sender.last_lines()}"
                    )
        return np.frombuffer(seen, dtype=np.float64)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KafkaException as error:
        sys.exit(error.args[0].str())
