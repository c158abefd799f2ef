"""`leadstream relay`: the outbox of the CRM's database to Kafka."""

import argparse
import time
from typing import TYPE_CHECKING

from leadstream.cli.progress import not_negative
from leadstream.cli.service import serving_verb
from leadstream.errors import SettingsError

if TYPE_CHECKING:
    from leadstream.log import Logger
    from leadstream.process.metrics import RelayMetrics
    from leadstream.process.status import Status
    from producer.outbox import SkippedRow
    from producer.relay import PublishedBatch


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
        help="whether changes carry the lead's state; without it the consumer reads it from "
        "Postgres (default yes)",
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
    from producer.relay import Relay, RelayOptions
    from schemas.description_file import described_crm

    description = described_crm(settings)
    access.check()
    metrics = RelayMetrics()
    with serving_verb("relay", settings, metrics) as service:
        relay = Relay(
            settings,
            RelayOptions(arguments.state, timedelta(days=arguments.keep), arguments.after),
            outbox=Outbox(database_url, description),
            registry=service.registry,
            health=service.health,
            description=description,
            observer=RelayReport(metrics, service.context.status, service.context.logger),
        )
        service.context.stop_by_signals(relay)
        service.context.started()
        relay.run()
    return 0


class RelayReport:
    """Log lines and metrics of the relay."""

    def __init__(self, metrics: "RelayMetrics", status: "Status", logger: "Logger") -> None:
        self._metrics = metrics
        self._status = status
        self._logger = logger

    def opened(self, position: int, *, first: bool) -> None:
        """Report that this process is the relay now: /readyz needs it."""
        self._status.assigned(1)
        self._logger.info("relay.opened", position=position, first=first)

    def waiting(self, rows: int) -> None:
        """Report unpublished rows, also while none can be published: alerts need it."""
        self._metrics.pending.set(rows)

    def published(self, batch: "PublishedBatch") -> None:
        """Write the one line of a batch, and count it."""
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

    def skipped(self, row: "SkippedRow") -> None:
        """Report a row that cannot be published, by its position."""
        self._metrics.rows.labels("skipped").inc()
        self._logger.warning("row.skipped", position=row.position, detail=row.why)

    def trimmed(self, rows: int) -> None:
        """Report deleted rows."""
        self._metrics.trimmed.inc(rows)
        self._logger.info("outbox.trimmed", rows=rows)
