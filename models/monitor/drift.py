"""Drift: whether the leads of today are still those of training, window by window.

The bins are those of the manifest (`models.monitor.reference`), fixed at training. One value of a
window fills one place in one bin, so an outlier can neither raise an alarm nor hide other values.

Training rows are changes, so a window holds changes too: the first change of a lead is its arrival
too often. Changes of one lead resemble each other, and a test that took them for several leads
would alarm falsely. They count as the number of independent changes that they are worth if the
changes of a lead were all alike (`independent`). Sources: L. Kish, "Survey Sampling", 1965;
J. N. K. Rao, A. J. Scott, Annals of Statistics 1984. No lead counts for more than MAX_OF_LEAD
changes.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.columns import FIRST, MISSING, UNKNOWN, Floats
from features.definitions import FEATURE_OF_INPUT
from features.spec import CATEGORY, NUMBER
from models.monitor.reference import SCORE_BINS
from models.monitor.statistics import P_VALUE, PSI, STATISTICS

if TYPE_CHECKING:
    from models.serve.scorer import Scores

WINDOW = 2_000  # leads; or WINDOW_CHANGES times as many changes, if few leads change often
WINDOW_CHANGES = 10
MAX_OF_LEAD = 10
PROBABILITY = "probability"

Codes = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class InputDrift:
    """One input of a window, or the stated probability, against training.

    - `statistics`: each drift statistic by name; of the probability only `psi`.
    - `missing`, `unseen`: shares of the window. `unseen` is None for a number, whose outer bins
      are open. Both are None for the probability.
    - `alarm`: whether the input has drifted.
    """

    statistics: Mapping[str, float]
    missing: float | None = None
    unseen: float | None = None
    alarm: bool = False

    def rounded(self) -> dict[str, float]:
        """Return each statistic by name, as logs show it."""
        return {
            each.name: each.rounded(self.statistics[each.name])
            for each in STATISTICS
            if each.name in self.statistics
        }

    @property
    def psi(self) -> float:
        """Return the population stability index."""
        return self.statistics[PSI.name]

    @property
    def p_value(self) -> float | None:
        """Return the p-value of the chi-square test, None if there is no test."""
        return self.statistics.get(P_VALUE.name)


@dataclass(frozen=True, slots=True, eq=False)
class _InputBins:
    """The columns of an input in the feature matrix, and the counts of training.

    `counts` holds missing, unseen, then the bins. `edges` is None for a category.
    """

    name: str
    column: int
    missing: int | None
    edges: Floats | None
    counts: Floats

    def codes(self, values: Floats) -> Codes:
        """Return the bin of each row of a feature matrix (n, k)."""
        found = values[:, self.column]
        if self.edges is None:
            codes = found.astype(np.intp)
            codes[codes >= len(self.counts)] = UNKNOWN
            return codes
        codes = FIRST + np.searchsorted(self.edges, found, side="left")
        codes[values[:, self.missing] > 0] = MISSING
        return codes


class DriftReference:
    """The drift reference of a manifest, for a feature matrix with the columns `names`.

    Raises ValueError or KeyError if the reference is incomplete.
    """

    def __init__(self, drift: Mapping[str, Any], names: Sequence[str]) -> None:
        # Rows of one lead resemble each other, so they count as fewer rows.
        rows = float(drift.get("independent_rows", drift["rows"]))
        self.inputs = [
            _input_bins(name, known, names, rows) for name, known in drift["inputs"].items()
        ]
        self._probability = _counts(
            drift["probability"]["shares"], float(drift["probability"]["rows"])
        )
        if not self.inputs or len(self._probability) != SCORE_BINS:
            raise ValueError("the drift reference has no inputs, or no probabilities")

    def compare_inputs(self, values: Floats, weights: Floats) -> dict[str, InputDrift]:
        """Return the drift of every input by name, for feature values (n, k) and weights (n,).

        The weights add up to the number of independent rows that the rows are worth.
        """
        found = {}
        for one in self.inputs:
            counts: Floats = np.bincount(one.codes(values), weights, len(one.counts)).astype(
                np.float64, copy=False
            )
            computed = {each.name: each.compute(counts, one.counts) for each in STATISTICS}
            shares = counts / counts.sum()
            found[one.name] = InputDrift(
                computed,
                missing=float(shares[MISSING]),
                unseen=float(shares[UNKNOWN]) if one.edges is None else None,
                alarm=all(
                    each.exceeds(computed[each.name], len(self.inputs)) for each in STATISTICS
                ),
            )
        return found

    def compare_probability(self, probability: Floats, weights: Floats) -> InputDrift:
        """Return the drift of stated probabilities (n,).

        They are not tested: other trees, fitted on earlier leads, stated those of training.
        """
        bins = np.minimum((probability * SCORE_BINS).astype(np.intp), SCORE_BINS - 1)
        counts: Floats = np.bincount(bins, weights, SCORE_BINS).astype(np.float64, copy=False)
        return InputDrift({PSI.name: PSI.compute(counts, self._probability)})


@dataclass(frozen=True, slots=True)
class DriftWindow:
    """A full window: its number of leads and of changes, and the drift of each input."""

    leads: int
    changes: int
    drift: dict[str, InputDrift]


class DriftCollector:
    """Scored changes collected into windows of `size` leads.

    A window closes with the batch that fills it, so it may hold more.
    """

    def __init__(self, reference: DriftReference, size: int = WINDOW) -> None:
        self._reference = reference
        self._size = size
        self._begin()

    def _begin(self) -> None:
        self._leads: dict[Hashable, int] = {}
        self._changes: list[int] = []
        self._parts: list[tuple[Floats, Floats]] = []

    def add(self, leads: Iterable[Hashable], rows: NDArray[np.intp], scores: "Scores") -> None:
        """Add the changes of a batch: the lead of each, and its row in the scores.

        Rows that failed must be left out.
        """
        numbers = self._leads
        self._changes += [numbers.setdefault(lead, len(numbers)) for lead in leads]
        self._parts.append((scores.matrix.values[rows], scores.probability[rows]))

    def close_if_full(self) -> DriftWindow | None:
        """Return the window if it is full, and begin the next one; else return None."""
        leads, changes = len(self._leads), len(self._changes)
        if leads < self._size and changes < self._size * WINDOW_CHANGES:
            return None
        values, probability = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        worth = weights_of(np.array(self._changes))
        inputs, stated = (
            self._reference.compare_inputs(values, worth),
            self._reference.compare_probability(probability, worth),
        )
        self._begin()
        return DriftWindow(leads, changes, {**inputs, PROBABILITY: stated})


def weights_of(leads: NDArray[np.intp]) -> Floats:
    """Return the weight of each change (n,) of numbered leads (n,).

    Weights are equal except for leads with more than MAX_OF_LEAD changes. They add up to the number
    of independent rows that the changes are worth.
    """
    changes = np.bincount(leads)
    of_lead = np.minimum(changes, MAX_OF_LEAD)
    scale = independent(of_lead) / of_lead.sum()
    found: Floats = scale * (of_lead / changes)[leads]
    return found


def independent(counts: NDArray[np.intp]) -> float:
    """Return how many independent rows are worth as much as these counts of rows of each lead.

    Assumes that the rows of a lead are all alike: (sum of counts)^2 / (sum of squared counts).
    """
    return float(counts.sum() ** 2 / (counts**2).sum())


def _input_bins(
    name: str, known: Mapping[str, Any], names: Sequence[str], rows: float
) -> _InputBins:
    column = names.index(FEATURE_OF_INPUT.get(name, name))
    if known["kind"] == NUMBER:
        edges = np.array(known["edges"], dtype=np.float64)
        counts = _counts([known["missing"], 0.0, *known["shares"]], rows)
        if len(counts) != FIRST + len(edges) + 1 or not (np.diff(edges) > 0).all():
            raise ValueError(f"the bins of {name} are incomplete")
        return _InputBins(name, column, names.index(f"{name}_missing"), edges, counts)
    if known["kind"] != CATEGORY or len(known["shares"]) != len(known["values"]):
        raise ValueError(f"the bins of {name} are incomplete")
    counts = _counts([known["missing"], known["unseen"], *known["shares"]], rows)
    return _InputBins(name, column, None, None, counts)


def _counts(shares: Sequence[float], rows: float) -> Floats:
    found: Floats = np.array(shares, dtype=np.float64)
    if not (0 < rows < np.inf and ((found >= 0) & (found <= 1)).all() and found.any()):
        raise ValueError("its shares are not shares of any rows")
    return found * rows
