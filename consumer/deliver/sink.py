"""The sink: predictions from their topic into the table lead_scores of Postgres.

A batch is one transaction in Postgres, and its offsets are committed after it. A batch that is read
again after a crash changes nothing: a prediction never replaces a newer one. If Postgres refuses a
row, the batch is halved until that row is alone; it is skipped, and the others are written.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg

from leadstream.error_table import About
from leadstream.errors import Poison, Reason, Transient, UserError
from leadstream.explanation import Language, explanation
from leadstream.kafka.batch import Batch, Message
from leadstream.kafka.source import Source
from leadstream.postgres import (
    Connection,
    about_postgres,
    check_url,
    connect,
    describe_postgres,
    name_postgres,
)
from schemas.codec import Reader

STATEMENT_MS = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NAMES = (
    *(
        "lead_id",
        "probability",
        "probability_low",
        "probability_high",
        "confidence",
        "grade",
        "prediction",
        "reasons",
    ),
    *(
        "model_version",
        "variant",
        "prediction_id",
        "event_id",
        "lead_version",
        "occurred_at",
        "scored_at",
        "feature_coverage",
        "imputed",
        "explanation",
        "valid_until",
    ),
)
# The higher version of the lead wins, and the later scoring: `run` publishes a lower version only
# where the versions of the CRM went back (LEADSTREAM_LATE=score), and then that is the truth.
_UPSERT = f"""
insert into lead_scores as present ({", ".join(_NAMES)}) values ({", ".join(["%s"] * len(_NAMES))})
on conflict (lead_id) do update set {", ".join(f"{name} = excluded.{name}" for name in _NAMES)}
where excluded.lead_version > present.lead_version or excluded.scored_at >= present.scored_at
"""  # noqa: S608  # constants only
_DELETE = "delete from lead_scores where lead_id = %s"
_TABLE = """
select array(select a.attname::text from pg_attribute a
             where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped),
       array(select p from unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) as p
             where not has_table_privilege(t.oid, p))
