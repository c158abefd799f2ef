"""`leadstream sink`: the current score of every lead in Postgres."""

import argparse
from typing import TYPE_CHECKING

from commands.health import Health

if TYPE_CHECKING:
    from consumer.batch import Batch
    from consumer.metrics import SinkMetrics
    from leadstream.errors import Poison
    from leadstream.log import Logger


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "sink",
        help="keep the current score of every lead in Postgres, until it is stopped",
        description="Write predictions to the table lead_scores in DATABASE_URL, which\n"
        "`leadstream db migrate` adds: one row a lead, replaced by newer predictions\n"
        "only, deleted when the lead is erased.",
        epilog="example:\n  LEADSTREAM_HTTP_PORT=8091 leadstream sink",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=run)


def run(_arguments: argparse.Namespace) -> int:
    """Write until SIGTERM or SIGINT."""
    from leadstream.stopping import leave_on_signals, stop_on_signals

    leave_on_signals()
    from leadstream import __version__, log
    from leadstream.settings import load_settings, unknown_variables

    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    database_url = settings.need("DATABASE_URL", "name the Postgres that is to hold the scores")
    from leadstream.access import Access

    access = Access(settings)
    from consumer.http import Endpoints
    from consumer.loop import Loop
    from consumer.metrics import SinkMetrics
    from consumer.sink import Scores, Sink
    from consumer.source import KafkaSource
    from consumer.status import Status
    from leadstream.kafka import consumer_config
    from schemas.codec import Reader
    from schemas.registry import Registry

    access.check()
    log.configure(settings)
    logger = log.get_logger()
    for sentence in unknown_variables():
        logger.warning("settings.unknown", detail=sentence)
    metrics, status = SinkMetrics(), Status()
    registry = Registry(settings.schema_registry_url) if settings.schema_registry_url else None
    scores = Scores(database_url)

    def on_rebalance(kind: str, partitions: int) -> None:
        owned = len(source.assigned())
        status.assigned(owned)
        logger.info("rebalance", kind=kind, partitions=partitions, owned=owned)

    endpoints = Endpoints(
        settings.http_host, settings.http_port, status=status, exposed=metrics.expose, model=lambda: None
    )
    try:
        source = KafkaSource(
            consumer_config(settings) | {"group.id": f"{settings.group_id}-sink", "logger": log.client_logger()},
            [settings.topics.lead_predictions],
            max_records=settings.batch_max_records,
            linger_ms=settings.batch_linger_ms,
            on_rebalance=on_rebalance,
            on_absent=status.absent,
        )
        loop = Loop(Health("sink", status, metrics.held, logger))
        sink = Sink(source, scores, Reader("LeadPrediction", registry), Told(metrics, logger))
        stop_on_signals(loop, logger)
        logger.info("started", version=__version__, http=f"http://{settings.http_host}:{endpoints.port}")
        try:
            loop.run(source, sink.write)
        finally:
            source.close()
    finally:
        endpoints.close()
        scores.close()
        if registry:
            registry.close()
    logger.info("stopped")
    return 0


class Told:
    """What the sink does, as log lines and metrics."""

    def __init__(self, metrics: "SinkMetrics", logger: "Logger") -> None:
        self._metrics = metrics
        self._logger = logger

    def written(self, batch: "Batch", *, scores: int, erased: int, seconds: float) -> None:
        """The one line of a batch."""
        self._metrics.rows.labels("scored").inc(scores)
        self._metrics.rows.labels("erased").inc(erased)
        self._logger.info(
            "batch", records=len(batch.messages), scores=scores, erased=erased, write_ms=round(seconds * 1000, 1)
        )

    def skipped(self, batch: "Batch", number: int, poison: "Poison") -> None:
        """A message that is no prediction."""
        message = batch.messages[number]
        self._metrics.rows.labels("skipped").inc()
        self._logger.warning(
            "record.skipped",
            reason=poison.reason.value,
            detail=poison.detail,
            partition=message.partition(),
            offset=message.offset(),
        )
