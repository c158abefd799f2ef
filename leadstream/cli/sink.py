"""`leadstream sink`: the current score of every lead in Postgres."""

import argparse
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING

from leadstream.cli.service import LossReport, serving_verb, source_for

if TYPE_CHECKING:
    from leadstream.kafka.batch import Batch
    from leadstream.log import Logger
    from leadstream.process.metrics import SinkMetrics


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
    from leadstream.process.signals import leave_on_signals

    leave_on_signals()
    from leadstream.settings import load_settings

    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    database_url = settings.need("DATABASE_URL", "name the Postgres that is to hold the scores")
    from leadstream.explanation import language
    from leadstream.kafka.connection_check import ConnectionCheck

    words = language(settings.language)
    access = ConnectionCheck(settings)
    from consumer.deliver.sink import ScoreTable, Sink
    from consumer.run.offset_report import RESCORE
    from leadstream.process.loop import BatchLoop
    from leadstream.process.metrics import SinkMetrics
    from schemas.codec import Reader

    access.check()
    metrics = SinkMetrics()
    with (
        serving_verb("sink", settings, metrics) as service,
        closing(ScoreTable(database_url)) as scores,
    ):
        losses = LossReport("sink", settings, service, metrics, RESCORE)
        loop = BatchLoop(service.health, losses.follow)
        reader = Reader("LeadPrediction", service.registry)
        report = SinkReport(metrics, service.context.logger)
        service.context.stop_by_signals(loop)
        started = cache(service.context.started)

        def membership() -> None:
            topics = [settings.topics.lead_predictions]
            with closing(source_for("sink", topics, settings, service, losses)) as source:
                started()
                loop.run(source, Sink(source, scores, reader, report, words=words).write)

        service.keep_membership(membership, loop)
    return 0


class SinkReport:
    """Log lines and metrics of the sink."""

    def __init__(self, metrics: "SinkMetrics", logger: "Logger") -> None:
        self._metrics = metrics
        self._logger = logger

    def written(self, batch: "Batch", *, scores: int, erased: int, seconds: float) -> None:
        """Write the one line of a batch, and count it."""
        self._metrics.rows.labels("scored").inc(scores)
        self._metrics.rows.labels("erased").inc(erased)
        self._logger.info(
            "batch",
            records=len(batch.messages),
            scores=scores,
            erased=erased,
            write_ms=round(seconds * 1000, 1),
        )

    def skipped(self, batch: "Batch", number: int, reason: str, detail: str) -> None:
        """Report a message that is no prediction, or whose row Postgres refuses."""
        message = batch.messages[number]
        self._metrics.rows.labels("skipped").inc()
        self._logger.warning(
            "record.skipped",
            reason=reason,
            detail=detail,
            partition=message.partition(),
            offset=message.offset(),
        )
