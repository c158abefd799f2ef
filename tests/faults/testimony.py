"""What processes said of themselves while something failed, and what must hold of it.

Pure functions.

alive   no partition stands still for 30 s with changes that wait while every process that answers
        says that it is ready
told    every offset that was deleted unread is in a loss that a process logged, in the metric and
        the warning of one, and no other offset is
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.faults.checker import Violation

SILENT_SECONDS = 30.0
# While no broker answers there are no looks.
GAP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at the group: who says that it is ready, and what waits.

    `ready` has the answer of each process; one that does not answer is missing. `waiting` has the
    committed offset and the end of each partition, as the brokers know them.
    """

    at: float
    ready: dict[str, bool]
    waiting: dict[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class LostSpan:
    """Offsets of a partition, `first` to `last`."""

    partition: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Everything that was seen and said in a run.

    `deleted` are the offsets that the harness deleted unread. The processes named losses in their
    log (`logged`), their metrics (`measured`) and `/readyz` (`warned`).
    """

    sights: tuple[Sight, ...]
    deleted: tuple[LostSpan, ...]
    logged: tuple[LostSpan, ...]
    measured: tuple[LostSpan, ...]
    warned: tuple[LostSpan, ...]


def untold(testimony: Witnessed) -> list[Violation]:
    """Everything that was silent; empty where the processes told of all that happened."""
    return [*silent(testimony.sights), *_losses_named(testimony)]


def silent(sights: Iterable[Sight]) -> Iterator[Violation]:
    """What stood still while every process that answered said that it was ready."""
    stands: dict[int, float] = {}
    for before, now in pairwise(sights):
        if now.at - before.at > GAP_SECONDS:
            stands.clear()  # nobody saw what the processes said meanwhile
            continue
        for partition, (committed, end) in now.waiting.items():
            waits = committed < end and before.waiting.get(partition, (-1, -1))[0] == committed
            claims = bool(now.ready) and all(now.ready.values())
            if not (waits and claims):
                stands.pop(partition, None)
                continue
            since = stands.setdefault(partition, before.at)
            if now.at - since >= SILENT_SECONDS:
                yield Violation(
                    "alive",
                    f"partition {partition} has stood at {committed} of {end} for "
                    f"{now.at - since:.0f} s, and {', '.join(sorted(now.ready))} say they are "
                    "ready",
                )
                stands[partition] = now.at


def _losses_named(testimony: Witnessed) -> Iterator[Violation]:
    deleted = _offsets(testimony.deleted)
    for where, spans in (
        ("log", testimony.logged),
        ("metrics", testimony.measured),
        ("warnings", testimony.warned),
    ):
        named = _offsets(spans)
        if missing := deleted - named:
            partition, offset = min(missing)
            yield Violation(
                "told",
                f"{len(missing)} deleted offsets are not in the {where}, the first is {offset} of "
                f"partition {partition}",
            )
        if extra := named - deleted:
            partition, offset = min(extra)
            yield Violation(
                "told",
                f"the {where} name {len(extra)} offsets that were not deleted unread, the first "
                f"is {offset} of partition {partition}",
            )


def _offsets(spans: Iterable[LostSpan]) -> set[tuple[int, int]]:
    return {
        (each.partition, offset) for each in spans for offset in range(each.first, each.last + 1)
    }
