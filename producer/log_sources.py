"""The sources of an import in files: which leads, which log, and how both are read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from leadstream.errors import SettingsError
from producer.field_log import (
    HUBSPOT,
    SALESFORCE,
    Entry,
    LogColumns,
    RowReader,
    Unplaced,
    described_columns,
    dynamics_row,
    hubspot_row,
    log_name,
    read_row,
)
from producer.log_file import is_json, read_objects
from producer.log_import import LogImport, OutcomeColumn
from producer.mapping import LeadMapping, MappedOutcome, load_mapping
from producer.past_states import StateField, TodaysLead
from producer.presets import export_header, load_history_preset
from producer.todays_leads import contact_cells, lead_of_cells, leads_of_file, mapped_fields
from schemas.crm_description import DescribedLog, TimeFormat
from schemas.description_file import load_description

# The contacts whose properties tell the columns of a file of the API.
_FIRST_CONTACTS = 1_000
_SALESFORCE_ID_LENGTHS = (15, 18)


class CrmLogFormat(StrEnum):
    """The formats of a log in a file."""

    SALESFORCE = "salesforce"
    HUBSPOT = "hubspot"
    DYNAMICS = "dynamics"
    FIELDS = "fields"


@dataclass(frozen=True, slots=True)
class LogSource:
    """The files of an import. Without `leads`, the leads of today are in the log's file.

    `described` is the file of a mapping or a description; without one a preset counts, with
    `columns` added. For the rest see `LogImport`.
    """

    path: Path
    format: CrmLogFormat
    leads: Path | None = None
    described: Path | None = None
    columns: str = ""
    tracked: Sequence[str] = ()
    tracked_since: int | None = None


@dataclass(frozen=True, slots=True)
class OpenedLog:
    """The inputs of `import_log`."""

    leads: Iterable[TodaysLead | Unplaced]
    entries: Iterable[Entry]
    how: LogImport


@dataclass(frozen=True, slots=True)
class DatabaseLeads:
    """The leads of today in a database, and the fields of their states."""

    leads: Iterable[TodaysLead | Unplaced]
    fields: Sequence[StateField]
    zone: tzinfo = UTC


def open_log(source: LogSource, now_ms: int, database: DatabaseLeads | None = None) -> OpenedLog:
    """Return what is in the files, with the leads of a database in place of those of a file.

    Raises SettingsError, UserError.
    """
    if database is not None:
        columns, read = _reader(source, database.zone)
        entries = log_entries(source.path, columns, read)
        return OpenedLog(database.leads, entries, _how(source, now_ms, columns, database.fields))
    contacts = source.format is CrmLogFormat.HUBSPOT and is_json(source.path)
    if source.leads is None and not contacts:
        raise SettingsError(
            f"--format {source.format}: name the leads of today: --leads leads.csv, or DATABASE_URL"
            " and a description of its table in LEADSTREAM_FIELDS"
        )
    mapping = _mapping(source)
    columns, read = _reader(source, mapping.fields["created_at"].zone or UTC)
    leads = (
        leads_of_file(source.leads, mapping, now_ms)
        if source.leads is not None
        else _contacts(source.path, mapping, now_ms)
    )
    how = _how(source, now_ms, columns, mapped_fields(mapping), mapping.outcome)
    return OpenedLog(leads, log_entries(source.path, columns, read), how)


def log_entries(path: Path, columns: LogColumns | None, read: RowReader) -> Iterator[Entry]:
    """Yield the changes in a file, in its order."""
    for row in read_objects(path, _needed(columns)):
        if row is None:
            yield Unplaced.NOT_A_ROW
        else:
            yield from read(row)


def _needed(columns: LogColumns | None) -> list[tuple[str, ...]]:
    if columns is None:
        return [("_objectid_value", "objectid", "record"), ("createdon",), ("changedata",)]
    groups = (columns.lead, columns.field, columns.old, columns.new, columns.at)
    return [group for group in groups if group]


def _how(
    source: LogSource,
    now_ms: int,
    columns: LogColumns | None,
    fields: Sequence[StateField],
    outcome: MappedOutcome | None = None,
) -> LogImport:
    return LogImport(
        fields=fields,
        now_ms=now_ms,
        outcome=OutcomeColumn(log_name(outcome.column), outcome) if outcome else None,
        conversions=frozenset(
            ["leadconverted"] if source.format is CrmLogFormat.SALESFORCE else []
        ),
        tracked=[log_name(each) for each in source.tracked],
        tracked_since=source.tracked_since,
        has_old=columns is None or bool(columns.old),
        key=_KEYS.get(source.format, str),
    )


def _mapping(source: LogSource) -> LeadMapping:
    """Return what the columns of the leads mean."""
    if source.described is not None:
        if source.columns:
            raise SettingsError("--columns adds to a preset: name the columns in the mapping")
        return load_mapping(source.described)
    if source.format not in (CrmLogFormat.SALESFORCE, CrmLogFormat.HUBSPOT):
        raise SettingsError(
            f"--format {source.format}: name the columns: --mapping M.toml, or LEADSTREAM_FIELDS"
        )
    name = source.format.value
    if source.leads is None:
        names, where = contact_columns(source.path), source.path.name
    else:
        names, where = list(export_header(source.leads, name)), source.leads.name
    return load_history_preset(name, names, where, columns=source.columns)


def _reader(source: LogSource, zone: tzinfo) -> tuple[LogColumns | None, RowReader]:
    """Return the columns of a log, None for those of the table `audit`, and its row reader."""
    described = _described_log(source.described)
    times = described.at.times if described else TimeFormat(zone)
    match source.format:
        case CrmLogFormat.SALESFORCE:
            return SALESFORCE, partial(read_row, columns=SALESFORCE, times=times)
        case CrmLogFormat.HUBSPOT:
            return HUBSPOT, partial(hubspot_row, times=times)
        case CrmLogFormat.DYNAMICS:
            return None, partial(dynamics_row, times=times)
    if described is None or described.field is None:
        raise SettingsError(
            f"{source.described}: history: is missing: --format fields needs the columns of the "
            "log: lead, field, old, new and at"
        )
    columns = described_columns(described)
    return columns, partial(read_row, columns=columns, times=times)


def _described_log(path: Path | None) -> DescribedLog | None:
    return None if path is None else load_description(path).log


def contact_columns(path: Path) -> list[str]:
    """Return the columns of the contacts in a file of HubSpot's API."""
    names = {"hs_object_id", "createdate"}
    for contact in islice(read_objects(path, []), _FIRST_CONTACTS):
        for part in ("properties", "propertieswithhistory"):
            found: Any = (contact or {}).get(part)
            names |= set(found) if isinstance(found, dict) else set()
    return sorted(names)


def _contacts(path: Path, mapping: LeadMapping, now_ms: int) -> Iterator[TodaysLead | Unplaced]:
    for line, contact in enumerate(read_objects(path, []), 1):
        if contact is None:
            yield Unplaced.REFUSED_LEAD
        else:
            yield lead_of_cells(contact_cells(contact, mapping.columns()), line, mapping, now_ms)


def _salesforce_key(lead_id: str) -> str:
    """Return an id without the check sum that its longer form has."""
    short = len(lead_id) in _SALESFORCE_ID_LENGTHS and lead_id.isalnum()
    return lead_id[:15] if short else lead_id


def _guid_key(lead_id: str) -> str:
    return lead_id.strip("{}").lower()


_KEYS: dict[CrmLogFormat, Callable[[str], str]] = {
    CrmLogFormat.SALESFORCE: _salesforce_key,
    CrmLogFormat.DYNAMICS: _guid_key,
}
