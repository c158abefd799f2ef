"""The training table: checked, sorted and cut into periods."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features import STATE_FIELDS, Columns
from features.spec import LAST_MOMENT
from leadstream.errors import UserError

_ORDINALS = ("first", "second", "third", "fourth", "fifth")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPart:
    """The n rows of one period, and their description for the manifest.

    `columns` are LeadState fields, `as_of` (n,) is in ms UTC, `labels` (n,) are outcomes, and
    `leads` (n,) numbers the leads, alike in all parts of a table.
    """

    columns: Columns
    as_of: NDArray[np.int64]
    labels: NDArray[np.bool_]
    leads: NDArray[np.intp]
    description: dict[str, Any]


def check_table(table: pd.DataFrame, min_leads: int, min_conversions: int) -> pd.DataFrame:
    """Return the table in a fixed order; raise UserError if it cannot be trained on.

    A lead counts once, and so does its conversion.
    """
    needed = ("lead_id", "as_of", "created_at", "converted")
    if missing := [name for name in needed if name not in table.columns]:
        raise UserError(f"the training table lacks {', '.join(missing)}")
    empty = [name for name in needed if table[name].isna().any()]
    if empty:
        raise UserError(f"the training table has rows without {', '.join(empty)}")
    table = table.assign(
        lead_id=table["lead_id"].astype(object),
        as_of=table["as_of"].astype("int64"),
        converted=table["converted"].astype(bool),
    ).sort_values(["as_of", "lead_id"], kind="stable", ignore_index=True)
    if not table["as_of"].between(0, LAST_MOMENT).all():
        raise UserError("the training table has rows whose as_of is outside the years 1970 to 9999")
    leads, conversions = (
        int(table["lead_id"].nunique()),
        int(table["lead_id"][table["converted"]].nunique()),
    )
    if leads < min_leads or conversions < min_conversions:
        raise UserError(
            f"too little to train on: {leads:,} leads, of whom {conversions:,} converted; "
            f"at least {min_leads:,} leads and {min_conversions:,} conversions are needed"
        )
    return table


def periods(table: pd.DataFrame, count: int) -> tuple[list[TrainingPart], list[TrainingPart]]:
    """Return (periods, cumulative): parts of equal row counts in time, and the first i + 1 as one.

    Raises UserError if a period lacks one of the classes.
    """
    number = split(table, [1 / count] * count)
    leads = pd.factorize(table["lead_id"])[0].astype(np.intp)

    def part(inside: NDArray[np.bool_], name: str) -> TrainingPart:
        return _part(table[inside], leads[inside], name)

    return [part(number == i, f"{_ORDINALS[i]} of {count} periods") for i in range(count)], [
        part((number >= 0) & (number <= i), f"first {i + 1} periods") for i in range(count)
    ]


def _part(rows: pd.DataFrame, leads: NDArray[np.intp], name: str) -> TrainingPart:
    labels = rows["converted"].to_numpy()
    if not labels.any() or labels.all():
        which = "conversion" if not labels.any() else "lead that did not convert"
        raise UserError(
            f"the {name}, {len(rows)} rows in time order, has no {which}: train on a longer time "
            "or more leads"
        )
    columns = {field: rows[field].tolist() for field in STATE_FIELDS if field in rows.columns}
    return TrainingPart(columns, rows["as_of"].to_numpy(), labels, leads, describe_rows(rows))


def split(table: pd.DataFrame, shares: Sequence[float]) -> NDArray[np.intp]:
    """Return the part of each row of a table sorted by as_of, or -1 if the row is left out: (n,).

    Rows of the same moment stay together. A lead belongs to the part with most of its rows, the
    later one of equals. Its other rows are left out, unless that leaves a part without one of the
    classes.
    """
    moments = table["as_of"].to_numpy()
    first_rows = [
        min(int(len(moments) * share), len(moments) - 1)
        for share in np.cumsum(shares)[:-1].tolist()
    ]
    number = np.searchsorted(moments[first_rows], moments, side="right")
    numbers = range(len(shares))
    counts = pd.crosstab(table["lead_id"], number).reindex(columns=numbers, fill_value=0)
    home = len(shares) - 1 - counts.to_numpy()[:, ::-1].argmax(axis=1)
    at_home = pd.Series(home, index=counts.index).loc[table["lead_id"]].to_numpy() == number
    converted = table["converted"].to_numpy()
    kept = [converted[at_home & (number == i)] for i in numbers]
    return (
        np.where(at_home, number, -1)
        if all(part.any() and not part.all() for part in kept)
        else number
    )


def describe_rows(rows: pd.DataFrame) -> dict[str, Any]:
    """Return counts, base rate and time range of some rows, as in the manifest."""
    return {
        "rows": len(rows),
        "leads": int(rows["lead_id"].nunique()),
        "conversions": int(rows["converted"].sum()),
        "base_rate": float(rows["converted"].mean()),
        "from": iso(int(rows["as_of"].min())),
        "to": iso(int(rows["as_of"].max())),
    }


def iso(moment: int) -> str:
    """Return a moment in ms UTC as ISO 8601."""
    return (
        datetime.fromtimestamp(moment / 1000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def moment_of(text: str) -> int:
    """Return the moment in ms UTC that `iso` wrote."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
