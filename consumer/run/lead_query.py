"""The query for the states of leads in `people`: built from the types of its columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from consumer.scoring.leads import Lead
from leadstream.lead_fields import CRM_FIELDS, LEAD_FIELDS, MAPS, FieldKind, LeadField
from schemas.crm_rows import parse_time

INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_TEXTS = {"text", "character varying", "character", "name"}
# Names, e-mail addresses, phone numbers, conversion_probability and all of `applications` are never
# read. Numbers that are no float64 and times that are infinite are missing values.
_NUMBER: LiteralString = "CASE WHEN {column} BETWEEN -1e308 AND 1e308 THEN {column}::float8 END"
_EXPRESSIONS: dict[FieldKind, LiteralString] = {
    FieldKind.TIME: (
        "CASE WHEN isfinite({column}) THEN floor(extract(epoch FROM {column}) * 1000)::bigint END"
    ),
    FieldKind.DOUBLE: _NUMBER,
    FieldKind.INT: _NUMBER,
    FieldKind.STRING: "{column}::text",
}
_ABSENT = sql.SQL("NULL")
_NAME: LiteralString = "(SELECT n.name::text FROM {table} n WHERE n.id = {column} LIMIT 1)"
_NAME_BY_TEXT: LiteralString = (
    "(SELECT n.name::text FROM {table} n WHERE n.id::text = {column}::text LIMIT 1)"
)
_MAPS = tuple(field.name for field in LEAD_FIELDS if field.kind in MAPS)
_STATE = (*(field.name for field in CRM_FIELDS), *_MAPS)
_TIMES = {"timestamp with time zone", "timestamp without time zone", "date"}
_NUMERIC = {"smallint", "integer", "bigint", "real", "double precision", "numeric"}
# A version of another type counts if its text is a whole number.
_VERSION: LiteralString = (
    "CASE WHEN p.lead_version::text ~ '^-?[0-9]{1,18}([.]0*)?$'"
    " THEN p.lead_version::text::numeric::bigint END"
)

Types = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class LeadQuery:
    """A query for leads by a list of ids.

    Each row is an id, and what `read` makes a lead of, or None if it is none. `id_type` is the
    type of the id, `lacking` are the fields that this CRM has no column for. With `exact`, equal
    ids may have other texts.
    """

    statement: sql.Composed
    id_type: str
    read: Callable[[Sequence[Any]], Lead | None]
    lacking: tuple[str, ...]
    exact: bool


def people_query(types: Types) -> LeadQuery:
    """Return the query for `people`, given the type of each (table, column)."""
    version: LiteralString = _VERSION if ("people", "lead_version") in types else "NULL"
    if types.get(("people", "lead_version")) in INTEGER_BITS:
        version = "p.lead_version::bigint"
    columns = [*(_expression(field, types) for field in CRM_FIELDS), sql.SQL(version)]
    id_type = types["people", "id"]
    array = id_type if id_type in {*INTEGER_BITS, "uuid", "numeric"} else "text"
    # A type that has no equality with text cannot use its index, but answers.
    key = "p.id" if id_type in _TEXTS or array != "text" else "p.id::text"
    statement = sql.SQL("SELECT p.id::text, {} FROM people p WHERE {} = ANY(%s::{}[])").format(
        sql.SQL(", ").join(columns), sql.SQL(key), sql.SQL(array)
    )
    # Times that this CRM keeps as numbers or texts.
    parsed_times = [
        field.name
        for field in CRM_FIELDS
        if field.kind is FieldKind.TIME
        and types.get(("people", field.column or field.name), "date") not in _TIMES
    ]

    def read(values: Sequence[Any]) -> Lead:
        *fields, at_version = values
        state = dict(zip(_STATE, (*fields, *({} for _ in _MAPS)), strict=True))
        for name in parsed_times:
            state[name] = parse_time(state[name])
        return Lead(state, at_version or 0)

    lacking = tuple(field.name for field in CRM_FIELDS if _expression(field, types) == _ABSENT)
    return LeadQuery(statement, id_type, read, lacking, exact=id_type == "numeric")


def _expression(field: LeadField, types: Types) -> sql.Composable:
    """Return what reads a field; NULL where this CRM has no column for it."""
    column = sql.SQL("p.{}").format(sql.Identifier(field.column or field.name))
    present = ("people", field.column) in types
    if field.name_table is not None:
        table = field.name_table
        if present and (table, "name") in types and (table, "id") in types:
            own, other = types["people", field.column or field.name], types[table, "id"]
            name = _NAME if own == other else _NAME_BY_TEXT
            return sql.SQL(name).format(table=sql.Identifier(table), column=column)
        column = sql.SQL("p.{}").format(sql.Identifier(field.name))
        present = ("people", field.name) in types
    elif present and field.kind is FieldKind.TIME:
        kind = types["people", field.column or field.name]
        if kind not in _TIMES:
            expression = _NUMBER if kind in _NUMERIC else _EXPRESSIONS[FieldKind.STRING]
            return sql.SQL(expression).format(column=column)
    elif field.kind in (FieldKind.DOUBLE, FieldKind.INT):
        # A column that is no number would fail the cast, and with it the whole batch.
        present = present and types["people", field.column or field.name] in _NUMERIC
    return sql.SQL(_EXPRESSIONS[field.kind]).format(column=column) if present else _ABSENT
