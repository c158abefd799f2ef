"""Events without state against events with it: what reading the state from Postgres costs.

    python -m benchmarks.database [--leads 1000000] [--events 100000] [--repeats 3] [--json PATH]

The table `people` holds as many leads; the events are of some of them, drawn at random and in
random order, once thin and once fat, with the same state. Both go through the same `leadstream
run`, interleaved; every prediction of the one must equal the other's. Queries a batch are read from
its metrics, and the query's plan is asked of Postgres.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from benchmarks.environment import BenchmarkEnvironment, open_environment
from benchmarks.figures import (
    FigureRow,
    Spread,
    arguments,
    finish,
    interleaved,
    main_of,
    ratios,
    say,
)
from benchmarks.leads import Event, events, lead_id, repeated_changes
from consumer.run.postgres import PostgresLeads
from leadstream.errors import UserError
from leadstream.local.postgres import local_postgres
from producer.crm import connected, create_schema
from schemas.codec import Reader

WITH_STATE, WITHOUT_STATE = "state in the event", "state from Postgres"
LEADS_PER_QUERY = 2_000  # a full batch, as the plan is asked for
FIELDS_OF_ITS_OWN = ("scored_at", "source_topic")


@dataclass(frozen=True, slots=True)
class DatabaseRun:
    """One run: its rate, queries a batch, and the seconds that an event took in the step that reads
    states.
    """

    per_second: float
    queries_a_batch: float
    records_a_batch: float
    state_seconds: float


class DatabaseBenchmark:
    """The two topics, filled once, and the fat events' predictions by lead, which the thin ones'
    are compared with.
    """

    def __init__(
        self, environment: BenchmarkEnvironment, database_url: str, leads: int, count: int
    ) -> None:
        self._environment, self._url, self._count = environment, database_url, count
        drawn = np.random.default_rng(4).choice(leads, count, replace=False)
        self._topics = {
            WITH_STATE: environment.topic("fat"),
            WITHOUT_STATE: environment.topic("thin"),
        }
        for name, topic in self._topics.items():
            environment.preload(
                topic, _encode_changes(drawn.tolist(), leads, without_state=name == WITHOUT_STATE)
            )
        self._reader = Reader("LeadPrediction")
        self._expected: dict[bytes, dict[str, Any]] = {}

    def run(self, name: str) -> DatabaseRun:
        """Score all events of a kind. Raises UserError where a prediction is missing or differs."""
        contender, count = self._environment.contender(self._topics[name]), self._count
        with contender.leadstream(DATABASE_URL=self._url) as process:
            flow = self._environment.watch(contender.predictions, count, process)
            metrics = process.metrics()
            process.end()
        if flow.leads != count:
            raise UserError(f"{name}: {flow.leads:,} leads were predicted, not {count:,}")
        for message in self._environment.read(contender.predictions):
            record = self._reader.decode(message.value() or b"")
            found = {
                field: content
                for field, content in record.items()
                if field not in FIELDS_OF_ITS_OWN
            }
            if found != self._expected.setdefault(message.key() or b"", found):
                raise UserError(
                    f"{name}: another prediction for {record['lead_id']} than with the "
                    f"state in the event"
                )
        self._environment.remove(*contender.topics)
        batches = sum(
            value for sample, value in metrics.items() if sample.startswith("batches_total")
        )
        return DatabaseRun(
            flow.per_second,
            metrics["database_queries_total"] / batches,
            count / batches,
            metrics['step_seconds_sum{step="state"}'] / count,
        )


def main() -> int:
    """Run the benchmark; returns the exit code."""
    options = arguments(
        "States from Postgres against states in the events.",
        leads=(1_000_000, "leads in the table"),
        events=(100_000, "events of a run"),
        repeats=(3, "runs of each"),
    )

    def measure() -> int:
        if options.events > options.leads:
            raise UserError(
                f"--events {options.events}: at most one for each of the {options.leads} leads"
            )
        with local_postgres(say) as postgres, open_environment("database", say) as environment:
            say(f"filling the table with {options.leads:,} leads")
            fill(postgres.url, options.leads)
            nodes, plan = plan_of(postgres.url, options.leads)
            say(f"preloading {options.events:,} events of each kind")
            bench = DatabaseBenchmark(environment, postgres.url, options.leads, options.events)
            runs = interleaved(
                {name: partial(bench.run, name) for name in (WITH_STATE, WITHOUT_STATE)},
                options.repeats,
                say,
            )
        code = finish(
            f"States from Postgres: {options.leads:,} leads, {options.events:,} events, "
            f"{options.repeats} runs",
            options.json,
            *rows(runs, nodes),
            leads=options.leads,
            events=options.events,
            runs=runs,
            plan=plan,
        )
        print(
            f"Every prediction is the same either way. The plan of the query for "
            f"{LEADS_PER_QUERY:,} leads:"
        )
        print("\n".join(f"  {line}" for line in plan))
        return code

    return main_of(measure)


def rows(runs: Mapping[str, list[DatabaseRun]], scans: list[str]) -> tuple[list[FigureRow], ...]:
    """The rates and their ratio against the bar of the issue, and what the database was asked."""
    rate = {name: [run.per_second for run in each] for name, each in runs.items()}
    without_state = runs[WITHOUT_STATE]
    return (
        [
            FigureRow(f"{name}, events a second", Spread.from_values(each))
            for name, each in rate.items()
        ],
        [
            FigureRow(
                "from Postgres / in the event",
                ratios(rate[WITHOUT_STATE], rate[WITH_STATE]),
                ".2f",
                minimum=0.3,
            )
        ],
        [
            FigureRow(
                "queries a batch",
                Spread.from_values(run.queries_a_batch for run in without_state),
                ".2f",
                maximum=1,
            ),
            FigureRow(
                "records a batch", Spread.from_values(run.records_a_batch for run in without_state)
            ),
            FigureRow(
                "reading states, µs an event",
                Spread.from_values(1e6 * run.state_seconds for run in without_state),
                ".1f",
            ),
            FigureRow(
                "scans without an index",
                Spread.from_values([sum("Index" not in scan for scan in scans)]),
                maximum=0,
            ),
        ],
    )


def fill(url: str, leads: int) -> None:
    """Make the tables, with this many people of the events' states in them.

    Raises UserError where they exist.
    """
    with connected(url) as connection:
        if connection.execute("SELECT to_regclass('people')").fetchone() != (None,):
            raise UserError(
                "DATABASE_URL has a table people already: this benchmark makes its own in "
                "an empty one"
            )
        create_schema(connection)
        changes = repeated_changes()
        connection.execute(
            "CREATE TEMP TABLE states (number bigint PRIMARY KEY, created_at timestamptz, "
            "lead_score float8,"
            " engagement_score float8, touchpoint_count int, lifecycle_state text, status "
            "text, source text,"
            " programme_name text, campus_name text, lead_version bigint)"
        )
        with connection.cursor() as cursor, cursor.copy("COPY states FROM STDIN") as copy:
            for number, change in enumerate(changes):
                state = dict(change["lead"])
                moment = np.datetime64(state.pop("created_at"), "ms").astype(str) + "Z"
                del state["numbers"], state["categories"]
                copy.write_row((number, moment, *state.values(), change["lead_version"]))
        connection.execute(_FILL, {"leads": leads, "period": len(changes)})
        # As many as a university has: tables of one page are read whole, whatever indexes there
        # are.
        for table, count in (("programmes", 1_000), ("campuses", 500)):
            connection.execute(
                sql.SQL(
                    "INSERT INTO {} SELECT 1000 + n, 'more ' || n FROM generate_series(1, {}) AS n"
                ).format(sql.Identifier(table), count)
            )
        connection.execute("VACUUM ANALYZE people, programmes, campuses")


_FILL = """
INSERT INTO people (id, first_name, last_name, email, phone, created_at,
                    lead_score, engagement_score, touchpoint_count, lifecycle_state,
                    status, source, programme_id, campus_id, lead_version)
