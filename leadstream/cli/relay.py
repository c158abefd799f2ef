"""`leadstream relay`: the outbox of the CRM's database to Kafka."""

import argparse
import time
from typing import TYPE_CHECKING

from leadstream.cli.progress import not_negative
from leadstream.cli.service import serving
from leadstream.errors import SettingsError

if TYPE_CHECKING:
    from leadstream.log import Logger
    from leadstream.process.metrics import RelayMetrics
    from leadstream.process.status import Status
    from producer.relay import Published


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "relay",
        help="publish what changes in the CRM's Postgres, until it is stopped",
        description="Publish each row of the outbox that `leadstream db migrate` adds to\n"
        "DATABASE_URL once, in order: changes of leads to the changes topic, submitted\n"
        "applications to the outcomes topic.",
        epilog="example:\n  LEADSTREAM_HTTP_PORT=8090 leadstream relay",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--state",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether changes carry the lead's state; without it the consumer reads it from Postgres (default yes)",
    )
    parser.add_argument(
        "--keep",
        type=not_negative,
        default=7,
        metavar="DAYS",
        help="how long published rows are kept (default 7)",
    )
    parser.add_argument(
        "--after",
        type=int,
        metavar="POSITION",
        help="begin after this row, whatever was published; for a Postgres that was restored",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Relay until SIGTERM or SIGINT."""
    from leadstream.process.signals import leave_on_signals

    leave_on_signals()
    from datetime import timedelta

    from leadstream.settings import load_settings

    if arguments.after is not None and arguments.after < 0:
        raise SettingsError(f"--after {arguments.after}: must be 0 or more")
    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    database_url = settings.need("DATABASE_URL", "name the Postgres of the CRM")
    from leadstream.kafka.connection_check import ConnectionCheck

    access = ConnectionCheck(settings)
    from leadstream.process.metrics import RelayMetrics
    from producer.outbox import Outbox
    from producer.relay import Options, Relay

    access.check()
    metrics = RelayMetrics()
    with serving("relay", settings, metrics) as served:
        relay = Relay(
            settings,
            Options(arguments.state, timedelta(days=arguments.keep), arguments.after),
            outbox=Outbox(database_url),
            registry=served.registry,
            health=served.health,
            watcher=Told(metrics, served.status, served.logger),
        )
        served.started(relay)
        relay.run()
    return 0


class Told:
    """What the relay does, as log lines and metrics."""

    def __init__(self, metrics: "RelayMetrics", status: "Status", logger: "Logger") -> None:
        self._metrics = metrics
        self._status = status
        self._logger = logger

    def opened(self, position: int, *, first: bool) -> None:
        """For /readyz: from now on this is the relay."""
        self._status.assigned(1)
        self._logger.info("relay.opened", position=position, first=first)

    def waiting(self, rows: int) -> None:
        """For whoever alerts on what is left, also while it cannot be published."""
        self._metrics.pending.set(rows)

    def published(self, batch: "Published") -> None:
        """The one line of a batch."""
        import numpy as np

        now = time.time()
        delays = np.array([now - moment.timestamp() for moment in batch.occurred_at])
        metrics = self._metrics
        with metrics.lock:
            for record, count in batch.records.items():
                metrics.rows.labels(record).inc(count)
            metrics.delay.observe(delays)
            metrics.pending.set(batch.pending)
        self._logger.info(
            "batch",
            changes=batch.records["LeadChanged"],
            outcomes=batch.records["LeadOutcome"],
            position=batch.position,
            pending=batch.pending,
            oldest_ms=round(float(delays.max()) * 1000),
            publish_ms=round(batch.seconds * 1000, 1),
        )

    def trimmed(self, rows: int) -> None:
        """Rows that are gone."""
        self._metrics.trimmed.inc(rows)
        self._logger.info("outbox.trimmed", rows=rows)
