"""The file of a CRM's description (TOML): the grammar of mapping files, with `[database]`.

The reader takes what concerns a database. How an export is written (`[file]`) stays with the
mappings of the producers.
"""

import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from leadstream.errors import SettingsError, error_text
from leadstream.lead_fields import CRM_FIELDS, MAX_CATEGORY_CHARACTERS, FieldKind
from leadstream.personal import is_personal_column
from leadstream.settings import Settings
from schemas.crm_description import (
    Condition,
    CrmDescription,
    DescribedDatabase,
    DescribedField,
    DescribedLog,
    DescribedOutcome,
    Lookup,
    OwnInput,
    TableName,
    TimeFormat,
)
from schemas.crm_rows import to_milliseconds
from schemas.number_format import NumberFormat
from schemas.options import (
    WrongKey,
    checked_locale,
    known,
    number_of,
    table_of,
    text_of,
    texts_of,
    units_of,
    zone_of,
)

# The grammar that mappings of files share.
SECTIONS = frozenset({"file", "rows", "lead", "outcome", "database", "history"})
FIELD_OPTIONS = frozenset(
    {
        "column",
        "constant",
        "line",
        "missing",
        "values",
        "scale",
        "unit",
        "format",
        "locale",
        "time_zone",
        "base",
        "step_ms",
        "lookup",
    }
)
# The options of an own field that models read.
INPUT_OPTIONS = frozenset({"range", "imputation", "description"})
OUTCOME_OF_FILE = frozenset({"column", "true", "false", "missing", "decided_at"})
OUTCOME_OF_DATABASE = frozenset({"table", "schema", "lead", "where"})
LOG_KEYS = frozenset({"schema", "table", "lead", "at", "field", "old", "new", "row"})
_DATABASE = frozenset({"schema", "table", "id", "version", "deleted", "origin", "time_zone"})
_KINDS = {field.name: field.kind for field in CRM_FIELDS}
# Keys of [lead] that are no fields of LeadState.
_IDENTITY = ("lead_id", "lead_version", "occurred_at")
_COLUMN_FIELDS = ("lead_id", "lead_version", *_KINDS)
_OWN = {"numbers": FieldKind.DOUBLE, "categories": FieldKind.STRING}
_OWN_TYPES = {"numbers": "number", "categories": "category"}


def load_description(path: Path) -> CrmDescription:
    """Read the description in a TOML file.

    Raises SettingsError in one sentence that names the file and the key.
    """
    return parse_description(str(path), read_document(path))


def read_document(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises SettingsError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error_text(error)}") from None


def described_crm(settings: Settings) -> CrmDescription | None:
    """Return the description that LEADSTREAM_FIELDS names, None if it is unset."""
    return load_description(Path(settings.crm_description)) if settings.crm_description else None


def named_columns(text: str) -> dict[str, Any]:
    """Return the table [lead] that `lead_id=uid, numbers.gpa=average` stands for.

    Raises SettingsError for an unknown field.
    """
    lead: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, column = (part.strip() for part in pair.partition("="))
        section, _, own = name.partition(".")
        if column and section in _OWN and own:
            lead.setdefault(section, {})[own] = column
        elif column and name in _COLUMN_FIELDS:
            lead[name] = column
        else:
            raise SettingsError(
                f"{pair!r} is no field=column; fields are {', '.join(_COLUMN_FIELDS)}, "
                "numbers.NAME and categories.NAME"
            )
    return lead


