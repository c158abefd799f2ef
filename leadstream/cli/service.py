"""What the verbs beside `run` that go on until they are stopped have in common: their HTTP, their log, their end."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prometheus_client import Counter

    from leadstream.errors import Transient
    from leadstream.kafka.source import KafkaSource
    from leadstream.log import Logger
    from leadstream.process.signals import Stoppable
    from leadstream.process.status import Status
    from leadstream.settings import Settings
    from schemas.registry import Registry


class Exposed(Protocol):
    """The metrics of a verb."""

    held: "Counter"

    def expose(self) -> bytes:
        """All of them in the text format of Prometheus."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a verb works with while it is served."""

    status: "Status"
    health: "Health"
    registry: "Registry | None"
    logger: "Logger"
    http: str

    def started(self, loop: "Stoppable") -> None:
        """From now on signals end the loop after the work at hand, and the log says that it turns."""
        from leadstream import __version__
        from leadstream.process.signals import stop_on_signals

        stop_on_signals(loop, self.logger)
        self.logger.info("started", version=__version__, http=self.http)


@contextlib.contextmanager
def serving(verb: str, settings: "Settings", metrics: Exposed) -> Iterator[Served]:
    """The log, the HTTP endpoints and the schema registry of a verb, for the block."""
    from leadstream import log
    from leadstream.process.http import Endpoints
    from leadstream.process.status import Status
    from leadstream.settings import unknown_variables
    from schemas.registry import Registry

    log.configure(settings)
    logger = log.get_logger()
    for sentence in unknown_variables():
        logger.warning("settings.unknown", detail=sentence)
    status = Status()
    with contextlib.ExitStack() as stack:
        registry = None
        if settings.schema_registry_url:
            registry = stack.enter_context(
                contextlib.closing(Registry(settings.schema_registry_url))
            )
        endpoints = Endpoints(
            settings.http_host,
            settings.http_port,
            status=status,
            exposed=metrics.expose,
            model=lambda: None,
        )
        stack.callback(endpoints.close)
        health = Health(verb, status, metrics.held, logger)
        yield Served(
            status, health, registry, logger, f"http://{settings.http_host}:{endpoints.port}"
        )
    logger.info("stopped")


def group_of(verb: str, settings: "Settings") -> str:
    """The consumer group of a verb beside `run`."""
    return f"{settings.group_id}-{verb}"


def source_of(verb: str, topics: list[str], settings: "Settings", served: Served) -> "KafkaSource":
    """A verb's membership of its group."""
    from leadstream.kafka.config import consumer_config
    from leadstream.kafka.source import KafkaSource
    from leadstream.log import client_logger

    def on_rebalance(kind: str, partitions: int) -> None:
        owned = len(source.assigned())
        served.status.assigned(owned)
        served.logger.info("rebalance", kind=kind, partitions=partitions, owned=owned)

    source = KafkaSource(
        consumer_config(settings)
        | {"group.id": group_of(verb, settings), "logger": client_logger()},
        topics,
        max_records=settings.batch_max_records,
        linger_ms=settings.batch_linger_ms,
        on_rebalance=on_rebalance,
        on_absent=served.status.absent,
    )
    return source


class Health:
    """Whether the loop turns, and what holds it back: one line for each trouble, however often it is met."""

    def __init__(self, verb: str, status: "Status", held: "Counter", logger: "Logger") -> None:
        self._verb = verb
        self._status = status
        self._counter = held
        self._logger = logger
        self._held: str | None = None

    def beat(self) -> None:
        """The loop has turned."""
        self._status.beat()

    def held(self, trouble: "Transient") -> None:
        """A dependency does not answer; nothing is lost, and it is tried again."""
        self._counter.labels(trouble.dependency).inc()
        self._status.trouble(trouble.dependency, trouble.detail)
        if self._held != trouble.dependency:
            self._logger.warning(
                f"{self._verb}.held", dependency=trouble.dependency, detail=trouble.detail
            )
        self._held = trouble.dependency

    def resumed(self) -> None:
        """The loop does its work again."""
        self._status.well()
        self._logger.info(f"{self._verb}.resumed", dependency=self._held)
        self._held = None
