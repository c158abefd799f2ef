"""The training table of a described CRM: its leads in Postgres as they are now, with outcomes."""

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from producer.crm import Connection
    from schemas.crm_description import CrmDescription, DescribedOutcome

PORTION = 5_000
DAY_MS = 86_400_000


def described_table(
    database_url: str, description: "CrmDescription", horizon_days: float
) -> "pd.DataFrame":
    """Return one row for each lead: its state of now, as of its creation, and its outcome.

    A lead converted if an outcome came within the horizon. Younger leads are left out. Raises
    UserError or Transient if the database does not fit, and UserError without `[outcome]`.
    """
    from producer.crm import connected
    from producer.rescore import all_leads
    from producer.table import training_frame

    outcome = _outcome_of(description)
    with connected(database_url) as conn:
        decided = _first_outcomes(conn, description, outcome)
        states = _states(
            database_url, description, (lead_id for lead_id, _ in all_leads(conn, description))
        )
        horizon = int(horizon_days * DAY_MS)
        now = time.time_ns() // 1_000_000
        state_of = {
            lead_id: state for lead_id, state in states if state["created_at"] <= now - horizon
        }
    rows = sorted((state["created_at"], lead_id) for lead_id, state in state_of.items())
    return training_frame(
        [lead_id for _, lead_id in rows],
        [at for at, _ in rows],
        [state_of[lead_id] for _, lead_id in rows],
        [at <= decided.get(lead_id, now + 1) <= at + horizon for at, lead_id in rows],
    )


def _outcome_of(description: "CrmDescription") -> "DescribedOutcome":
    from leadstream.errors import UserError

    if description.outcome is None:
        raise UserError(
            f"{description.path}: training needs [outcome]: the table that says who converted"
        )
    return description.outcome


def _first_outcomes(
    conn: "Connection", description: "CrmDescription", outcome: "DescribedOutcome"
) -> dict[str, int]:
    """Return the time of the first outcome of each lead, ms UTC."""
    from psycopg import sql

    from leadstream.errors import UserError
    from schemas.crm_tables import find_tables, id_text, json_row, name, table_name

    table = find_tables(conn, [outcome.table]).get(outcome.table)
    if table is None or not set(outcome.columns()) <= table.columns.keys():
        raise UserError(
            f"{description.path}: {outcome.table} or a column of [outcome] does not exist; "
            "`leadstream fields check` names it"
        )
    if outcome.decided_at is None:
        raise UserError(
            f"{description.path}: training needs outcome.decided_at: the column of the time"
        )
    query = sql.SQL("select {}, {} from {} o").format(
        id_text("o", outcome.lead, table.columns[outcome.lead]),
        json_row({column: name(column) for column in outcome.columns()}),
        table_name(table.name),
    )
    found: dict[str, int] = {}
    for lead_id, row in conn.execute(query, ()):
        at: Any = outcome.decided_at.read(row, {})
        if (
            lead_id is not None
            and at is not None
            and (not outcome.where or outcome.where.holds(row))
        ):
            found[lead_id] = min(at, found.get(lead_id, at))
    return found


def _states(
    database_url: str, description: "CrmDescription", lead_ids: Iterable[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the leads that have a state; it is the one that `run` would read."""
    from consumer.run.postgres import PostgresLeads
    from consumer.scoring.leads import Lead

    leads, remaining = PostgresLeads(database_url, description), iter(lead_ids)
    try:
        while portion := list(islice(remaining, PORTION)):
            for lead_id, lead in leads.fetch(portion).items():
                if isinstance(lead, Lead):
                    yield lead_id, lead.state
    finally:
        leads.close()
