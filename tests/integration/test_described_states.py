"""Any described CRM: the state from Postgres is that of the row in the outbox."""

import datetime
import json
import uuid
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from psycopg import sql

from consumer.run.postgres import PostgresLeads
from consumer.scoring.leads import Lead
from leadstream.errors import Poison
from leadstream.local.postgres import Postgres
from leadstream.personal import is_personal_column
from producer.crm_check import check_fit
from producer.migrate import migrate
from producer.outbox import Outbox
from producer.outbox_records import lead_change_record
from producer.rescore import all_leads
from schemas.codec import Reader
from schemas.description_file import parse_description
from schemas.foreign_converters import CONVERTERS
from schemas.foreign_formats import ConversionOptions, ForeignFormat, ForeignMessage
from schemas.foreign_rows import parse_columns
from tests.examples import examples

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

KEYWORDS = ["select", "user", "order", "old", "new", "a_row", "value", "key", "p", "r", "table"]
ALPHABET = "aZ_ \"'%\\$.{}:;-?é😀\t"
# Postgres cuts names at 63 bytes.
NAMES = (
    st.sampled_from(KEYWORDS)
    | st.text(ALPHABET, min_size=1, max_size=15).filter(lambda text: len(text.encode()) < 60)
).filter(lambda text: bool(text.strip()) and text.isprintable() and not is_personal_column(text))
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40)
INTEGERS = st.integers(-(2**15), 2**15 - 1) | st.sampled_from([0, 1, -1])
MOMENTS = st.integers(-(2**28), 2**32).map(
    lambda seconds: datetime.datetime.fromtimestamp(seconds + 0.25, datetime.UTC).isoformat()[:-6]
)
TIMES = MOMENTS | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "12000-01-01"])
NUMBERS = st.floats().map(repr) | st.decimals(-10, 10, places=4).map(str)
# The texts of values by type of the column.
VALUES: dict[str, st.SearchStrategy[str]] = {
    "smallint": INTEGERS.map(str),
    "bigint": (INTEGERS | st.integers(-(2**63), 2**63 - 1)).map(str),
    "real": st.floats(width=32).map(repr),
    "float8": NUMBERS,
    "numeric": NUMBERS | st.sampled_from(["1e400", "0.10", "7.00", "1e-400"]),
    "boolean": st.sampled_from(["true", "false"]),
    "text": TEXTS | NUMBERS | TIMES | st.sampled_from(["ada@example.com", "  x ", "1.5", "n/a"]),
    "varchar(60)": TEXTS,
    "char(9)": st.text("ab ", max_size=9),
    "timestamp": TIMES,
    "timestamptz": TIMES,
    "date": st.dates(datetime.date(1960, 1, 1)).map(str) | st.just("infinity"),
    "uuid": st.uuids().map(str),
    "jsonb": st.sampled_from(['{"a": [1, 2.50]}', "null", '"x"', "7"]),
    "text[]": st.sampled_from(["{}", "{a,NULL}"]),
    "interval": st.sampled_from(["1 day 02:00", "-1 year"]),
    "inet": st.sampled_from(["10.0.0.1/8", "::1"]),
    "money": st.sampled_from(["3.50", "-1"]),
    "bytea": st.sampled_from(["\\x00ff", ""]),
}
IDS = VALUES | {"numeric": st.decimals(-10, 10, places=3).map(str)}
ID_TYPES = ["bigint", "uuid", "text", "varchar(60)", "char(9)", "inet", "numeric"]
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]
FIELDS = [
    "created_at",
    "lead_score",
    "engagement_score",
    "touchpoint_count",
    "lifecycle_state",
    "status",
    "source",
]


@dataclass(frozen=True, slots=True)
class DrawnCrm:
    """A drawn schema: names, the type of each column, rows of texts, and the description."""

    schema: str
    table: str
    columns: dict[str, str]
    rows: list[dict[str, str | None]]
    names: list[tuple[str, str | None]]
    document: dict[str, Any]


