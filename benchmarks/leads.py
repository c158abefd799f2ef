"""What the benchmarks score, and with what: changes of distinct leads, and a model of the audited
recipe.
"""

from collections.abc import Iterator
from typing import Any

from models.serve.artifact import Trained
from models.train.training import TrainOptions, train
from producer.simulator import SimulatedCrm
from producer.table import training_frame
from schemas.codec import Writer

_START_MS, _CREATED_MS = 1_704_067_200_000, 1_735_689_600_000  # 2024-01-01, 2025-01-01

Event = tuple[bytes, bytes]  # key, value


def trained(seed: int = 1) -> Trained:
    """A model of 1,500 simulated leads by the audited recipe: 100 trees over 20 features."""
    crm = SimulatedCrm(1, start=_START_MS, leads=1500)
    changes = [
        change
        for change in crm.changes()
        if change.record and change.truth and not change.truth.applied
    ]
    table = training_frame(
        [change.lead_id for change in changes],
        [change.record["occurred_at"] for change in changes if change.record],
        [change.state or {} for change in changes],
        [bool(change.truth and change.truth.converts) for change in changes],
    )
    return train(
        table,
        TrainOptions(created_at=_CREATED_MS, seed=seed, recipe="audited", calibrator="venn_abers"),
    )


def events(count: int, first: int = 0, *, without_state: bool = False) -> Iterator[Event]:
    """`count` changes of as many different leads, numbered from `first`: fat ones of 112 to 183
    bytes, or thin ones.

    Event n says what `repeated_changes()` says at n modulo their number; each is encoded once, and
    gets its ids after.
    """
    event_mark, lead_mark = "e" * 32, lead_id(0)
    writer, parts = Writer("LeadChanged"), []
    for change in repeated_changes():
        record = change | {"event_id": event_mark, "lead_id": lead_mark}
        value = writer.encode(record | {"lead": None} if without_state else record)
        head, tail = value.split(event_mark.encode())
        middle, tail = tail.split(lead_mark.encode())
        parts.append((head, middle, tail))
    for number in range(first, first + count):
        head, middle, tail = parts[number % len(parts)]
        key = lead_id(number).encode()
        yield key, b"".join((head, b"%032x" % number, middle, key, tail))


def repeated_changes() -> list[dict[str, Any]]:
    """The LeadChanged records of 2,000 simulated leads."""
    return [
        dict(change.record or {})
        for change in SimulatedCrm(2, start=_START_MS, leads=2000).changes()
    ]


def lead_id(number: int) -> str:
    """The id of lead `number`, of one length for all, as the ids are put into encoded records."""
    return f"lead-{number:010}"
