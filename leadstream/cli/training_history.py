"""The training table of a history: its rows, and the report before training starts."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from consumer.history.training_rows import TrainingRows
    from leadstream.settings import Settings

MAX_ROWS = 1_000_000
DAY_MS = 86_400_000
_WHY = {
    "score_written_back": "scores that were written back",
    "ahead_of_clock": "changes from a clock that was ahead",
    "erased": "changes of erased leads",
    "without_state": "changes without a state",
    "rescoring": "rescorings, which change nothing",
    "state_read_late": "changes whose state was read more than an hour later",
    "repeat": "repeats of a change",
    "after_conversion": "changes after the conversion",
    "before_outcomes": "changes before the first outcome",
    "young": "changes whose horizon has not passed at the newest outcome",
}


def add_history(parser: argparse.ArgumentParser, *, since: bool = True) -> None:
    """Add the options for rows of a history, with or without their first day."""
    parser.add_argument(
        "--max-rows",
        type=_rows,
        default=MAX_ROWS,
        metavar="N",
        help="of a history: sample the rows by lead if there are more (1,000,000); the "
        "probabilities stay those of all rows",
    )
    if since:
        parser.add_argument(
            "--since",
            type=_day,
            metavar="DATE",
            help="of a history: leave out changes before this day (2025-03-01)",
        )
    parser.add_argument(
        "--allow-gaps",
        action="store_true",
        help="of a history: train although outcomes or states are missing for a time; the "
        "manifest records it",
    )


def read_history(
    args: argparse.Namespace,
    settings: "Settings",
    horizon_days: float,
    progress: "Callable[[str, float], None]",
) -> "tuple[pd.DataFrame, TrainingRows]":
    """Return the table to train on, and its source; print what was left out.

    Raises SettingsError without LEADSTREAM_HISTORY, UserError if the history cannot be used.
    """
    from leadstream.cli.history_extra import PURPOSE, need_extra

    root = settings.need("LEADSTREAM_HISTORY", PURPOSE)
    need_extra("duckdb")
    from consumer.history.training_rows import RowOptions, read_training_rows

    options = RowOptions(horizon_days, args.max_rows, args.since or 0, args.allow_gaps)
    found = read_training_rows(root, settings.topics, options, progress)
    for sentence in _sentences(found.source):
        print(sentence, file=sys.stderr)
    return history_frame(found.table), found


def history_frame(rows: "pa.Table") -> "pd.DataFrame":
    """Return rows of the history as the table that training reads."""
    from producer.table import frame_from_columns

    own = ("lead_id", "as_of", "converted")
    columns = {name: _values(rows[name]) for name in rows.schema.names if name not in own}
    return frame_from_columns(
        rows["lead_id"].to_pylist(), rows["as_of"].to_numpy(), columns, rows["converted"].to_numpy()
    )


def _values(column: "pa.ChunkedArray") -> Any:
    import pyarrow as pa

    if not pa.types.is_map(column.type):
        return column.to_pylist()
    # One empty map for all: most histories have no own fields.
    if not any(len(chunk.items) for chunk in column.chunks):
        return [{}] * len(column)
    return [values or {} for values in column.to_pylist(maps_as_pydicts="strict")]


def _sentences(source: Any) -> list[str]:
    """Return what was left out, and how the rest was sampled, a sentence each."""
    left = source["left_out"]
    found = [f"history: left out: {left[key]:,} {why}" for key, why in _WHY.items() if key in left]
    if source["sampling"] is not None:
        kept = " and ".join(
            f"{part['kept']:,} of {part['rows']:,} rows that {what}"
            for part, what in (
                (source["sampling"]["conversions"], "convert"),
                (source["sampling"]["others"], "do not"),
            )
        )
        found.append(f"history: sampled by lead: {kept}")
    return found


def _rows(text: str) -> int:
    number = text.replace(",", "").replace("_", "")
    if not number.isdecimal() or not 1_000 <= int(number) <= 100_000_000:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of rows from 1,000 to 100,000,000"
        )
    return int(number)


def _day(text: str) -> int:
    """Return the start of a day, UTC, in ms."""
    from datetime import UTC, datetime

    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2025-03-01") from None
    if day.year < 1970:
        raise argparse.ArgumentTypeError(f"{text!r} is before 1970")
    return round(day.timestamp() * 1000)
