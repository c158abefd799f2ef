"""The source of an import of a history: a file, a topic, or a database."""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from leadstream.errors import SettingsError

if TYPE_CHECKING:
    from leadstream.kafka.topic_reader import TopicReader
    from leadstream.settings import Settings
    from producer.change_states import Found
    from producer.crm import Connection
    from producer.field_log import Entry
    from producer.log_import import LeadPast, LogReport
    from producer.log_sources import DatabaseLeads, LogSource
    from schemas.crm_description import CrmDescription
    from schemas.foreign_formats import ForeignMessage

# Rows between two moves of the bar.
_ROWS = 1_000
_DATABASE = "name the Postgres of the CRM"


class ImportSource:
    """The source that the arguments of `history import` name; `resources` closes what it opens."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        settings: "Settings",
        report: "LogReport",
        resources: ExitStack,
        advance: "Callable[[int], None]",
    ) -> None:
        """Check the arguments; `advance` is called with the rows that were read.

        Raises SettingsError.
        """
        self._advance = advance
        self._arguments = arguments
        self._settings = settings
        self._report = report
        self._resources = resources
        self._now_ms = time.time_ns() // 1_000_000
        self._described: Path | None = arguments.mapping
        if self._described is None and settings.crm_description:
            self._described = Path(settings.crm_description)
        named = [arguments.file, arguments.topic, arguments.postgres, arguments.outbox]
        if sum(bool(each) for each in named) != 1:
            raise SettingsError("name one source: FILE, --from TOPIC, --postgres, or --outbox")
        if arguments.file and not arguments.format:
            raise SettingsError("--format is missing: name the format of the file")
        if arguments.topic and arguments.format != "debezium":
            raise SettingsError("--from reads a topic of Debezium: add --format debezium")

    @property
    def in_stream(self) -> bool:
        """Return whether the stream may have the same changes, with the same event_id."""
        simulated = self._arguments.postgres and self._description() is None
        return bool(self._arguments.outbox or self._arguments.format == "debezium" or simulated)

    def pasts(self) -> "Iterator[LeadPast]":
        """Yield the past of each lead. Raises UserError, Transient."""
        if self._arguments.outbox:
            return self._outbox()
        if self._arguments.postgres:
            return self._postgres()
        match self._arguments.format:
            case "debezium":
                return self._debezium()
            case "rows":
                return self._rows()
        return self._log()

    def _rows(self) -> "Iterator[LeadPast]":
        from producer.mapping import load_mapping
        from producer.state_rows import states_of_file

        if self._described is None:
            raise SettingsError("--format rows: name the columns: --mapping, or LEADSTREAM_FIELDS")
        mapping, unplaced = load_mapping(self._described), self._report.counts.unplaced
        return states_of_file(self._arguments.file, mapping, self._now_ms, unplaced)

    def _log(self) -> "Iterator[LeadPast]":
        from producer.log_import import import_log
        from producer.log_sources import open_log

        source, database = self._source(), None
        outcomes: Iterator[LeadPast] = iter(())
        description = self._description()
        asked = source.leads is None and bool(self._settings.database_url)
        if asked and description is not None and description.database is not None:
            conn = self._connection()
            database = self._database_leads(conn, description)
            outcomes = self._outcomes(conn, description)
        opened = open_log(source, self._now_ms, database)
        entries = self._counted(opened.entries)
        pasts = import_log(opened.leads, entries, opened.how, self._report)
        return chain(pasts, outcomes)

    def _source(self) -> "LogSource":
        from producer.log_sources import CrmLogFormat, LogSource

        arguments = self._arguments
        return LogSource(
            path=arguments.file,
            format=CrmLogFormat(arguments.format),
            leads=arguments.leads,
            described=self._described,
            columns=arguments.columns,
            tracked=self._tracked(),
            tracked_since=arguments.tracked_since,
        )

    def _tracked(self) -> list[str]:
        from producer.field_log import log_name

        return [log_name(each) for each in self._arguments.tracked.split(",") if each.strip()]

    def _postgres(self) -> "Iterator[LeadPast]":
        from producer import crm_log
        from producer.log_import import LogImport, import_log

        conn, description = self._connection(), self._description()
        if description is None:
            return self._states(partial(crm_log.lead_history, conn))
        log, outcomes = crm_log.log_of(description), self._outcomes(conn, description)
        if log.row is not None:
            states = partial(crm_log.described_states, conn, description)
            return chain(self._states(states), outcomes)
        leads = self._database_leads(conn, description)
        how = LogImport(
            leads.fields,
            self._now_ms,
            tracked=self._tracked(),
            tracked_since=self._arguments.tracked_since,
            has_old=log.old is not None,
        )
        changes = self._counted(crm_log.described_changes(conn, description))
        return chain(import_log(leads.leads, changes, how, self._report), outcomes)

    def _outbox(self) -> "Iterator[LeadPast]":
        from producer.outbox_log import changes_of_outbox

        url = self._settings.need("DATABASE_URL", _DATABASE)
        return self._states(partial(changes_of_outbox, url, self._description()))

    def _debezium(self) -> "Iterator[LeadPast]":
        from producer.debezium_log import changes_of_events, events_of_file, events_of_topic
        from schemas.codec import Reader
        from schemas.description_file import read_document
        from schemas.foreign_formats import ConversionOptions
        from schemas.foreign_rows import parse_columns
        from schemas.registry import Registry

        document = read_document(self._described) if self._described else None
        description = parse_columns(
            self._arguments.columns, document, str(self._described or "--columns")
        )
        url = self._settings.schema_registry_url
        registry = self._resources.enter_context(closing(Registry(url))) if url else None
        how = ConversionOptions(description, True, Reader("LeadChanged", registry), registry)

        def events() -> "Iterable[ForeignMessage]":
            return events_of_topic(reader) if reader else events_of_file(self._arguments.file)

        reader = self._topic_reader() if self._arguments.topic else None
        return self._states(lambda: changes_of_events(events(), how))

    def _counted(self, entries: "Iterable[Entry]") -> "Iterator[Entry]":
        """Yield the entries of a log, and advance by many of them together."""
        for number, entry in enumerate(entries, 1):
            if number % _ROWS == 0:
                self._advance(_ROWS)
            yield entry

    def _topic_reader(self) -> "TopicReader":
        from leadstream.kafka.connection_check import ConnectionCheck
        from leadstream.kafka.topic_reader import TopicReader
        from leadstream.log import configure

        self._settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers of the topic")
        configure(self._settings)
        ConnectionCheck(self._settings).check()
        return self._resources.enter_context(
            closing(TopicReader(self._settings, self._arguments.topic))
        )

    def _states(self, read: "Callable[[], Iterable[Found]]") -> "Iterator[LeadPast]":
        from producer.change_states import states_of_changes

        return states_of_changes(read, self._now_ms, self._report.counts.unplaced)

    def _connection(self) -> "Connection":
        from producer.crm import connected

        url = self._settings.need("DATABASE_URL", _DATABASE)
        return self._resources.enter_context(connected(url))

    def _description(self) -> "CrmDescription | None":
        from schemas.description_file import load_description

        return load_description(self._described) if self._described else None

    def _database_leads(self, conn: "Connection", crm: "CrmDescription") -> "DatabaseLeads":
        from producer import crm_log
        from producer.log_sources import DatabaseLeads

        leads, fields = crm_log.described_leads(conn, crm), crm_log.described_fields(conn, crm)
        return DatabaseLeads(leads, fields, crm.database.times.zone if crm.database else UTC)

    def _outcomes(self, conn: "Connection", crm: "CrmDescription") -> "Iterator[LeadPast]":
        from producer.crm_log import first_outcomes
        from producer.log_import import LeadPast

        for lead_id, at in first_outcomes(conn, crm).items():
            yield LeadPast([], {"lead_id": lead_id, "converted": True, "decided_at": at})
