"""More processes, longer backlogs, more time: what an event costs and what memory it takes must not
grow.

    python -m benchmarks.scale [--most 1000000] [--swaps 200] [--repeats 3] [--json PATH]

One and two processes of a group on four partitions, interleaved; a backlog of ten and a hundred
thousand and of a million (at most `--most`) on one partition; and a stream that flows while the
champion moves back and forth. Memory is what is resident (VmRSS). Exit code 1 where a bar is
missed.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import BenchmarkEnvironment, Flow, open_environment
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
from benchmarks.process import BenchmarkProcess
from leadstream.errors import UserError

PARTITIONS = 4
BACKLOGS = (10_000, 100_000, 1_000_000)
EDGE = 100_000  # events at either end of the longest backlog whose memory is compared
MAX_BYTES = 350_000_000
FLAT = 1.05
BATCH = 2_000
STREAM_PER_SECOND = 500.0
SWAP_SECONDS = 30.0
WARM_SWAPS = 10
LOOK_SECONDS = 0.05
WINDOW_SECONDS = 0.4  # in which a version is read, in the background, and taken

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Backlog:
    """One backlog worked off: events a second, and the most memory over its first and its last
    events and over all.
    """

    per_second: float
    first: int
    last: int
    largest: int


@dataclass(frozen=True, slots=True)
class Swaps:
    """What swaps did: memory before, after the first ten and after all; seconds between two
    batches, at most.

    `during` are those of each swap, while the model was read and taken; `apart` those of as long a
    time a little later.
    """

    swaps: int
    before: int
    warm: int
    after: int
    during: list[float]
    apart: list[float]


def main() -> int:
    """Run the benchmark; returns the exit code."""
    options = arguments(
        "Processes, backlogs and model swaps.",
        events=(1_000_000, "events for one and two processes"),
        most=(BACKLOGS[-1], "the longest backlog"),
        swaps=(200, "model swaps"),
        repeats=(3, "runs of each"),
    )

    def measure() -> int:
        with open_environment("scale", say, models=2) as environment:
            group = processes(environment, options.events, options.repeats)
            works = backlogs(
                environment,
                [*(size for size in BACKLOGS if size < options.most), options.most],
                options.repeats,
            )
            swapped = swaps(environment, options.swaps)
        return finish(
            f"Scale, {options.repeats} runs of each",
            options.json,
            *rows(group, works, swapped),
            processes=group,
            backlogs={f"{size}": each for size, each in works.items()},
            swaps=swapped,
        )

    return main_of(measure)


def processes(
    environment: BenchmarkEnvironment, count: int, repeats: int
) -> dict[str, list[float]]:
    """Return the events a second of one and of two processes on four busy partitions."""
    changes = environment.topic("changes", PARTITIONS)
    say(f"preloading {count:,} events into {PARTITIONS} partitions")
    environment.preload(changes, events(count))

    def run(number: int) -> float:
        contender = environment.contender(changes, PARTITIONS)
        with contextlib.ExitStack() as stack:
            group = [stack.enter_context(contender.leadstream()) for _ in range(number)]
            flow = environment.watch(contender.predictions, count, *group)
            rate = flow.between(*_together(group))
            for process in group:
                process.end()
        _all_different(flow, count)
        environment.remove(*contender.topics)
        return rate

    return interleaved(
        {"one process": partial(run, 1), "two processes": partial(run, 2)}, repeats, say
    )


def _together(group: list[BenchmarkProcess]) -> tuple[float, float]:
    """From when the last of the processes committed its first batch to when the first of them
    committed its last.
    """
    spans = []
    for process in group:
        batches = process.events("batch")
        if len(batches) < 2:
            raise UserError("a process of the group had next to nothing to do: give more --events")
        spans.append([process.began + process.when(line) for line in (batches[0], batches[-1])])
    return max(first for first, _ in spans), min(last for _, last in spans)


def backlogs(
    environment: BenchmarkEnvironment, sizes: list[int], repeats: int
) -> dict[int, list[Backlog]]:
    """Each backlog worked off by a process of its own; the longest once."""
    topics = {}
    for size in sizes:
        say(f"preloading a backlog of {size:,}")
        topics[size] = environment.topic("changes")
        environment.preload(topics[size], events(size))
    runs = {f"{size:,}": partial(_work_off, environment, topics[size], size) for size in sizes[:-1]}
    found = list(interleaved(runs, repeats, say).values())
    say(f"{sizes[-1]:,}, once")
    found.append([_work_off(environment, topics[sizes[-1]], sizes[-1])])
    return dict(zip(sizes, found, strict=True))


def _work_off(environment: BenchmarkEnvironment, changes: str, size: int) -> Backlog:
    contender = environment.contender(changes)
    with contender.leadstream() as process, _memory(process) as memory:
        flow = environment.watch(contender.predictions, size, process)
        process.end()
    _all_different(flow, size)
    environment.remove(*contender.topics)
    early, late, ended = (
        flow.when(min(EDGE, size)),
        flow.when(max(0, size - EDGE)),
        flow.first + flow.seconds,
    )
    return Backlog(
        flow.per_second,
        first=max(resident for moment, resident in memory if moment <= early),
        last=max(
            (resident for moment, resident in memory if late <= moment <= ended),
            default=memory[-1][1],
        ),
        largest=max(resident for _, resident in memory),
    )


@contextlib.contextmanager
def _memory(process: BenchmarkProcess) -> Iterator[list[tuple[float, int]]]:
    """The resident memory of a process again and again, as (time.monotonic, bytes)."""
    seen: list[tuple[float, int]] = []
    done = threading.Event()

    def look() -> None:
        with contextlib.suppress(UserError, OSError):  # it has ended
            while not done.wait(LOOK_SECONDS):
                seen.append((time.monotonic(), process.resident()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _all_different(flow: Flow, count: int) -> None:
    if flow.leads != count:
        raise UserError(f"{flow.leads:,} different leads were answered, not {count:,}")


def swaps(environment: BenchmarkEnvironment, count: int) -> Swaps:
    """A stream flows; the champion moves to the other version and back; each time the process must
    have followed.
    """
    changes = environment.topic("changes")
    contender = environment.contender(changes)
    registry = environment.registry
    first, second = environment.versions
    begin = time.monotonic() + 10
    flowing = 10**9  # until it is ended
    options = (changes, 0, flowing, STREAM_PER_SECOND, begin)
    with (
        contender.leadstream() as process,
        contender.program("benchmarks.sender", *map(str, options)) as sender,
    ):
        page = f"{process.event('started')['http']}/model"
        time.sleep(max(0.0, begin - time.monotonic()) + 5)
        before = warm = process.resident()
        for number in range(1, count + 1):
            if number % 2:
                registry.promote(second, force=True)
            else:
                registry.rollback()
            _until_in_service(page, second if number % 2 else first, process, sender)
            time.sleep(2 * WINDOW_SECONDS)  # in which nobody promotes
            if number == min(WARM_SWAPS, count):
                warm = process.resident()
            if number % 20 == 0:
                say(f"{number} of {count} swaps")
        after = process.resident()
        swapped = [process.when(line) for line in process.events("model.loaded")][1:]
        batches = np.array([process.when(line) for line in process.events("batch")])
    during = longest_pauses(
        batches, [(when - 0.75 * WINDOW_SECONDS, when + 0.25 * WINDOW_SECONDS) for when in swapped]
    )
    apart = longest_pauses(
        batches, [(when + 0.5 * WINDOW_SECONDS, when + 1.5 * WINDOW_SECONDS) for when in swapped]
    )
    return Swaps(count, before, warm, after, during, apart)


def longest_pauses(batches: Floats, windows: Iterable[tuple[float, float]]) -> list[float]:
    """Of each window the longest time between two batches that ended one after the other and reach
    into it, in seconds.

    `batches` (n,) are when batches ended, in order.
    """
    found = []
    for begin, end in windows:
        first, last = np.searchsorted(batches, [begin, end])
        found.append(float(np.diff(batches[max(0, first - 1) : last + 1]).max()))
    return found


def _until_in_service(page: str, version: str, *alive: BenchmarkProcess) -> None:
    deadline = time.monotonic() + SWAP_SECONDS
    while True:
        with urlopen(page, timeout=10) as answer:
            options: dict[str, Any] = json.load(answer)
        if options["version"] == version:
            return
        for process in alive:
            process.must_live()
        if time.monotonic() > deadline:
            raise UserError(
                f"version {version} is not in service after {SWAP_SECONDS:.0f} s: "
                f"{options['refused']}"
            )
        time.sleep(LOOK_SECONDS)


def rows(
    group: dict[str, list[float]], works: dict[int, list[Backlog]], swapped: Swaps
) -> tuple[list[FigureRow], ...]:
    """Rates and ratios, memory against its bars, and what swaps cost."""
    one, two = group.values()
    scaled = [
        FigureRow(f"{name}, events/s", Spread.from_values(rates)) for name, rates in group.items()
    ]
    scaled.append(FigureRow("two processes / one", ratios(two, one), ".2f"))
    worked = [
        FigureRow(f"backlog of {size:,}, events/s", Spread.from_values(r.per_second for r in each))
        for size, each in works.items()
    ]
    stopped = max(0.0, max(swapped.during) - max(swapped.apart))
    longest, [run] = max(works), works[max(works)]
    memory = [
        FigureRow(
            f"backlog of {n:,}: memory, MB",
            Spread.from_values(r.largest / 1e6 for r in each),
            ",.0f",
            maximum=MAX_BYTES / 1e6,
        )
        for n, each in works.items()
    ]
    if longest >= 2 * EDGE:
        memory.append(
            FigureRow(
                "memory, last 100,000 / first",
                Spread.from_values([run.last / run.first]),
                ".3f",
                maximum=FLAT,
            )
        )
    swap = [
        FigureRow("memory before the swaps, MB", Spread.from_values([swapped.before / 1e6])),
        FigureRow(
            f"after {min(WARM_SWAPS, swapped.swaps)}, MB", Spread.from_values([swapped.warm / 1e6])
        ),
        FigureRow(f"after {swapped.swaps}, MB", Spread.from_values([swapped.after / 1e6])),
        FigureRow(
            "memory, after all / before",
            Spread.from_values([swapped.after / swapped.before]),
            ".3f",
        ),
        # The first swaps make room for a second model, which is there before the last one goes.
        FigureRow(
            "memory, after all / after the first ten",
            Spread.from_values([swapped.after / swapped.warm]),
            ".3f",
            maximum=FLAT,
        ),
        FigureRow(
            "between two batches during a swap, ms",
            Spread.from_values(1000 * pause for pause in swapped.during),
            ",.1f",
        ),
        FigureRow(
            "the same apart from swaps, ms",
            Spread.from_values(1000 * pause for pause in swapped.apart),
            ",.1f",
        ),
        FigureRow(
            "pause by a swap, full batches",
            Spread.from_values([stopped * run.per_second / BATCH]),
            ".1f",
            maximum=1,
        ),
    ]
    return scaled, worked, memory, swap


if __name__ == "__main__":
    sys.exit(main())
