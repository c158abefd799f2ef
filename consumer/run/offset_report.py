"""The report of offsets: what was deleted unread, and what others changed."""

from collections.abc import Callable

from leadstream.kafka.batch import Partition
from leadstream.kafka.losses import Loss, Losses
from leadstream.log import Logger
from leadstream.process.metrics import LossMetrics
from leadstream.process.status import Status

RESCORE = "`leadstream rescore --all` scores every lead again"
COMMAND = "leadstream losses"
# More partitions than these are only counted in the warning.
NAMED = 3


class OffsetReport:
    """Log lines, metrics and the warning about offsets that were lost or changed.

    `on_replay` gets a partition that the group may read again. `remedy` says what replaces the
    lost records, and `command` lists and acknowledges them.
    """

    def __init__(
        self,
        metrics: LossMetrics,
        status: Status,
        logger: Logger,
        on_replay: Callable[[Partition], None] = lambda _place: None,
        *,
        remedy: str = RESCORE,
        command: str = COMMAND,
    ) -> None:
        self._metrics = metrics
        self._status = status
        self._logger = logger
        self._on_replay = on_replay
        self._remedy = remedy
        self._command = command
        self.losses = Losses(self._on_loss, self._on_change)

    def no_offset(self, place: Partition) -> None:
        """Note a partition with records of which the group has committed none."""
        self._on_replay(place)

    def foreign_offset(self, place: Partition, offset: int) -> None:
        """Log an offset of the group that another program, or an older version, committed."""
        self._on_replay(place)
        self._logger.warning(
            "offset.foreign",
            topic=place[0],
            partition=place[1],
            offset=offset,
            detail="the group's committed offset is not one of this version: an operator or "
            "another program set it, or an older version did",
        )

    def went_back(self, place: Partition, expected: int, found: int) -> None:
        """Log a partition whose offsets went back."""
        self._logger.warning(
            "offset.went_back",
            topic=place[0],
            partition=place[1],
            expected=expected,
            found=found,
            detail="the topic was made again, or the brokers lost its end; "
            "what is there now is read from the beginning",
        )

    def _on_loss(self, loss: Loss) -> None:
        self._logger.error(
            "changes.lost",
            topic=loss.topic,
            partition=loss.partition,
            first=loss.first,
            last=loss.last,
            records=loss.records,
            detail=f"{loss.sentence()}; {self._remedy}",
        )
        self._metrics.lost_total.labels(loss.topic, str(loss.partition)).inc(loss.records)

    def _on_change(self, losses: list[Loss]) -> None:
        with self._metrics.lock:
            self._metrics.lost.clear()
            for loss in losses:
                labels = loss.topic, str(loss.partition), str(loss.first), str(loss.last)
                self._metrics.lost.labels(*labels).set(loss.records)
        self._status.warn("lost changes", _sentence(losses, self._command) if losses else None)


def _sentence(losses: list[Loss], command: str) -> str:
    named = "; ".join(loss.sentence() for loss in losses[:NAMED])
    more = f"; and {len(losses) - NAMED} more" if len(losses) > NAMED else ""
    return f"{named}{more}; see `{command}`; `{command} --acknowledge` ends this warning"
