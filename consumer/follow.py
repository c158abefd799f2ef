"""Reading predictions and outcomes back from Kafka."""

from collections.abc import Callable

from leadstream.settings import Settings
from models.ledger import Judged


def read_judged(
    settings: Settings,
    horizon_days_of: Callable[[str], float | None],
    progress: Callable[[int], None] = lambda _records: None,
) -> list[Judged]:
    """Every prediction whose outcome is known."""
    raise NotImplementedError
