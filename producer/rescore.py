"""Asks for leads to be scored again: by RESCORE events without state, or by requests that are answered together."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from leadstream.errors import UserError
from leadstream.lead_fields import MAX_ID_CHARACTERS
from producer.crm import Connection

# What the consumer answers together; and so few bytes that the answer fits a message even where no lead is found.
REQUEST_LEADS = 10_000
REQUEST_BYTES = 500_000


def read_ids(lines: Iterable[str]) -> Iterator[str]:
    """One id a line; blank lines and lines that start with # are skipped, and an id that comes again."""
    return unique(
        line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")
    )


def unique(lead_ids: Iterable[str]) -> Iterator[str]:
    """The ids in their order, each once; UserError where one is empty or longer than the changes topic takes."""
    seen: set[str] = set()
    for lead_id in lead_ids:
        if not 0 < len(lead_id) <= MAX_ID_CHARACTERS:
            raise UserError(
                f"a lead id has 1 to {MAX_ID_CHARACTERS} characters; number {len(seen) + 1} has {len(lead_id)}"
            )
        if lead_id not in seen:
            seen.add(lead_id)
            yield lead_id


def count_leads(conn: Connection) -> int:
    """How many leads the CRM has."""
    row = conn.execute("select count(*) from people").fetchone()
    return int(row[0]) if row else 0


def all_leads(conn: Connection) -> Iterator[tuple[str, int]]:
    """Every lead of the CRM with its version, read in portions by a server-side cursor."""
    with conn.transaction(), conn.cursor("all_leads") as cursor:
        cursor.itersize = 5_000
        cursor.execute("select id, lead_version from people order by id")
        yield from cursor


def rescore_event(lead_id: str, version: int, *, event_id: str, now: int) -> dict[str, Any]:
    """A LeadChanged that only asks for a new score: without state, as of `now` (ms UTC)."""
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
    """RescoreRequest records of at most 10,000 leads and 500,000 bytes of ids each, in order."""
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
