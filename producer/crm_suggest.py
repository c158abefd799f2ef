"""A first description of a CRM, proposed from the catalog of its database and a sample of rows."""

import json
import re
import textwrap
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql

from leadstream.errors import UserError
from leadstream.personal import is_email_address, is_personal_column
from leadstream.postgres import Connection
from producer.crm_candidates import (
    NUMBER_FIELDS,
    NUMBERS,
    SYNONYMS,
    TIMES,
    CandidateTable,
    choose_leads,
    column_of_field,
    created_columns,
    id_column,
    read_candidates,
    words_of,
)
from producer.crm_fit import described_tables, percent
from producer.crm_leaks import sample_outcomes
from producer.crm_outcomes import VALUE_ROWS, FoundOutcome, distinct_texts, find_outcome
from producer.crm_times import first_times
from producer.crm_zone import ahead_of_now, local_columns, zone_of_sessions
from schemas.crm_description import Lookup, TableName
from schemas.crm_tables import find_tables, json_row, name, table_name
from schemas.description_file import parse_description

SAMPLE_ROWS = 1_000
MAX_CATEGORIES, MAX_CHARACTERS = 100, 64
_TEXTS = {"text", "character varying", "character", "citext", "boolean"}
_NO_CATEGORIES = {*NUMBERS, *TIMES, "uuid", "json", "jsonb", "bytea"}
# Columns that must not be inputs: personal, or known only after the outcome.
_REFUSED = re.compile(
    r"mail|phone|mobile|(^|_)name|name$|address|street|birth|passport|iban|ssn|password|token|"
    r"conver|applied|has_application|probability|prediction|outcome|won|lost|note|comment"
)
_DELETED = (
    *("deleted_at", "deleted_on", "is_deleted", "deleted", "removed_at", "archived_at"),
    *("is_archived", "archived"),
)
# Codes have zeros in front, and numbers have none.
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,11})(\.\d{1,12})?", re.ASCII)
_DELETED_VALUE = re.compile(r"(soft.?)?del(eted)?|removed|archived|erased|purged", re.IGNORECASE)
_VERSIONS = ("lead_version", "row_version", "version", "revision", "lock_version")
_ORIGINS = ("updated_by", "modified_by", "last_modified_by", "changed_by")


@dataclass(frozen=True, slots=True)
class ColumnSample:
    """A column in a sample: the share of missing values, and what the others are."""

    missing: float
    category: bool
    number: bool = False


@dataclass(frozen=True, slots=True)
class SuggestedCrm:
    """A description as TOML, and what its reader must decide or should know, a sentence each."""

    text: str
    open: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Draft:
    """The parts of a description; `fields` has the section, the name and the line of each."""

    head: list[str]
    database: list[str]
    fields: list[tuple[str, str, str]]
    outcome: list[str]
    unsure: list[str]

    def text(self, zone: Sequence[str], late: Mapping[str, str]) -> str:
        """Return the file, with the lines about the time zone, and without the late fields."""
        lines, above = [*self.head, *self.database, *zone], ""
        for section, field, line in self.fields:
            lines += ["", f"[{section}]"] if section != above else []
            above = section
            if why := late.get(field):
                lines += [*_comment(f"Left out, because it seems to come with the outcome: {why}.")]
            lines.append(f"# {line}" if why else line)
        return "\n".join([*lines, "", *self.outcome]) + "\n"


def suggest(
    connection: Connection, wanted: str | None = None, time_zone: str | None = None
) -> SuggestedCrm:
    """Return a description of the table that looks most like leads, or of `wanted`.

    `time_zone` is that of times without one. Raises UserError if there is no such table.
    """
    draft = _drafted(connection, wanted)
    zone = time_zone or str(zone_of_sessions(connection) or "UTC")
    line = f"time_zone = {_toml(zone)}"
    found = parse_description("", tomllib.loads(draft.text([line], {})))
    tables = find_tables(connection, described_tables(found))
    late = sample_outcomes(connection, found, tables).late
    remarks = [
        f"{field} is left out, because it seems to come with the outcome: {why}"
        for field, why in late.items()
    ]
    remarks += draft.unsure
    columns = local_columns(found, tables)
    if time_zone or not columns:
        return SuggestedCrm(draft.text([line] if time_zone else [], late), tuple(remarks))
    names = ", ".join(dict.fromkeys(each.column for each in columns))
    why = f"times of {names} have no zone, and {zone} is a guess"
    if ahead := ahead_of_now(connection, columns):
        why += f"; it is wrong, because the newest {ahead[0]} would be {ahead[1]} ahead of now"
    text = draft.text([*_comment(f"Say the zone here: {why}."), line], late)
    return SuggestedCrm(text, (f"say the zone in the file, or with --time-zone: {why}", *remarks))