from (select to_regclass('lead_scores')::oid as oid) as t where t.oid is not null
"""
REFUSED = "POSTGRES_REFUSED"


class CommittingSource(Source, Protocol):
    """A source whose offsets are committed without a Kafka transaction."""

    def commit(self, batch: Batch) -> None:
        """Commit the offsets of a batch. Raises Transient while the group is not stable."""


class SinkObserver(Protocol):
    """An observer of what the sink does."""

    def written(self, batch: Batch, *, scores: int, erased: int, seconds: float) -> None:
        """Note a batch that is in Postgres and whose offsets are committed."""

    def skipped(self, batch: Batch, number: int, reason: str, detail: str) -> None:
        """Note a message that is no prediction, or whose row Postgres refuses."""


class ScoreTable:
    """The table lead_scores. The next write after a failure connects again.

    Its writes have the origin `leadstream`, so that the CRM's triggers can tell them apart.
    """

    def __init__(self, database_url: str) -> None:
        """Check the URL, without connecting. Raises SettingsError if it cannot be parsed."""
        self._url = check_url(database_url)
        self._connection: Connection | None = None

    def write(self, predictions: Sequence[dict[str, Any] | str]) -> dict[int, str]:
        """Upsert predictions and delete lead ids, in their order, in one transaction.

        Returns why rows were skipped, by their index. Raises Transient if Postgres does not answer,
        and UserError if the table, a column or a permission is missing.
        """
        try:
            return self._write(list(enumerate(predictions)))
        except psycopg.Error as error:
            self.close()
            raise Transient("postgres", describe_postgres(error)) from error

    def _write(self, rows: list[tuple[int, dict[str, Any] | str]]) -> dict[int, str]:
        """Write rows, and halve them as long as an error is about one of them."""
        connection = self._connect()
        try:
            _execute(connection, rows)
        except (psycopg.Error, UnicodeError, ValueError, OverflowError) as error:
            if not self._is_about_a_row(error):
                raise
            if len(rows) == 1:
                return {rows[0][0]: f"Postgres refuses the row: {name_postgres(error)}"}
            half = len(rows) // 2
            return self._write(rows[:half]) | self._write(rows[half:])
        return {}

    def _is_about_a_row(self, error: Exception) -> bool:
        """Return whether an error is about one of the rows.

        A trigger may raise any error. So one that names the table counts against the row if the
        table is as it should be. Raises UserError if it is not.
        """
        if not isinstance(error, psycopg.Error):
            return True
        about = about_postgres(error)
        if about is About.SETUP:
            self._check_table()
        return about in (About.SETUP, About.RECORD)

    def _check_table(self) -> None:
        """Raise UserError if the table, a column or a permission is missing."""
        found = self._connect().execute(_TABLE).fetchone()
        if found is None:
            self.close()
            raise UserError(
                "DATABASE_URL: there is no table lead_scores; `leadstream db migrate` adds it"
            )
        columns, denied = found
        if lacking := [name for name in _NAMES if name not in columns]:
            self.close()
            raise UserError(
                f"DATABASE_URL: lead_scores has no column {', '.join(lacking)}; run `leadstream db "
                "migrate`, or if that adds none, drop the table, and let the sink read all "
                "predictions again"
            )
        if denied:
            self.close()
            raise UserError(
                f"DATABASE_URL: this role lacks {', '.join(denied)}; "
                "the sink needs SELECT, INSERT, UPDATE and DELETE on lead_scores"
            )

    def _connect(self) -> Connection:
        if self._connection is None:
            # Changes that the CRM's triggers derive from a new score must not be scored again.
            self._connection = connect(
                self._url,
                statement_ms=STATEMENT_MS,
                options="-c leadstream.origin=leadstream",
                application_name="leadstream sink",
            )
        return self._connection

    def close(self) -> None:
        """Close the connection; the next write opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Sink:
    """A writer of batches of predictions."""

    def __init__(
        self,
        source: CommittingSource,
        scores: ScoreTable,
        reader: Reader,
        observer: SinkObserver,
        *,
        words: Language,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._scores = scores
        self._reader = reader
        self._observer = observer
        self._words = words
        self._clock = clock

    def write(self, batch: Batch) -> None:
        """Write a batch:

        1. Write its predictions to Postgres, in one transaction.
        2. Commit its offsets. If that fails, the batch is read again and changes nothing.
        """
        began = self._clock()
        numbers: list[int] = []
        found: list[dict[str, Any] | str] = []
        self._reader.prepare(message.value() for message in batch.messages)
        for number, message in enumerate(batch.messages):
            try:
                found.append(self._read(message))
            except Poison as poison:
                self._observer.skipped(batch, number, poison.reason.value, poison.detail)
            else:
                numbers.append(number)
        refused = self._scores.write(found)
        self._source.commit(batch)
        for row, why in refused.items():
            self._observer.skipped(batch, numbers[row], REFUSED, why)
        written = [each for row, each in enumerate(found) if row not in refused]
        erased = sum(isinstance(each, str) for each in written)
        self._observer.written(
            batch, scores=len(written) - erased, erased=erased, seconds=self._clock() - began
        )

    def _read(self, message: Message) -> dict[str, Any] | str:
        """Return a prediction, or the id of an erased lead. Raises Poison."""
        value = message.value()
        if value is not None:
            prediction = self._reader.decode(value)
            return {**prediction, "explanation": explanation(prediction, self._words)}
        try:
            return (message.key() or b"").decode()
        except UnicodeDecodeError as error:
            raise Poison(Reason.INVALID_EVENT, "decode", "the key is not UTF-8") from error


def _execute(connection: Connection, rows: Iterable[tuple[int, dict[str, Any] | str]]) -> None:
    with connection.transaction(), connection.cursor() as cursor, connection.pipeline():
        for _, each in rows:
            if isinstance(each, str):
                cursor.execute(_DELETE, (each,))
            else:
                cursor.execute(_UPSERT, _values(each))


def _values(prediction: dict[str, Any]) -> tuple[Any, ...]:
    moments = {
        name: _EPOCH + timedelta(milliseconds=moment)
        for name in ("occurred_at", "scored_at", "valid_until")
        if (moment := prediction.get(name)) is not None
    }
    documents = {name: json.dumps(prediction[name]) for name in ("reasons", "imputed")}
    row = {"explanation": None, "valid_until": None, **prediction, **moments, **documents}
    return tuple(row[name] for name in _NAMES)