@st.composite
def crms(draw: st.DrawFn) -> DrawnCrm:
    names = draw(st.lists(NAMES, min_size=14, max_size=14, unique=True))
    schema, table, lookup, key, value, lead_id, version, deleted, *columns = names
    types = {column: draw(st.sampled_from(sorted(VALUES))) for column in columns}
    # Half of the schemas fit their description, as most do.
    fits = draw(st.booleans())
    if fits:
        types[columns[0]] = draw(st.sampled_from(["timestamp", "timestamptz", "date"]))
    types[lead_id] = draw(st.sampled_from(ID_TYPES))
    types[version] = draw(st.sampled_from(["bigint", "numeric", "text", "timestamp"]))
    types[deleted] = draw(st.sampled_from(["boolean", "timestamptz", "smallint", "text"]))
    lead: dict[str, Any] = {"created_at": columns[0], "numbers": {}, "categories": {}}
    for column in columns[1:]:
        number = types[column] in ("smallint", "real", "float8", "numeric")
        fitting = ["lead_score", "numbers"] if number else ["status", "source", "categories"]
        field = draw(st.sampled_from(fitting if fits else [*FIELDS[1:], "numbers", "categories"]))
        spec: dict[str, Any] = {"column": column}
        if draw(st.booleans()):
            spec["missing"] = ["n/a", "0"]
        if draw(st.integers(0, 15 if fits else 3)) == 0:
            spec["lookup"] = {"schema": schema, "table": lookup, "key": key, "value": value}
        if field in ("numbers", "categories"):
            lead[field][column] = spec
        else:
            lead[field] = spec
    rows = []
    for _ in range(2):
        row = {c: draw(st.none() | VALUES[kind]) for c, kind in types.items()}
        row[lead_id] = draw(IDS[types[lead_id]].filter(bool))
        if fits:
            row[columns[0]], row[deleted] = draw(MOMENTS), None
        rows.append(row)
    found = [text for row in rows for text in row.values() if text is not None]
    pairs = draw(st.lists(st.tuples(st.sampled_from(found), st.none() | TEXTS), max_size=6))
    database = {
        "schema": schema,
        "table": table,
        "id": lead_id,
        "version": version,
        "deleted": deleted,
        "time_zone": draw(st.sampled_from(ZONES)),
    }
    document = {"database": database, "lead": lead}
    return DrawnCrm(schema, table, types, rows, [*pairs, (key, value)], document)


def create(connection: psycopg.Connection[Any], crm: DrawnCrm) -> None:
    do, name = connection.execute, sql.Identifier
    do(sql.SQL("create schema {}").format(name(crm.schema)))
    columns = [
        sql.SQL("{} {}").format(name(column), sql.SQL(kind)) for column, kind in crm.columns.items()
    ]
    columns.append(sql.SQL("primary key ({})").format(name(crm.document["database"]["id"])))
    do(
        sql.SQL("create table {} ({})").format(
            name(crm.schema, crm.table), sql.SQL(", ").join(columns)
        )
    )
    *pairs, (key, value) = crm.names
    lookups = [spec["lookup"] for spec in specs(crm) if "lookup" in spec]
    if lookups:
        place = name(crm.schema, lookups[0]["table"])
        do(sql.SQL("create table {} ({} text, {} text)").format(place, name(key), name(str(value))))
        for one, other in pairs:
            do(
                sql.SQL("insert into {} values ({}, {})").format(
                    place, sql.Literal(one), sql.Literal(other)
                )
            )


def specs(crm: DrawnCrm) -> list[dict[str, Any]]:
    lead = crm.document["lead"]
    plain = [spec for name, spec in lead.items() if name not in ("numbers", "categories")]
    found = [*plain, *lead["numbers"].values(), *lead["categories"].values()]
    return [spec for spec in found if isinstance(spec, dict)]


