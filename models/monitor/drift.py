"""Drift: whether the leads of today are still those of training, window by window, by the bins in the manifest.

The bins are those of `models.train.reference`, fixed at training: whatever a window holds, one value fills one place in one
bin, so an outlier can neither raise an alarm nor hide the others. Two figures by input, for two questions:

- how large: the population stability index, sum of (w - t) ln(w / t) over the bins' shares w of the window and t of
  training (B. Yurdakul, Statistical Properties of Population Stability Index, Western Michigan University 2018, who
  also shows that by chance alone it is near (1/n + 1/m) times a chi-square of bins - 1 degrees of freedom).
- how sure: Pearson's chi-square for two samples of counts, whose error rate is known.

An alarm needs both. In thousands of leads a test proves differences that move no score; an index has no error rate, and
with many bins or little training data it is large by chance.

Training rows are changes, so a window holds changes too: the first change of each lead would be too often its arrival.
But changes of one lead resemble each other, and a test that took them for several leads would alarm falsely. So they
are worth as many independent ones as if a lead's changes were all alike (`independent`; L. Kish, Survey Sampling, 1965;
J. N. K. Rao and A. J. Scott, Annals of Statistics 1984), and no lead weighs more than MOST_OF_LEAD changes.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from features.columns import FIRST, MISSING, UNKNOWN, Floats
from features.definitions import FEATURE_OF_INPUT
from features.spec import CATEGORY, NUMBER
from models.train.reference import SCORE_BINS

if TYPE_CHECKING:
    from models.serve.scorer import Scores

WINDOW = 2_000  # leads; or WINDOW_CHANGES times as many changes, where few leads change often
WINDOW_CHANGES = 10
MOST_OF_LEAD = 10
LARGE = 0.2  # the index from which an input has drifted
FALSE_ALARMS = (
    0.001  # windows of leads like those of training that alarm although nothing changed, at most
)
LEAST_EXPECTED = 10.0  # rows in a bin of the smaller sample; with 5, far out, the test errs up to 4 times as often
PROBABILITY = "probability"

Codes = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Drift:
    """One input of a window, or the stated probability, against training.

    `missing` and `unseen` are shares of the window; `unseen` is None for a number, whose outer bins are open,
    and both are for the probability. `p_value` is that of the chi-square test, None where none is made.
    """

    psi: float
    missing: float | None = None
    unseen: float | None = None
    p_value: float | None = None
    alarm: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """Where an input stands in the feature matrix, and training's counts: missing, unseen, then its bins."""

    name: str
    column: int
    missing: int | None
    edges: Floats | None
    counts: Floats

    def codes(self, values: Floats) -> Codes:
        """The bin of each row of a feature matrix (n, k)."""
        found = values[:, self.column]
        if self.edges is None:
            codes = found.astype(np.intp)
            codes[codes >= len(self.counts)] = UNKNOWN
            return codes
        codes = FIRST + np.searchsorted(self.edges, found, side="left")
        codes[values[:, self.missing] > 0] = MISSING
        return codes


class Reference:
    """The drift reference of a manifest for a matrix with these columns; ValueError or KeyError if it is not whole."""

    def __init__(self, drift: Mapping[str, Any], names: Sequence[str]) -> None:
        # The rows of one lead resemble each other: they count as fewer than they are.
        rows = float(drift.get("independent_rows", drift["rows"]))
        self.inputs = [_input(name, known, names, rows) for name, known in drift["inputs"].items()]
        self._probability = _counts(
            drift["probability"]["shares"], float(drift["probability"]["rows"])
        )
        if not self.inputs or len(self._probability) != SCORE_BINS:
            raise ValueError("the drift reference has no inputs, or no probabilities")

    def inputs_of(self, values: Floats, weights: Floats) -> dict[str, Drift]:
        """Every input of n rows by name: values (n, k) as FeatureMatrix has them, weights (n,).

        The weights add up to the number of independent rows that they are worth.
        """
        found = {}
        for one in self.inputs:
            counts: Floats = np.bincount(one.codes(values), weights, len(one.counts)).astype(
                np.float64, copy=False
            )
            index, p_value = psi(counts, one.counts), chi_square(counts, one.counts)
            shares = counts / counts.sum()
            found[one.name] = Drift(
                psi=index,
                missing=float(shares[MISSING]),
                unseen=float(shares[UNKNOWN]) if one.edges is None else None,
                p_value=p_value,
                alarm=index > LARGE and p_value < FALSE_ALARMS / len(self.inputs),
            )
        return found

    def probability_of(self, probability: Floats, weights: Floats) -> Drift:
        """The stated probabilities (n,). They are not tested: those of training were stated by earlier trees."""
        bins = np.minimum((probability * SCORE_BINS).astype(np.intp), SCORE_BINS - 1)
        counts: Floats = np.bincount(bins, weights, SCORE_BINS).astype(np.float64, copy=False)
        return Drift(psi(counts, self._probability))