SELECT 'lead-' || lpad(n::text, 10, '0'), 'Ada', 'Berg',
       'ada.berg.' || n || '@example.com', '+1 202 555 0100',
       s.created_at, s.lead_score, s.engagement_score, s.touchpoint_count,
       s.lifecycle_state, s.status, s.source, g.id, c.id, s.lead_version
FROM generate_series(0, %(leads)s - 1) AS n
JOIN states AS s ON s.number = n %% %(period)s
LEFT JOIN programmes AS g ON g.name = s.programme_name
LEFT JOIN campuses AS c ON c.name = s.campus_name
"""


def plan_of(url: str, leads: int) -> tuple[list[str], list[str]]:
    """How Postgres carries out the consumer's own query for a full batch: its scans, and its plan
    without the ids.
    """
    ids = [
        lead_id(number)
        for number in np.random.default_rng(5).choice(leads, min(leads, LEADS_PER_QUERY)).tolist()
    ]
    with closing(PostgresLeads(url)) as reader, psycopg.connect(url) as connection:
        found = reader.fetch(ids)
        if len(found) != len(set(ids)) or reader._query is None:
            raise UserError(f"{len(found)} of {len(set(ids))} leads were found")
        lines = connection.execute(
            sql.SQL("EXPLAIN (ANALYZE, COSTS OFF, BUFFERS OFF) ") + reader._query.statement, (ids,)
        ).fetchall()
    plan = [without_ids(line) for (line,) in lines]
    return [line for line in plan if "Scan" in line], plan


def without_ids(line: str) -> str:
    """A line of a plan, where it names every id that was asked for."""
    before, mark, after = line.partition("ANY ('{")
    return f"{before}{mark}…{after[after.index('}') :]}" if mark else line


def _encode_changes(numbers: list[int], leads: int, *, without_state: bool) -> Iterator[Event]:
    """The events of these leads, in this order."""
    wanted = set(numbers)
    found = {
        number: event
        for number, event in enumerate(events(leads, without_state=without_state))
        if number in wanted
    }
    return map(found.__getitem__, numbers)


if __name__ == "__main__":
    sys.exit(main())
