"""From the start of a process to its first visible prediction, with one event waiting.

    python -m benchmarks.start [--repeats 5] [--json PATH]

Each run is a new process in a new group; the interpreter, every import, the checks of the model,
joining the group and the first transaction are in it. Exit code 1 where the bar is missed.
"""

import sys

from benchmarks.environment import BenchmarkEnvironment, open_environment
from benchmarks.figures import FigureRow, Spread, arguments, finish, interleaved, main_of, say
from benchmarks.leads import events

MAX_SECONDS = 3.0
STAGES = {"to the first line of its log": "started", "to the model in service": "model.loaded"}


def main() -> int:
    """Run the benchmark; returns the exit code."""
    options = arguments("Process start to the first visible prediction.", repeats=(5, "runs"))

    def measure() -> int:
        with open_environment("start", say) as environment:
            changes = environment.topic("changes")
            environment.preload(changes, events(1))
            runs = interleaved({"start": lambda: once(environment, changes)}, options.repeats, say)[
                "start"
            ]
        rows = [
            FigureRow(
                f"{name}, s",
                Spread.from_values(run[name] for run in runs),
                ".2f",
                maximum=MAX_SECONDS if i == 0 else None,
            )
            for i, name in enumerate(runs[0])
        ]
        return finish(
            f"From the start of the process, {options.repeats} runs", options.json, rows, runs=runs
        )

    return main_of(measure)


def once(environment: BenchmarkEnvironment, changes: str) -> dict[str, float]:
    """Seconds from the start of a process to its first prediction, and to what it logs before."""
    contender = environment.contender(changes)
    with contender.leadstream() as process:
        flow = environment.watch(contender.predictions, 1, process)
        seconds = {"to the first prediction": flow.first - process.began}
        seconds |= {name: process.when(process.event(event)) for name, event in STAGES.items()}
    environment.remove(*contender.topics)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
