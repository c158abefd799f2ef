"""The tables of a database that may hold leads: their columns, their keys, and which one does."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leadstream.errors import UserError
from leadstream.postgres import Connection
from schemas.crm_description import TableName
from schemas.crm_tables import find_tables

NUMBERS = {"smallint", "integer", "bigint", "real", "double precision", "numeric"}
TIMES = {"timestamp with time zone", "timestamp without time zone", "date"}
# Types that may hold times in a form of their own, such as seconds since 1970.
TEXTS_OF_TIMES = {
    *("text", "character varying", "character"),
    *("integer", "bigint", "numeric", "double precision"),
}
CHANGED = re.compile(r"updat|modif|chang|delet|birth|expir|due")
NUMBER_FIELDS = {"lead_score", "engagement_score", "touchpoint_count"}
OUTCOMES = re.compile(r"applica|enrol|admission|order|deal|opportunit|conver|submission")
_LEADS = re.compile(
    r"leads?|contacts?|people|persons?|prospects?|enquir|inquir|applicants?|student"
)
# Names that columns have for each field, the best first.
SYNONYMS = {
    "created_at": "created_at created_on created createddate created_date creation_date date_added "
    "inserted_at signup_at registered_at create_date",
    "lead_score": "lead_score leadscore score",
    "engagement_score": "engagement_score engagement",
    "touchpoint_count": "touchpoint_count touchpoints touches contact_count activity_count",
    "lifecycle_state": "lifecycle_state lifecycle_stage lifecyclestage lifecycle",
    "status": "status lead_status stage state status_id status_code lead_status_id stage_id "
    "state_id",
    "source": "source lead_source leadsource source_id lead_source_id channel channel_id "
    "source_code utm_source",
    "programme_name": "programme_name program_name programme_id program_id programme program "
    "course_id course course_code program_code programme_code",
    "campus_name": "campus_name campus_id campus campus_code location_id location",
}
_CREATED = re.compile(r"creat|regist|sign_?up|insert|added|enter|enquir|inquir|joined|received")
_NO_TIME = re.compile(r"_(by|from|in|id|user|name|via|source|channel|count)$")
_KEYS_BY_NAME = ("id", "uuid", "lead_id", "contact_id")
_KEY_ENDINGS = ("_id", "_uuid", "_ref", "_key", "_no", "_number", "_code")


@dataclass(frozen=True, slots=True)
class CandidateTable:
    """A table of the catalog: the columns that this role may read, with their types, and its keys.

    `keys` are the columns of its primary key. `references` has the table and column that a column
    refers to.
    """

    name: TableName
    columns: Mapping[str, str]
    keys: tuple[str, ...]
    references: Mapping[str, tuple[TableName, str]]

    @property
    def key(self) -> str | None:
        """Return the one column of the primary key, None if it has none or several."""
        return self.keys[0] if len(self.keys) == 1 else None

    def by_word(self) -> dict[str, str]:
        """Return the columns by their names in small letters, with underscores between words."""
        return {words_of(column): column for column in self.columns}


def words_of(name: str) -> str:
    """Return a name in small letters with underscores between words: StatusId is status_id."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[\s\-]+", "_", apart).lower()


def read_candidates(connection: Connection) -> list[CandidateTable]:
    """Return the tables and views that this role may read, without those of Leadstream."""
    names = [TableName(table, schema) for schema, table in connection.execute(_TABLES)]
    found = find_tables(connection, names)
    keys = {(schema, table): tuple(key) for schema, table, key in connection.execute(_KEYS)}
    readable = {
        (schema, table): set(columns) for schema, table, columns in connection.execute(_READABLE)
    }
    references: dict[tuple[str, str], dict[str, tuple[TableName, str]]] = {}
    for schema, table, column, *target, key in connection.execute(_REFERENCES):
        place = references.setdefault((schema, table), {})
        place[column] = TableName(target[1], target[0]), key
    candidates = []
    for each in found.values():
        place_of = each.name.schema or "", each.name.table
        allowed = readable.get(place_of, set())
        columns = {column: kind for column, kind in each.columns.items() if column in allowed}
        own_keys = keys.get(place_of, ())
        candidates.append(
            CandidateTable(
                each.name,
                columns,
                own_keys if columns.keys() >= set(own_keys) else (),
                references.get(place_of, {}),
            )
        )
    return candidates


