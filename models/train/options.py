"""The options of a training run."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import Specification, specify
from models.train import calibrate
from models.train.choice import BEST
from models.train.policies import Policy
from models.train.sampling import KeptShares


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of a training run.

    - `horizon_days`: how long a lead had to convert, None if the labels have no horizon. Only
      written to the manifest, as is `created_at` (ms UTC): the labels are in the table.
    - `origins`: the source column of each input.
    - `allow_leaks`: inputs to use although they seem to leak the outcome.
    - `recipe`, `calibrator`: a name or "best".
    - `grades`: the cuts of A, B and C; None cuts by shares of leads.
    - `calendar`: whether folds may choose inputs of the calendar.
    - `base_rate`: the known rate of the population, if the table is a case-control sample.
    - `kept`: the shares that a sample of known rows kept of them.
    - `source`: what the table was made of, for the manifest.
    """

    horizon_days: float | None = 60
    seed: int = 0
    specification: Specification = field(default_factory=specify)
    min_leads: int = 1_000
    min_conversions: int = 120
    origins: Mapping[str, str] = field(default_factory=dict)
    allow_leaks: tuple[str, ...] = ()
    recipe: str = BEST
    calibrator: str = BEST
    policy: Policy = field(default_factory=Policy)
    grades: Mapping[str, float] | None = None
    calendar: bool = True
    base_rate: float | None = None
    kept: KeptShares | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    created_at: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


def is_sample(options: TrainOptions) -> bool:
    return options.base_rate is not None or options.kept is not None


def population_shift(options: TrainOptions, labels: NDArray[np.bool_]) -> float:
    """Return what moves log-odds from the sample (n,) to the population."""
    if options.kept is not None:
        return options.kept.shift
    return calibrate.population_shift(options.base_rate, labels)
