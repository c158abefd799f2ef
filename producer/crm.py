"""The demo's CRM in Postgres: tables, a bulk fill, live writes, and the training table."""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from leadstream.errors import UserError
from leadstream.lead_fields import CRM_FIELDS, FieldKind, LeadField
from leadstream.postgres import check_url, describe_postgres
from producer.simulator import (
    CAMPUSES,
    PROGRAMMES,
    Application,
    DeliveryKind,
    SimulatedChange,
    SimulatedCrm,
)
from producer.table import training_frame

if TYPE_CHECKING:
    import pandas as pd

Connection = psycopg.Connection[Any]

# The ids of names, by table.
_IDS = {
    table: {name: number for number, name in enumerate(names, start=1)}
    for table, names in (("programmes", PROGRAMMES), ("campuses", CAMPUSES))
}
_FIRST_NAMES = (
    "Ada",
    "Ben",
    "Chen",
    "Dina",
    "Emre",
    "Fay",
    "Goran",
    "Hana",
    "Ivo",
    "Jana",
    "Kofi",
    "Lena",
    "Mia",
    "Noor",
)
_LAST_NAMES = (
    "Adeyemi",
    "Berg",
    "Costa",
    "Dimov",
    "Evans",
    "Fischer",
    "Garcia",
    "Haddad",
    "Ito",
    "Jansen",
    "Kumar",
)

_STATE_COLUMNS = [field.column or field.name for field in CRM_FIELDS]
_PEOPLE = ", ".join(
    ["id", "first_name", "last_name", "email", "phone", *_STATE_COLUMNS, "lead_version"]
)
_APPLICATIONS = "person_id, source, programme_id, campus_id, submitted_at"
_HISTORY = "event_id, lead_id, change_type, occurred_at, lead_version, state"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class FillCounts:
    """The number of rows that a fill wrote."""

    people: int
    applications: int
    changes: int


@contextmanager
def connected(database_url: str) -> Iterator[Connection]:
    """Open a connection that commits each statement or transaction block.

    Raises UserError if the CRM is not available.
    """
    try:
        conn = psycopg.connect(check_url(database_url), connect_timeout=10, autocommit=True)
    except psycopg.Error as error:
        raise UserError(
            f"DATABASE_URL: Postgres does not answer: {describe_postgres(error)}"
        ) from None
    try:
        with conn:
            yield conn
    except psycopg.OperationalError as error:
        raise UserError(f"DATABASE_URL: Postgres went away: {describe_postgres(error)}") from None
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
        psycopg.errors.InsufficientPrivilege,
    ) as error:
        raise UserError(
            f"DATABASE_URL: not a CRM that can be used here: {describe_postgres(error)}"
        ) from None


def refuse_foreign(conn: Connection) -> None:
    """Raise UserError if the database has a CRM that the simulator did not make."""
    row = conn.execute(_FOREIGN).fetchone()
    if row and row[0]:
        raise UserError(
            f"DATABASE_URL: the table {row[0]} is that of a CRM that `leadstream simulate` did not "
            "make, and nothing was changed: name an empty database or schema"
        )


def create_schema(conn: Connection) -> None:
    """Create the tables that are missing, with the simulator's programmes and campuses.

    Fields of a lead that have no column yet get one.
    """
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(resources.files("producer").joinpath("crm.sql").read_bytes())
        columns = {name for (name,) in cursor.execute(_PEOPLE_COLUMNS)}
        for field in CRM_FIELDS:
            if field.column not in columns:
                cursor.execute(_add_column(field))
        for table, ids in _IDS.items():
            cursor.executemany(
                f"insert into {table} (id, name) values (%s, %s) on conflict do nothing",  # noqa: S608  # two constants
                [(number, name) for name, number in ids.items()],
            )


def fill(
    conn: Connection,
    crm: SimulatedCrm,
    until: int | None = None,
    advance: Callable[[int], object] = lambda _changes: None,
) -> FillCounts:
    """Write everything that happened before `until` (ms UTC), in one transaction.

    That is the history, the current state of people, and applications. The CRM's leads must not be
    in the tables yet. `advance` is called for each change written.
    """
    newest: dict[str, SimulatedChange] = {}
    changes = 0
    with conn.transaction(), conn.cursor() as cursor:
        with cursor.copy(f"copy lead_history ({_HISTORY}) from stdin") as copy:
            for change in crm.changes(until=until):
                copy.write_row(_history_row(_record(change)))
                newest[change.lead_id] = change
                changes += 1
                advance(1)
        with cursor.copy(f"copy people ({_PEOPLE}) from stdin") as copy:
            for change in newest.values():
                copy.write_row(_person_row(_record(change)))
        applications = [a for a in crm.applications(until=until) if a.lead_id in newest]
        with cursor.copy(f"copy applications ({_APPLICATIONS}) from stdin") as copy:
            for application in applications:
                copy.write_row(_application_row(application))
        cursor.execute("analyze people, applications, lead_history")
    return FillCounts(len(newest), len(applications), changes)


def write_changes(conn: Connection, changes: Iterable[SimulatedChange]) -> None:
    """Apply these changes to the CRM in one transaction.

    A person never goes back to an older version. Call this before the changes are sent, as a CRM
    does. A score that was written back changes nothing.
    """
    history, people, erased = [], [], []
    for change in changes:
        if change.state is None:
            erased.append((change.lead_id,))
        elif change.kind is not DeliveryKind.LOOP:
            record = {**_record(change), "lead": change.state}
            history.append(_history_row(record))
            people.append(_person_row(record))
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(_INSERT_HISTORY, history)
        cursor.executemany(_UPSERT_PERSON, people)
        cursor.executemany("delete from people where id = %s", erased)
        cursor.executemany("delete from lead_history where lead_id = %s", erased)


