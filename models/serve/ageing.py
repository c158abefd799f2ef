"""Ageing: until when a score holds if nothing happens to its lead.

Age changes three features: `days_since_creation` and `days_squared` rise, `score_time_interaction`
falls. So a row leaves a leaf for good at one age, which is exact to the millisecond: the search
for it takes the steps of scoring, with their rounding. A forest is constant between such ages.
`first_change` goes from one to the next until the score leaves its bounds.

Ages are milliseconds since `created_at`, as float64, which holds each of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from features.calendar import DAY
from features.spec import LAST_MOMENT
from models.evaluate import EDGE
from models.serve.calibrators import Calibrator
from models.serve.forest import Floats, Forest, Ints, Rows

Moments = NDArray[np.int64]
Flags = NDArray[np.bool_]

# The features that age changes, in the order of the columns here.
AGED = ("days_since_creation", "days_squared", "score_time_interaction")
_DAYS, _SQUARE, _FADING = range(3)
NEVER = -1
# Of probabilities that no step of the calibration gives.
_GRID = np.linspace(0.0, 1.0, 4_097)


@dataclass(frozen=True, slots=True, eq=False)
class Ageing:
    """Ages at which a row that is in a node leaves the path to it, by node.

    - `columns`, `mean`, `scale` (3,): of the features AGED among those that the forest uses; a
      column of -1 is not used.
    - `until`: the age at which the path is left, infinite if age alone never does.
    - `until_node`: where the row goes then.
    - `faded`: the largest `score_time_interaction` that leaves the path, below 0 if none does.
    - `faded_node`: where the row goes then.
    - `cuts`, `fades`: of an inner node that asks for such a feature, the first age that goes right,
      and the largest `score_time_interaction` that goes left.
    """

    columns: Ints
    mean: Floats
    scale: Floats
    until: Floats
    until_node: Ints
    faded: Floats
    faded_node: Ints
    cuts: Floats
    fades: Floats


def age_forest(forest: Forest, names: tuple[str, ...], mean: Floats, scale: Floats) -> Ageing:
    """Return when rows leave the paths of a forest over features with these names (k,)."""
    columns = np.array([names.index(name) if name in names else -1 for name in AGED])
    mean, scale = (np.where(columns < 0, 1.0, part[columns]) for part in (mean, scale))
    n, is_leaf = len(forest.value), forest.is_leaf
    cuts, fades = np.full(n, np.inf), np.full(n, -1.0)
    for place, column in enumerate(columns.tolist()):
        nodes = np.flatnonzero((forest.feature == column) & ~is_leaf)
        find = _fades if place == _FADING else _cuts
        found, of = np.unique(forest.threshold[nodes], return_inverse=True)
        (fades if place == _FADING else cuts)[nodes] = find(place, found, mean, scale)[of]
    until, faded = np.full(n, np.inf), np.full(n, -1.0)
    until_node, faded_node = np.full(n, -1), np.full(n, -1)
    right, left = forest.children[0::2], forest.children[1::2]
    level = forest.roots
    while len(level := level[~is_leaf[level]]):
        for own, other, goes_left in ((left, right, True), (right, left, False)):
            # Of equal ages the higher node counts, which the row comes to first.
            sooner = (cuts[level] < until[level]) & goes_left
            until[own[level]] = np.where(sooner, cuts[level], until[level])
            until_node[own[level]] = np.where(sooner, other[level], until_node[level])
            sooner = (fades[level] > faded[level]) & ~np.bool_(goes_left)
            faded[own[level]] = np.where(sooner, fades[level], faded[level])
            faded_node[own[level]] = np.where(sooner, other[level], faded_node[level])
        level = np.concatenate([left[level], right[level]])
    return Ageing(columns, mean, scale, until, until_node, faded, faded_node, cuts, fades)


def _scaled(values: Floats, place: int, mean: Floats, scale: Floats) -> Rows:
    """Return the input of the forest (n,) for values (n,) of one of the features AGED."""
    with np.errstate(over="ignore"):
        scaled: Rows = ((values - mean[place]) / scale[place]).astype(np.float32)
    return scaled


def _cuts(place: int, threshold: Floats, mean: Floats, scale: Floats) -> Floats:
    """Return the first age at which a rising feature passes each threshold (m,), or infinity."""

    def passed(ages: Moments) -> Flags:
        days = ages / DAY
        return _scaled(days if place == _DAYS else days * days, place, mean, scale) > threshold

    first = _first(passed, len(threshold), LAST_MOMENT)
    return np.where(first > LAST_MOMENT, np.inf, first)


def _fades(place: int, threshold: Floats, mean: Floats, scale: Floats) -> Floats:
    """Return the largest number, not below 0, that does not pass each threshold (m,), or -1.

    Such numbers are in the order of their bits.
    """

    def passed(bits: Moments) -> Flags:
        return _scaled(bits.view(np.float64), place, mean, scale) > threshold

    largest = int(np.array(np.finfo(np.float64).max).view(np.int64))
    first = _first(passed, len(threshold), largest)
    return np.where(first > 0, np.maximum(first - 1, 0).view(np.float64), -1.0)


def _first(holds: Callable[[Moments], Flags], n: int, last: int) -> Moments:
    """Return the first whole number from 0 to `last` from which on `holds`, or `last` + 1: (n,)."""
    low, high = np.zeros(n, np.int64), np.full(n, last + 1)
    while (low < high).any():
        middle = low + (high - low) // 2
        yes = holds(np.minimum(middle, last))
        high = np.where(yes, middle, high)
        low = np.where(yes, low, np.minimum(middle + 1, high))
    return low


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """The raw scores between which a probability and its grade stay the same, within a change.

    `raw` and `probability` (m,) are points of the calibration: all its corners and steps, both
    sides of each, and a grid. Between two that are not neighbors in float64 it is smooth.
    """

    calibrator: Calibrator
    cuts: Floats
    raw: Floats
    probability: Floats

    def around(self, probability: Floats, change: float) -> tuple[Floats, Floats]:
        """Return the lowest and the highest raw score (n,) that keep probabilities (n,)."""
        grade = np.searchsorted(self.cuts, probability, side="right")
        below, above = np.append(-np.inf, self.cuts), np.append(self.cuts, np.inf)
        lowest = np.maximum(probability - change, below[grade])
        highest = np.minimum(probability + change, np.nextafter(above, -np.inf)[grade])
        first = np.searchsorted(self.probability, lowest, side="left")
        last = np.searchsorted(self.probability, highest, side="right") - 1
        low = self._edge(first - 1, first, lowest, upper=False)
        high = self._edge(last, last + 1, highest, upper=True)
        return low, high

    def _edge(self, left: Ints, right: Ints, stated: Floats, *, upper: bool) -> Floats:
        """Return where the calibration passes `stated`, between two points of the table.

        Of two points that are neighbors in float64 it is the one that still counts. Elsewhere the
        calibration is smooth, and false position finds it to the last bits.
        """
        end = len(self.raw) - 1
        low, high = np.clip(left, 0, end), np.clip(right, 0, end)
        edge = self.raw[low if upper else high]
        smooth = np.flatnonzero(
            (left >= 0) & (right <= end) & (np.nextafter(self.raw[low], np.inf) < self.raw[high])
        )
        if len(smooth):
            begin, stop = self.raw[low[smooth]], self.raw[high[smooth]]
            before, after = self.probability[low[smooth]], self.probability[high[smooth]]
            sought = stated[smooth]
            for _ in range(4):
                share = (sought - before) / np.where(after > before, after - before, 1.0)
                between = np.clip(begin + share * (stop - begin), begin, stop)
                found = self.calibrator.probability(between)
                less = found <= sought
                begin, before = np.where(less, between, begin), np.where(less, found, before)
                stop, after = np.where(less, stop, between), np.where(less, after, found)
            edge[smooth] = between
        return np.where((right > end) if upper else (left < 0), np.inf if upper else -np.inf, edge)


def bounds(calibrator: Calibrator, cuts: Floats) -> Bounds:
    """Return the bounds of a calibration with these cuts of grades, ascending."""
    corners = np.concatenate([calibrator.scores, calibrator.intervals.scores, [EDGE, 1 - EDGE]])
    raw = np.unique(
        np.concatenate(
            [_GRID, corners, np.nextafter(corners, -np.inf), np.nextafter(corners, np.inf)]
        )
    )
    raw = raw[(raw >= 0) & (raw <= 1)]
    probability = np.maximum.accumulate(calibrator.probability(raw))
    differs = np.diff(probability) != 0
    kept = np.append(differs, True) | np.append(True, differs)
    return Bounds(calibrator, cuts, raw[kept], probability[kept])


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Scored leads and what keeps their scores: the arguments of `first_change`, (n,) each.

    - `rows` (n, k): the inputs of the forest.
    - `limits`: the ages up to which to look.
    - `score`: the number that `score_time_interaction` divides.
    - `low`, `high`: the bounds of the sums of leaf values, divided by `Forest.divisor`.
    """

    rows: Rows
    limits: Floats
    score: Floats
    low: Floats
    high: Floats


