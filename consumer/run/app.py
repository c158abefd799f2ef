"""The composition root: builds the service from its settings, and runs it until it is stopped."""

import gc
import sys
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from consumer.retrain_requests import on_drift
from consumer.run.clock_watch import ClockWatch
from consumer.run.cluster_watch import ClusterWatch
from consumer.run.column_watch import ColumnWatch
from consumer.run.loop import Service, untraced
from consumer.run.offset_report import OffsetReport
from consumer.run.recall import Recall
from consumer.scoring.codecs import codecs_for
from consumer.scoring.erased import PublishedErasures
from consumer.scoring.pipeline import Pipeline
from consumer.scoring.versions import Versions
from leadstream import log
from leadstream.background import Worker, inline
from leadstream.errors import SettingsError
from leadstream.kafka.batch import Partition
from leadstream.kafka.cluster_view import ClusterViewer
from leadstream.kafka.config import consumer_config, producer_config
from leadstream.kafka.dead_letter import Limit
from leadstream.kafka.ledger import OffsetLedger
from leadstream.kafka.publisher import AcknowledgedPublisher, Publisher, TransactionalPublisher
from leadstream.kafka.source import KafkaSource
from leadstream.kafka.topic_config import RecordLimits, record_limits
from leadstream.process.membership import keep_membership
from leadstream.process.metrics import Metrics
from leadstream.process.service import ServiceContext, serving
from leadstream.process.status import Status
from leadstream.settings import Delivery, Late, Settings, Traces, fingerprint_of
from models.registry.slot import ChallengerSlot, ModelSlot
from models.registry.versions import open_registry
from models.serve.scorer import Model
from schemas.crm_description import CrmDescription
from schemas.description_file import described_crm
from schemas.registry import Registry

if TYPE_CHECKING:
    from consumer.run.postgres import PostgresLeads
    from consumer.run.tracing import Tracing

# Seconds that a thread waits for Python's lock. The loop releases it twenty times a batch; at
# Python's 5 ms, a model that is read in the background would stop it for whole batches.
SWITCH_SECONDS = 0.0005
# New containers before a search for cycles. At Python's 700 it would run ten times a batch; at
# 50,000, models out of service would stay in memory too long.
GARBAGE_FROM = 25_000
# The longest check of a version, if its store answers.
CHECK_SECONDS = 2.0


def run(settings: Settings) -> None:
    """Run the consumer until SIGTERM or SIGINT. Raises UserError if a person must act."""
    with serving(settings, "run") as context:
        _run(settings, context)


def _run(settings: Settings, context: ServiceContext) -> None:
    """Build the service from its settings, and run it; the context closes what is opened here."""
    logger, status = context.logger, context.status
    metrics, tracing = Metrics(), _tracing(settings)
    if tracing:
        context.open(tracing)
    metrics.loop_idle.set_function(status.idle)
    models = open_registry(settings)
    url = settings.schema_registry_url
    registry = context.open(Registry(url)) if url else None
    crm = described_crm(settings)
    leads = context.open(_postgres(settings.database_url, crm)) if settings.database_url else None
    workers = Worker("models"), Worker("models"), Worker("watch")
    for worker in workers:
        context.resources.callback(worker.close, CHECK_SECONDS)
    slot, challenger = ModelSlot(models, run=workers[0]), ChallengerSlot(models, run=workers[1])
    versions = Versions() if settings.late is Late.COALESCE else None
    erased = PublishedErasures()
    recall = Recall(settings, registry, versions, erased, status.beat)
    # The publisher asks for them.
    limits = record_limits(settings, *_outputs_of(settings), settings.topics.shadow_predictions)
    described = [field.name for field in crm.fields] if crm and crm.database else []
    columns = ColumnWatch(leads, status, logger, described) if leads else None

    def follow(places: Collection[Partition]) -> None:
        watch.follow(places)
        if columns:
            columns.follow(slot.loaded)

    fingerprint = fingerprint_of(settings)
    metrics.settings.labels(settings.group_id, fingerprint).set(1)

    def on_replay(place: Partition) -> None:
        if place[0] == settings.topics.lead_changes:
            recall.read_everything()

    offsets = OffsetReport(metrics, status, logger, on_replay)
    watch = ClusterWatch(
        ClusterViewer(settings, _topics_of(settings)).look,
        workers[2],
        outputs=_outputs_of(settings),
        losses=offsets.losses,
        metrics=metrics,
        status=status,
        logger=logger,
    )
    service = Service(
        pipeline=Pipeline(
            settings,
            slot,
            challenger,
            codecs_for(settings, registry),
            leads,
            versions=versions,
            erased=erased,
            limits=limits,
        ),
        slot=slot,
        challenger=challenger,
        limit=Limit(settings.dead_letter_max_ratio, settings.dead_letter_max_consecutive),
        metrics=metrics,
        status=status,
        log=logger,
        hash_id=log.id_hasher(settings.id_hash_key),
        recall=recall,
        # At least once, the consumer commits itself, and could wait for ever in a rebalance.
        run_in_background=Worker("commits")
        if settings.delivery is Delivery.EXACTLY_ONCE
        else inline,
        on_drift=on_drift(settings, registry, counter=metrics.retrain, logger=logger),
        trace=tracing.carry if tracing else untraced,
        watch=follow,
        see_clock=ClockWatch(status, logger, partial(_postgres_ahead, leads)).see,
    )
    context.listen(metrics.expose, lambda: _present(slot, challenger, settings.challenger_share))
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(GARBAGE_FROM)
    context.stop_by_signals(service)
    ledger = OffsetLedger(offsets.losses, offsets)
    clients = partial(
        _clients,
        settings,
        recall,
        metrics,
        status,
        logger,
        limits=limits,
        ledger=ledger,
        tracing=tracing,
    )
    started = cache(
        partial(
            context.started,
            group_id=settings.group_id,
            delivery=settings.delivery.value,
            settings=fingerprint,
        )
    )

    def membership() -> None:
        with clients() as (source, publisher):
            # After the clients: one that refuses its settings is one sentence.
            started()
            try:
                service.run(source, publisher)
            finally:
                service.wait()

    keep_membership(
        membership, service, status=status, logger=logger, on_rejoin=metrics.rejoins.inc
    )


