"""Records that were deleted before a group read them, until a person acknowledges them.

They travel as the metadata of the group's committed offsets, so every owner of the partition knows
them, and so do other programs. An acknowledgment is an offset of another group, which has no
members: `acknowledging_group`.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from leadstream.kafka.batch import Partition

_AUTHOR = "leadstream"
# The metadata of an offset has at most 4,096 bytes at the brokers.
MAX_LOSSES = 32


@dataclass(frozen=True, slots=True)
class Loss:
    """Offsets of a partition, `first` to `last`, whose records nobody of the group read.

    Some of them may have been markers of transactions, or aborted. `noticed_at` is in milliseconds
    UTC.
    """

    topic: str
    partition: int
    first: int
    last: int
    noticed_at: int

    @property
    def records(self) -> int:
        """Return the most records that these offsets held."""
        return self.last - self.first + 1

    def sentence(self) -> str:
        """Return what was lost where."""
        return (
            f"{self.topic} partition {self.partition}: offsets {self.first} to {self.last} "
            "were deleted before they were read"
        )


class Losses:
    """The losses that this process knows and nobody acknowledged.

    `on_loss` gets each one that is new to the group, and `on_change` all that are left.
    """

    def __init__(
        self,
        on_loss: Callable[[Loss], None] = lambda _loss: None,
        on_change: Callable[[list[Loss]], None] = lambda _losses: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._on_loss = on_loss
        self._on_change = on_change
        self._clock = clock
        self._known: dict[Partition, list[Loss]] = {}

    @property
    def all(self) -> list[Loss]:
        """Return the losses of every partition."""
        return [loss for losses in self._known.values() for loss in losses]

    def lost(self, place: Partition, first: int, last: int) -> None:
        """Note offsets that were deleted; what is known of them is not reported again."""
        known = self._known.get(place, [])
        if any(each.first <= first and last <= each.last for each in known):
            return
        loss = Loss(*place, first, last, round(self._clock() * 1000))
        self._on_loss(loss)
        self._set(place, [*known, loss])

    def restore(self, place: Partition, metadata: str | None) -> bool:
        """Take over the losses of a committed offset; return whether Leadstream committed it."""
        found = read_metadata(place, metadata)
        if found is None:
            return False
        known = self._known.get(place, [])
        spans = {(each.first, each.last) for each in known}
        if fresh := [each for each in found if (each.first, each.last) not in spans]:
            self._set(place, [*known, *fresh])
        return True

    def metadata(self, place: Partition) -> str:
        """Return the metadata for an offset that is committed now."""
        lost = [[each.first, each.last, each.noticed_at] for each in self._known.get(place, [])]
        return json.dumps({"by": _AUTHOR, **({"lost": lost} if lost else {})})

    def acknowledge(self, acknowledged: Mapping[Partition, int]) -> None:
        """Forget the losses that were noticed before they were acknowledged (milliseconds UTC)."""
        for place, losses in list(self._known.items()):
            at = acknowledged.get(place, 0)
            left = [each for each in losses if each.noticed_at > at]
            if left != losses:
                self._set(place, left)

    def _set(self, place: Partition, losses: list[Loss]) -> None:
        self._known[place] = _bounded(losses)
        self._on_change(self.all)


def read_metadata(place: Partition, metadata: str | None) -> list[Loss] | None:
    """Return the losses in the metadata of a committed offset; None if Leadstream wrote none."""
    try:
        found = json.loads(metadata or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("by") != _AUTHOR:
        return None
    lost = found.get("lost", [])
    return [
        Loss(*place, *entry)
        for entry in (lost if isinstance(lost, list) else [])
        if isinstance(entry, list) and len(entry) == 3 and all(type(each) is int for each in entry)
    ]


def acknowledging_group(group_id: str) -> str:
    """Return the group whose offsets say which losses were acknowledged."""
    return f"{group_id}-acknowledged-losses"


def acknowledgment(at_ms: int) -> str:
    """Return the metadata that acknowledges every loss noticed up to a time."""
    return json.dumps({"by": _AUTHOR, "acknowledged": at_ms})


def acknowledged_at(metadata: str | None) -> int:
    """Return up to when the losses of a partition are acknowledged, 0 for never."""
    try:
        found = json.loads(metadata or "")
    except (ValueError, RecursionError):
        return 0
    at = found.get("acknowledged") if isinstance(found, dict) else None
    return at if type(at) is int else 0


def unacknowledged(losses: Iterable[Loss], acknowledged: Mapping[Partition, int]) -> list[Loss]:
    """Return the losses that were noticed after the last acknowledgment of their partition."""
    return [
        each
        for each in losses
        if each.noticed_at > acknowledged.get((each.topic, each.partition), 0)
    ]


def _bounded(losses: list[Loss]) -> list[Loss]:
    """Return the losses, with the oldest ones as one span if there are too many."""
    if len(losses) <= MAX_LOSSES:
        return losses
    oldest, rest = losses[: -MAX_LOSSES + 1], losses[-MAX_LOSSES + 1 :]
    merged = Loss(
        oldest[0].topic,
        oldest[0].partition,
        min(each.first for each in oldest),
        max(each.last for each in oldest),
        max(each.noticed_at for each in oldest),
    )
    return [merged, *rest]