def choose_leads(tables: Sequence[CandidateTable], wanted: str | None) -> CandidateTable:
    """Return the table that looks most like leads, or the one that is wanted.

    Raises UserError if there is no such table.
    """
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


def column_of_field(table: CandidateTable, field: str) -> str | None:
    """Return the column that has the best name and a type of a field."""
    if field == "created_at":
        return next(iter(created_columns(table)), None)
    words = table.by_word()
    for synonym in SYNONYMS[field].split():
        column = words.get(synonym)
        if column is not None and _has_type(table.columns[column], field):
            return column
    return None


def created_columns(table: CandidateTable, *, any_name: bool = False) -> list[str]:
    """Return the columns that may hold the time of creation, the likeliest first.

    Those of texts or numbers come after those of times. With `any_name`, other times come last.
    """
    words = table.by_word()
    named = [words[each] for each in SYNONYMS["created_at"].split() if each in words]
    named += [c for word, c in words.items() if _CREATED.search(word) and not _NO_TIME.search(word)]
    times = [column for column in named if table.columns[column] in TIMES]
    texts = [column for column in named if table.columns[column] in TEXTS_OF_TIMES]
    others = [
        c for c, kind in table.columns.items() if kind in TIMES and not CHANGED.search(c.lower())
    ]
    return list(dict.fromkeys([*times, *texts, *(others if any_name else ())]))


def id_column(table: CandidateTable) -> str | None:
    """Return the column of the ids: the primary key, or the one that has the best name.

    Of a primary key of several columns it is the first one, if none has a name of an id.
    """
    if table.key is not None:
        return table.key
    words = table.by_word()
    stem = stem_of(table)
    names = (*_KEYS_BY_NAME, *(f"{stem}{ending}" for ending in _KEY_ENDINGS))
    if named := next((words[each] for each in names if each in words), None):
        return named
    if table.keys:
        return table.keys[0]
    # The rows of a view begin with what identifies them.
    word, column = next(iter(words.items()), ("", None))
    return column if word.endswith(_KEY_ENDINGS[:4]) else None


def stem_of(table: CandidateTable) -> str:
    """Return what a column that refers to the table begins with: contact, for v_contacts."""
    return re.sub(r"^v(iew|w)?_", "", words_of(table.name.table)).rstrip("s")


def _has_type(kind: str, field: str) -> bool:
    return kind in NUMBERS if field in NUMBER_FIELDS else kind not in TIMES


def _rank(table: CandidateTable) -> float:
    """Return how much a table looks like leads; 0 or less if it does not."""
    if column_of_field(table, "created_at") is None or id_column(table) is None:
        return 0
    named = 10 if _LEADS.search(table.name.table.lower()) else 0
    fields = sum(column_of_field(table, field) is not None for field in SYNONYMS)
    referred = -8 if OUTCOMES.search(table.name.table.lower()) else 0
    return named + fields + referred - 4


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
select n.nspname::text, c.relname::text,
       array_agg(a.attname::text order by array_position(i.indkey::int2[], a.attnum))
from pg_index i
join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid
     and a.attnum = any((i.indkey::int2[])[0:i.indnkeyatts - 1])
where i.indisprimary
group by 1, 2
"""
_READABLE = """
select n.nspname::text, c.relname::text, array_agg(a.attname::text)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^(pg_|information_schema$)'
  and has_column_privilege(c.oid, a.attnum, 'SELECT')
group by 1, 2
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
