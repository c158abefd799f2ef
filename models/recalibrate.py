"""The hook of `leadstream follow`: a new calibration of the champion from its judged predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.ledger import Judged
from models.registry import ModelRegistry


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """A patch version, how far it moves the log-odds, and whether it was promoted or what was against it."""

    version: str
    shift: float
    promoted: bool
    objections: list[str]


def follow_outcomes(
    registry: ModelRegistry, judged_of_champion: Sequence[Judged], *, promote: bool, now_ms: int
) -> Recalibrated | None:
    """Publish a patch version of the champion where its recent outcomes ask for one, and promote it if told to."""
    raise NotImplementedError