def _outputs_of(settings: Settings) -> tuple[str, ...]:
    topics = settings.topics
    return topics.lead_predictions, topics.rescore_results, topics.dead_letters


def _topics_of(settings: Settings) -> tuple[str, ...]:
    topics = settings.topics
    return topics.lead_changes, topics.rescore_requests, *_outputs_of(settings)


def _postgres(url: str, crm: CrmDescription | None) -> "PostgresLeads":
    # The client is 9 MB that events with state do without.
    from consumer.run.postgres import PostgresLeads  # noqa: PLC0415

    return PostgresLeads(url, crm)


def _postgres_ahead(leads: "PostgresLeads | None") -> float | None:
    return leads.clock_ahead_seconds if leads else None


def _tracing(settings: Settings) -> "Tracing | None":
    """Return tracing if the settings ask for it; import nothing of it if they do not."""
    if settings.otel_traces_exporter is Traces.NONE:
        return None
    try:
        from consumer.run.tracing import open_tracing  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise SettingsError(
            f"OTEL_TRACES_EXPORTER={settings.otel_traces_exporter} needs the extra otel: "
            "`pip install '.[otel]'`, or unset it"
        ) from None
    return open_tracing(settings)


@contextmanager
def _clients(
    settings: Settings,
    recall: Recall,
    metrics: Metrics,
    status: Status,
    logger: log.Logger,
    *,
    limits: RecordLimits,
    ledger: OffsetLedger,
    tracing: "Tracing | None",
) -> Iterator[tuple[KafkaSource, Publisher]]:
    """Make the two clients of one membership of the group, and close them after the block.

    Raises SettingsError if they refuse their settings.
    """

    def on_rebalance(kind: str, partitions: int) -> None:
        metrics.rebalances.labels(kind).inc()
        if kind == "assigned" and partitions:
            recall.assigned()
        owned = len(source.assigned())
        metrics.partitions.set(owned)
        status.rebalanced(kind, owned)
        logger.info("rebalance", kind=kind, partitions=partitions, owned=owned)

    client = {"logger": log.client_logger()}
    source = KafkaSource(
        consumer_config(settings) | client,
        [settings.topics.lead_changes, settings.topics.rescore_requests],
        max_records=settings.batch_max_records,
        linger_ms=settings.batch_linger_ms,
        requests=settings.topics.rescore_requests,
        on_rebalance=on_rebalance,
        on_absent=status.absent,
        ledger=ledger,
    )
    exactly_once = settings.delivery is Delivery.EXACTLY_ONCE
    kind = TransactionalPublisher if exactly_once else AcknowledgedPublisher
    config = producer_config(settings, transactional=exactly_once) | client
    with closing(source):
        publisher: Publisher = kind(
            config, source, on_wait=lambda why: status.trouble("brokers", why), limits=limits
        )
        if tracing:
            from consumer.run.tracing import TracedPublisher  # noqa: PLC0415

            publisher = TracedPublisher(publisher, tracing)
        with closing(publisher):
            yield source, publisher


def _present(slot: ModelSlot, challenger: ChallengerSlot, share: float) -> dict[str, Any] | None:
    """Return what `/model` shows, or None before the first load."""
    model = slot.loaded
    if model is None:
        return None
    rival = challenger.loaded
    return {
        **_model_json(model, slot.loaded_since),
        "refused": slot.refused,
        "challenger": {
            **(_model_json(rival, challenger.loaded_since) if rival else {"version": None}),
            "refused": challenger.refused or challenger.unanswered,
            "share": share,
        },
    }


def _model_json(model: Model, loaded_since: int | None) -> dict[str, Any]:
    return {
        "version": model.version,
        "sha256": model.sha256,
        "model_used": model.name,
        "metrics": model.manifest.get("metrics"),
        "loaded_since": loaded_since,
    }