def merge_lead(lead: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table [lead] with the fields of another one, which win."""
    own = {name: {**lead.get(name, {}), **more.get(name, {})} for name in _OWN}
    return {**lead, **more, **{name: fields for name, fields in own.items() if fields}}


def parse_description(path: str, table: Mapping[str, Any]) -> CrmDescription:
    """Parse the tables of a description.

    Raises SettingsError in one sentence that names the key.
    """
    try:
        return _description(path, table)
    except WrongKey as wrong:
        raise SettingsError(f"{path}: {wrong.key}: {wrong.what}") from None


def _description(path: str, table: Mapping[str, Any]) -> CrmDescription:
    known(table, "", SECTIONS)
    file, rows, lead, database = (
        table_of(table, key, key) for key in ("file", "rows", "lead", "database")
    )
    known(lead, "lead", {*_KINDS, *_IDENTITY, *_OWN})
    known(database, "database", _DATABASE)
    locale = text_of(file, "file.locale", "") or None
    parser = _FieldReader(_zone(database, file), texts_of(file, "file.missing"), locale)
    fields = [
        parser.field(f"lead.{name}", name, kind, lead[name])
        for name, kind in _KINDS.items()
        if name in lead
    ]
    own: list[OwnInput] = []
    for section, kind in _OWN.items():
        for name, spec in table_of(lead, section, f"lead.{section}").items():
            key = f"lead.{section}.{name}"
            _check_name(key, name)
            fields.append(parser.field(key, f"{section}.{name}", kind, spec))
            own.append(OwnInput(name, _OWN_TYPES[section], _input_options(spec)))
    lead_id = _column(lead, "lead.lead_id") or "id"
    version = _column(lead, "lead.lead_version")
    leads = None
    if "database" in table:
        if "created_at" not in lead:
            raise WrongKey("lead.created_at", "is missing: name the column that holds it")
        lead_id = text_of(database, "database.id", _column(lead, "lead.lead_id"))
        version = text_of(database, "database.version", version or "") or None
        leads = _database(database, lead_id, version, parser)
    only = table_of(rows, "only", "rows.only")
    return CrmDescription(
        path=path,
        fields=tuple(fields),
        own=tuple(own),
        only=tuple(Condition(name, texts_of(only, f"rows.only.{name}", name)) for name in only),
        id=_impersonal("database.id", lead_id),
        version=version,
        database=leads,
        outcome=_outcome(table_of(table, "outcome", "outcome"), leads, parser),
        log=_log(table_of(table, "history", "history"), parser),
    )


def _database(
    table: Mapping[str, Any], lead_id: str, version: str | None, parser: "_FieldReader"
) -> DescribedDatabase:
    origin = condition_of(table, "database.origin")
    if origin is not None and origin.values is None:
        raise WrongKey("database.origin", "needs values: those of write-backs of a score")
    return DescribedDatabase(
        table=_table_name(table, "database"),
        id=lead_id,
        version=version,
        deleted=condition_of(table, "database.deleted"),
        origin=origin,
        times=TimeFormat(parser.zone),
    )


def _outcome(
    table: Mapping[str, Any], leads: DescribedDatabase | None, parser: "_FieldReader"
) -> DescribedOutcome | None:
    """Return the outcomes in a database.

    Without a table of their own they are in the column of the leads that exports have.
    """
    if leads is None or not table:
        if used := sorted(OUTCOME_OF_DATABASE & table.keys()):
            raise WrongKey(f"outcome.{used[0]}", "is for a database: add [database] with its table")
        return None
    known(table, "outcome", OUTCOME_OF_DATABASE | OUTCOME_OF_FILE)
    decided_at = None
    if "decided_at" in table:
        decided_at = parser.field(
            "outcome.decided_at", "decided_at", FieldKind.TIME, table["decided_at"], end_of_day=True
        )
    if "table" in table:
        name, lead = _table_name(table, "outcome"), text_of(table, "outcome.lead", None)
        where = condition_of(table, "outcome.where")
    else:
        name, lead = leads.table, text_of(table, "outcome.lead", leads.id)
        where = condition_of(table, "outcome.where") or _true(table)
    if where is None and decided_at is None:
        raise WrongKey("outcome", "needs decided_at or where: what makes a row an outcome")
    return DescribedOutcome(name, lead, decided_at, where)


def _log(table: Mapping[str, Any], parser: "_FieldReader") -> DescribedLog | None:
    """Return the log of changes, of a database or of a file."""
    if not table:
        return None
    known(table, "history", LOG_KEYS)
    names = {
        name: _impersonal(f"history.{name}", text_of(table, f"history.{name}", None))
        for name in ("field", "old", "new", "row")
        if name in table
    }
    if ("row" in names) == ("field" in names) or ("field" in names) != ("new" in names):
        raise WrongKey("history", "needs field and new, or else row")
    if "at" not in table:
        raise WrongKey("history.at", "is missing: name the column of the time of a change")
    at = parser.field("history.at", "at", FieldKind.TIME, table["at"])
    if at.column is None:
        raise WrongKey("history.at", "needs the column of the time of a change")
    return DescribedLog(
        table=_table_name(table, "history") if "table" in table else None,
        lead=text_of(table, "history.lead", None),
        at=at,
        **{name: names.get(name) for name in ("field", "old", "new", "row")},
    )


def _true(table: Mapping[str, Any]) -> Condition | None:
    if "column" not in table:
        return None
    if not (true := texts_of(table, "outcome.true")):
        raise WrongKey("outcome.true", "must list the values of a lead that converted")
    return Condition(text_of(table, "outcome.column", None), true)


class _FieldReader:
    """A reader of the fields of [lead], with the defaults of the file."""

    def __init__(self, zone: ZoneInfo, missing: frozenset[str], locale: str | None) -> None:
        self.zone = zone
        self._missing = missing
        self._locale = locale

    def field(
        self, key: str, name: str, kind: FieldKind, spec: Any, *, end_of_day: bool = False
    ) -> DescribedField:
        """Return the field of a key; raises WrongKey for a wrong option."""
        options = {"column": spec} if isinstance(spec, str) else spec
        if not isinstance(options, dict):
            raise WrongKey(key, "must be the name of a column or a table of options")
        known(options, key, FIELD_OPTIONS | (INPUT_OPTIONS if "." in name else set()))
        values = table_of(options, "values", f"{key}.values")
        units = units_of(options, f"{key}.unit")
        missing = texts_of(options, f"{key}.missing") if "missing" in options else self._missing
        return DescribedField(
            name=name,
            kind=kind,
            column=_column({name: options}, key, name),
            constant=_text(options["constant"]) if "constant" in options else None,
            lookup=_lookup(options, key),
            missing=missing,
            values={old: _text(new) for old, new in values.items()},
            scale=number_of(options, f"{key}.scale", 1.0),
            times=self._times(key, options, end_of_day=end_of_day),
            units=NumberFormat(units=units) if units else None,
        )

    def _times(self, key: str, options: Mapping[str, Any], *, end_of_day: bool) -> TimeFormat:
        zone = self.zone
        if "time_zone" in options:
            zone = zone_of(text_of(options, f"{key}.time_zone", None), f"{key}.time_zone")
        base = None
        if "base" in options:
            try:
                moment = datetime.fromisoformat(text_of(options, f"{key}.base", None))
            except ValueError:
                raise WrongKey(f"{key}.base", "is not an ISO 8601 time") from None
            base = to_milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=zone))
        locale = text_of(options, f"{key}.locale", self._locale or "") or None
        return TimeFormat(
            zone,
            _formats(options, f"{key}.format"),
            base,
            number_of(options, f"{key}.step_ms", 1.0),
            end_of_day,
            checked_locale(locale, f"{key}.locale"),
        )


def _formats(options: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the formats of times: a text, or a list of texts."""
    given = options.get("format", "iso")
    formats = [given] if isinstance(given, str) else given
    if not isinstance(formats, list) or not formats:
        raise WrongKey(key, "must be text or a list of texts")
    if not all(isinstance(each, str) for each in formats):
        raise WrongKey(key, "must be text or a list of texts")
    return tuple(formats)


def _zone(database: Mapping[str, Any], file: Mapping[str, Any]) -> ZoneInfo:
    """Return the zone of times without one: that of the database, or else that of exports."""
    for table, key in ((database, "database.time_zone"), (file, "file.time_zone")):
        if "time_zone" in table:
            return zone_of(text_of(table, key, None), key)
    return ZoneInfo("UTC")


def _table_name(table: Mapping[str, Any], section: str) -> TableName:
    schema = text_of(table, f"{section}.schema", "") or None
    return TableName(text_of(table, f"{section}.table", None), schema)


def _column(lead: Mapping[str, Any], key: str, name: str | None = None) -> str | None:
    """Return the column that a key of [lead] names, None if it names none."""
    spec = lead.get(name or key.rpartition(".")[2])
    if isinstance(spec, dict):
        spec = text_of(spec, f"{key}.column", None) if "column" in spec else None
    if spec is None:
        return None
    if not isinstance(spec, str):
        raise WrongKey(key, "must be the name of a column or a table of options")
    return _impersonal(key, spec)


def _lookup(options: Mapping[str, Any], key: str) -> Lookup | None:
    if "lookup" not in options:
        return None
    if "column" not in options:
        raise WrongKey(f"{key}.lookup", "needs the column that holds its key")
    table = table_of(options, "lookup", f"{key}.lookup")
    known(table, f"{key}.lookup", {"schema", "table", "key", "value"})
    return Lookup(
        _table_name(table, f"{key}.lookup"),
        text_of(table, f"{key}.lookup.key", "id"),
        text_of(table, f"{key}.lookup.value", "name"),
    )


def condition_of(table: Mapping[str, Any], key: str) -> Condition | None:
    """Return the condition of a key: the name of a column, or a table with column and values."""
    spec = table.get(key.rpartition(".")[2])
    if spec is None or isinstance(spec, str):
        return None if spec is None else Condition(spec)
    if not isinstance(spec, dict):
        raise WrongKey(key, "must be the name of a column, or a table with column and values")
    known(spec, key, {"column", "values"})
    column = text_of(spec, f"{key}.column", None)
    if "values" not in spec:
        return Condition(column)
    values = spec["values"]
    if not isinstance(values, list) or not values:
        raise WrongKey(f"{key}.values", "must be a list of values")
    if not all(isinstance(value, str | bool | int) for value in values):
        raise WrongKey(f"{key}.values", "must be texts, whole numbers, or true and false")
    return Condition(column, frozenset(_text(value) for value in values))


def _input_options(spec: Any) -> dict[str, Any]:
    return (
        {name: spec[name] for name in INPUT_OPTIONS if name in spec}
        if isinstance(spec, dict)
        else {}
    )


def _impersonal(key: str, column: str) -> str:
    if is_personal_column(column):
        raise WrongKey(key, f"the column {column!r} looks like personal data, which is never read")
    return column


def _check_name(key: str, name: str) -> None:
    if not name or len(name) > MAX_CATEGORY_CHARACTERS or not name.isprintable():
        raise WrongKey(key, f"a name has 1 to {MAX_CATEGORY_CHARACTERS} printable characters")


def _text(value: Any) -> str:
    """Return a value of TOML as a database writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
