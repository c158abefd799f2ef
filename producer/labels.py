"""Labels of training rows: whether a lead converted, within a horizon if there is one."""

from collections.abc import Sequence
from dataclasses import dataclass

from leadstream.errors import UserError

DAY_MS = 86_400_000
# Rows of one outcome may be left out more often than of the other by this much, and by chance.
MAX_DIFFERENCE = 0.02
ERRORS = 3.0


@dataclass(frozen=True, slots=True)
class OutcomeOfRow:
    """The outcome of a row in a file: its moment, the outcome if decided, and when it was.

    Times are in ms UTC. `decided_at` is None where the file does not say when.
    """

    occurred_at: int
    converted: bool | None
    decided_at: int | None


@dataclass(frozen=True, slots=True)
class Labels:
    """A label for each row, None for a row that is left out, and the counts of those.

    `undated` counts conversions without a moment, `young` rows whose horizon has not passed at
    `newest`, the newest moment of the file.
    """

    labels: list[bool | None]
    young: int = 0
    undated: int = 0
    newest: int = 0


def label_rows(rows: Sequence[OutcomeOfRow], horizon_days: float | None) -> Labels:
    """Return the labels of rows.

    Without a horizon a label is the outcome. With one it is whether the lead converted within so
    many days after the row. A lead that is not decided by then did not convert.
    """
    if horizon_days is None:
        return Labels([row.converted for row in rows])
    horizon = round(horizon_days * DAY_MS)
    newest = max((max(row.occurred_at, row.decided_at or 0) for row in rows), default=0)
    labels: list[bool | None] = []
    young = undated = 0
    for row in rows:
        if row.occurred_at + horizon > newest:
            young += 1
            labels.append(None)
        elif row.converted and row.decided_at is None:
            undated += 1
            labels.append(None)
        else:
            labels.append(
                bool(row.converted)
                and row.decided_at is not None
                and row.decided_at <= row.occurred_at + horizon
            )
    return Labels(labels, young, undated, newest)


def check_balance(kept: tuple[int, int], left_out: tuple[int, int], why: str) -> None:
    """Raise UserError if rows that converted are left out more or less often than the others.

    Both pairs count rows that converted and rows that did not. Such a table has another base rate
    than the file, and its model is wrong about every lead.
    """
    totals = [a + b for a, b in zip(kept, left_out, strict=True)]
    if not all(totals):
        return
    won, lost = (part / total for part, total in zip(left_out, totals, strict=True))
    share = sum(left_out) / sum(totals)
    error = (share * (1 - share) * (1 / totals[0] + 1 / totals[1])) ** 0.5
    if abs(won - lost) <= max(MAX_DIFFERENCE, ERRORS * error):
        return
    raise UserError(
        f"training is refused, because rows are left out by their outcome: {left_out[0]:,} of "
        f"{totals[0]:,} that converted, and {left_out[1]:,} of {totals[1]:,} that did not; the "
        f"most frequent reason is that a row {why}: correct the file or its mapping"
    )
