"""Drift statistics: how much the counts of a window differ from those of training.

- How large: the population stability index, sum of (w - t) ln(w / t) over the bins' shares w of
  the window and t of training. Source: B. Yurdakul, "Statistical Properties of Population
  Stability Index", Western Michigan University 2018. By chance alone it is near (1/n + 1/m) times
  a chi-square of bins - 1 degrees of freedom.
- How sure: Pearson's chi-square for two samples of counts, whose error rate is known.

An alarm needs both. In thousands of leads a test proves differences that move no score. An index
has no error rate: with many bins or little training data it is large by chance.

To add a statistic, write its function and its `DriftStatistic` here, and add it to STATISTICS.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

Floats = NDArray[np.float64]

LARGE = 0.2  # the index from which an input has drifted
FALSE_ALARMS = 0.001  # maximum share of windows that alarm although nothing changed
# Expected rows in a bin of the smaller sample; with 5 the test errs up to 4 times as often.
MIN_EXPECTED = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class DriftStatistic:
    """One number that compares the counts of a window with those of training.

    - `name`: the name in logs and in `InputDrift.statistics`.
    - `sentence`: what it measures.
    - `compute`: (counts of the window (bins,), counts of training (bins,)) -> number.
    - `exceeds`: (number, count of inputs) -> whether it allows an alarm. An alarm needs all.
    - `digits`: decimal places in logs; None for all.

    >>> PSI.compute(np.array([70.0, 30.0]), np.array([70.0, 30.0]))
    0.0
    """

    name: str
    sentence: str
    compute: Callable[[Floats, Floats], float]
    exceeds: Callable[[float, int], bool] = lambda _value, _inputs: True
    digits: int | None = 3

    def rounded(self, value: float) -> float:
        """Return the value as logs show it."""
        return value if self.digits is None else round(value, self.digits)


def psi(window: Floats, training: Floats) -> float:
    """Return the population stability index of two vectors of counts (bins,).

    Below 0.1 it is small, above 0.2 large. A bin that is empty in one of the two gets half a row
    there; a bin that is empty in both is left out.
    """
    held = window + training > 0
    w, t = (np.where(counts[held] > 0, counts[held], 0.5) for counts in (window, training))
    w, t = w / w.sum(), t / t.sum()
    return float(((w - t) * np.log(w / t)).sum())


def chi_square(window: Floats, training: Floats) -> float:
    """Return the p-value of Pearson's chi-square test that two vectors of counts (bins,) agree.

    The rarest bins are merged until at least MIN_EXPECTED rows are expected in each bin of the
    smaller sample (W. G. Cochran, Biometrics 1954). Both samples together give the expectation:
    the margins do not tell whether the samples differ.
    """
    n, m = window.sum(), training.sum()
    expected = (window + training) * min(n, m) / (n + m)
    order = np.argsort(expected, kind="stable")
    rare = int(np.searchsorted(expected[order], MIN_EXPECTED))
    if rare and expected[order[:rare]].sum() < MIN_EXPECTED:
        rare += 1
    starts = np.append(0, np.arange(max(rare, 1), len(order)))
    w, t = (np.add.reduceat(counts[order], starts) for counts in (window, training))
    if len(starts) < 2:
        return 1.0
    statistic = ((w * np.sqrt(m / n) - t * np.sqrt(n / m)) ** 2 / (w + t)).sum()
    return float(chdtrc(len(starts) - 1, statistic))


PSI = DriftStatistic(
    "psi", "population stability index", psi, exceeds=lambda value, _inputs: value > LARGE
)
P_VALUE = DriftStatistic(
    "p_value",
    "p-value of Pearson's chi-square test",
    chi_square,
    exceeds=lambda value, inputs: value < FALSE_ALARMS / inputs,
    digits=None,
)
STATISTICS = (PSI, P_VALUE)
