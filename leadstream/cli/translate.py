"""`leadstream translate`: change events of another system as lead changes."""

import argparse
import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from leadstream.cli.service import (
    LossReport,
    VerbService,
    group_id_for,
    serving_verb,
    source_for,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from leadstream.errors import Poison
    from leadstream.kafka.batch import Batch, Message
    from leadstream.kafka.publisher import AcknowledgedPublisher, TransactionalPublisher
    from leadstream.kafka.source import KafkaSource
    from leadstream.kafka.topic_config import RecordLimits
    from leadstream.log import Logger
    from leadstream.process.metrics import TranslateMetrics
    from leadstream.settings import Settings
    from producer.translate import Translator
    from schemas.crm_description import CrmDescription
    from schemas.registry import Registry

SNAPSHOT = "let the source send a snapshot of its rows again"
EPILOG = """examples:
  leadstream translate --from crm.public.people --format debezium
  leadstream translate --from crm.events --format cloudevents --columns lead_id=u
  leadstream translate --from sf.LeadChangeEvent --format salesforce
"""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "translate",
        help="turn change events of Debezium, Salesforce or CloudEvents into lead changes",
        description="Read the change events of another system from a topic of their own, and "
        "publish\n"
        "each as a lead change under its lead's id. What cannot be understood becomes a\n"
        "dead letter. LEADSTREAM_FIELDS says what the columns mean.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--from", dest="topic", metavar="TOPIC", required=True, help="the topic of the other system"
    )
    parser.add_argument(
        "--format",
        choices=["debezium", "outbox", "cloudevents", "salesforce"],
        required=True,
        help="debezium: of the table of leads, with its envelope or unwrapped; outbox: of "
        "leadstream_outbox through its outbox event router; salesforce: Change Data Capture",
    )
    parser.add_argument(
        "--mapping",
        metavar="M.toml",
        type=Path,
        help="the description of the columns (default LEADSTREAM_FIELDS; without one, the columns "
        "of people, or the preset of Salesforce)",
    )
    parser.add_argument(
        "--columns",
        default="",
        metavar="F=C,...",
        help="the column of each field that has another name there; numbers.gpa=average adds one "
        "of the CRM's own",
    )
    parser.add_argument(
        "--object",
        default="Lead",
        metavar="NAME",
        help="salesforce: the object that holds leads (default Lead); others are left out",
    )
    parser.add_argument(
        "--state",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether states are taken from the events; else the consumer reads them from "
        "Postgres (default yes)",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Translate until SIGTERM or SIGINT."""
    from leadstream.process.signals import leave_on_signals

    leave_on_signals()
    from leadstream.errors import SettingsError
    from leadstream.settings import load_settings

    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    if arguments.topic == settings.topics.lead_changes:
        raise SettingsError(
            f"--from {arguments.topic}: lead changes go there; "
            "foreign ones need a topic of their own"
        )
    from leadstream.kafka.connection_check import ConnectionCheck

    access = ConnectionCheck(settings)
    from leadstream.kafka.topic_config import record_limits
    from leadstream.process.loop import BatchLoop
    from leadstream.process.metrics import TranslateMetrics

    access.check()
    metrics = TranslateMetrics()
    with serving_verb("translate", settings, metrics) as service:
        report = TranslationReport(metrics, service.context.logger)
        topics = settings.topics
        limits = record_limits(settings, topics.lead_changes, topics.dead_letters)
        translator = _translator(arguments, settings, service.registry, report, limits)
        losses = LossReport("translate", settings, service, metrics, SNAPSHOT)
        loop = BatchLoop(service.health, losses.follow)
        service.context.stop_by_signals(loop)
        service.context.started()

        def membership() -> None:
            with _clients(arguments.topic, settings, service, limits, losses) as clients:
                source, publisher = clients
                loop.run(source, partial(translator.translate, publisher=publisher), publisher.open)

        service.keep_membership(membership, loop)
    return 0


def _translator(
    arguments: argparse.Namespace,
    settings: "Settings",
    registry: "Registry | None",
    report: "TranslationReport",
    limits: "RecordLimits",
) -> "Translator":
    from leadstream.kafka.dead_letter import Limit
    from producer.translate import Translator
    from schemas.codec import Reader, Writer
    from schemas.foreign_formats import ConversionOptions, ForeignFormat

    return Translator(
        ForeignFormat(arguments.format),
        ConversionOptions(
            _description(arguments, settings),
            arguments.state,
            Reader("LeadChanged", registry),
            registry,
            fetched=settings.database_url is not None,
            object=arguments.object,
        ),
        writer=Writer("LeadChanged", registry, settings.topics.lead_changes),
        limit=Limit(settings.dead_letter_max_ratio, settings.dead_letter_max_consecutive),
        topics=settings.topics,
        group_id=group_id_for("translate", settings),
        observer=report,
        limits=limits,
    )


def _description(arguments: argparse.Namespace, settings: "Settings") -> "CrmDescription":
    """Return what the columns of the events mean. Raises SettingsError."""
    from producer.presets import read_preset
    from schemas.description_file import read_document
    from schemas.foreign_rows import parse_columns

    path = arguments.mapping or (settings.crm_description and Path(settings.crm_description))
    if path:
        return parse_columns(arguments.columns, read_document(path), str(path))
    document = read_preset("salesforce") if arguments.format == "salesforce" else None
    return parse_columns(arguments.columns, document)


@contextlib.contextmanager
def _clients(
    topic: str,
    settings: "Settings",
    service: VerbService,
    limits: "RecordLimits",
    losses: LossReport,
) -> "Iterator[tuple[KafkaSource, TransactionalPublisher | AcknowledgedPublisher]]":
    """Make the two clients of one membership of the group, and close them after the block."""
    from leadstream.kafka.config import producer_config
    from leadstream.kafka.publisher import AcknowledgedPublisher, TransactionalPublisher
    from leadstream.log import client_logger
    from leadstream.settings import Delivery

    source = source_for("translate", [topic], settings, service, losses)
    exactly_once = settings.delivery is Delivery.EXACTLY_ONCE
    kind = TransactionalPublisher if exactly_once else AcknowledgedPublisher
    config = producer_config(settings, transactional=exactly_once, verb="translate") | {
        "logger": client_logger()
    }
    with (
        contextlib.closing(source),
        contextlib.closing(kind(config, source, limits=limits)) as publisher,
    ):
        yield source, publisher


class TranslationReport:
    """Log lines and metrics of the translator."""

    def __init__(self, metrics: "TranslateMetrics", logger: "Logger") -> None:
        self._metrics = metrics
        self._logger = logger

    def dead_lettered(self, message: "Message", poison: "Poison") -> None:
        """Write where a dead letter comes from."""
        self._logger.warning(
            "dead_letter",
            reason=poison.reason.value,
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            detail=poison.detail,
        )

    def translated(self, batch: "Batch", dispositions: "Counter[str]", seconds: float) -> None:
        """Write the one line of a batch, and count it."""
        for disposition, count in dispositions.items():
            self._metrics.records.labels(disposition).inc(count)
        self._logger.info(
            "batch",
            records=len(batch.messages),
            **dispositions,
            translate_ms=round(seconds * 1000, 1),
        )
