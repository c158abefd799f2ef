"""The leads and the log of an import, sorted by lead in a temporary file.

A log may be larger than memory. SQLite sorts it outside of memory, and both come back as one
stream. The file is deleted at the end; while the import runs, it holds values of the log.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from leadstream.errors import UserError
from producer.field_log import FieldChange
from producer.past_states import TodaysLead

_PORTION = 10_000
_TABLES = """
pragma journal_mode = off; pragma synchronous = off; pragma locking_mode = exclusive;
pragma cache_size = -65536;
create table leads (key text, number integer, lead blob);
create table log (key text, at integer, number integer, field integer, old text, new text,
                  has_old integer);
"""


class LogStaging:
    """A temporary file with the leads and the changes of an import."""

    def __init__(self) -> None:
        """Create the file. Raises UserError if there is no room for it."""
        self._folder = tempfile.TemporaryDirectory(prefix="leadstream-import-")
        self._numbers: dict[str, int] = {}
        self._leads: list[tuple[Any, ...]] = []
        self._changes: list[tuple[Any, ...]] = []
        self._count = 0
        self._db = sqlite3.connect(Path(self._folder.name) / "log.sqlite")
        self._db.executescript(_TABLES)

    def __enter__(self) -> "LogStaging":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()
        with suppress(OSError):
            self._folder.cleanup()

    def add_lead(self, key: str, lead: TodaysLead) -> None:
        """Add a lead of today under the key that its changes have."""
        packed = json.dumps(
            [lead.lead_id, lead.created_at, lead.texts, lead.converted, lead.decided_at]
        )
        self._leads.append((key, self._next(), packed))
        if len(self._leads) >= _PORTION:
            self._flush()

    def add_change(self, key: str, change: FieldChange) -> None:
        """Add a change of a lead."""
        field = self._numbers.setdefault(change.field, len(self._numbers))
        self._changes.append(
            (key, change.at, self._next(), field, change.old, change.new, change.has_old)
        )
        if len(self._changes) >= _PORTION:
            self._flush()

    def by_lead(self) -> Iterator[tuple[Sequence[TodaysLead], list[FieldChange]]]:
        """Yield the leads of each key, of which there may be none, and its changes in order."""
        self._flush()
        leads, changes = self._sorted_leads(), self._sorted_changes()
        lead, change = next(leads, None), next(changes, None)
        while lead is not None or change is not None:
            key = min(each[0] for each in (lead, change) if each is not None)
            found: tuple[list[TodaysLead], list[FieldChange]] = ([], [])
            while lead is not None and lead[0] == key:
                found[0].append(lead[1])
                lead = next(leads, None)
            while change is not None and change[0] == key:
                found[1].append(change[1])
                change = next(changes, None)
            yield found

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _flush(self) -> None:
        try:
            with self._db:
                self._db.executemany("insert into leads values (?, ?, ?)", self._leads)
                self._db.executemany("insert into log values (?, ?, ?, ?, ?, ?, ?)", self._changes)
        except sqlite3.Error as error:
            raise self._no_room(error) from None
        self._leads.clear()
        self._changes.clear()

    def _sorted_leads(self) -> Iterator[tuple[str, TodaysLead]]:
        for key, packed in self._rows("select key, lead from leads order by key, number"):
            yield key, TodaysLead(*json.loads(packed))

    def _sorted_changes(self) -> Iterator[tuple[str, FieldChange]]:
        names = list(self._numbers)
        query = "select key, field, at, old, new, has_old from log order by key, at, number"
        for key, field, at, old, new, has_old in self._rows(query):
            yield key, FieldChange("", names[field], at, old, new, bool(has_old))

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(query)
        except sqlite3.Error as error:
            raise self._no_room(error) from None

    def _no_room(self, error: sqlite3.Error) -> UserError:
        return UserError(
            f"the temporary file in {Path(self._folder.name).parent} cannot be used: {error}; set "
            "TMPDIR to a folder with room"
        )
