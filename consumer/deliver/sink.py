"""The sink: predictions from their topic into the table lead_scores of Postgres.

A batch is one transaction in Postgres, and its offsets are committed after it. A batch that is read
again after a crash changes nothing: a prediction never replaces a newer one.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg

from leadstream.errors import Poison, Transient, UserError
from leadstream.kafka.batch import Batch
from leadstream.kafka.source import Source
from leadstream.postgres import Connection, check_url, connect
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
    ),
)
# The later version of the lead wins. For equal versions, or without versions, the later scoring.
_UPSERT = f"""
insert into lead_scores as present ({", ".join(_NAMES)}) values ({", ".join(["%s"] * len(_NAMES))})
on conflict (lead_id) do update set {", ".join(f"{name} = excluded.{name}" for name in _NAMES)}
where excluded.lead_version > present.lead_version
   or (excluded.lead_version in (0, present.lead_version)
       and excluded.scored_at >= present.scored_at)
"""  # noqa: S608  # constants only
_DELETE = "delete from lead_scores where lead_id = %s"


class CommittingSource(Source, Protocol):
    """A source whose offsets are committed without a Kafka transaction."""

    def commit(self, batch: Batch) -> None:
        """Commit the offsets of a batch. Raises Transient while the group is not stable."""


class SinkObserver(Protocol):
    """An observer of what the sink does."""

    def written(self, batch: Batch, *, scores: int, erased: int, seconds: float) -> None:
        """Note a batch that is in Postgres and whose offsets are committed."""

    def skipped(self, batch: Batch, number: int, poison: Poison) -> None:
        """Note a message that is no prediction."""


class ScoreTable:
    """The table lead_scores. The next write after a failure connects again.

    Its writes have the origin `leadstream`, so that the CRM's triggers can tell them apart.
    """

    def __init__(self, database_url: str) -> None:
        """Check the URL, without connecting. Raises SettingsError if it cannot be parsed."""
        self._url = check_url(database_url)
        self._connection: Connection | None = None

    def write(self, predictions: list[dict[str, Any] | str]) -> None:
        """Upsert predictions and delete lead ids, in their order, in one transaction.

        Raises Transient if Postgres does not answer, and UserError if the table or a permission is
        missing.
        """
        try:
            if self._connection is None:
                # Changes that the CRM's triggers derive from a new score must not be scored again.
                options = "-c leadstream.origin=leadstream"
                self._connection = connect(
                    self._url,
                    statement_ms=STATEMENT_MS,
                    options=options,
                    application_name="leadstream sink",
                )
            with (
                self._connection.transaction(),
                self._connection.cursor() as cursor,
                self._connection.pipeline(),
            ):
                for each in predictions:
                    if isinstance(each, str):
                        cursor.execute(_DELETE, (each,))
                    else:
                        cursor.execute(_UPSERT, _values(each))
        except psycopg.errors.UndefinedTable:
            self.close()
            raise UserError(
                "DATABASE_URL: there is no table lead_scores; `leadstream db migrate` adds it"
            ) from None
        except psycopg.errors.InsufficientPrivilege as error:
            self.close()
            raise UserError(
                f"DATABASE_URL: {error.diag.message_primary}; "
                "the sink needs SELECT, INSERT, UPDATE and DELETE on lead_scores"
            ) from None
        except psycopg.Error as error:
            self.close()
            text = (error.diag.message_primary or str(error).strip().split("\n")[-1]).strip()
            raise Transient("postgres", text or type(error).__name__) from error

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._scores = scores
        self._reader = reader
        self._observer = observer
        self._clock = clock

    def write(self, batch: Batch) -> None:
        """Write a batch:

        1. Write its predictions to Postgres, in one transaction.
        2. Commit its offsets. If that fails, the batch is read again and changes nothing.
        """
        began = self._clock()
        found: list[dict[str, Any] | str] = []
        for number, message in enumerate(batch.messages):
            value = message.value()
            try:
                found.append(
                    (message.key() or b"").decode() if value is None else self._reader.decode(value)
                )
            except Poison as poison:
                self._observer.skipped(batch, number, poison)
        self._scores.write(found)
        self._source.commit(batch)
        erased = sum(isinstance(each, str) for each in found)
        self._observer.written(
            batch, scores=len(found) - erased, erased=erased, seconds=self._clock() - began
        )


def _values(prediction: dict[str, Any]) -> tuple[Any, ...]:
    moments = {
        name: _EPOCH + timedelta(milliseconds=prediction[name])
        for name in ("occurred_at", "scored_at")
    }
    row = {**prediction, **moments, "reasons": json.dumps(prediction["reasons"])}
    return tuple(row[name] for name in _NAMES)
