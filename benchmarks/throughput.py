"""Events a second of one consumer process, against a copy of the bytes, a floor and the loop one
writes first.

    python -m benchmarks.throughput [--events 200000] [--repeats 3] [--json PATH]

All read the same preloaded topic of one partition, each as one process with the consumer's clients,
batch size and transactions, interleaved. Rates are from the first commit that a subscriber sees to
the last: starting is apart. What each wrote is read back and counted. Exit code 1 where a bar is
missed.
"""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from benchmarks.environment import BenchmarkEnvironment, Contender, Flow, open_environment
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
from benchmarks.loops import WORK
from benchmarks.process import BenchmarkProcess
from leadstream.errors import UserError

REASONS = {"leadstream, 3 reasons": "3", "leadstream, no reasons": "0"}
THREE, NONE = REASONS
LOOPS = {
    "copy": "copy of the bytes",
    "floor": "floor: decode and encode",
    "straightforward": "straightforward: pandas, sklearn",
}


@dataclass(frozen=True, slots=True)
class ThroughputRun:
    """One run of a contender, its resident memory at the end, and by step the seconds that a
    consumer took an event.
    """

    flow: Flow
    resident: int
    steps: Mapping[str, float] = field(default_factory=dict)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    options = arguments(
        "Events a second of one consumer process on a preloaded topic.",
        events=(200_000, "events in the topic"),
        repeats=(3, "runs of each"),
    )

    def measure() -> int:
        with open_environment("throughput", say) as environment:
            runs = compare(environment, options.events, options.repeats)
        return finish(
            f"Events a second: one process, one partition, {options.events:,} events, "
            f"{options.repeats} runs",
            options.json,
            *rows(runs),
            events=options.events,
            runs={name: [_as_json(run) for run in each] for name, each in runs.items()},
        )

    return main_of(measure)


def compare(
    environment: BenchmarkEnvironment, count: int, repeats: int
) -> dict[str, list[ThroughputRun]]:
    """Every contender on the same events, `repeats` times."""
    changes = environment.topic("changes")
    say(f"preloading {count:,} events")
    environment.preload(changes, events(count))

    def run(reasons: str | None, loop: str | None) -> ThroughputRun:
        contender = environment.contender(changes)
        return _run(
            environment, contender, _process(contender, reasons, loop), count, consumer=loop is None
        )

    contenders = {name: partial(run, reasons, None) for name, reasons in REASONS.items()}
    contenders |= {LOOPS[loop]: partial(run, None, loop) for loop in WORK}
    return interleaved(contenders, repeats, say, warm=True)


def _process(
    contender: Contender, reasons: str | None, loop: str | None
) -> AbstractContextManager[BenchmarkProcess]:
    return (
        contender.program("benchmarks.loops", loop)
        if loop
        else contender.leadstream(LEADSTREAM_REASONS=reasons or "0")
    )


def _run(
    environment: BenchmarkEnvironment,
    contender: Contender,
    started: AbstractContextManager[BenchmarkProcess],
    count: int,
    *,
    consumer: bool,
) -> ThroughputRun:
    with started as process:
        flow = environment.watch(contender.predictions, count, process)
        resident = process.resident()
        steps = {}
        if consumer:
            metrics = process.metrics()
            mark = "step_seconds_sum"
            steps = {
                name.split('"')[1]: value / count
                for name, value in metrics.items()
                if name.startswith(mark)
            }
            scored = metrics['changes_total{fate="scored"}']
            if scored != count:
                raise UserError(f"{scored:,.0f} changes were scored, not {count:,}")
        process.end()
    if flow.leads != count:
        raise UserError(f"{flow.leads:,} different leads were answered, not {count:,}")
    environment.remove(*contender.topics)
    return ThroughputRun(flow, resident, steps)


def rows(runs: Mapping[str, list[ThroughputRun]]) -> tuple[list[FigureRow], ...]:
    """The rates, the ratios against the bars of the issue, and where a consumer's time goes."""
    rate = {name: [run.flow.per_second for run in each] for name, each in runs.items()}
    copied, straightforward = rate[LOOPS["copy"]], rate[LOOPS["straightforward"]]
    bars = [
        FigureRow("no reasons / copy", ratios(rate[NONE], copied), ".2f", minimum=0.5),
        FigureRow("3 reasons / copy", ratios(rate[THREE], copied), ".2f", minimum=0.4),
        FigureRow(
            "3 reasons / straightforward", ratios(rate[THREE], straightforward), ".1f", minimum=8
        ),
        FigureRow("3 reasons / no reasons", ratios(rate[THREE], rate[NONE]), ".2f", minimum=0.75),
        FigureRow("3 reasons / floor", ratios(rate[THREE], rate[LOOPS["floor"]]), ".2f"),
    ]
    seconds = [FigureRow(name, Spread.from_values(each)) for name, each in rate.items()]
    return seconds, bars, _breakdown("3 reasons", runs[THREE]), _breakdown("no reasons", runs[NONE])


def _breakdown(name: str, runs: list[ThroughputRun]) -> list[FigureRow]:
    """Microseconds of an event by step; the rest is consuming, counting and what else lies between
    the steps.
    """
    parts = {step: [run.steps[step] for run in runs] for step in runs[0].steps}
    parts["the rest"] = [1 / run.flow.per_second - sum(run.steps.values()) for run in runs]
    parts["all"] = [1 / run.flow.per_second for run in runs]
    return [
        FigureRow(f"{name}: {part}, µs", Spread.from_values(1e6 * value for value in each), ".2f")
        for part, each in parts.items()
    ]


def _as_json(run: ThroughputRun) -> dict[str, object]:
    return {
        "records": run.flow.records,
        "leads": run.flow.leads,
        "commits": run.flow.commits,
        "per_second": run.flow.per_second,
        "seconds": run.flow.seconds,
        "resident_bytes": run.resident,
        "steps_seconds": dict(run.steps),
    }


if __name__ == "__main__":
    sys.exit(main())
