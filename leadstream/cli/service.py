"""Parts that the verbs relay, sink and translate share: their registry, health and group."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prometheus_client import Counter

    from leadstream.kafka.source import KafkaSource
    from leadstream.process.membership import StoppableLoop
    from leadstream.process.service import Health, ServiceContext
    from leadstream.settings import Settings
    from schemas.registry import Registry


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


def source_for(
    verb: str, topics: list[str], settings: "Settings", service: VerbService
) -> "KafkaSource":
    """Return a new member of a verb's consumer group."""
    from leadstream.kafka.config import consumer_config
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
    )
    return source
