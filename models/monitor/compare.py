"""Is the challenger better than the champion? An answer that may be asked for after every outcome.

What counts of a pair is the difference of its Brier scores, challenger minus champion: a number in [-1, 1], below zero
where the challenger was closer. One bet is laid against "the challenger is no better", one against "it is no worse".
A bet on what is not so, begun with 1, ever reaches 1 / p with a probability of p at most (Ville's inequality): looking
often cannot make an error more likely, as it does with p-values.

Source: I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024); the
capital is spread over bets of several sizes, as a universal portfolio: F. Orabona, K.-S. Jun, "Tight concentrations and
confidence sequences from the regret of universal portfolio", IEEE Transactions on Information Theory 70 (2024).
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
from models.monitor.ledger import GRACE_MS, Judged, known_at
from models.train.evaluate import EDGE, expected_calibration_error

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

ALPHA = 0.05
# What part of the capital that the worst outcome could take is laid on each outcome: from 1 in 1,448 to nearly all.
_BETS: Floats = np.concatenate([2.0 ** -np.arange(10.5, 0.0, -0.5), [0.95]])
_STEPS = 40


class Verdict(StrEnum):
    """What the outcomes so far say of the challenger."""

    BETTER = "better"
    WORSE = "worse"
    NOT_YET = "not yet"


class Mode(StrEnum):
    """How the two models met."""

    SHADOW = "shadow"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict on n pairs, wrong with a probability of at most `alpha` however often it was asked for.

    `difference` is the mean Brier score of the challenger minus that of the champion, and the expected one lies between
    `low` and `high`. `e_better` and `e_worse` are the capitals of the two bets: at 2 / alpha a verdict is given.
    """

    verdict: Verdict
    n: int
    difference: float
    low: float
    high: float
    e_better: float
    e_worse: float
    alpha: float


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """n pairs in the order of their time: what each model said (n,) and what became of that lead (n,).

    In the shadow both columns of outcomes are the same; in a split they are those of two leads.
    """

    champion: Floats
    challenger: Floats
    champion_converted: Labels
    challenger_converted: Labels

    @property
    def differences(self) -> Floats:
        """Brier scores (n,), challenger minus champion."""
        lost: Floats = (self.challenger - self.challenger_converted) ** 2
        return lost - (self.champion - self.champion_converted) ** 2


def compare(differences: Floats, alpha: float = ALPHA) -> Comparison:
    """Better, worse or not yet, by differences (n,) of scores in [-1, 1] of which the lower is the better.

    "Better" refutes that no outcome so far was expected to favour the challenger, given those before it; "worse" the
    same of the champion. The interval is that of an expected difference that stays the same.
    """
    n, least = len(differences), math.log(2 / alpha)
    e_better, e_worse = capital(-differences), capital(differences)
    verdict = Verdict.NOT_YET
    if max(e_better, e_worse) >= least:
        verdict = Verdict.BETTER if e_better > e_worse else Verdict.WORSE
    return Comparison(
        verdict=verdict,
        n=n,
        difference=float(differences.mean()) if n else 0.0,
        low=_bound(differences, least),
        high=-_bound(-differences, least),
        e_better=_capped_exp(e_better),
        e_worse=_capped_exp(e_worse),
        alpha=alpha,
    )


def capital(differences: Floats, mean: float = 0.0) -> float:
    """Logarithm of what betting that n differences (n,) in [-1, 1] lie above `mean` has made of 1.

    If each is expected at or below it, given those before, the bet is expected to lose. The capital falls as `mean`
    rises, and the order of the differences does not matter to it.
    """
    return float(_mixed(_growth(differences, mean).sum(axis=0)))


def capitals(differences: Floats, mean: float = 0.0) -> Floats:
    """`capital` after each of the n outcomes (n,): what who looks after every one of them sees."""
    return _mixed(_growth(differences, mean).cumsum(axis=0))


def _growth(differences: Floats, mean: float) -> Floats:
    """Logarithm of what each difference (n,) does to each bet (n, bets)."""
    growth: Floats = np.log1p(np.outer((differences - mean) / (1.0 + mean), _BETS))
    return growth


