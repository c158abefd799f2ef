"""`python -m tests.faults.fuzz`: odd inputs at every boundary; exit code 1 if one breaks it.

Changes and requests go through the real decode, features and scoring. Of each batch must hold:
nothing is raised and nothing hangs; every record ends with its fate or its reason; and whoever is
no dead letter has the same bytes as in a batch where the dead letters never were. The other
boundaries are those of `tests/faults/boundaries.py`: each input ends as a value or as a sentence.
No text for people shows a value of a lead.
"""

import argparse
import faulthandler
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

from rich.progress import Progress

from consumer.scoring.codecs import Codecs
from consumer.scoring.leads import Lead
from consumer.scoring.pipeline import Pipeline
from consumer.scoring.result import BatchResult
from leadstream.errors import Reason
from leadstream.kafka.batch import Batch, Output
from leadstream.settings import load_settings
from models.registry.slot import ChallengerSlot, ModelSlot
from models.registry.versions import ModelRegistry
from schemas.codec import Reader, Writer
from tests.fakes import FakeMessage
from tests.faults.boundaries import Boundary, boundaries, check_text
from tests.faults.payloads import Payload, Shelf, payloads
from tests.trained_models import TRUST, promoted_store
from tests.unit.pipelines import NOW_MS, REQUESTS, STATE, FakeLeads
from tests.unit.pipelines import batch as batch_of

BATCH = 200
HANG_SECONDS = 120
OF_REQUESTS = {
    Reason.INVALID_REQUEST,
    Reason.ENCODE_FAILED,
    Reason.OVERSIZED,
    Reason.UNKNOWN_FRAMING,
    Reason.UNKNOWN_SCHEMA,
    Reason.DECODE_FAILED,
}
OF_CHANGES = set(Reason) - {Reason.INVALID_REQUEST, Reason.ENCODE_FAILED}


class FuzzFailure(AssertionError):
    """A batch that was not borne, in words, with the payloads to see it again."""


class BatchProcessor(Protocol):
    """What makes an outcome of a batch."""

    def process(self, batch: Batch) -> BatchResult: ...


def fuzzed(
    store: str, seed: int, count: int, advance: Callable[[int], object] = lambda _: None
) -> Counter[str]:
    """How the payloads ended: fates and reasons.

    Raises Fault for the first batch that was not borne.
    """
    line = fuzz_pipeline(store)
    ends: Counter[str] = Counter()
    stream = itertools.islice(payloads(seed), count)
    for at in itertools.count(step=BATCH):
        messages = [
            _message(at + i, payload) for i, payload in enumerate(itertools.islice(stream, BATCH))
        ]
        if not messages:
            return ends
        with _hang_watch():
            ends += borne(line, messages)
        advance(len(messages))
    raise AssertionError("unreachable")


@contextmanager
def _hang_watch() -> Iterator[None]:
    """End the process with a traceback if the block hangs, but not once it has raised."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def borne(line: BatchProcessor, messages: Sequence[FakeMessage]) -> Counter[str]:
    """The ends of one batch's records; raises Fault where one of the promises does not hold."""
    outcome = _processed(line, messages)
    for i, letter in outcome.letters.items():
        check_text(letter.detail)
        if letter.reason not in (OF_REQUESTS if messages[i].topic_ == REQUESTS else OF_CHANGES):
            raise FuzzFailure(f"{letter.reason} is no reason for {_format(messages[i])}")
    good = [message for i, message in enumerate(messages) if i not in outcome.letters]
    if good and len(good) < len(messages) and _outputs(line, good) != _kept(outcome):
        raise FuzzFailure(
            f"neighbours of dead letters changed; the first record is {_format(messages[0])}"
        )
    ends = Counter(
        {disposition.value: count for disposition, count in outcome.dispositions.items()}
    )
    ends["answered"] = outcome.requests_answered
    del ends["dead_lettered"]
    return ends + Counter(letter.reason.value for letter in outcome.letters.values())


def _processed(line: BatchProcessor, messages: Sequence[FakeMessage]) -> BatchResult:
    try:
        outcome = line.process(batch_of(*messages))
    except Exception as error:
        if len(messages) == 1:
            raise FuzzFailure(f"{error!r} at {_format(messages[0])}") from error
        middle = len(messages) // 2
        for half in (messages[:middle], messages[middle:]):
            _processed(line, half)
        raise FuzzFailure(
            f"{error!r}, but only in one batch from {_format(messages[0])} on"
        ) from error
    if not outcome.balances() or outcome.consumed != sum(
        message.topic_ != REQUESTS for message in messages
    ):
        raise FuzzFailure(f"the books do not balance from {_format(messages[0])} on")
    return outcome


