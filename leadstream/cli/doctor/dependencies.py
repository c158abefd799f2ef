"""What can be wrong beside the brokers: settings, registry, the CRM's Postgres and its outbox, the model."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from leadstream.cli.doctor.brokers import SKEW_SECONDS
from leadstream.cli.doctor.findings import Finding, lasting, mend, note, ok

if TYPE_CHECKING:
    from leadstream.settings import Settings
    from producer.postgres_status import PostgresStatus

# A relay publishes within milliseconds; a row that waits for so long is waited for by nobody.
WAITING_SECONDS = 60.0


def check_settings(_settings: "Settings") -> Iterator[Finding]:
    """Variables that nothing reads, and what only costs time."""
    from leadstream.settings import unknown_variables
    from schemas.columns import COMPILED

    unknown = unknown_variables()
    yield from (mend("settings", sentence) for sentence in unknown)
    if not unknown:
        yield ok("settings", "each is known and can be meant; `leadstream config` shows them")
    if not COMPILED:
        yield note(
            "settings",
            "numba is not installed: each change takes five times as long; `pip install '.[fast]'`",
        )


def check_registry(settings: "Settings") -> Iterator[Finding]:
    """Whether it answers."""
    from contextlib import closing

    from leadstream.settings import masked_url
    from schemas.registry import Registry

    if settings.schema_registry_url is None:
        yield ok("registry", "SCHEMA_REGISTRY_URL is not set: records are Avro single objects")
        return
    with closing(Registry(settings.schema_registry_url)) as registry:
        registry.ping()
    yield ok("registry", f"{masked_url(settings.schema_registry_url)} answers")


def check_database(settings: "Settings") -> Iterator[Finding]:
    """Whether the states of leads can be read, the clocks agree, and the outbox is whole and emptied."""
    from consumer.run.postgres import PostgresLeads
    from producer.postgres_status import read_postgres_status

    if settings.database_url is None:
        yield ok(
            "database",
            "DATABASE_URL is not set: changes that carry no state become dead letters (LEAD_NOT_FOUND)",
        )
        return
    leads = PostgresLeads(settings.database_url)
    try:
        leads.fetch(["leadstream doctor asks for a lead that does not exist"])
    finally:
        leads.close()
    yield ok("database", "answers, and has the columns that are needed")
    found = read_postgres_status(settings.database_url)
    if abs(found.clock_ahead_seconds) > SKEW_SECONDS:
        way = "ahead of" if found.clock_ahead_seconds > 0 else "behind"
        yield mend(
            "clock",
            f"Postgres's clock is {lasting(abs(found.clock_ahead_seconds))} {way} this machine's: one of them is wrong, and "
            "scores are as of the time that a change says; keep both by NTP",
        )
    yield from _outbox(settings, found)


def _outbox(settings: "Settings", found: "PostgresStatus") -> Iterator[Finding]:
    if not found.applied:
        yield note(
            "outbox",
            "there is none in this database; `leadstream db migrate` adds it, if changes are to come from it",
        )
        return
    if found.missing:
        yield mend(
            "outbox",
            f"not up to date, without {', '.join(found.missing)}: run `leadstream db migrate`",
        )
    for table, trigger in found.absent_triggers:
        yield mend(
            "outbox",
            f"the trigger {trigger} on {table} is gone or off, so changes reach nobody: "
            f"`alter table {table} enable trigger {trigger}`, or create it as in producer/migrations/0001_outbox.sql; "
            "then `leadstream rescore --all`",
        )
    yield from _relayed(settings, found)


def _relayed(settings: "Settings", found: "PostgresStatus") -> Iterator[Finding]:
    """Whether somebody publishes the rows."""
    from leadstream.errors import Transient
    from producer.positions import read_position
    from producer.publication import transactional_id

    try:
        last = read_position(settings, transactional_id(settings))
    except Transient:
        return  # what is wrong with the brokers or that topic is told by their own checks
    waits = found.last is not None and found.last.position > (last.position if last else 0)
    if (
        waits
        and found.last
        and (age := time.time() + found.clock_ahead_seconds - found.last.written_at)
        > WAITING_SECONDS
    ):
        yield mend(
            "outbox",
            f"its newest row has waited for {lasting(age)}: start `leadstream relay`, as LEADSTREAM_GROUP_ID="
            f"{settings.group_id} if that was the group of the one before",
        )
    elif not found.missing and not found.absent_triggers:
        yield ok(
            "outbox",
            "its tables and triggers are there" + (", and nothing waits" if not waits else ""),
        )


def check_model(settings: "Settings") -> Iterator[Finding]:
    """Whether the champion and its challenger can be loaded."""
    from leadstream.variants import CHALLENGER
    from models.registry.versions import open_registry
    from models.serve.slot import ModelSlot

    registry = open_registry(settings)
    model = ModelSlot(registry).get()
    challenger = registry.resolve(CHALLENGER)
    if challenger is None:
        yield ok("model", f"version {model.version} is the champion and verifies")
        return
    registry.verify(challenger)
    yield ok(
        "model",
        f"version {model.version} is the champion, {challenger} its challenger, and both verify",
    )
