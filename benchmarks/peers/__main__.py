"""The same model, events and predictions with other frameworks, each in its best documented form,
next to Leadstream.

    python -m benchmarks.peers [--repeats 3] [--events 200000] [--json PATH]

Each loop is a process of its own on a topic that is full before it starts. Scoring is one function
for all peers (scoring.py): scikit-learn's predict_proba on the model's own features, fastavro on
either side. Their predictions are read back, and each field of each must equal Leadstream's, but
when and from which topic it was made. None of them gives reasons, so they are compared with
`leadstream run` without; with three it runs next to them.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT, BenchmarkEnvironment, open_environment
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
from leadstream.errors import UserError
from schemas.codec import Reader

# Installed apart by `make bench-peers`, and found before what is installed next to it: see
# requirements.txt.
FOLDER = Path(sys.prefix) / "peers"
PACKAGES = ("quixstreams", "faststream", "bytewax")
# Row by row the model alone takes five milliseconds: fewer events keep the whole within minutes.
EVENTS, FEWER, FEWEST = 200_000, 40_000, 1_000
FIELDS_OF_ITS_OWN = ("scored_at", "source_topic")


@dataclass(frozen=True, slots=True)
class PeerLoop:
    """One contender.

    `bar` is how many times faster Leadstream is to be; `max_events` bounds the events that it gets.
    """

    arguments: tuple[str, ...]
    delivery: str
    max_events: int | None = None
    bar: float | None = None
    reasons: int = 0


OURS, REASONS = "leadstream, no reasons", "leadstream, 3 reasons"
LOOPS = {
    OURS: PeerLoop(("leadstream.cli.main", "run"), "exactly once"),
    REASONS: PeerLoop(("leadstream.cli.main", "run"), "exactly once", reasons=3),
    "Bytewax, batches": PeerLoop(
        ("bytewax.run", "benchmarks.peers.bytewax_flow:flow('batches')"), "at least once", None, 4
    ),
    "FastStream, batches": PeerLoop(
        ("benchmarks.peers.faststream_app", "batches"), "at most once", FEWER, 10
    ),
    "Bytewax, rows": PeerLoop(
        ("bytewax.run", "benchmarks.peers.bytewax_flow:flow('rows')"), "at least once", FEWEST
    ),
    "FastStream, rows": PeerLoop(
        ("benchmarks.peers.faststream_app", "rows"), "at most once", FEWEST
    ),
    "Quix Streams, rows": PeerLoop(("benchmarks.peers.quix",), "exactly once", FEWEST, 500),
}


class PeerBenchmark:
    """The topics, filled once, and Leadstream's predictions by lead, which the peers' are compared
    with.
    """

    def __init__(self, environment: BenchmarkEnvironment, count: int) -> None:
        self._environment = environment
        self.counts = {name: min(count, loop.max_events or count) for name, loop in LOOPS.items()}
        self._topics = {
            size: environment.topic("changes") for size in sorted(set(self.counts.values()))
        }
        self._reader = Reader("LeadPrediction")
        self._expected: dict[bytes, bytes] = {}
        for size, topic in self._topics.items():
            environment.preload(topic, events(size))

    def run(self, name: str) -> float:
        """Run a loop over its events: how many a second.

        Raises UserError where a prediction is missing or differs.
        """
        loop, count = LOOPS[name], self.counts[name]
        contender = self._environment.contender(self._topics[count])
        path = (
            contender.environ["PYTHONPATH"]
            if name in (OURS, REASONS)
            else os.pathsep.join([str(FOLDER), str(ROOT)])
        )
        settings = {"LEADSTREAM_REASONS": str(loop.reasons), "PYTHONPATH": path}
        with contender.program(*loop.arguments, **settings) as process:
            flow = self._environment.watch(contender.predictions, count, process)
        if flow.leads != count:
            raise UserError(f"{name} predicted {flow.leads:,} leads, not {count:,}")
        for message in self._environment.read(contender.predictions):
            self._check(name, message.key() or b"", message.value() or b"")
        self._environment.remove(*contender.topics)
        return flow.per_second

    def _check(self, name: str, key: bytes, value: bytes) -> None:
        """The first run of Leadstream says what is expected; both records are decoded and compared
        field by field.
        """
        if name == OURS:
            value = self._expected.setdefault(key, value)
        found, expected = (
            self._comparable(one, LOOPS[name].reasons) for one in (value, self._expected[key])
        )
        if found != expected:
            fields = [field for field, content in expected.items() if found[field] != content]
            raise UserError(f"{name} predicts otherwise for {key.decode()}: {', '.join(fields)}")

    def _comparable(self, value: bytes, reasons: int) -> dict[str, Any]:
        record = self._reader.decode(value)
        left_out = (*FIELDS_OF_ITS_OWN, "reasons") if reasons else FIELDS_OF_ITS_OWN
        return {field: content for field, content in record.items() if field not in left_out}


def main() -> int:
    """Run the benchmark; returns the exit code."""
    options = arguments(
        "Leadstream and other frameworks on the same work.",
        repeats=(3, "runs of each"),
        events=(EVENTS, "events of the fast loops; slow ones get fewer"),
    )

    def measure() -> int:
        versions = installed()
        with open_environment("peers", say) as environment:
            bench = PeerBenchmark(environment, options.events)
            rates = interleaved(
                {name: partial(bench.run, name) for name in LOOPS}, options.repeats, say, warm=True
            )
        code = finish(
            f"Predictions a second, with the frameworks of others, {options.repeats} runs",
            options.json,
            *rows(rates),
            rates=rates,
            versions=versions,
            loops={
                name: {"events": bench.counts[name], "delivery": loop.delivery}
                for name, loop in LOOPS.items()
            },
        )
        print("Every prediction of theirs equals Leadstream's. Events of a run, and delivery:")
        for name, loop in LOOPS.items():
            print(f"  {name}: {bench.counts[name]:,}, {loop.delivery}")
        print(", ".join(f"{name} {version}" for name, version in versions.items()))
        return code

    return main_of(measure)


def rows(rates: Mapping[str, list[float]]) -> tuple[list[FigureRow], ...]:
    """The rates, and how many times as fast Leadstream is, against the bars of the issue."""
    peers = {name: loop for name, loop in LOOPS.items() if name not in (OURS, REASONS)}
    return (
        [FigureRow(name, Spread.from_values(found)) for name, found in rates.items()],
        [
            FigureRow(
                f"no reasons / {name}", ratios(rates[OURS], rates[name]), ",.1f", minimum=loop.bar
            )
            for name, loop in peers.items()
        ],
        [
            FigureRow(f"3 reasons / {name}", ratios(rates[REASONS], rates[name]), ",.1f")
            for name, loop in peers.items()
            if loop.bar
        ],
    )


def installed() -> dict[str, str]:
    """The versions of the peers. Raises UserError where they are not installed."""
    found = {one.metadata["Name"]: one.version for one in distributions(path=[str(FOLDER)])}
    if missing := [name for name in PACKAGES if name not in found]:
        raise UserError(
            f"{', '.join(missing)}: not installed in {FOLDER}; `make bench-peers` installs "
            f"the peers"
        )
    return {name: found[name] for name in PACKAGES}


if __name__ == "__main__":
    sys.exit(main())
