"""The search for the first change of a score as machine code; see `models.serve.ageing`.

The result is that of `first_change`. For each row it keeps the leaf of each tree and the age at
which the row leaves it, with the minimum of every few trees, and goes from age to age. The sum of
the leaf values follows by differences. Close to a bound it is added up again, tree by tree, so that
its bits are those of the score.
"""

import numpy as np
from numpy.typing import NDArray

from features.calendar import DAY
from leadstream.compiled import compiled
from models.serve.forest import Floats, Rows

Moments = NDArray[np.int64]
Numbers = NDArray[np.uint32]

U = np.uint64
_ROWS = 32  # whose leaves in one tree are looked up together
_TREES = 8  # of which one minimum is kept
# An age that one division gave is this close to the exact one, in milliseconds.
_CLOSE = 1.5
# What differences add up to is closer to the exact sum.
_EXACT = 1e-9
NOWHERE = U(0xFFFFFFFF)


@compiled
def _faded_age(score: float, faded: float, near: float) -> float:
    """Return the first whole age at which a score has faded to at most `faded`."""
    age = float(np.floor(max(near, 0.0)))
    while score / (1.0 + age / DAY) > faded:
        age += 1.0
    while age > 0.0 and score / (1.0 + (age - 1.0) / DAY) <= faded:
        age -= 1.0
    return age


@compiled
def search(
    rows: Rows,
    reached: Numbers,
    sums: Floats,
    numbers: Floats,
    feature: Numbers,
    threshold: Floats,
    left: Numbers,
    value: Floats,
    limits: Floats,
    nodes: Numbers,
    offset: float,
    divisor: float,
    found: Moments,
) -> None:
    """Write into `found` (n,) the first age at which a score leaves its bounds, or -1.

    - `rows` (n, k). `reached` (n, trees): the leaves now. `sums` (n,): of their values.
    - `numbers` (n, 4): the age to look up to, the score that fades, and the bounds of a sum divided
      by `divisor`.
    - `feature` (nodes,): k asks for the age, k + 1 for the faded score.
    - `limits` (nodes, 3): the age that leaves the path, a day divided by the faded score that does,
      and that score. `nodes` (nodes, 2): where the row goes then.
    """
    n, k, trees = U(rows.shape[0]), U(rows.shape[1]), U(reached.shape[1])
    groups = (trees + U(_TREES - 1)) // U(_TREES)
    here = np.zeros((_ROWS, groups * U(_TREES)), np.uint32)
    ages = np.full((_ROWS, groups * U(_TREES)), np.inf)
    first = np.empty(groups)
    x = np.empty(k + U(2))
    for start in range(U(0), n, U(_ROWS)):
        stop = min(start + U(_ROWS), n)
        for tree in range(trees):
            for row in range(start, stop):
                leaf = reached[row, tree]
                near, until = numbers[row, 1] * limits[leaf, 1] - DAY, limits[leaf, 0]
                here[row - start, tree] = leaf
                ages[row - start, tree] = near if near < until else until
        for row in range(start, stop):
            at = row - start
            found[row] = -1
            limit, score = numbers[row, 0], numbers[row, 1]
            low, high = numbers[row, 2], numbers[row, 3]
            sure_low, sure_high = low * divisor + _EXACT, high * divisor - _EXACT
            total = sums[row]
            for j in range(k):
                x[j] = rows[row, j]
            for group in range(groups):
                smallest = np.inf
                for tree in range(group * U(_TREES), (group + U(1)) * U(_TREES)):
                    if ages[at, tree] < smallest:
                        smallest = ages[at, tree]
                first[group] = smallest
            while True:
                near = np.inf
                for group in range(groups):
                    if first[group] < near:
                        near = first[group]
                if not near < limit + _CLOSE:
                    break
                age = np.inf
                for group in range(groups):
                    if first[group] < near + _CLOSE:
                        for tree in range(group * U(_TREES), (group + U(1)) * U(_TREES)):
                            if ages[at, tree] < near + _CLOSE:
                                leaf = here[at, tree]
                                exact, fading = limits[leaf, 0], score * limits[leaf, 1] - DAY
                                if fading < near + _CLOSE:
                                    exact = min(exact, _faded_age(score, limits[leaf, 2], fading))
                                ages[at, tree] = exact
                                age = min(age, exact)
                if age > limit:
                    break
                fading = score / (1.0 + age / DAY)
                x[k], x[k + U(1)] = age, fading
                for group in range(groups):
                    if first[group] < near + _CLOSE:
                        smallest = np.inf
                        for tree in range(group * U(_TREES), (group + U(1)) * U(_TREES)):
                            if ages[at, tree] == age:
                                old = here[at, tree]
                                node = U(nodes[old, 0]) if limits[old, 0] <= age else NOWHERE
                                if fading <= limits[old, 2]:
                                    node = min(node, U(nodes[old, 1]))
                                while left[node] != node:
                                    right = x[feature[node]] > threshold[node]
                                    node = U(left[node]) + U(right)
                                total += value[node] - value[old]
                                near_leaf = score * limits[node, 1] - DAY
                                until = limits[node, 0]
                                here[at, tree] = node
                                ages[at, tree] = near_leaf if near_leaf < until else until
                            if ages[at, tree] < smallest:
                                smallest = ages[at, tree]
                        first[group] = smallest
                if total > sure_low and total < sure_high:
                    continue
                exact_sum = offset
                for tree in range(trees):
                    exact_sum += value[here[at, tree]]
                raw = exact_sum / divisor
                if raw < low or raw > high:
                    found[row] = np.int64(age)
                    break
