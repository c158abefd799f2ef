"""Parts that the verbs relay, sink and translate share: their registry, health and group."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prometheus_client import Counter

    from leadstream.kafka.source import KafkaSource
    from leadstream.process.membership import StoppableLoop
    from leadstream.process.metrics import LossMetrics
    from leadstream.process.service import Health, ServiceContext
    from leadstream.settings import Settings
    from schemas.registry import Registry

# Between two questions whether losses were acknowledged.
ACKNOWLEDGED_SECONDS = 20.0


class ServiceMetrics(Protocol):
    """The metrics of a verb."""

    held: "Counter"

    def expose(self) -> bytes:
        """Return all of them in the text format of Prometheus."""


@dataclass(frozen=True, slots=True)
class VerbService:
    """The surroundings of a verb while it runs."""

    context: "ServiceContext"
    health: "Health"
    registry: "Registry | None"

    def keep_membership(self, membership: Callable[[], None], loop: "StoppableLoop") -> None:
        """Run memberships of the verb's group until the loop is stopped."""
        from leadstream.process.membership import keep_membership

        context = self.context
        keep_membership(membership, loop, status=context.status, logger=context.logger)


@contextlib.contextmanager
def serving_verb(verb: str, settings: "Settings", metrics: ServiceMetrics) -> Iterator[VerbService]:
    """Run the block with the verb's log, HTTP endpoints and schema registry."""
    from leadstream.process.service import Health, serving
    from schemas.registry import Registry

    with serving(settings, verb) as context:
        url = settings.schema_registry_url
        registry = context.open(Registry(url)) if url else None
        context.listen(metrics.expose)
        health = Health(verb, context.status, context.logger, counter=metrics.held)
        yield VerbService(context, health, registry)


def group_id_for(verb: str, settings: "Settings") -> str:
    """Return the consumer group of a verb other than `run`."""
    return f"{settings.group_id}-{verb}"


class LossReport:
    """The losses of a verb's group: reported as those of `run`, until they are acknowledged.

    `remedy` says what replaces the records that were deleted unread.
    """

    def __init__(
        self,
        verb: str,
        settings: "Settings",
        service: VerbService,
        metrics: "LossMetrics",
        remedy: str,
    ) -> None:
        from consumer.run.offset_report import OffsetReport

        context = service.context
        command = f"leadstream losses --of {verb}"
        self._settings = settings
        self._group = group_id_for(verb, settings)
        self._ask_at = 0.0
        self.offsets = OffsetReport(
            metrics, context.status, context.logger, remedy=remedy, command=command
        )

    def follow(self) -> None:
        """Ask now and then whether somebody acknowledged the losses, while there are some."""
        import time

        losses = self.offsets.losses
        if not losses.all or time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + ACKNOWLEDGED_SECONDS
        from leadstream.errors import Transient
        from leadstream.kafka.loss_acknowledgments import read_acknowledged

        places = {(loss.topic, loss.partition) for loss in losses.all}
        with contextlib.suppress(Transient):
            losses.acknowledge(read_acknowledged(self._settings, places, self._group))


def source_for(
    verb: str,
    topics: list[str],
    settings: "Settings",
    service: VerbService,
    losses: LossReport | None = None,
) -> "KafkaSource":
    """Return a new member of a verb's consumer group, which reports to `losses`."""
    from leadstream.kafka.config import consumer_config
    from leadstream.kafka.ledger import OffsetLedger
    from leadstream.kafka.source import KafkaSource
    from leadstream.log import client_logger

    status, logger = service.context.status, service.context.logger

    def on_rebalance(kind: str, partitions: int) -> None:
        owned = len(source.assigned())
        status.rebalanced(kind, owned)
        logger.info("rebalance", kind=kind, partitions=partitions, owned=owned)

    source = KafkaSource(
        consumer_config(settings)
        | {"group.id": group_id_for(verb, settings), "logger": client_logger()},
        topics,
        max_records=settings.batch_max_records,
        linger_ms=settings.batch_linger_ms,
        on_rebalance=on_rebalance,
        on_absent=status.absent,
        ledger=OffsetLedger(losses.offsets.losses, losses.offsets) if losses else None,
    )
    return source
