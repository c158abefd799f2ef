"""`leadstream history`: the stream's own past, as Delta tables."""

import argparse
import json
import sys
from collections import Counter
from contextlib import closing, suppress
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from leadstream.cli import history_import
from leadstream.cli.history_extra import PURPOSE, need_extra
from leadstream.cli.service import serving_verb, source_for
from leadstream.errors import Transient

if TYPE_CHECKING:
    from consumer.history.summary import TableSummary
    from consumer.history.topic_records import TopicRecords
    from consumer.history.upkeep import UpkeepResult
    from consumer.scoring.leads import LeadLookup
    from leadstream.errors import Poison
    from leadstream.kafka.batch import Message
    from leadstream.log import Logger
    from leadstream.process.metrics import HistoryMetrics
    from leadstream.settings import Settings

# The upkeep may end within the time that a stop has.
UPKEEP_SECONDS = 10.0
# Records that are decoded together.
BATCH_RECORDS = 10_000


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs."""
    parser = verbs.add_parser(
        "history",
        help="keep changes, predictions and outcomes as Delta tables",
        description="The stream's own past at LEADSTREAM_HISTORY: one Delta table each for\n"
        "changes, predictions and outcomes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inner = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    write = inner.add_parser(
        "write",
        help="append the topics to the history, until it is stopped",
        description="Append lead changes, predictions, shadow predictions and outcomes to the\n"
        "tables at LEADSTREAM_HISTORY, each record exactly once. An erased lead leaves\n"
        "all tables. Changes without state get the state of now from DATABASE_URL.",
        epilog="example:\n  LEADSTREAM_HTTP_PORT=8092 leadstream history write",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    write.set_defaults(func=run_write)
    history_import.add_parser(inner)
    compact = inner.add_parser(
        "compact",
        help="join small files, delete unused ones, and erase at once",
        description="Delete the rows of erased leads, join small files, and delete the files that\n"
        "no version needs. `history write` does the same by itself, in time.",
        epilog="example:\n  leadstream history compact --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compact.add_argument("--json", action="store_true", help="print one JSON object")
    compact.set_defaults(func=run_compact)
    status = inner.add_parser(
        "status",
        help="print the size of each table, and how far each topic is written",
        description="Print the size of each table, and how far each topic is written.",
        epilog="example:\n  leadstream history status --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.set_defaults(func=run_status)


def run_write(_arguments: argparse.Namespace) -> int:
    """Write until SIGTERM or SIGINT."""
    from leadstream.process.signals import leave_on_signals

    leave_on_signals()
    from leadstream.settings import load_settings

    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    root = settings.need("LEADSTREAM_HISTORY", PURPOSE)
    from leadstream.kafka.connection_check import ConnectionCheck

    access = ConnectionCheck(settings)
    need_extra()
    from consumer.history.table_schemas import tables_by_topic
    from consumer.history.topic_records import HistoryReader
    from consumer.history.upkeep import HistoryUpkeep
    from consumer.history.writer import HistoryTables, HistoryWriter
    from leadstream.background import Worker
    from leadstream.process.loop import BatchLoop
    from leadstream.process.metrics import HistoryMetrics

    access.check()
    metrics = HistoryMetrics()
    with serving_verb("history", settings, metrics) as service:
        leads = _lookup(settings)
        if leads is not None:
            service.context.open(leads)
        loop = BatchLoop(service.health)
        tables = HistoryTables(root)
        reader = HistoryReader(settings.topics, service.registry, leads)
        report = HistoryReport(metrics, service.context.logger)
        service.context.stop_by_signals(loop)
        worker = Worker("upkeep")
        service.context.resources.callback(worker.close, UPKEEP_SECONDS)
        upkeep = HistoryUpkeep(root, report, worker, erasure_hours=settings.history_erasure_hours)
        started = cache(service.context.started)
        larger = settings.model_copy(update={"batch_max_records": BATCH_RECORDS})

        def membership() -> None:
            topics = list(tables_by_topic(settings.topics))
            with closing(source_for("history", topics, larger, service)) as source:
                writer = HistoryWriter(
                    tables, reader, source, report, commit_seconds=settings.history_commit_seconds
                )
                started()

                def ready() -> None:
                    tables.open()
                    if writer.flush_due():
                        service.health.resumed()
                    upkeep.run_due(writer.in_charge)

                loop.run(source, writer.process, ready)
                with suppress(Transient):  # what is left is read again
                    writer.flush()

        service.keep_membership(membership, loop)
    return 0


def run_compact(arguments: argparse.Namespace) -> int:
    """Keep every table once; the exit code is 1 if there are none."""
    from leadstream.settings import load_settings

    settings = load_settings()
    root = settings.need("LEADSTREAM_HISTORY", PURPOSE)
    need_extra()
    from consumer.history.table_schemas import TABLES
    from consumer.history.upkeep import TableUpkeep

    found = [TableUpkeep(root, table) for table in TABLES]
    results = [
        upkeep.run(erase=True, join=True, every_file=True) for upkeep in found if upkeep.look()
    ]
    if arguments.json:
        print(json.dumps({"tables": [asdict(each) for each in results]}, indent=2))
    else:
        for each in results:
            print(
                f"{each.table}: {each.erased_rows:,} rows of erased leads, {each.joined_files:,} "
                f"files joined, {each.deleted_files:,} deleted"
            )
    return 0 if results else _report_absent(root)


def _report_absent(root: str) -> int:
    from leadstream.addresses import masked_url

    print(
        f"leadstream: no history at {masked_url(root)}; `leadstream history write` makes one",
        file=sys.stderr,
    )
    return 1


def run_status(arguments: argparse.Namespace) -> int:
    """Print a summary of the tables; the exit code is 1 if there are none."""
    from leadstream.settings import load_settings

    settings = load_settings()
    root = settings.need("LEADSTREAM_HISTORY", PURPOSE)
    need_extra()
    from consumer.history.summary import summarize
    from consumer.history.writer import HistoryTables
    from leadstream.addresses import masked_url

    found = summarize(HistoryTables(root), settings.topics)
    if arguments.json:
        tables = [asdict(each) for each in found]
        print(json.dumps({"history": masked_url(root), "tables": tables}, indent=2))
    elif found:
        _print_summaries(found)
    return 0 if found else _report_absent(root)


def _print_summaries(found: "list[TableSummary]") -> None:
    from rich.table import Table

    from leadstream.cli.rich_output import rich_console

    table = Table(box=None, pad_edge=False)
    table.add_column("table")
    for heading in ("rows", "files", "MB"):
        table.add_column(heading, justify="right")
    for heading in ("months", "last commit"):
        table.add_column(heading)
    for each in found:
        months = dict.fromkeys(filter(None, (each.first_month, each.last_month)))
        table.add_row(
            each.table,
            f"{each.rows:,}",
            f"{each.files:,}",
            f"{each.bytes / 1e6:,.1f}",
            " to ".join(months) or "-",
            (each.written_at or "-").replace("+00:00", "Z"),
        )
    console = rich_console()
    console.print(table)
    for each in found:
        for topic, offsets in each.offsets.items():
            ends = ", ".join(f"{partition}: {offset:,}" for partition, offset in offsets.items())
            console.print(f"{topic}, next offset by partition: {ends or '-'}")


def _lookup(settings: "Settings") -> "LeadLookup | None":
    if not settings.database_url:
        return None
    from consumer.run.postgres import PostgresLeads
    from schemas.description_file import described_crm

    return PostgresLeads(settings.database_url, described_crm(settings))


class HistoryReport:
    """Log lines and metrics of `history write`."""

    def __init__(self, metrics: "HistoryMetrics", logger: "Logger") -> None:
        self._metrics = metrics
        self._logger = logger

    def received(self, records: "TopicRecords") -> None:
        """Count records that were decoded."""
        for source, count in records.states.items():
            self._metrics.states.labels(source).inc(count)

    def skipped(self, message: "Message", poison: "Poison") -> None:
        """Report a record that cannot be read."""
        from leadstream import log

        self._metrics.records.labels(message.topic(), "skipped").inc()
        log.warn_skipped(self._logger, message, poison)

    def erased(self, topics: "Counter[str]") -> None:
        """Count erasures that were recorded."""
        for topic, count in topics.items():
            self._metrics.records.labels(topic, "erased").inc(count)

    def committed(
        self,
        table: str,
        *,
        written: "Counter[str]",
        late: "Counter[str]",
        version: int,
        seconds: float,
    ) -> None:
        """Write the one line of a commit, and count it."""
        for disposition, counts in (("written", written), ("late", late)):
            for topic, count in counts.items():
                self._metrics.records.labels(topic, disposition).inc(count)
        self._metrics.commits.labels(table).inc()
        self._metrics.commit_seconds.labels(table).observe(seconds)
        self._logger.info(
            "commit",
            table=table,
            rows=written.total(),
            late=late.total(),
            version=version,
            commit_ms=round(seconds * 1000, 1),
        )

    def kept(self, result: "UpkeepResult") -> None:
        """Report what the upkeep did on a table."""
        self._metrics.upkeep.labels(result.table, "done").inc()
        self._metrics.erased_rows.labels(result.table).inc(result.erased_rows)
        self._logger.info(
            "table.kept",
            table=result.table,
            erased_rows=result.erased_rows,
            joined_files=result.joined_files,
            deleted_files=result.deleted_files,
            seconds=round(result.seconds, 2),
        )

    def upkeep_failed(self, table: str, detail: str) -> None:
        """Report that the upkeep of a table failed."""
        self._metrics.upkeep.labels(table, "failed").inc()
        self._logger.warning("table.upkeep_failed", table=table, detail=detail)

    def conflict(self, table: str, detail: str) -> None:
        """Report a commit that another one forced to start again."""
        self._metrics.conflicts.labels(table).inc()
        self._logger.info("commit.conflict", table=table, detail=detail)
