"""The predictions of a champion and its challenger in the history, with the outcomes since.

A lead counts once, by the first change since the trial began that both versions scored.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from consumer.history.table_schemas import OUTCOMES, PREDICTIONS
from consumer.history.training_query import AHEAD_MS, answering, open_database
from consumer.history.writer import HistoryTables
from leadstream.addresses import masked_url
from leadstream.errors import UserError
from leadstream.kafka.topics import Topics
from leadstream.variants import CHALLENGER, CHAMPION
from models.monitor.compare import VersionComparison, compare, fully_labeled, shadow_pairs
from models.monitor.ledger import Ledger, PublishedPrediction

MEMORY = "512MB"

# `month` bounds the files that are opened; a change may be scored long after it happened.
_FIRST_PAIRS = """
create table pairs as
with made as (
    select lead_id, event_id, epoch_ms(occurred_at) as moment, topic = $shadow as shadow,
        probability, raw_score
    from predictions
    where month >= strftime(make_timestamp($after * 1000), '%Y-%m')
        and epoch_ms(occurred_at) > $after and epoch_ms(scored_at) >= $since
        and (topic = $shadow and model_version = $challenger
            or topic = $scores and model_version = $champion)
), scored as (
    select lead_id, event_id, min(moment) as moment,
        max(probability) filter (not shadow) as champion,
        max(raw_score) filter (not shadow) as champion_raw,
        max(probability) filter (shadow) as challenger,
        max(raw_score) filter (shadow) as challenger_raw
    from made group by lead_id, event_id having count(distinct shadow) = 2
), ranked as (
    select *, row_number() over (partition by lead_id order by moment, event_id) as number
    from scored
)
select * exclude (number) from ranked
where number = 1 and not exists (
    select 1 from erasures
    where lead_hash = sha256(lead_id) and epoch_ms(until) >= moment
)"""
# The ends of all outcomes show which labels are complete.
_OUTCOMES = """
with seen as (
    select lead_id, converted, epoch_ms(decided_at) as moment from outcomes
    where epoch_ms(decided_at) <= epoch_ms(written_at) + $ahead
), ends as (select min(moment) as first, max(moment) as last from seen)
select lead_id, converted, moment from seen, ends
where lead_id in (select lead_id from pairs) or moment in (first, last)
order by moment, lead_id, converted"""


@dataclass(frozen=True, slots=True)
class Trial:
    """A champion and its challenger, both with this horizon in days.

    `since` is when the trial began, and `after` the newest moment that either may have learned
    from; both in ms UTC.
    """

    champion: str
    challenger: str
    horizon_days: float | None
    since: int
    after: int


def compare_trial(root: str, topics: Topics, trial: Trial) -> VersionComparison:
    """Return the comparison of a trial by the outcomes in the history.

    Raises UserError if there is no history of predictions and outcomes, or it cannot be read.
    """
    tables = HistoryTables(root)
    if not all(tables.stored[each].exists() for each in (PREDICTIONS, OUTCOMES)):
        raise UserError(
            f"no history of predictions and outcomes at {masked_url(root)}: `leadstream history "
            "write` makes one"
        )
    ledger = Ledger({trial.champion: trial.horizon_days, trial.challenger: trial.horizon_days}.get)
    labeled = []
    with answering(root), _connected(tables) as connection:
        connection.execute(
            _FIRST_PAIRS,
            {
                "shadow": topics.shadow_predictions,
                "scores": topics.lead_predictions,
                "champion": trial.champion,
                "challenger": trial.challenger,
                "since": trial.since,
                "after": trial.after,
            },
        )
        for row in _rows(connection, "select * from pairs order by moment, lead_id"):
            for shadow in (False, True):
                labeled += ledger.predicted(_prediction(row, trial, shadow=shadow))
        for row in _rows(connection, _OUTCOMES, {"ahead": AHEAD_MS}):
            labeled += ledger.decided(row["lead_id"], row["converted"], row["moment"])
    labeled += ledger.overdue(ledger.decided_until)
    known = fully_labeled(labeled, trial.horizon_days, ledger.decided_until)
    return compare(shadow_pairs(known, trial.champion, trial.challenger).differences)


@contextmanager
def _connected(tables: HistoryTables) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database over the tables, which spills into a temporary folder."""
    with (
        tempfile.TemporaryDirectory(prefix="leadstream-learn-") as folder,
        open_database(Path(folder), MEMORY) as connection,
    ):
        for each in (tables.stored[PREDICTIONS], tables.stored[OUTCOMES], tables.erased.table):
            connection.register(each.name, each.read())
        yield connection


def _rows(
    connection: duckdb.DuckDBPyConnection, statement: str, values: Mapping[str, Any] | None = None
) -> Iterator[Mapping[str, Any]]:
    found = connection.execute(statement, values or {})
    names = [column[0] for column in found.description or ()]
    while rows := found.fetchmany(10_000):
        for row in rows:
            yield dict(zip(names, row, strict=True))


def _prediction(row: Mapping[str, Any], trial: Trial, *, shadow: bool) -> PublishedPrediction:
    variant = CHALLENGER if shadow else CHAMPION
    return PublishedPrediction(
        lead_id=row["lead_id"],
        event_id=row["event_id"],
        occurred_at=row["moment"],
        model_version=trial.challenger if shadow else trial.champion,
        variant=variant,
        shadow=shadow,
        probability=row[variant],
        raw_score=row[f"{variant}_raw"],
    )