def _drafted(connection: Connection, wanted: str | None) -> _Draft:
    tables = read_candidates(connection)
    chosen = choose_leads(tables, wanted)
    leads = _with_one_key(connection, chosen)
    created = first_times(connection, leads, created_columns(leads, any_name=bool(wanted)))
    if created is None:
        raise UserError(f"{leads.name} has no column with a time of creation: describe it by hand")
    samples = _samples(connection, leads)
    lookups = {
        column: Lookup(target, key, label)
        for column, (target, key) in leads.references.items()
        if (label := _label(tables, target)) is not None
    }
    used = _matched(leads, samples)
    numbers, categories = _own(leads, samples, lookups, {created.column, *used.values()})
    numbers = [column for column in numbers if column not in chosen.keys]
    head = [
        f"# A first description, from {SAMPLE_ROWS:,} rows of {_toml(str(leads.name))}.",
        "# Read it, then run `leadstream fields check`. Add what is known before the",
        "# outcome; remove what is not.",
        "",
    ]
    fields = [("lead", "created_at", f"created_at = {created.source()}")]
    for section, prefix, columns in (
        ("lead", "", used),
        ("lead.numbers", "numbers.", {column: column for column in numbers}),
        ("lead.categories", "categories.", {column: column for column in categories}),
    ):
        for key, column in columns.items():
            lookup = None if key in NUMBER_FIELDS else lookups.get(column)
            line = f"{_toml(key) if prefix else key} = {_source(column, lookup)}"
            fields.append((section, f"{prefix}{key}", f"{line}{_remark(samples[column])}"))
    found = find_outcome(connection, tables, leads)
    unsure = [
        f"say whether the day or the month comes first in {each.column}: the values do not tell"
        for each in (created, found and found.decided_at)
        if each and each.open
    ]
    database = list(_database(connection, leads, samples))
    return _Draft(head, database, fields, list(_outcome(found)), unsure)


def _matched(table: CandidateTable, samples: Mapping[str, ColumnSample]) -> dict[str, str]:
    """Return the column of each field of LeadState that the table has, but for created_at."""
    found = {field: column for field in SYNONYMS if (column := column_of_field(table, field))}
    return {
        field: column
        for field, column in found.items()
        if field != "created_at"
        and not is_personal_column(column)
        and (field in NUMBER_FIELDS or column in table.references or samples[column].category)
    }


def _with_one_key(connection: Connection, table: CandidateTable) -> CandidateTable:
    """Return a table with one key: that of its columns with the most different values."""
    if len(table.keys) <= 1:
        return table
    keys = list(dict.fromkeys([id_column(table) or table.keys[0], *table.keys]))
    query = sql.SQL("select {} from (select {} from {} limit %s) s").format(
        sql.SQL(", ").join(sql.SQL("count(distinct {})").format(name(key)) for key in keys),
        sql.SQL(", ").join(map(name, keys)),
        table_name(table.name),
    )
    counts = connection.execute(query, (VALUE_ROWS,)).fetchone() or ()
    best = max(zip(counts, keys, strict=False), key=lambda one: one[0], default=(0, keys[0]))
    return replace(table, keys=(best[1],))


def _own(
    leads: CandidateTable,
    samples: Mapping[str, ColumnSample],
    lookups: Collection[str],
    used: Collection[str],
) -> tuple[list[str], list[str]]:
    """Return the columns of own numbers and of own categories."""
    others = [column for column in leads.columns if column not in used and _is_input(column, leads)]
    numbers = [c for c in others if samples[c].number and c not in leads.references]
    return numbers, [
        c for c in others if c not in numbers and (c in lookups or samples[c].category)
    ]


def _is_input(column: str, table: CandidateTable) -> bool:
    words = words_of(column)
    known = {*_DELETED, *_VERSIONS, *_ORIGINS}
    is_key = column == id_column(table) or (
        words.endswith("_id") and column not in table.references
    )
    refused = (
        not column.isprintable()
        or is_personal_column(column)
        or _REFUSED.search(words)
        or words in known
        or is_key
    )
    return not refused


def _samples(connection: Connection, table: CandidateTable) -> dict[str, ColumnSample]:
    """Read a sample of the columns that may be inputs or fields."""
    columns = [c for c in table.columns if not is_personal_column(c)]
    query = sql.SQL("SELECT {} FROM {} p LIMIT %s").format(
        json_row({c: sql.SQL("p.{}").format(name(c)) for c in columns}), table_name(table.name)
    )
    rows = [row for (row,) in connection.execute(query, (SAMPLE_ROWS,))]
    return {c: _sampled([row[c] for row in rows], table.columns[c]) for c in columns}


