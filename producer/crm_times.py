"""Columns of a CRM that hold times, and the options of a description that read them."""

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from leadstream.postgres import Connection
from leadstream.text_forms import comparable
from producer.crm_candidates import TIMES, CandidateTable
from producer.moments import strptime_clock
from producer.refusals import options_of
from producer.time_guess import TimeGuess, day_and_month_are_open, guess_formats
from schemas.crm_tables import name, table_name

SAMPLE_ROWS = 1_000
# Times that people typed: a few may be wrong.
_ENOUGH, _FIRST = 0.95, 20


@dataclass(frozen=True, slots=True)
class TimeColumn:
    """A column of times; `options` read those of texts or numbers, empty for those of a type.

    `open` tells whether the order of day and month is a guess.
    """

    column: str
    options: str = ""
    open: bool = False

    def source(self) -> str:
        """Return the value of the field in TOML."""
        column = json.dumps(self.column, ensure_ascii=False).replace("\x7f", "\\u007f")
        return f"{{ column = {column}, {self.options} }}" if self.options else column


def first_times(
    connection: Connection, table: CandidateTable, columns: Iterable[str]
) -> TimeColumn | None:
    """Return the first of the columns that holds times, by its type or by a sample."""
    for column in columns:
        if table.columns[column] in TIMES:
            return TimeColumn(column)
        query = sql.SQL("select {c}::text from {t} where {c} is not null limit %s").format(
            c=name(column), t=table_name(table.name)
        )
        texts = [text for (text,) in connection.execute(query, (SAMPLE_ROWS,)) if text.strip()]
        if guesses := guess_formats(texts) or _majority(texts):
            iso = guesses[0].format == "iso"
            options = "" if iso else options_of(guesses[0])
            return TimeColumn(column, options, day_and_month_are_open(guesses))
    return None


def _majority(texts: Sequence[str]) -> list[TimeGuess]:
    """Return the format of the first texts that reads most of all, if one does."""
    read = [(_share(guess, texts), guess) for guess in guess_formats(texts[:_FIRST])]
    share, best = max(read, key=lambda one: one[0], default=(0.0, None))
    return [best] if best and share >= _ENOUGH else []


def _share(guess: TimeGuess, texts: Sequence[str]) -> float:
    if "%" not in guess.format:
        return 0.0
    clock, count = strptime_clock(guess.format, guess.locale), 0
    for text in texts:
        with contextlib.suppress(ValueError):
            clock(comparable(text).strip())
            count += 1
    return count / len(texts)