def write_applications(conn: Connection, applications: Iterable[Application]) -> None:
    """Add applications of people who are in the CRM, in one transaction.

    Those of erased people are left out.
    """
    rows = [(*_application_row(application), application.lead_id) for application in applications]
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(_INSERT_APPLICATION, rows)


def training_table(database_url: str, horizon_days: float) -> "pd.DataFrame":
    """Build a table with one row for each change of a lead that had not applied.

    Columns are lead_id, as_of (ms UTC), the LeadState fields, and converted: an application was
    submitted within `horizon_days` after as_of. Changes younger than that, by the newest moment of
    the history, are left out: their outcome is not known yet.
    """
    with connected(database_url) as conn:
        rows = conn.execute(_TRAINING, {"horizon": timedelta(days=horizon_days)}).fetchall()
    lead_ids, as_of, states, converted = zip(*rows, strict=True) if rows else ((), (), (), ())
    return training_frame(lead_ids, as_of, states, converted)


_TRAINING = """
with newest as (
         select max(occurred_at) as moment from lead_history
         where occurred_at <= now() + interval '1 day'
     ),
     first_application as (
         select person_id, min(submitted_at) as moment from applications group by person_id
     )
select history.lead_id,
       (extract(epoch from history.occurred_at) * 1000)::bigint,
       history.state,
       coalesce(application.moment <= history.occurred_at + %(horizon)s, false)
from lead_history as history
cross join newest
left join first_application as application on application.person_id = history.lead_id
where history.state is not null
  and history.occurred_at <= newest.moment - %(horizon)s
  and (application.moment is null or application.moment > history.occurred_at)
order by history.occurred_at, history.seq
"""

# The simulator's CRM is the only one whose history has a state for each change.
_FOREIGN = """
select min(name) from (
    select name from unnest(array['people', 'applications', 'programmes', 'campuses']) as name
    where to_regclass(name) is not null
    union all
    select relname::text from pg_class c
    where relnamespace = to_regnamespace(current_schema()::text) and relkind in ('r', 'p')
      and relname !~ '^(leadstream_|lead_scores$)'
      and not exists (select from pg_depend where objid = c.oid and deptype = 'e')
) as found
where not exists (
    select from pg_attribute where attrelid = to_regclass('lead_history') and attname = 'state'
)
"""
_PEOPLE_COLUMNS = """
select attname::text from pg_attribute
where attrelid = 'people'::regclass and attnum > 0 and not attisdropped
"""
_COLUMN_TYPES: dict[FieldKind, LiteralString] = {
    FieldKind.TIME: "timestamptz",
    FieldKind.DOUBLE: "double precision",
    FieldKind.INT: "integer",
    FieldKind.STRING: "text",
}


def _add_column(field: LeadField) -> sql.Composed:
    """Return the statement for a field that has no column yet in crm.sql."""
    return sql.SQL("alter table people add column {} {}").format(
        sql.Identifier(field.column or field.name), sql.SQL(_COLUMN_TYPES[field.kind])
    )


_INSERT_HISTORY = f"""
insert into lead_history ({_HISTORY}) values (%s, %s, %s, %s, %s, %s)
on conflict (event_id) do nothing
"""  # noqa: S608  # constants only

_INSERT_APPLICATION = f"""
insert into applications ({_APPLICATIONS})
select %s, %s, %s, %s, %s where exists (select from people where id = %s)
"""  # noqa: S608  # constants only

# A lead is created once.
_CHANGED = [*(name for name in _STATE_COLUMNS if name != "created_at"), "lead_version"]
_UPSERT_PERSON = f"""
insert into people ({_PEOPLE}) values ({", ".join("%s" for _ in _PEOPLE.split(", "))})
on conflict (id) do update set {", ".join(f"{name} = excluded.{name}" for name in _CHANGED)}
where people.lead_version < excluded.lead_version
"""  # noqa: S608  # constants only


def _record(change: SimulatedChange) -> Mapping[str, Any]:
    if change.record is None:
        raise ValueError("a tombstone has no record")
    return change.record


def _moment(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def _history_row(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        record["event_id"],
        record["lead_id"],
        record["change_type"],
        _moment(record["occurred_at"]),
        record["lead_version"],
        json.dumps(record["lead"]),
    )


def _person_row(record: Mapping[str, Any]) -> tuple[Any, ...]:
    lead_id, state = record["lead_id"], record["lead"]
    number = zlib.crc32(lead_id.encode())
    first, last = (
        _FIRST_NAMES[number % len(_FIRST_NAMES)],
        _LAST_NAMES[number // 64 % len(_LAST_NAMES)],
    )
    return (
        lead_id,
        first,
        last,
        # Reserved for examples, like the phone numbers.
        f"{first}.{last}.{number}@example.com".lower(),
        f"+1 202 555 01{number % 100:02}",
        *(_column_value(field, state.get(field.name)) for field in CRM_FIELDS),
        record["lead_version"],
    )


def _column_value(field: LeadField, value: Any) -> Any:
    """Return what the column of a field holds for this value of the field."""
    if field.name_table is not None:
        return _IDS[field.name_table].get(value)
    return _moment(value) if field.kind is FieldKind.TIME else value


def _application_row(application: Application) -> tuple[Any, ...]:
    return (
        application.lead_id,
        application.source,
        _IDS["programmes"][application.programme_name],
        _IDS["campuses"][application.campus_name],
        _moment(application.submitted_at),
    )