def write(connection: psycopg.Connection[Any], crm: DrawnCrm) -> None:
    """Insert the first row, and then let it become the second one."""
    place, columns = sql.Identifier(crm.schema, crm.table), list(crm.columns)
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    for verb, row in zip(("insert", "update"), crm.rows, strict=True):
        values = sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Literal(row[c]), sql.SQL(crm.columns[c])) for c in columns
        )
        statement = "insert into {} ({}) values ({})"
        if verb == "update":
            statement = "update {} set ({}) = row({})"
        connection.execute(sql.SQL(statement).format(place, names, values))


def current_row(connection: psycopg.Connection[Any], crm: DrawnCrm) -> dict[str, Any]:
    place = sql.Identifier(crm.schema, crm.table)
    found = connection.execute(sql.SQL("select to_jsonb(t) from {} t").format(place)).fetchone()
    assert found is not None
    row: dict[str, Any] = found[0]
    return row


def state_of_event(
    row: dict[str, Any], occurred_at: int, document: dict[str, Any]
) -> dict[str, Any] | None:
    """The state that `translate` takes from a row that was sent as a CloudEvent."""
    at = datetime.datetime.fromtimestamp(occurred_at / 1000, datetime.UTC).isoformat()
    event = {"specversion": "1.0", "id": "1", "source": "/crm", "type": "lead.updated", "time": at}
    value = json.dumps(event | {"data": row}).encode()
    headers = {"content-type": b"application/cloudevents+json"}
    how = ConversionOptions(parse_columns("", document), True, Reader("LeadChanged"), None)
    message = ForeignMessage(None, value, headers, occurred_at, "t-0-1")
    try:
        [record] = CONVERTERS[ForeignFormat.CLOUDEVENTS](message, how)
    except Poison:
        return None
    state: dict[str, Any] | None = record["lead"]
    return state


@settings(
    max_examples=examples(60),
    deadline=None,
    # Each example makes a schema: to shrink one takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(crm=crms())
def test_a_state_would_depend_on_the_road_that_it_came_by(
    postgres: Postgres, crm: DrawnCrm
) -> None:
    suffix = uuid.uuid4().hex[:8]
    url = f"{postgres.url}{'&' if '?' in postgres.url else '?'}options=-csearch_path%3Dbox_{suffix}"
    description = parse_description("crm.toml", crm.document)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create schema box_{suffix}".encode())
        try:
            create(connection, crm)
            migrate(url, description=description)
            write(connection, crm)
            with closing(Outbox(url, description)) as outbox:
                outbox.connect()
                rows = outbox.rows(0, 10)
            records = [lead_change_record(row, description) for row in rows]
            present = dict(all_leads(connection, description))
            with closing(PostgresLeads(url, description)) as leads:
                found = leads.fetch([record["lead_id"] for record in records])
            report = check_fit(connection, description)  # type: ignore[arg-type]
            row = current_row(connection, crm)
        finally:
            connection.execute(f"drop schema box_{suffix} cascade".encode())
            place = sql.Identifier(crm.schema)
            connection.execute(sql.SQL("drop schema {} cascade").format(place))
    assert not [row.unreadable for row in rows if row.unreadable]
    assert present.keys() == found.keys()
    if not records:
        assert not found
        return
    assert report.rows == len(found)
    last = records[-1]
    assert (last["change_type"] == "DELETED") == (not found)
    for lead_id, lead in found.items():
        assert isinstance(lead, Lead)
        assert last["lead_id"] == lead_id
        assert lead.version == present[lead_id]
        # The version alone is no change.
        states = (None if lead.state["created_at"] is None else lead.state, last["lead"])
        assert states[0] == states[1]
        # An event has the whole row, refuses it, or leaves the state to Postgres.
        from_event = state_of_event(row, last["occurred_at"], crm.document)
        event(f"an event has a state: {from_event is not None}")
        assert from_event in (None, last["lead"])