def _outputs(line: BatchProcessor, messages: Sequence[FakeMessage]) -> list[Output]:
    return _kept(_processed(line, messages))


def _kept(outcome: BatchResult) -> list[Output]:
    return [output for output in outcome.outputs if not output.topic.endswith(".dlq")]


def fuzz_pipeline(store: str) -> Pipeline:
    """A pipeline with everything real but the registry, the database and the brokers."""
    models = ModelRegistry(store, TRUST)
    shelf = cast(Any, Shelf())
    codecs = Codecs(
        Reader("LeadChanged", shelf),
        Reader("RescoreRequest", shelf),
        Writer("LeadPrediction"),
        Writer("RescoreResult"),
        Writer("LeadPrediction"),
    )
    leads = FakeLeads({f"lead_{i}": Lead(STATE | {"lead_score": float(i)}, i) for i in range(20)})
    settings = load_settings({}, None)
    return Pipeline(
        settings, ModelSlot(models), ChallengerSlot(models), codecs, leads, clock_ms=lambda: NOW_MS
    )


def _message(offset: int, payload: Payload) -> FakeMessage:
    return FakeMessage(payload.topic, 0, offset, payload.key, payload.value, None, NOW_MS)


def _format(message: FakeMessage) -> str:
    value = None if message.value_ is None else message.value_[:200].hex()
    return f"payload {message.offset_} ({message.topic_}, key {message.key_!r}, value {value})"


@dataclass(frozen=True, slots=True)
class BoundaryRun:
    """How the inputs of one boundary ended, and how long the slowest took."""

    name: str
    ends: Counter[str]
    slowest: float


def fuzz_boundary(
    name: str,
    boundary: Boundary,
    seed: int,
    count: int,
    advance: Callable[[int], object] = lambda _: None,
) -> BoundaryRun:
    """Try a boundary with `count` inputs, each repeatable by its number.

    Raises FuzzFailure for the first input that raised what it must not.
    """
    ends: Counter[str] = Counter()
    slowest = 0.0
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        advance(len(numbers))
        with _hang_watch():
            for number in numbers:
                began = time.monotonic()
                try:
                    ends[boundary(Random(f"{seed} {name} {number}"))] += 1
                except Exception as error:
                    raise FuzzFailure(f"{error!r} at input {number} of {name}") from error
                slowest = max(slowest, time.monotonic() - began)
    return BoundaryRun(name, ends, slowest)


def fuzz_all(
    store: str,
    folder: Path,
    seed: int,
    count: int,
    advance: Callable[[int], object] = lambda _: None,
) -> list[BoundaryRun]:
    """Try every boundary with its share of `count` inputs. Raises FuzzFailure."""
    with boundaries(store, folder) as others:
        counts = {name: int(share * count) for name, (share, _) in others.items()}
        began = time.monotonic()
        changes = count - sum(counts.values())
        ends = fuzzed(store, seed, changes, advance)
        batches = max(1, changes // BATCH)
        runs = [BoundaryRun("changes and requests", ends, (time.monotonic() - began) / batches)]
        runs += [
            fuzz_boundary(name, boundary, seed, counts[name], advance)
            for name, (_, boundary) in others.items()
        ]
    return runs


def table_of(runs: Sequence[BoundaryRun]) -> list[str]:
    """Return a line for each boundary, with a line for each of its ends."""
    lines = []
    for run in runs:
        lines.append(f"{run.ends.total():>10,} {run.name} (slowest {run.slowest * 1000:.0f} ms)")
        lines += [f"{count:>14,} {end}" for end, count in run.ends.most_common()]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--payloads", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    progress = Progress(transient=True) if sys.stdout.isatty() else nullcontext()
    with tempfile.TemporaryDirectory() as folder, progress as progress_bar:
        store = promoted_store(Path(folder) / "models")
        task = progress_bar.add_task("payloads", total=options.payloads) if progress_bar else None

        def advance(count: int) -> None:
            if progress_bar and task is not None:
                progress_bar.advance(task, count)

        try:
            runs = fuzz_all(store, Path(folder), options.seed, options.payloads, advance)
        except FuzzFailure as fault:
            print(f"seed {options.seed}: {fault}")
            return 1
    print(*table_of(runs), sep="\n")
    total = sum(run.ends.total() for run in runs)
    print(f"{total:>10,} inputs in {time.monotonic() - began:.0f} s, every one with its end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
