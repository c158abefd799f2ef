"""`leadstream translate`: change events of another system as lead changes."""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from commands.health import Health

if TYPE_CHECKING:
    from collections import Counter

    from consumer.batch import Batch
    from consumer.metrics import TranslateMetrics
    from consumer.publisher import AcknowledgedPublisher, TransactionalPublisher
    from consumer.source import KafkaSource
    from consumer.status import Status
    from consumer.translate import Translator
    from leadstream.log import Logger
    from leadstream.settings import Settings
    from schemas.registry import Registry

EPILOG = """examples:
  leadstream translate --from crm.public.people --format debezium
  leadstream translate --from crm.events --format cloudevents --columns lead_id=uid
"""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "translate",
        help="make lead changes of Debezium's change events or CloudEvents, until it is stopped",
        description="Read the change events of another system from a topic of their own, and publish\n"
        "each as a lead change under its lead's id. What cannot be understood becomes a\n"
        "dead letter.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--from", dest="topic", metavar="TOPIC", required=True, help="the topic of the other system")
    parser.add_argument(
        "--format",
        choices=["debezium", "outbox", "cloudevents"],
        required=True,
        help="debezium: of the table people, with its envelope or unwrapped; outbox: of leadstream_outbox through "
        "its outbox event router",
    )
    parser.add_argument(
        "--columns", default="", metavar="F=C,...", help="the column of each field that has another name there"
    )
    parser.add_argument(
        "--state",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether states are taken from the events; else the consumer reads them from Postgres (default yes)",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Translate until SIGTERM or SIGINT."""
    from leadstream.stopping import leave_on_signals, stop_on_signals

    leave_on_signals()
    from leadstream import __version__, log
    from leadstream.errors import Fenced, SettingsError
    from leadstream.settings import load_settings, unknown_variables

    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    if arguments.topic == settings.topics.lead_changes:
        raise SettingsError(f"--from {arguments.topic}: lead changes go there; foreign ones need a topic of their own")
    from leadstream.access import Access

    access = Access(settings)
    from consumer.http import Endpoints
    from consumer.loop import Loop
    from consumer.metrics import TranslateMetrics
    from consumer.status import Status
    from schemas.registry import Registry

    access.check()
    log.configure(settings)
    logger = log.get_logger()
    for sentence in unknown_variables():
        logger.warning("settings.unknown", detail=sentence)
    metrics, status = TranslateMetrics(), Status()
    registry = Registry(settings.schema_registry_url) if settings.schema_registry_url else None
    translator = _translator(arguments, settings, registry, Told(metrics, logger))
    loop = Loop(Health("translate", status, metrics.held, logger))
    endpoints = Endpoints(
        settings.http_host, settings.http_port, status=status, exposed=metrics.expose, model=lambda: None
    )
    stop_on_signals(loop, logger)
    logger.info("started", version=__version__, http=f"http://{settings.http_host}:{endpoints.port}")
    try:
        while not loop.stopping:
            source, publisher = _clients(arguments.topic, settings, status, logger)
            try:
                loop.run(source, partial(translator.translate, publisher=publisher), publisher.open)
            except Fenced as fenced:
                logger.warning("rejoining", detail=str(fenced))
            finally:
                publisher.close()
                source.close()
                status.left()
    finally:
        endpoints.close()
        if registry:
            registry.close()
    logger.info("stopped")
    return 0


def _translator(
    arguments: argparse.Namespace, settings: "Settings", registry: "Registry | None", told: "Told"
) -> "Translator":
    from consumer.dead_letters import Limit
    from consumer.translate import Translator
    from schemas.codec import Reader, Writer
    from schemas.foreign import Format, Understanding, columns_of

    return Translator(
        Format(arguments.format),
        Understanding(columns_of(arguments.columns), arguments.state, Reader("LeadChanged", registry), registry),
        writer=Writer("LeadChanged", registry, settings.topics.lead_changes),
        limit=Limit(settings.dead_letter_max_ratio, settings.dead_letter_max_consecutive),
        topics=settings.topics,
        group_id=_group_id(settings),
        watcher=told,
    )


def _clients(
    topic: str, settings: "Settings", status: "Status", logger: "Logger"
) -> "tuple[KafkaSource, TransactionalPublisher | AcknowledgedPublisher]":
    """The two clients of one membership of the group."""
    from consumer.publisher import AcknowledgedPublisher, TransactionalPublisher
    from consumer.source import KafkaSource
    from leadstream.kafka import consumer_config, producer_config
    from leadstream.log import client_logger
    from leadstream.settings import Delivery

    def on_rebalance(kind: str, partitions: int) -> None:
        owned = len(source.assigned())
        status.assigned(owned)
        logger.info("rebalance", kind=kind, partitions=partitions, owned=owned)

    client = {"logger": client_logger()}
    source = KafkaSource(
        consumer_config(settings) | client | {"group.id": _group_id(settings)},
        [topic],
        max_records=settings.batch_max_records,
        linger_ms=settings.batch_linger_ms,
        on_rebalance=on_rebalance,
        on_absent=status.absent,
    )
    exactly_once = settings.delivery is Delivery.EXACTLY_ONCE
    kind = TransactionalPublisher if exactly_once else AcknowledgedPublisher
    return source, kind(producer_config(settings, transactional=exactly_once) | client, source)


def _group_id(settings: "Settings") -> str:
    return f"{settings.group_id}-translate"


class Told:
    """What the translator does, as log lines and metrics."""

    def __init__(self, metrics: "TranslateMetrics", logger: "Logger") -> None:
        self._metrics = metrics
        self._logger = logger

    def translated(self, batch: "Batch", fates: "Counter[str]", seconds: float) -> None:
        """The one line of a batch."""
        for fate, count in fates.items():
            self._metrics.records.labels(fate).inc(count)
        self._logger.info("batch", records=len(batch.messages), **fates, translate_ms=round(seconds * 1000, 1))
