"""The training table of a described CRM: its leads in Postgres as they are now, with outcomes."""

import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from schemas.crm_description import CrmDescription

PORTION = 5_000
DAY_MS = 86_400_000


def described_table(
    database_url: str, description: "CrmDescription", horizon_days: float
) -> "pd.DataFrame":
    """Return one row for each lead: its state of now, as of its creation, and its outcome.

    A lead converted if an outcome came within the horizon. Younger leads are left out, and leads
    without a time of creation, which standard error counts. Raises UserError or Transient if the
    database does not fit, and UserError without `[outcome]`.
    """
    from producer.crm import connected
    from producer.crm_log import first_outcomes
    from producer.rescore import all_leads
    from producer.table import training_frame

    _check_outcome(description)
    with connected(database_url) as conn:
        decided = first_outcomes(conn, description)
        states = _states(
            database_url, description, (lead_id for lead_id, _ in all_leads(conn, description))
        )
        horizon = int(horizon_days * DAY_MS)
        now = time.time_ns() // 1_000_000
        undated = 0
        state_of = {}
        for lead_id, state in states:
            if state["created_at"] is None:
                undated += 1
            elif state["created_at"] <= now - horizon:
                state_of[lead_id] = state
    if undated:
        print(
            f"{undated:,} leads without a time of creation that can be read are left out",
            file=sys.stderr,
        )
    rows = sorted((state["created_at"], lead_id) for lead_id, state in state_of.items())
    return training_frame(
        [lead_id for _, lead_id in rows],
        [at for at, _ in rows],
        [state_of[lead_id] for _, lead_id in rows],
        [at <= decided.get(lead_id, now + 1) <= at + horizon for at, lead_id in rows],
    )


def _check_outcome(description: "CrmDescription") -> None:
    from leadstream.errors import UserError

    if description.outcome is None:
        raise UserError(
            f"{description.path}: training needs [outcome]: the table that says who converted"
        )
    if description.outcome.decided_at is None:
        raise UserError(
            f"{description.path}: training needs outcome.decided_at: the column of the time"
        )


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