def _sampled(values: Sequence[Any], kind: str) -> ColumnSample:
    given = [value for value in values if value not in (None, "")]
    missing = 1 - len(given) / len(values) if values else 1.0
    texts = {str(value) for value in given}
    few = len(texts) <= MAX_CATEGORIES and (len(texts) <= 20 or len(texts) * 2 <= len(given))
    short = all(len(text) <= MAX_CHARACTERS and not is_email_address(text) for text in texts)
    textual = (kind in _TEXTS or kind not in _NO_CATEGORIES) and "[]" not in kind
    digits = bool(texts) and all(_NUMBER.fullmatch(text) for text in texts)
    category = textual and few and short
    return ColumnSample(missing, category, kind in NUMBERS or (textual and digits and not category))


def _label(tables: Iterable[CandidateTable], target: TableName) -> str | None:
    """Return the column of a table that names its rows."""
    table = next((each for each in tables if each.name == target), None)
    if table is None or len(table.columns) > 8:
        return None
    words = table.by_word()
    endings = ("name", "label", "title", "description", "code")
    exact = (words[each] for each in endings if each in words)
    ending = (
        column for each in endings for word, column in words.items() if word.endswith(f"_{each}")
    )
    return next(exact, None) or next(ending, None)


def _database(
    connection: Connection, leads: CandidateTable, samples: Mapping[str, ColumnSample]
) -> Iterator[str]:
    words = leads.by_word()
    yield "[database]"
    yield f"schema = {_toml(leads.name.schema or '')}"
    yield f"table = {_toml(leads.name.table)}"
    yield f"id = {_toml(id_column(leads) or 'id')}"
    if column := next((words[each] for each in _VERSIONS if each in words), None):
        yield f"version = {_toml(column)}"
    if column := next((words[each] for each in _DELETED if each in words), None):
        yield f"deleted = {_toml(column)}"
    else:
        categories = [column for column, sample in samples.items() if sample.category]
        yield from _deleted_values(connection, leads, categories)
    if column := next((words[each] for each in _ORIGINS if each in words), None):
        yield "# If scores are written back to this table, name who writes them:"
        yield f'# origin = {{ column = {_toml(column)}, values = ["leadstream"] }}'


def _deleted_values(
    connection: Connection, leads: CandidateTable, categories: Iterable[str]
) -> Iterator[str]:
    """Yield the line of a column whose values say that a row is deleted, if there is one."""
    for column in categories:
        if values := list(
            filter(_DELETED_VALUE.fullmatch, distinct_texts(connection, leads, column))
        ):
            yield f"deleted = {{ column = {_toml(column)}, values = {_list(values)} }}"
            return


def _source(column: str, lookup: Lookup | None) -> str:
    """Return where a field is: the column, or the column with the table that names its values."""
    if lookup is None:
        return _toml(column)
    parts = {
        "schema": lookup.table.schema or "",
        "table": lookup.table.table,
        "key": lookup.key,
        "value": lookup.value,
    }
    inner = ", ".join(f"{key} = {_toml(text)}" for key, text in parts.items())
    return f"{{ column = {_toml(column)}, lookup = {{ {inner} }} }}"


def _remark(sample: ColumnSample) -> str:
    return f"  # {percent(sample.missing)} missing" if sample.missing else ""


def _outcome(found: FoundOutcome | None) -> Iterator[str]:
    """Yield the section of the outcomes."""
    if found is None:
        yield "# No table of outcomes was found: add [outcome] with table, lead, decided_at."
        return
    yield "[outcome]"
    yield f"schema = {_toml(found.table.schema or '')}"
    yield f"table = {_toml(found.table.table)}"
    yield f"lead = {_toml(found.lead)}"
    yield f"decided_at = {found.decided_at.source()}"
    if found.values:
        condition = _toml(found.condition or "")
        yield f"where = {{ column = {condition}, values = {_list(found.values)} }}"
    elif found.condition:
        yield "# If only some of its rows are outcomes, say which:"
        yield f'# where = {{ column = {_toml(found.condition)}, values = ["submitted"] }}'


def _comment(text: str) -> list[str]:
    """Return a sentence as lines of comment."""
    return textwrap.wrap(text, 78, initial_indent="# ", subsequent_indent="# ")


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_toml, values))}]"


def _toml(text: str) -> str:
    """Return a basic string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
