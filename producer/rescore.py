"""Requests to score leads again.

They are RESCORE events without state, or requests that are answered together.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from psycopg import sql

from leadstream.errors import UserError
from leadstream.lead_fields import MAX_ID_CHARACTERS
from producer.crm import Connection
from schemas.crm_description import CrmDescription, TableName, read_version
from schemas.crm_tables import FoundTable, find_tables, id_text, json_row, name, table_name

# The consumer answers this many together. The bytes are so few that the answer fits a message
# even if no lead is found.
REQUEST_LEADS = 10_000
REQUEST_BYTES = 500_000


def read_ids(lines: Iterable[str]) -> Iterator[str]:
    """Yield one id a line.

    Blank lines, lines that start with #, and repeated ids are skipped.
    """
    return unique(
        line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")
    )


def unique(lead_ids: Iterable[str]) -> Iterator[str]:
    """Yield the ids in their order, each once.

    Raises UserError if one is empty or longer than the changes topic takes.
    """
    seen: set[str] = set()
    for lead_id in lead_ids:
        if not 0 < len(lead_id) <= MAX_ID_CHARACTERS:
            raise UserError(
                f"a lead id has 1 to {MAX_ID_CHARACTERS} characters; "
                f"number {len(seen) + 1} has {len(lead_id)}"
            )
        if lead_id not in seen:
            seen.add(lead_id)
            yield lead_id


def count_leads(conn: Connection, description: CrmDescription | None = None) -> int:
    """Return the number of rows in the table of leads."""
    table = leads_table(conn, description)
    query = sql.SQL("select count(*) from {}").format(table_name(table.name))
    row = conn.execute(query, ()).fetchone()
    return int(row[0]) if row else 0


def all_leads(
    conn: Connection, description: CrmDescription | None = None
) -> Iterator[tuple[str, int]]:
    """Yield every lead of the CRM with its version, 0 if it has none.

    A server-side cursor reads them in portions. Raises UserError if the CRM does not fit.
    """
    table = leads_table(conn, description)
    lead_id, version = "id", "lead_version" if "lead_version" in table.columns else None
    presence: tuple[str, ...] = ()
    if description and description.database:
        lead_id, version = description.id, description.version
        presence = description.presence_columns()
    columns = {column: name(column) for column in (*filter(None, [version]), *presence)}
    query = sql.SQL("select {}, {} from {} p where p.{} is not null order by p.{}").format(
        id_text("p", lead_id, table.columns[lead_id]),
        json_row(columns),
        table_name(table.name),
        name(lead_id),
        name(lead_id),
    )
    with conn.transaction(), conn.cursor("all_leads") as cursor:
        cursor.itersize = 5_000
        cursor.execute(query, ())
        for found, row in cursor:
            if description is None or description.is_lead(row):
                yield found, read_version(row.get(version or ""), description)


def leads_table(conn: Connection, description: CrmDescription | None) -> FoundTable:
    """Return the table of leads. Raises UserError if it, or a column of it, is missing."""
    wanted, needed = TableName("people"), ["id"]
    if description and description.database:
        wanted = description.database.table
        needed = [description.id, *filter(None, [description.version])]
        needed += description.presence_columns()
    table = find_tables(conn, [wanted]).get(wanted)
    where = description.path if description else "DATABASE_URL"
    if table is None:
        raise UserError(f"{where}: there is no table {wanted} in this database")
    if absent := [column for column in needed if column not in table.columns]:
        raise UserError(f"{where}: the table {wanted} has no column {', '.join(absent)}")
    return table


def rescore_event(lead_id: str, version: int, *, event_id: str, now: int) -> dict[str, Any]:
    """Build a LeadChanged that only asks for a new score: without state, as of `now` (ms UTC)."""
    return {
        "event_id": event_id,
        "lead_id": lead_id,
        "change_type": "RESCORE",
        "occurred_at": now,
        "lead_version": version,
        "origin": "crm",
        "lead": None,
    }


def rescore_requests(
    lead_ids: Iterable[str], *, new_id: Callable[[], str], requested_by: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield RescoreRequest records in order.

    Each has at most 10,000 leads and 500,000 bytes of ids.
    """
    for portion in _portions(lead_ids):
        yield {"request_id": new_id(), "lead_ids": portion, "requested_by": requested_by}


def _portions(lead_ids: Iterable[str]) -> Iterator[list[str]]:
    portion, size = list[str](), 0
    for lead_id in lead_ids:
        own = len(lead_id.encode())
        if len(portion) == REQUEST_LEADS or size + own > REQUEST_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(lead_id)
        size += own
    if portion:
        yield portion