@dataclass(frozen=True, slots=True)
class Window:
    """A full window: how many leads and changes it holds, and how each input compares with training."""

    leads: int
    changes: int
    drift: dict[str, Drift]


class DriftWatch:
    """Collects scored changes into windows of `size` leads, and compares each full one with the reference.

    A window closes with the batch that fills it, so it may hold more.
    """

    def __init__(self, reference: Reference, size: int = WINDOW) -> None:
        self._reference = reference
        self._size = size
        self._begin()

    def _begin(self) -> None:
        self._leads: dict[Hashable, int] = {}
        self._changes: list[int] = []
        self._parts: list[tuple[Floats, Floats]] = []

    def add(self, leads: Iterable[Hashable], rows: NDArray[np.intp], scores: "Scores") -> None:
        """The changes of a batch by lead and by the rows that they have in its scores, but for those that failed."""
        numbers = self._leads
        self._changes += [numbers.setdefault(lead, len(numbers)) for lead in leads]
        self._parts.append((scores.matrix.values[rows], scores.probability[rows]))

    def judged(self) -> Window | None:
        """The window, if it is full; then the next one begins."""
        leads, changes = len(self._leads), len(self._changes)
        if leads < self._size and changes < self._size * WINDOW_CHANGES:
            return None
        values, probability = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        worth = weights_of(np.array(self._changes))
        inputs, stated = (
            self._reference.inputs_of(values, worth),
            self._reference.probability_of(probability, worth),
        )
        self._begin()
        return Window(leads, changes, {**inputs, PROBABILITY: stated})


def weights_of(leads: NDArray[np.intp]) -> Floats:
    """The weight of each change (n,) of numbered leads (n,): equal, but for leads with more than MOST_OF_LEAD.

    They add up to the number of independent rows that the changes are worth.
    """
    changes = np.bincount(leads)
    of_lead = np.minimum(changes, MOST_OF_LEAD)
    scale = independent(of_lead) / of_lead.sum()
    found: Floats = scale * (of_lead / changes)[leads]
    return found


def psi(window: Floats, training: Floats) -> float:
    """The population stability index of two vectors of counts, below 0.1 small, above 0.2 large.

    A bin that only one of them has gets half a row in the other; a bin that neither has is left out.
    """
    held = window + training > 0
    w, t = (np.where(counts[held] > 0, counts[held], 0.5) for counts in (window, training))
    w, t = w / w.sum(), t / t.sum()
    return float(((w - t) * np.log(w / t)).sum())


def chi_square(window: Floats, training: Floats) -> float:
    """The p-value of Pearson's chi-square test that two vectors of counts are samples of one distribution.

    The rarest bins are merged until at least LEAST_EXPECTED rows are expected in each bin of the smaller sample
    (W. G. Cochran, Biometrics 1954), by both samples together: the margins do not tell whether the samples differ.
    """
    n, m = window.sum(), training.sum()
    expected = (window + training) * min(n, m) / (n + m)
    order = np.argsort(expected, kind="stable")
    rare = int(np.searchsorted(expected[order], LEAST_EXPECTED))
    if rare and expected[order[:rare]].sum() < LEAST_EXPECTED:
        rare += 1
    starts = np.append(0, np.arange(max(rare, 1), len(order)))
    w, t = (np.add.reduceat(counts[order], starts) for counts in (window, training))
    if len(starts) < 2:
        return 1.0
    statistic = ((w * np.sqrt(m / n) - t * np.sqrt(n / m)) ** 2 / (w + t)).sum()
    return float(chdtrc(len(starts) - 1, statistic))


def independent(counts: NDArray[np.intp]) -> float:
    """How many independent rows are worth as much as so many rows of each lead, if a lead's rows were all alike."""
    return float(counts.sum() ** 2 / (counts**2).sum())


def _input(name: str, known: Mapping[str, Any], names: Sequence[str], rows: float) -> _Input:
    column = names.index(FEATURE_OF_INPUT.get(name, name))
    if known["kind"] == NUMBER:
        edges = np.array(known["edges"], dtype=np.float64)
        counts = _counts([known["missing"], 0.0, *known["shares"]], rows)
        if len(counts) != FIRST + len(edges) + 1 or not (np.diff(edges) > 0).all():
            raise ValueError(f"the bins of {name} are not whole")
        return _Input(name, column, names.index(f"{name}_missing"), edges, counts)
    if known["kind"] != CATEGORY or len(known["shares"]) != len(known["values"]):
        raise ValueError(f"the bins of {name} are not whole")
    return _Input(
        name,
        column,
        None,
        None,
        _counts([known["missing"], known["unseen"], *known["shares"]], rows),
    )


def _counts(shares: Sequence[float], rows: float) -> Floats:
    found: Floats = np.array(shares, dtype=np.float64)
    if not (0 < rows < np.inf and ((found >= 0) & (found <= 1)).all() and found.any()):
        raise ValueError("its shares are not shares of any rows")
    return found * rows
