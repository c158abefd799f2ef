"""Decisions on probabilities: the threshold by a stated policy, the grades by stated cuts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadstream.errors import SettingsError
from models.evaluate import best_f1_threshold

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

GRADE_SHARES = {"A": 0.1, "B": 0.3, "C": 0.6}  # of leads that have this grade or a better one


@dataclass(frozen=True, slots=True, eq=False)
class PolicyKind:
    """One kind of threshold policy, without its number.

    - `name`: the part of the option before the colon.
    - `sentence`: what the manifest says of a policy with this number.
    - `threshold`: (number, probabilities (n,), outcomes (n,)) -> threshold.
    - `accepts`: whether a number is in range; None for a kind without a number.

    >>> POLICY_KINDS["cost"].threshold(4.0, np.empty(0), np.empty(0, dtype=bool))
    0.2
    """

    name: str
    sentence: Callable[[float], str]
    threshold: Callable[[float, Floats, Labels], float]
    accepts: Callable[[float], bool] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A threshold policy: a kind of POLICY_KINDS and its number.

    The number of "capacity" is the share of leads to call. The number of "cost" is what a missed
    lead costs, in calls.
    """

    kind: str = "f1"
    value: float = 0.0

    @property
    def text(self) -> str:
        """Return the policy as `parse_policy` reads it."""
        return f"{self.kind}:{self.value!r}" if POLICY_KINDS[self.kind].accepts else self.kind

    @property
    def sentence(self) -> str:
        """Return the policy as the manifest states it."""
        return POLICY_KINDS[self.kind].sentence(self.value)

    def threshold(self, probability: Floats, labels: Labels) -> float:
        """Return the probability from which on a lead is called.

        Takes probabilities and outcomes of calibration leads, both (n,).
        """
        return POLICY_KINDS[self.kind].threshold(self.value, probability, labels)


def parse_policy(text: str) -> Policy:
    """Return the policy that `f1`, `capacity:0.1` or `cost:5` names, else raise SettingsError."""
    name, colon, number = text.partition(":")
    try:
        value = float(number) if colon else 0.0
    except ValueError:
        value = float("nan")
    kind = POLICY_KINDS.get(name)
    if kind and (bool(colon) and kind.accepts(value) if kind.accepts else not colon):
        return Policy(name, value)
    raise SettingsError(
        f"{text!r} is no threshold policy: use f1, capacity:0.1 (a share of leads) "
        "or cost:5 (above 0)"
    )


def parse_cuts(text: str) -> dict[str, float]:
    """Return the grade cuts that `0.5,0.3,0.1` states for A, B and C.

    Raises SettingsError unless the cuts fall from below 1 to above 0.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(GRADE_SHARES) or not 1 > numbers[0] > numbers[1] > numbers[2] > 0:
        raise SettingsError(
            f"{text!r} are no grade cuts: give three falling probabilities for A, B and C, "
            "like 0.5,0.3,0.1"
        )
    return dict(zip(GRADE_SHARES, numbers, strict=True))


def grades(probability: Floats, stated: Mapping[str, float] | None) -> tuple[dict[str, float], str]:
    """Return (cut of each grade, the policy in a sentence).

    Without stated cuts they follow from GRADE_SHARES of calibration leads' probabilities (n,).
    """
    if stated:
        return dict(stated), "by stated cuts of the probability"
    cuts = {
        grade: float(np.quantile(probability, 1 - share)) for grade, share in GRADE_SHARES.items()
    }
    return (
        cuts,
        "by probability on the calibration leads: A the top 10 %, B the next 20 %, C the next 30 "
        "%, "
        "D the rest",
    )


def _capacity(share: float, probability: Floats, _labels: Labels) -> float:
    """Return the lowest probability with at most this share of leads at or above it.

    Leads that tie at the edge are all left out, unless no lead would be called.
    """
    distinct, count = np.unique(probability, return_counts=True)
    called = np.cumsum(count[::-1])[::-1] / len(probability)
    within = np.flatnonzero(called <= share)
    return float(distinct[within[0]] if len(within) else distinct[-1])


POLICY_KINDS = {
    kind.name: kind
    for kind in (
        PolicyKind(
            "f1",
            lambda _: "largest F1 on the calibration leads",
            lambda _, probability, labels: best_f1_threshold(probability, labels),
        ),
        PolicyKind(
            "capacity",
            lambda share: f"the top {share:.4g} of the calibration leads",
            _capacity,
            lambda share: 0 < share < 1,
        ),
        PolicyKind(
            "cost",
            lambda cost: (
                f"1 / (1 + {cost:g}): a missed lead costs {cost:g} times what a wasted call does"
            ),
            lambda cost, _probability, _labels: 1.0 / (1.0 + cost),
            lambda cost: 0 < cost < float("inf"),
        ),
    )
}
