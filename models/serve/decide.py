"""Decisions on probabilities: the threshold by a stated policy, the grades by stated cuts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadstream.errors import SettingsError
from models.train.evaluate import best_f1_threshold

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

GRADE_SHARES = {"A": 0.1, "B": 0.3, "C": 0.6}  # of leads that have this grade or a better one


@dataclass(frozen=True, slots=True)
class Policy:
    """`kind` is "f1", "capacity" (`value`: the share of leads to call) or "cost" (of a missed lead, in calls)."""

    kind: str = "f1"
    value: float = 0.0

    @property
    def text(self) -> str:
        """What `policy_of` reads."""
        return self.kind if self.kind == "f1" else f"{self.kind}:{self.value!r}"

    @property
    def sentence(self) -> str:
        """The policy as the manifest states it."""
        match self.kind:
            case "capacity":
                return f"the top {self.value:.4g} of the calibration leads"
            case "cost":
                return f"1 / (1 + {self.value:g}): a missed lead costs {self.value:g} times what a wasted call does"
            case _:
                return "largest F1 on the calibration leads"

    def threshold(self, probability: Floats, labels: Labels) -> float:
        """The probability from which on a lead is called, from calibration leads' probabilities and outcomes (n,).

        Where leads tie at a capacity's edge none of them is called, unless nobody would be.
        """
        match self.kind:
            case "capacity":
                distinct, count = np.unique(probability, return_counts=True)
                called = np.cumsum(count[::-1])[::-1] / len(probability)
                within = np.flatnonzero(called <= self.value)
                return float(distinct[within[0]] if len(within) else distinct[-1])
            case "cost":
                return 1.0 / (1.0 + self.value)
            case _:
                return best_f1_threshold(probability, labels)


def policy_of(text: str) -> Policy:
    """The policy that `f1`, `capacity:0.1` or `cost:5` names; SettingsError for any other text."""
    kind, colon, number = text.partition(":")
    try:
        value = float(number) if colon else 0.0
    except ValueError:
        value = float("nan")
    if (
        (kind == "f1" and not colon)
        or (kind == "capacity" and colon and 0 < value < 1)
        or (kind == "cost" and colon and 0 < value < float("inf"))
    ):
        return Policy(kind, value)
    raise SettingsError(
        f"{text!r} is no threshold policy: use f1, capacity:0.1 (a share of leads) or cost:5 (above 0)"
    )


def cuts_of(text: str) -> dict[str, float]:
    """The cuts that `0.5,0.3,0.1` states for A, B and C; SettingsError if they do not fall from below 1 to above 0."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(GRADE_SHARES) or not 1 > numbers[0] > numbers[1] > numbers[2] > 0:
        raise SettingsError(
            f"{text!r} are no grade cuts: give three falling probabilities for A, B and C, like 0.5,0.3,0.1"
        )
    return dict(zip(GRADE_SHARES, numbers, strict=True))


def grades(probability: Floats, stated: Mapping[str, float] | None) -> tuple[dict[str, float], str]:
    """The cut of each grade, and how it came about: stated, or by shares of calibration leads' probabilities (n,)."""
    if stated:
        return dict(stated), "by stated cuts of the probability"
    cuts = {
        grade: float(np.quantile(probability, 1 - share)) for grade, share in GRADE_SHARES.items()
    }
    return (
        cuts,
        "by probability on the calibration leads: A the top 10 %, B the next 20 %, C the next 30 %, D the rest",
    )