def settled(judged: Iterable[Judged], horizon_days: float | None) -> list[Judged]:
    """The predictions of whose time all labels are known, in the order in which they became so.

    A lead that converts is known at once, one that does not only when its horizon is over and a day has gone by without
    a word: among the newest those that converted are too many, and the model that says more of every lead would look
    the better one. How far the outcomes have come is told by the newest of them. Without a horizon all is taken.
    """
    judged = list(judged)
    if horizon_days is not None:
        latest = max((one.decided_at for one in judged), default=0) - GRACE_MS
        judged = [one for one in judged if known_at(one, horizon_days) <= latest]
    return sorted(judged, key=lambda one: (known_at(one, horizon_days), one.made.lead_id))


def shadow_pairs(judged: Iterable[Judged], champion: str, challenger: str) -> Pairs:
    """What both versions said of the same change, one pair for each lead: the first in the order given.

    A lead's changes share its outcome: each as an outcome of its own would make few leads look like many. The first one
    stays the first, so what was once counted is never replaced.
    """
    sides: dict[tuple[str, str], dict[bool, Judged]] = {}
    pairs: dict[str, tuple[Judged, Judged]] = {}
    for one in judged:
        made = one.made
        if made.model_version == (challenger if made.shadow else champion):
            both = sides.setdefault((made.lead_id, made.event_id), {})
            both[made.shadow] = one
            if len(both) == 2:
                pairs.setdefault(made.lead_id, (both[False], both[True]))
    return _pairs(pairs.values())


def split_pairs(judged: Iterable[Judged], champion: str, challenger: str) -> Pairs:
    """Two leads of which each version answered for one, next to each other in the order given; each lead once.

    Of leads of one arm that follow each other the last is paired. To pair the first of one arm with the first of the
    other, the second with the second, would compare different weeks where the arms are of unequal sizes.
    """
    versions = {CHAMPION: champion, CHALLENGER: challenger}
    seen: set[str] = set()
    pairs: list[tuple[Judged, Judged]] = []
    waiting: Judged | None = None
    for one in judged:
        made = one.made
        # Before the challenger's first answer there was no split.
        begun = bool(seen) or made.variant == CHALLENGER
        if (
            made.shadow
            or versions.get(made.variant) != made.model_version
            or made.lead_id in seen
            or not begun
        ):
            continue
        seen.add(made.lead_id)
        if waiting is None or waiting.made.variant == made.variant:
            waiting = one
        else:
            pairs.append((waiting, one) if made.variant == CHALLENGER else (one, waiting))
            waiting = None
    return _pairs(pairs)


def quality(probability: Floats, converted: Labels) -> dict[str, float | None]:
    """Brier score, log loss, ROC-AUC and ECE of probabilities (n,), n > 0; no AUC where all outcomes are alike."""
    clipped = np.clip(probability, EDGE, 1 - EDGE)
    both = converted.any() and not converted.all()
    return {
        "brier": float(((probability - converted) ** 2).mean()),
        "log_loss": float(-np.log(np.where(converted, clipped, 1 - clipped)).mean()),
        "roc_auc": float(roc_auc_score(converted, probability)) if both else None,
        "ece": expected_calibration_error(probability, converted),
    }


def _pairs(pairs: Iterable[tuple[Judged, Judged]]) -> Pairs:
    rows = [(c.made.probability, r.made.probability, c.converted, r.converted) for c, r in pairs]
    champion, challenger, *converted = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return Pairs(champion, challenger, *(column.astype(np.bool_) for column in converted))


def _mixed(logs: Floats) -> Floats:
    """The logarithm of the mean capital over the bets, on the last axis."""
    mixed: Floats = logsumexp(logs, axis=-1) - math.log(len(_BETS))
    return mixed


def _bound(differences: Floats, least: float) -> float:
    """The largest mean, to 2^-39, that the differences refute together with all below it."""
    low, high = -1.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if capital(differences, middle) >= least:
            low = middle
        else:
            high = middle
    return low


def _capped_exp(log: float) -> float:
    return math.exp(min(log, 700.0))
