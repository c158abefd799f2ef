"""A first description of a CRM, proposed from the catalog of its database and a sample of rows."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from leadstream.errors import UserError
from leadstream.personal import is_email_address, is_personal_column
from leadstream.postgres import Connection
from schemas.crm_description import TableName
from schemas.crm_tables import find_tables, json_row, name, table_name

SAMPLE_ROWS = 1_000
MAX_CATEGORIES, MAX_CHARACTERS = 100, 64
_LEADS = re.compile(
    r"leads?|contacts?|people|persons?|prospects?|enquir|inquir|applicants?|student"
)
_OUTCOMES = re.compile(r"applica|enrol|admission|order|deal|opportunit|conver|submission")
_NUMBERS = {"smallint", "integer", "bigint", "real", "double precision", "numeric"}
_TIMES = {"timestamp with time zone", "timestamp without time zone", "date"}
_TEXTS = {"text", "character varying", "character", "citext", "boolean"}
# Columns that must not be inputs: personal, or known only after the outcome.
_REFUSED = re.compile(
    r"mail|phone|mobile|(^|_)name|name$|address|street|birth|passport|iban|ssn|password|token|"
    r"conver|applied|has_application|probability|prediction|outcome|won|lost|note|comment"
)
# Names that columns have for each field, the best first.
_SYNONYMS = {
    "created_at": "created_at created_on created createddate created_date creation_date date_added "
    "inserted_at signup_at registered_at create_date",
    "lead_score": "lead_score leadscore score",
    "engagement_score": "engagement_score engagement",
    "touchpoint_count": "touchpoint_count touchpoints touches contact_count activity_count",
    "lifecycle_state": "lifecycle_state lifecycle_stage lifecyclestage lifecycle",
    "status": "status lead_status stage state",
    "source": "source lead_source leadsource source_id lead_source_id channel channel_id "
    "utm_source",
    "programme_name": "programme_name program_name programme_id program_id programme program "
    "course_id course",
    "campus_name": "campus_name campus_id campus location_id location",
}
_CREATED = re.compile(r"creat|regist|sign_?up|insert|added|enter|enquir|inquir|joined|received")
_NUMBER_FIELDS = {"lead_score", "engagement_score", "touchpoint_count"}
_DELETED = ("deleted_at", "deleted_on", "is_deleted", "deleted", "removed_at", "archived_at")
_VERSIONS = ("lead_version", "row_version", "version", "revision", "lock_version")
_ORIGINS = ("updated_by", "modified_by", "last_modified_by", "changed_by")
_DECIDED = ("submitted_at", "submitted_on", "decided_at", "closed_at", "completed_at", "created_at")
_CONDITIONS = ("status", "state", "stage")


@dataclass(frozen=True, slots=True)
class CandidateTable:
    """A table of the catalog: its columns with their types, its key, and its foreign keys.

    `references` has the table and column that a column refers to.
    """

    name: TableName
    columns: Mapping[str, str]
    key: str | None
    references: Mapping[str, tuple[TableName, str]]


@dataclass(frozen=True, slots=True)
class ColumnSample:
    """A column in a sample: the share of missing values, and whether the others are categories."""

    missing: float
    category: bool


def suggest(connection: Connection, wanted: str | None = None) -> str:
    """Return a description as TOML, of the table that looks most like leads, or of `wanted`.

    Raises UserError if there is no such table.
    """
    tables = read_candidates(connection)
    leads = _choose(tables, wanted)
    samples = _samples(connection, leads)
    lookups = {
        column: (target, key, label)
        for column, (target, key) in leads.references.items()
        if (label := _label(tables, target)) is not None
    }
    used = _matched(leads, samples)
    lines = [
        f"# A first description, from {SAMPLE_ROWS:,} rows of {_toml(str(leads.name))}. Read it, "
        "then run",
        "# `leadstream fields check`. Add what is known before the outcome; remove what is not.",
        "",
        *_database(leads),
        "",
        "[lead]",
        *(
            _line(field, column, lookups, samples, number=field in _NUMBER_FIELDS)
            for field, column in used.items()
        ),
    ]
    others = [
        column
        for column in leads.columns
        if column not in used.values() and _is_input(column, leads)
    ]
    numbers = [c for c in others if leads.columns[c] in _NUMBERS and c not in leads.references]
    categories = [c for c in others if c not in numbers and (c in lookups or samples[c].category)]
    for section, columns in (("numbers", numbers), ("categories", categories)):
        if columns:
            lines += ["", f"[lead.{section}]"]
            lines += [_line(_toml(c), c, lookups, samples) for c in columns]
    lines += _outcome(tables, leads)
    return "\n".join(lines) + "\n"


def read_candidates(connection: Connection) -> list[CandidateTable]:
    """Return the tables and views that this role may read, without those of Leadstream."""
    names = [TableName(table, schema) for schema, table in connection.execute(_TABLES)]
    found = find_tables(connection, names)
    keys = {(schema, table): key for schema, table, key in connection.execute(_KEYS)}
    references: dict[tuple[str, str], dict[str, tuple[TableName, str]]] = {}
    for schema, table, column, *target, key in connection.execute(_REFERENCES):
        place = references.setdefault((schema, table), {})
        place[column] = TableName(target[1], target[0]), key
    return [
        CandidateTable(
            each.name,
            each.columns,
            keys.get((each.name.schema or "", each.name.table)),
            references.get((each.name.schema or "", each.name.table), {}),
        )
        for each in found.values()
    ]


def _choose(tables: Sequence[CandidateTable], wanted: str | None) -> CandidateTable:
    if wanted is not None:
        for each in tables:
            if wanted in (str(each.name), each.name.table):
                return each
        raise UserError(f"--table {wanted}: this role sees no such table")
    ranked = [(_rank(each), str(each.name), each) for each in tables]
    if not ranked or max(ranked)[0] <= 0:
        raise UserError(
            "DATABASE_URL: no table looks like leads (a name such as contacts, and a time of "
            "creation); name it with --table SCHEMA.TABLE"
        )
    return max(ranked, key=lambda one: (one[0], one[1]))[2]


def _rank(table: CandidateTable) -> float:
    """Return how much a table looks like leads; 0 or less if it does not."""
    if _first(table, "created_at") is None or _id(table) is None:
        return 0
    named = 10 if _LEADS.search(table.name.table.lower()) else 0
    fields = sum(_first(table, field) is not None for field in _SYNONYMS)
    referred = -8 if _OUTCOMES.search(table.name.table.lower()) else 0
    return named + fields + referred - 4


def _first(table: CandidateTable, field: str) -> str | None:
    """Return the column that has the best name and a type of a field."""
    lower = {column.lower(): column for column in table.columns}
    for synonym in _SYNONYMS[field].split():
        column = lower.get(synonym)
        if column is None:
            continue
        kind = table.columns[column]
        numeric = field in _NUMBER_FIELDS
        if field == "created_at" and kind not in _TIMES:
            continue
        if (numeric and kind not in _NUMBERS) or (field != "created_at" and kind in _TIMES):
            continue
        return column
    if field == "created_at":
        times = (column for column, kind in table.columns.items() if kind in _TIMES)
        return next((column for column in times if _CREATED.search(column.lower())), None)
    return None


def _id(table: CandidateTable) -> str | None:
    if table.key is not None:
        return table.key
    names = ("id", "uuid", f"{table.name.table.rstrip('s')}_id", "lead_id", "contact_id")
    lower = {column.lower(): column for column in table.columns}
    return next((lower[each] for each in names if each in lower), None)


def _matched(table: CandidateTable, samples: Mapping[str, ColumnSample]) -> dict[str, str]:
    """Return the column of each field of LeadState that the table has."""
    found = {field: column for field in _SYNONYMS if (column := _first(table, field))}
    if "created_at" not in found:
        raise UserError(f"{table.name} has no column with a time of creation: describe it by hand")
    plain = {
        field: column
        for field, column in found.items()
        if field in {"created_at", *_NUMBER_FIELDS}
        or column in table.references
        or samples[column].category
    }
    return {field: column for field, column in plain.items() if not is_personal_column(column)}


def _is_input(column: str, table: CandidateTable) -> bool:
    lower = column.lower()
    known = {*_DELETED, *_VERSIONS, *_ORIGINS}
    is_key = column == _id(table) or (lower.endswith("_id") and column not in table.references)
    refused = (
        not column.isprintable()
        or is_personal_column(column)
        or _REFUSED.search(lower)
        or lower in known
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
    textual = kind in _TEXTS or kind not in {*_NUMBERS, *_TIMES, "uuid", "json", "jsonb", "bytea"}
    return ColumnSample(missing, textual and few and short and "[]" not in kind)


def _label(tables: Iterable[CandidateTable], target: TableName) -> str | None:
    """Return the column of a table that names its rows."""
    for each in tables:
        if each.name == target and len(each.columns) <= 8:
            lower = {column.lower(): column for column in each.columns}
            return next((lower[c] for c in ("name", "label", "title", "code") if c in lower), None)
    return None


def _database(leads: CandidateTable) -> Iterator[str]:
    lower = {column.lower(): column for column in leads.columns}
    yield "[database]"
    yield f"schema = {_toml(leads.name.schema or '')}"
    yield f"table = {_toml(leads.name.table)}"
    yield f"id = {_toml(_id(leads) or 'id')}"
    for key, names in (("version", _VERSIONS), ("deleted", _DELETED)):
        if column := next((lower[each] for each in names if each in lower), None):
            yield f"{key} = {_toml(column)}"
    if column := next((lower[each] for each in _ORIGINS if each in lower), None):
        yield "# If scores are written back to this table, name who writes them:"
        yield f'# origin = {{ column = {_toml(column)}, values = ["leadstream"] }}'
    if any(kind in ("timestamp without time zone", "date") for kind in leads.columns.values()):
        yield "# Times without a zone are here: say whose they are."
        yield 'time_zone = "UTC"'


def _line(
    key: str,
    column: str,
    lookups: Mapping[str, tuple[TableName, str, str]],
    samples: Mapping[str, ColumnSample],
    *,
    number: bool = False,
) -> str:
    value = _toml(column)
    if column in lookups and not number:
        target, of_key, label = lookups[column]
        parts = {
            "schema": target.schema or "",
            "table": target.table,
            "key": of_key,
            "value": label,
        }
        inner = ", ".join(f"{name} = {_toml(text)}" for name, text in parts.items())
        value = f"{{ column = {value}, lookup = {{ {inner} }} }}"
    missing = samples[column].missing
    return f"{key} = {value}" + (f"  # {missing:.0%} missing" if missing else "")


def _outcome(tables: Iterable[CandidateTable], leads: CandidateTable) -> Iterator[str]:
    """Yield the section of the outcomes, if a table refers to the leads and looks like them."""
    for each in sorted(tables, key=lambda one: str(one.name)):
        refers = [c for c, (target, _) in each.references.items() if target == leads.name]
        stem = leads.name.table.lower().rstrip("s")
        refers += [c for c in each.columns if c.lower() in (f"{stem}_id", "lead_id", "person_id")]
        lower = {column.lower(): column for column in each.columns}
        decided = next((lower[c] for c in _DECIDED if c in lower), None)
        named = _OUTCOMES.search(each.name.table.lower())
        if each.name == leads.name or not (named and refers and decided):
            continue
        yield from ("", "[outcome]", f"schema = {_toml(each.name.schema or '')}")
        yield f"table = {_toml(each.name.table)}"
        yield f"lead = {_toml(refers[0])}"
        yield f"decided_at = {_toml(decided)}"
        if column := next((lower[c] for c in _CONDITIONS if c in lower), None):
            yield "# If only some of its rows are outcomes, say which:"
            yield f'# where = {{ column = {_toml(column)}, values = ["submitted"] }}'
        return
    yield from ("", "# No table of outcomes was found: add [outcome] with table, lead, decided_at.")


def _toml(text: str) -> str:
    """Return a basic string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


_TABLES = """
select n.nspname::text, c.relname::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
  and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_'
  and c.relname !~ '^leadstream_' and c.relname not in ('lead_scores', 'lead_history')
  and has_schema_privilege(n.oid, 'USAGE') and has_any_column_privilege(c.oid, 'SELECT')
order by 1, 2
"""
_KEYS = """
select n.nspname::text, c.relname::text, a.attname::text
from pg_index i
join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
where i.indisprimary and i.indnkeyatts = 1
"""
_REFERENCES = """
select n.nspname::text, c.relname::text, a.attname::text,
       tn.nspname::text, t.relname::text, ta.attname::text
from pg_constraint k
join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum = k.conkey[1]
join pg_class t on t.oid = k.confrelid join pg_namespace tn on tn.oid = t.relnamespace
join pg_attribute ta on ta.attrelid = t.oid and ta.attnum = k.confkey[1]
where k.contype = 'f' and array_length(k.conkey, 1) = 1
"""