def first_change(forest: Forest, ageing: Ageing, held: Held, leaves: Ints) -> Moments:
    """Return the first age (n,) at which a score leaves its bounds; NEVER within the limit.

    `leaves` (trees, n) are those that the rows reach now.
    """
    found = np.full(len(held.rows), NEVER, np.int64)
    active = np.arange(len(held.rows))
    rows, score = held.rows.copy(), held.score
    ages = _next_ages(ageing, leaves, score)
    while len(active):
        age = ages.min(axis=0)
        inside = np.flatnonzero(age <= held.limits[active])
        active, age, ages, leaves = active[inside], age[inside], ages[:, inside], leaves[:, inside]
        rows[active] = _aged(ageing, rows[active], age, score[active])
        trees, at = np.nonzero(ages == age)
        leaves[trees, at] = _walk(forest, rows, forest.roots[trees], active[at])
        ages[trees, at] = _next_ages(ageing, leaves[trees, at], score[active[at]])
        mean = forest.sums(leaves) / forest.divisor
        out = (mean < held.low[active]) | (mean > held.high[active])
        found[active[out]] = age[out].astype(np.int64)
        active, ages, leaves = active[~out], ages[:, ~out], leaves[:, ~out]
    return found


def _aged(ageing: Ageing, rows: Rows, ages: Floats, score: Floats) -> Rows:
    """Return rows as of other ages."""
    rows, days = rows.copy(), ages / DAY
    features = days, days * days, score / (1.0 + days)
    for place, column in enumerate(ageing.columns.tolist()):
        if column >= 0:
            rows[:, column] = _scaled(features[place], place, ageing.mean, ageing.scale)
    return rows


