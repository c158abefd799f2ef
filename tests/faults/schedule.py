"""What goes wrong, and when: decided by one integer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Protocol = Literal["classic", "consumer"]

CONSUMERS = 3
PARTITIONS = 6
# Longer than the session of a consumer (1.5 s) and than a transaction may take (2 s): a zombie when
# it wakes up.
FREEZE_SECONDS = (2.5, 5.0)
PROTOCOLS: tuple[Protocol, Protocol] = ("classic", "consumer")


@dataclass(frozen=True, slots=True)
class Fault:
    """From `at` seconds on, for `lasts` seconds; `target` is the number of the consumer or of the
    broker.
    """

    at: float
    lasts: float
    lane: str
    kind: str
    target: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run: how it is set up, and its faults in the order of their beginning.

    `protocol` is that of the group at first, and `static` members have names of their own.
    """

    seed: int
    seconds: float
    brokers: int
    coalesce: bool
    batch_max_records: int
    changes_per_second: int
    faults: tuple[Fault, ...]
    protocol: Protocol = "classic"
    static: bool = False


@dataclass(frozen=True, slots=True)
class _Lane:
    """Faults of one part of the system: one at a time, each kind in turn, with a pause between
    them.
    """

    name: str
    kinds: tuple[str, ...]
    lasts: tuple[float, float]
    pause: tuple[float, float]
    target: int | None = None


def schedule(seed: int, seconds: float, brokers: int) -> Schedule:
    """The schedule of a seed."""
    rng = np.random.default_rng([seed, brokers])
    protocol, static = PROTOCOLS[int(rng.integers(2))], bool(rng.random() < 0.5)
    lanes = _lanes(brokers, static=static)
    faults = sorted(
        (fault for lane in lanes for fault in _faults(rng, lane, seconds, brokers)),
        key=lambda fault: fault.at,
    )
    return Schedule(
        seed,
        seconds,
        brokers,
        coalesce=bool(rng.random() < 0.7),
        batch_max_records=int(rng.choice([20, 200, 2000])),
        changes_per_second=int(rng.choice([80, 150, 250])),
        faults=tuple(faults),
        protocol=protocol,
        static=static,
    )


def _lanes(brokers: int, *, static: bool) -> list[_Lane]:
    alone = ("kill", "term", "freeze", "clock", "full log", *(("twin",) if static else ()))
    of_brokers = (
        ("broker restart", "broker kill", "broker loss")
        if brokers > 1
        else ("broker restart", "broker kill")
    )
    return [
        *(_Lane("consumer", alone, (0.5, 4.0), (4.0, 12.0), target=i) for i in range(CONSUMERS)),
        _Lane("scale", ("scale", "switch"), (4.0, 8.0), (10.0, 30.0)),
        _Lane("brokers", of_brokers, (1.0, 6.0), (12.0, 25.0)),
        _Lane(
            "database",
            ("database down", "database slow", "database refusing", "database stalled"),
            (2.0, 6.0),
            (5.0, 15.0),
        ),
        _Lane(
            "registry",
            ("registry 500", "registry refusing", "registry odd", "registry slow"),
            (2.0, 6.0),
            (4.0, 12.0),
        ),
        _Lane("models", ("promote", "full disk", "roll back"), (0.5, 2.0), (3.0, 12.0)),
        _Lane(
            "producers",
            ("transaction open", "transaction aborted", "odd batches"),
            (1.0, 8.0),
            (3.0, 10.0),
        ),
        _Lane("letters", ("letters small", "letters keyed"), (3.0, 8.0), (5.0, 15.0)),
        _Lane("sink", ("sink kill", "sink term", "sink freeze"), (0.5, 4.0), (8.0, 20.0)),
    ]


def _faults(rng: np.random.Generator, lane: _Lane, seconds: float, brokers: int) -> Iterator[Fault]:
    # In a short schedule each lane still begins within it.
    at = float(rng.uniform(0.5, min(lane.pause[1] * 0.8, seconds / 2)))
    while True:
        # The models' faults are steps that follow each other; the others come in any order.
        for kind in lane.kinds if lane.name == "models" else rng.permutation(lane.kinds):
            lasts = float(rng.uniform(*(FREEZE_SECONDS if kind.endswith("freeze") else lane.lasts)))
            if kind == "broker loss":
                lasts += 4.0
            if at + lasts > seconds:
                return
            target = int(rng.integers(brokers)) if lane.name == "brokers" else lane.target or 0
            yield Fault(round(at, 2), round(lasts, 2), lane.name, str(kind), target)
            at += lasts + float(rng.uniform(*lane.pause))
