"""The sink of a run: one process after another that keeps the table of scores, in a database that
refuses some rows; and whether the table is right in the end.
"""

import hashlib
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg

from schemas.codec import Reader
from tests.faults.checker import Violation
from tests.integration.running import Running, Stage, until

STOP_SECONDS = 40.0
_TABLE = [
    migration
    for migration in sorted(Path("producer/migrations").glob("*.sql"))
    if "table lead_scores" in migration.read_text("utf-8")
]
# A trigger raises for one lead in so many.
REFUSED_SHARE = 101
_TRIGGER = f"""
create function refuse_some() returns trigger language plpgsql as $$
begin
    if ('x' || substr(md5(new.lead_id), 1, 6))::bit(24)::int % {REFUSED_SHARE} = 0 then
        raise exception 'the CRM has a rule about %', new.lead_id;
    end if;
    return new;
end $$;
create trigger refuse_some before insert or update on lead_scores
    for each row execute function refuse_some();
"""


class SinkMember:
    """The process that writes the scores, and its table, behind the proxy of the database.

    `direct` is the address of the database past the proxy, `reader` reads predictions.
    """

    def __init__(self, stage: Stage, direct: str, reader: Reader) -> None:
        self._stage, self._direct, self._reader = stage, direct, reader
        self._running: Running | None = None
        self._ended: list[tuple[Running, int]] = []
        self.lock = threading.Lock()

    def prepare(self) -> None:
        """Make the table, and the trigger that refuses some rows."""
        with psycopg.connect(self._direct, autocommit=True) as connection:
            for migration in _TABLE:
                connection.execute(migration.read_bytes())
            connection.execute(_TRIGGER)

    def start(self) -> None:
        folder = self._stage.folder / f"sink-{len(self._ended)}"
        # Batches of its own size: those of a few records would not keep up with the consumers.
        settings = self._stage.environment | {"LEADSTREAM_BATCH_MAX_RECORDS": "500"}
        self._running = Running(settings, folder, "sink")

    def kill(self) -> None:
        if self._running is not None and self._running.alive():
            self._running.kill()
        self._end(-signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and its end waited for."""
        if self._running is not None:
            self._end(self._running.stop(STOP_SECONDS))

    def signal(self, sign: signal.Signals) -> None:
        if self._running is not None and self._running.alive():
            self._running.signal(sign)

    def violations(self, seconds: float) -> list[Violation]:
        """What the table lacks or has too much, and how processes ended that should not."""
        found = []
        try:
            until(lambda: not self._differences(), "the sink is done", seconds)
        except AssertionError:
            found = [Violation("scores", each) for each in self._differences()[:5]]
        self.stop()
        return [*found, *self._endings()]

    def _differences(self) -> list[str]:
        records = self._stage.read(self._stage.topics.lead_predictions, 0, seconds=120)
        wanted = expected_scores(
            (message.key() or b"", value and self._reader.decode(value))
            for message in records
            for value in [message.value()]
        )
        return differences(wanted, self._rows())

    def _rows(self) -> dict[str, str]:
        with psycopg.connect(self._direct) as connection:
            return dict(
                connection.execute("select lead_id, prediction_id from lead_scores").fetchall()
            )

    def _endings(self) -> list[Violation]:
        found = []
        for running, code in self._ended:
            well = {0, -signal.SIGKILL} if running.events("started") else {0, -9, -15}
            if code not in well or running.sentences():
                reported = " | ".join(running.sentences())
                found.append(
                    Violation("processes", f"a sink ended with {code}, and said: {reported}")
                )
        return found

    def _end(self, code: int) -> None:
        if self._running is not None:
            self._ended.append((self._running, code))
            self._running = None


def expected_scores(records: Iterable[tuple[bytes, Any]]) -> dict[str, str]:
    """The prediction of each lead that the table must have, from the records in their order.

    A null deletes; of two predictions the higher version wins, and the later scoring.
    """
    present: dict[str, dict[str, Any]] = {}
    for key, prediction in records:
        lead = key.decode("utf-8", "replace")
        if prediction is None:
            present.pop(lead, None)
            continue
        before = present.get(lead)
        if (
            before is None
            or prediction["lead_version"] > before["lead_version"]
            or prediction["scored_at"] >= before["scored_at"]
        ):
            present[lead] = prediction
    return {
        lead: prediction["prediction_id"]
        for lead, prediction in present.items()
        if not is_refused(lead)
    }


def is_refused(lead: str) -> bool:
    """Whether the trigger refuses the row of a lead."""
    digest = hashlib.md5(lead.encode(), usedforsecurity=False).hexdigest()
    return int(digest[:6], 16) % REFUSED_SHARE == 0


def differences(wanted: dict[str, str], rows: dict[str, str]) -> list[str]:
    """How the table differs from what it must have, a sentence for each lead."""
    return [
        f"the row of {lead} has {rows.get(lead, 'nothing')}, not {wanted.get(lead, 'nothing')}"
        for lead in sorted(wanted.keys() | rows.keys())
        if wanted.get(lead) != rows.get(lead)
    ]