def _walk(forest: Forest, rows: Rows, nodes: Ints, at: Ints) -> Ints:
    """Return the leaves below nodes (m,) of the rows at these indices (m,)."""
    while not forest.is_leaf[nodes].all():
        goes_left = rows[at, forest.feature[nodes]] <= forest.threshold[nodes]
        nodes = forest.children[2 * nodes + goes_left]
    return nodes


def _next_ages(ageing: Ageing, leaves: Ints, score: Floats) -> Floats:
    """Return the ages (…, n) at which leads with these scores (n,) leave leaves (…, n)."""
    faded = ageing.faded[leaves]
    fades = (faded > 0) & (score > 0)
    sure, score = np.where(fades, faded, 1.0), np.where(fades, score, 1.0)
    with np.errstate(over="ignore"):
        age = np.floor(np.maximum(score * (DAY / sure) - DAY, 0.0))
    age = np.minimum(age, float(2 * LAST_MOMENT))  # beyond every limit, and still a whole number
    while (late := (score / (1.0 + age / DAY) > sure) & (age < LAST_MOMENT)).any():
        age += late
    while (early := (age > 0) & (score / (1.0 + (age - 1) / DAY) <= sure)).any():
        age -= early
    return np.minimum(ageing.until[leaves], np.where(fades, age, np.inf))


def in_sums(forest: Forest, raw: Floats) -> Floats:
    """Return raw scores (n,) as sums of leaf values, divided by `Forest.divisor`."""
    if forest.offset is None:
        return raw
    with np.errstate(divide="ignore"):
        return np.where(np.isinf(raw), raw, logit(np.clip(raw, 0.0, 1.0)))
