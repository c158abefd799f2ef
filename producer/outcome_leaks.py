"""Columns that tell the outcome, by counts, for suggestions. Training has its own leak tests."""

from collections.abc import Mapping, Sequence

_LEAK_AUC = 0.95
_SURE_RATE, _MIN_SHARE = 0.97, 0.02
_MAX_NAMED = 40


def tells(cells: Sequence[str], labels: Sequence[bool | None]) -> str | None:
    """Return how the cells of a column tell the outcome, None if they do not.

    A missing value is an empty cell. Rates are learned from every second row and read on the
    others.
    """
    halves: tuple[dict[str, list[int]], dict[str, list[int]]] = ({}, {})
    for row, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        if label is not None:
            count = halves[row % 2].setdefault(cell, [0, 0])
            count[label] += 1
    totals = [sum(counts[side] for half in halves for counts in half.values()) for side in (0, 1)]
    rows = sum(totals)
    if min(totals) < 20:
        return None
    for cell, (lost, won) in _merged(*halves).items():
        size = lost + won
        rate = won / size
        if size >= max(20, _MIN_SHARE * rows) and rate >= _SURE_RATE > 0.9 > totals[1] / rows:
            what = _named(cell) if cell else "empty cells"
            return f"{rate:.0%} of the leads with {what} convert, against {totals[1] / rows:.0%}"
    auc = _auc(halves[0], halves[1])
    return f"alone it ranks with a ROC-AUC of {auc:.2f}" if auc >= _LEAK_AUC else None


def _named(cell: str) -> str:
    return f'"{cell}"' if len(cell) <= _MAX_NAMED and cell.isprintable() else "one value"


def _merged(
    first: Mapping[str, list[int]], second: Mapping[str, list[int]]
) -> dict[str, tuple[int, int]]:
    none = [0, 0]
    return {
        cell: (
            first.get(cell, none)[0] + second.get(cell, none)[0],
            first.get(cell, none)[1] + second.get(cell, none)[1],
        )
        for cell in {**first, **second}
    }


def _auc(learned: Mapping[str, list[int]], judged: Mapping[str, list[int]]) -> float:
    """Return the ROC-AUC of the rate by value, learned on one half and read on the other."""
    won = sum(counts[1] for counts in learned.values())
    prior = won / max(1, sum(map(sum, learned.values())))
    by_rate: dict[float, list[int]] = {}
    for cell, counts in judged.items():
        lost, converted = learned.get(cell, [0, 0])
        total = by_rate.setdefault((converted + prior) / (lost + converted + 1), [0, 0])
        total[0] += counts[0]
        total[1] += counts[1]
    below, area = 0.0, 0.0
    for rate in sorted(by_rate):
        lost, converted = by_rate[rate]
        area += converted * (below + lost / 2)
        below += lost
    positives = sum(counts[1] for counts in by_rate.values())
    return area / (below * positives) if below and positives else 0.5
