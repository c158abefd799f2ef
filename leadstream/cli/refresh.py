"""`leadstream refresh`: score leads again when their score has stopped to hold."""

import argparse
from typing import TYPE_CHECKING

from leadstream.cli.progress import positive
from leadstream.cli.service import serving_verb

if TYPE_CHECKING:
    from collections import Counter

    from leadstream.log import Logger
    from leadstream.process.metrics import RefreshMetrics

RATE = 200


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "refresh",
        help="score leads again when time has changed their score, until it is stopped",
        description="Ask for a new score of each lead whose `valid_until` has passed, and of all\n"
        "leads after a promotion. `run` reads their states from Postgres.",
        epilog="example:\n  LEADSTREAM_HTTP_PORT=8093 leadstream refresh --rate 100",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rate",
        type=positive,
        default=RATE,
        metavar="N",
        help=f"ask for at most N leads a second (default {RATE})",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Refresh until SIGTERM or SIGINT."""
    from leadstream.process.signals import leave_on_signals

    leave_on_signals()
    from leadstream.settings import load_settings

    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    settings.need("DATABASE_URL", "`run` reads the states of refreshed leads from Postgres")
    from leadstream.kafka.connection_check import ConnectionCheck

    access = ConnectionCheck(settings)
    from consumer.refresh.requester import Refresh
    from leadstream.process.metrics import RefreshMetrics
    from models.registry.versions import open_registry

    models = open_registry(settings)
    access.check()
    metrics = RefreshMetrics()
    with serving_verb("refresh", settings, metrics) as service:
        context = service.context
        refresh = Refresh(
            settings,
            arguments.rate,
            models=models,
            registry=service.registry,
            status=context.status,
            health=service.health,
            observer=RefreshReport(metrics, context.logger),
        )
        context.stop_by_signals(refresh)
        context.started(rate=arguments.rate)
        refresh.run()
    return 0


class RefreshReport:
    """Log lines and metrics of the refresh service."""

    def __init__(self, metrics: "RefreshMetrics", logger: "Logger") -> None:
        self._metrics = metrics
        self._logger = logger

    def ready(self, leads: int) -> None:
        """Report that this process is the refresh service now."""
        self._logger.info("refresh.ready", leads=leads)

    def requested(self, causes: "Counter[str]", seconds: float) -> None:
        """Write the one line of a transaction, and count it."""
        for cause, count in causes.items():
            self._metrics.requests.labels(cause).inc(count)
        self._logger.info("batch", **causes, commit_ms=round(seconds * 1000, 1))

    def progress(self, *, overdue_seconds: float, outdated: int, leads: int) -> None:
        """Report how far the service is behind, and how far a sweep is."""
        self._metrics.overdue.set(max(overdue_seconds, 0.0))
        self._metrics.outdated.set(outdated)
        self._metrics.leads.set(leads)
