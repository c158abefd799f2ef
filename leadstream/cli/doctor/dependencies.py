"""The checks of settings, registry, the CRM's Postgres with its outbox, and the model."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from leadstream.cli.doctor.brokers import SKEW_SECONDS
from leadstream.cli.doctor.findings import Finding, fail, format_duration, note, ok

if TYPE_CHECKING:
    from leadstream.settings import Settings
    from producer.postgres_status import PostgresStatus

# A relay publishes within milliseconds: no relay handles a row that waits this long.
WAITING_SECONDS = 60.0


def check_settings(settings: "Settings") -> Iterator[Finding]:
    """Yield unknown variables, time limits that do not fit, and a missing accelerator."""
    from leadstream.settings import unfit_limits, unknown_variables
    from schemas.columns import COMPILED

    unknown = unknown_variables()
    yield from (fail("settings", sentence) for sentence in unknown)
    if not unknown:
        yield ok("settings", "all are known and valid; `leadstream config` shows them")
    yield from (note("settings", sentence) for sentence in unfit_limits(settings.kafka))
    if not COMPILED:
        yield note(
            "settings",
            "numba is not installed: each change takes five times as long; `pip install '.[fast]'`",
        )


def check_registry(settings: "Settings") -> Iterator[Finding]:
    """Yield whether the registry answers."""
    from contextlib import closing

    from leadstream.addresses import masked_url
    from schemas.registry import Registry

    if settings.schema_registry_url is None:
        yield ok("registry", "SCHEMA_REGISTRY_URL is not set: records are Avro single objects")
        return
    with closing(Registry(settings.schema_registry_url)) as registry:
        registry.ping()
    yield ok("registry", f"{masked_url(settings.schema_registry_url)} answers")


def check_database(settings: "Settings") -> Iterator[Finding]:
    """Yield whether states can be read, the clocks agree, and the outbox is complete and empty."""
    from consumer.run.postgres import PostgresLeads
    from producer.postgres_status import read_postgres_status
    from schemas.description_file import described_crm

    if settings.database_url is None:
        yield ok(
            "database",
            "DATABASE_URL is not set: changes without state become dead letters (LEAD_NOT_FOUND)",
        )
        return
    crm = described_crm(settings)
    leads = PostgresLeads(settings.database_url, crm)
    try:
        leads.fetch(["leadstream doctor asks for a lead that does not exist"])
    finally:
        leads.close()
    if leads.lacking and crm:
        yield fail("database", f"{crm.path}: no usable column for {', '.join(leads.lacking)}")
    else:
        yield ok("database", "answers, and has the required columns")
    found = read_postgres_status(settings.database_url, crm)
    if abs(found.clock_ahead_seconds) > SKEW_SECONDS:
        way = "ahead of" if found.clock_ahead_seconds > 0 else "behind"
        yield fail(
            "clock",
            f"Postgres's clock is {format_duration(abs(found.clock_ahead_seconds))} {way} this "
            "machine's: one of them is wrong, and a score is as of the time in the change; keep "
            "both by NTP",
        )
    yield from _check_outbox(settings, found, described=bool(crm and crm.database))


# How to get a trigger back, by whether a file describes the CRM.
_HOW = {True: "by `leadstream db migrate`", False: "as in producer/migrations/0001_outbox.sql"}


def _check_outbox(
    settings: "Settings", found: "PostgresStatus", *, described: bool
) -> Iterator[Finding]:
    if not found.applied:
        yield note(
            "outbox",
            "this database has none; `leadstream db migrate` adds it, if changes come from here",
        )
        return
    if found.missing:
        yield fail(
            "outbox",
            f"not up to date, without {', '.join(found.missing)}: run `leadstream db migrate`",
        )
    for table, trigger in found.absent_triggers:
        yield fail(
            "outbox",
            f"the trigger {trigger} on {table} is missing or disabled, so changes are lost: "
            f"`alter table {table} enable trigger {trigger}`, or create it {_HOW[described]}; then "
            "`leadstream rescore --all`",
        )
    if found.polled:
        yield note(
            "outbox",
            "was made without triggers, so no change comes from it: run `leadstream rescore --all` "
            "on a schedule",
        )
        return
    yield from _check_relay(settings, found)


def _check_relay(settings: "Settings", found: "PostgresStatus") -> Iterator[Finding]:
    """Yield whether a relay publishes the rows."""
    from leadstream.errors import Transient
    from producer.positions import read_position
    from producer.publication import transactional_id

    try:
        last = read_position(settings, transactional_id(settings))
    except Transient:
        return  # other checks report what is wrong with the brokers or that topic
    waiting = found.last is not None and found.last.position > (last.position if last else 0)
    if (
        waiting
        and found.last
        and (age := time.time() + found.clock_ahead_seconds - found.last.written_at)
        > WAITING_SECONDS
    ):
        yield fail(
            "outbox",
            f"its newest row has waited for {format_duration(age)}: start `leadstream relay`, with "
            f"LEADSTREAM_GROUP_ID={settings.group_id} if the previous relay had that group",
        )
    elif not found.missing and not found.absent_triggers:
        yield ok(
            "outbox",
            "its tables and triggers exist" + (", and nothing waits" if not waiting else ""),
        )


def check_model(settings: "Settings") -> Iterator[Finding]:
    """Yield whether the champion and its challenger can be loaded."""
    from leadstream.cli.model_inputs import inputs_without_column, sentence_of
    from leadstream.variants import CHALLENGER, CHAMPION
    from models.registry.slot import ModelSlot
    from models.registry.versions import open_registry

    registry = open_registry(settings)
    model = ModelSlot(registry).get()
    if settings.database_url and (absent := inputs_without_column(model.manifest, settings)):
        yield note("model", sentence_of(model.version, absent))
    challenger = registry.resolve(CHALLENGER)
    for alias in (CHAMPION, CHALLENGER):
        if difference := registry.unlogged(alias):
            yield fail("model", difference)
    if challenger is None:
        yield ok("model", f"version {model.version} is the champion and verifies")
        return
    registry.verify(challenger)
    yield ok(
        "model",
        f"version {model.version} is the champion, {challenger} its challenger, and both verify",
    )


def check_history(settings: "Settings") -> Iterator[Finding]:
    """Yield whether the tables of the history can be read; nothing if none is kept."""
    from leadstream.addresses import masked_url
    from leadstream.cli.history_extra import need_extra

    if settings.history is None:
        return
    need_extra()
    from consumer.history.summary import summarize
    from consumer.history.writer import HistoryTables

    found = summarize(HistoryTables(settings.history), settings.topics)
    address = masked_url(settings.history)
    if found:
        rows = ", ".join(f"{each.rows:,} {each.table}" for each in found)
        yield ok("history", f"{address} has {rows}")
    else:
        yield note("history", f"{address} has no tables yet; `leadstream history write` makes them")
