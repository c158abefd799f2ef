"""Comparison of a challenger with the champion, valid after every outcome.

Each pair counts as the difference of its Brier scores, challenger minus champion: a number in [-1,
1], below zero if the challenger was closer. One bet is against "the challenger is no better", one
against "it is no worse". A bet on a false statement that starts with 1 ever reaches 1 / p with a
probability of at most p (Ville's inequality). So frequent looks cannot make an error more likely,
as they do with p-values.

Sources: I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting",
JRSS-B 86 (2024). The capital is spread over bets of several sizes, as a universal portfolio: F.
Orabona, K.-S. Jun, "Tight concentrations and confidence sequences from the regret of universal
portfolio", IEEE Transactions on Information Theory 70 (2024).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

from leadstream.variants import CHALLENGER, CHAMPION
from models.evaluate import EDGE, expected_calibration_error
from models.monitor.ledger import GRACE_MS, LabeledPrediction, known_at

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

ALPHA = 0.05
# The share of the capital that the worst outcome can take: from 1 in 1,448 to nearly all.
_BETS: Floats = np.concatenate([2.0 ** -np.arange(10.5, 0.0, -0.5), [0.95]])
_STEPS = 40


class ComparisonResult(StrEnum):
    """The result of a comparison so far."""

    BETTER = "better"
    WORSE = "worse"
    NOT_YET = "not yet"


class ComparisonMode(StrEnum):
    """The way in which two models were compared."""

    SHADOW = "shadow"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class VersionComparison:
    """The result on n pairs, wrong with a probability of at most `alpha` over any number of looks.

    `difference` is the mean Brier score of the challenger minus that of the champion; its
    expectation lies between `low` and `high`. `e_better` and `e_worse` are the capitals of the two
    bets. A result needs a capital of 2 / alpha.
    """

    result: ComparisonResult
    n: int
    difference: float
    low: float
    high: float
    e_better: float
    e_worse: float
    alpha: float


@dataclass(frozen=True, slots=True, eq=False)
class PredictionPairs:
    """Pairs in time order: the probability of each model (n,) and the outcome of its lead (n,).

    In shadow mode both columns of outcomes are the same; in a split they belong to two leads.
    """

    champion: Floats
    challenger: Floats
    champion_converted: Labels
    challenger_converted: Labels

    @property
    def differences(self) -> Floats:
        """Return the differences of Brier scores (n,), challenger minus champion."""
        lost: Floats = (self.challenger - self.challenger_converted) ** 2
        return lost - (self.champion - self.champion_converted) ** 2


def compare(differences: Floats, alpha: float = ALPHA) -> VersionComparison:
    """Compare two models by differences (n,) of scores in [-1, 1]; lower is better.

    "Better" refutes that no outcome so far was expected to favor the challenger, given those before
    it. "Worse" refutes the same of the champion. The interval is for a constant expected
    difference.
    """
    n, threshold = len(differences), math.log(2 / alpha)
    e_better, e_worse = capital(-differences), capital(differences)
    result = ComparisonResult.NOT_YET
    if max(e_better, e_worse) >= threshold:
        result = ComparisonResult.BETTER if e_better > e_worse else ComparisonResult.WORSE
    return VersionComparison(
        result=result,
        n=n,
        difference=float(differences.mean()) if n else 0.0,
        low=_bound(differences, threshold),
        high=-_bound(-differences, threshold),
        e_better=_capped_exp(e_better),
        e_worse=_capped_exp(e_worse),
        alpha=alpha,
    )


def capital(differences: Floats, mean: float = 0.0) -> float:
    """Return the log of the capital after betting 1 that differences (n,) exceed `mean`.

    Differences lie in [-1, 1]. If each is expected at or below `mean`, given those before, the bet
    is expected to lose. The capital falls as `mean` rises and does not depend on the order of the
    differences.
    """
    return float(_mixed(_growth(differences, mean).sum(axis=0)))


def capitals(differences: Floats, mean: float = 0.0) -> Floats:
    """Return the log of the capital after each of the n outcomes (n,)."""
    return _mixed(_growth(differences, mean).cumsum(axis=0))


def _growth(differences: Floats, mean: float) -> Floats:
    """Return the log of the growth of each bet by each difference: (n, bets)."""
    growth: Floats = np.log1p(np.outer((differences - mean) / (1.0 + mean), _BETS))
    return growth


def fully_labeled(
    labeled: Iterable[LabeledPrediction],
    horizon_days: float | None,
    decided_until: int | None = None,
) -> list[LabeledPrediction]:
    """Return the predictions of a time for which all labels are known, in the order of the labels.

    A conversion is known at once. A loss is known only a day after the end of the horizon. Among
    the newest labels, conversions are too frequent, which favors the model with higher
    probabilities. The newest outcome shows how far the outcomes have come: that of `labeled`, or
    `decided_until` (ms UTC) if these are not all. Without a horizon all predictions are taken.
    """
    labeled = list(labeled)
    if horizon_days is not None:
        if decided_until is None:
            decided_until = max((one.decided_at for one in labeled), default=0)
        latest = decided_until - GRACE_MS
        labeled = [one for one in labeled if known_at(one, horizon_days) <= latest]
    return sorted(labeled, key=lambda one: (known_at(one, horizon_days), one.prediction.lead_id))


def without_learned(
    labeled: Iterable[LabeledPrediction], learned_until: Iterable[int | None]
) -> tuple[list[LabeledPrediction], int]:
    """Return the predictions that no compared model learned from, and the count of the others.

    `learned_until` has the newest moment (ms UTC) of each model's training rows, None if unknown. A
    prediction as of that moment or before favors the model that has seen its outcome, so both
    models lose it.
    """
    labeled = list(labeled)
    newest = max((moment for moment in learned_until if moment is not None), default=None)
    if newest is None:
        return labeled, 0
    fresh = [one for one in labeled if one.prediction.occurred_at > newest]
    return fresh, len(labeled) - len(fresh)


def shadow_pairs(
    labeled: Iterable[LabeledPrediction], champion: str, challenger: str
) -> PredictionPairs:
    """Return the predictions of both versions for the same change, one pair for each lead.

    The changes of a lead share its outcome. Counting each would make few leads look like many. The
    first pair of a lead stays, so a later call never replaces a pair.
    """
    sides: dict[tuple[str, str], dict[bool, LabeledPrediction]] = {}
    pairs: dict[str, tuple[LabeledPrediction, LabeledPrediction]] = {}
    for one in labeled:
        made = one.prediction
        if made.model_version == (challenger if made.shadow else champion):
            both = sides.setdefault((made.lead_id, made.event_id), {})
            both[made.shadow] = one
            if len(both) == 2:
                pairs.setdefault(made.lead_id, (both[False], both[True]))
    return _pairs(pairs.values())


def split_pairs(
    labeled: Iterable[LabeledPrediction], champion: str, challenger: str
) -> PredictionPairs:
    """Return pairs of two leads, one scored by each version, next to each other; each lead once.

    In a run of leads of one arm the last one is paired. Pairs by rank in each arm would compare
    different weeks if the arms have unequal sizes.
    """
    versions = {CHAMPION: champion, CHALLENGER: challenger}
    seen: set[str] = set()
    pairs: list[tuple[LabeledPrediction, LabeledPrediction]] = []
    waiting: LabeledPrediction | None = None
    for one in labeled:
        made = one.prediction
        # Before the challenger's first prediction there was no split.
        split_started = bool(seen) or made.variant == CHALLENGER
        if (
            made.shadow
            or versions.get(made.variant) != made.model_version
            or made.lead_id in seen
            or not split_started
        ):
            continue
        seen.add(made.lead_id)
        if waiting is None or waiting.prediction.variant == made.variant:
            waiting = one
        else:
            pairs.append((waiting, one) if made.variant == CHALLENGER else (one, waiting))
            waiting = None
    return _pairs(pairs)


def quality(probability: Floats, converted: Labels) -> dict[str, float | None]:
    """Return Brier score, log loss, ROC-AUC and ECE of probabilities (n,), n > 0.

    ROC-AUC is None if all outcomes are equal.
    """
    clipped = np.clip(probability, EDGE, 1 - EDGE)
    both = converted.any() and not converted.all()
    return {
        "brier": float(((probability - converted) ** 2).mean()),
        "log_loss": float(-np.log(np.where(converted, clipped, 1 - clipped)).mean()),
        "roc_auc": float(roc_auc_score(converted, probability)) if both else None,
        "ece": expected_calibration_error(probability, converted),
    }


def _pairs(pairs: Iterable[tuple[LabeledPrediction, LabeledPrediction]]) -> PredictionPairs:
    rows = [
        (c.prediction.probability, r.prediction.probability, c.converted, r.converted)
        for c, r in pairs
    ]
    champion, challenger, *converted = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return PredictionPairs(champion, challenger, *(column.astype(np.bool_) for column in converted))


def _mixed(logs: Floats) -> Floats:
    """Return the log of the mean capital over the bets, on the last axis."""
    mixed: Floats = logsumexp(logs, axis=-1) - math.log(len(_BETS))
    return mixed


def _bound(differences: Floats, threshold: float) -> float:
    """Return the largest mean, to 2^-39, that the differences refute together with all below it."""
    low, high = -1.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if capital(differences, middle) >= threshold:
            low = middle
        else:
            high = middle
    return low


def _capped_exp(log: float) -> float:
    return math.exp(min(log, 700.0))
