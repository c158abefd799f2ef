"""Synthetic CRM files of the kinds that mislead a training, each with what is known to be true."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
Rng = np.random.Generator

START = 1_609_459_200_000  # 2021-01-01
DAY = 86_400_000
MAPPING = """[lead]
lead_id = "id"
created_at = {{ column = "created", format = "epoch_ms" }}
[lead.numbers]
{numbers}
[lead.categories]
{categories}
[outcome]
column = "won"
true = ["1"]
false = ["0"]
"""


@dataclass(frozen=True, slots=True, eq=False)
class StrangerFile:
    """A file: its name, its rows in time order, and whether a model of it may serve.

    The columns are id, created (ms UTC), won (0 or 1), numbers and categories (text).
    """

    name: str
    rows: pd.DataFrame
    noise: bool = False

    @property
    def numbers(self) -> list[str]:
        """Return the names of the numbers."""
        return [name for name in self._fields if self.rows[name].dtype.kind in "fi"]

    @property
    def categories(self) -> list[str]:
        """Return the names of the categories."""
        return [name for name in self._fields if name not in self.numbers]

    @property
    def _fields(self) -> list[str]:
        return [name for name in self.rows.columns if name not in ("id", "created", "won")]

    @property
    def mapping(self) -> str:
        """Return the mapping file of the columns."""
        named = (
            "\n".join(f'{name} = "{name}"' for name in names)
            for names in (self.numbers, self.categories)
        )
        return MAPPING.format(**dict(zip(("numbers", "categories"), named, strict=True)))


def make_file(
    name: str, rng: Rng, days: float, log_odds: Floats, *, noise: bool = False, **columns: Any
) -> StrangerFile:
    """Return a file whose leads arrive over so many days and convert with these log-odds (n,)."""
    n = len(log_odds)
    created = START + np.sort(rng.integers(0, int(days * DAY), n))
    rows = {
        "id": [f"lead-{i:06}" for i in range(n)],
        "created": created,
        "won": (rng.random(n) < 1 / (1 + np.exp(-log_odds))).astype(np.int64),
        **columns,
    }
    return StrangerFile(name, pd.DataFrame(rows), noise)


def noise_file(seed: int, rows: int | None = None) -> StrangerFile:
    """Return a file of pure noise: 1,000 to 20,000 rows; a level, rising or falling base rate."""
    rng = np.random.default_rng([1, seed])
    n = rows or int(np.exp(rng.uniform(np.log(1_000), np.log(20_000))))
    kind = ("level", "rising", "falling")[seed % 3]
    rate = rng.uniform(max(0.06, 150 / n), 0.4)
    slope = {"level": 0.0, "rising": 1.0, "falling": -1.0}[kind] * rng.uniform(0.5, 1.5)
    trend = slope * np.linspace(-1, 1, n)
    odds = np.log(rate / (1 - rate)) + trend
    return make_file(
        f"noise, {kind} base rate, {n:,} rows",
        rng,
        rng.uniform(150, 1_200),
        odds,
        noise=True,
        **_noise(rng, n),
    )


def signal_file(seed: int, rows: int = 4_000, auc: float = 0.6) -> StrangerFile:
    """Return a file with one number that ranks by this ROC-AUC, next to noise."""
    rng = np.random.default_rng([2, seed])
    rate = rng.uniform(0.15, 0.4)
    won = rng.random(rows) < rate
    distance = np.sqrt(2) * norm.ppf(auc)
    visits = rng.normal(size=rows) + distance * won
    return make_file(
        f"one weak signal, {rows:,} rows",
        rng,
        rng.uniform(200, 900),
        np.where(won, 40.0, -40.0),
        visits=visits,
        **_noise(rng, rows),
    )


def _noise(rng: Rng, n: int) -> dict[str, Any]:
    return {
        "score": rng.normal(50, 15, n).round(1),
        "calls": rng.poisson(3, n),
        "source": rng.choice(["web", "fair", "partner", "mail"], n, p=[0.5, 0.3, 0.15, 0.05]),
        "city": rng.choice([f"city {i}" for i in range(30)], n),
    }


def _young(rng: Rng) -> StrangerFile:
    """Return the leads of 340 days, whose base rate moves with the months of one year."""
    n = 8_000
    when = np.linspace(0, 1, n)
    visits = rng.normal(size=n)
    odds = -1.6 + 0.65 * visits + 0.9 * np.sin(5 * when)
    return make_file("a CRM of 340 days", rng, 340, odds, visits=visits, **_noise(rng, n))


def _seasons(rng: Rng) -> StrangerFile:
    """Return three years of leads that convert by the season, as every year."""
    n = 12_000
    visits = rng.normal(size=n)
    odds = -1.4 + 0.6 * visits + 1.2 * np.sin(np.linspace(0, 6 * np.pi, n))
    return make_file("three years with seasons", rng, 3 * 365, odds, visits=visits)


def _nine_in_ten(rng: Rng) -> StrangerFile:
    n = 6_000
    visits, source = rng.normal(size=n), rng.choice(["web", "referral"], n, p=[0.8, 0.2])
    odds = 1.6 + 0.8 * visits + 1.5 * (source == "referral")
    return make_file("nine in ten convert", rng, 700, odds, visits=visits, source=source)


def _few_convert(rng: Rng) -> StrangerFile:
    n = 15_000
    visits = rng.normal(size=n)
    return make_file("three in a hundred convert", rng, 700, -4.0 + visits, visits=visits)


def _interaction(rng: Rng) -> StrangerFile:
    n = 8_000
    visits, calls = rng.normal(size=n), rng.normal(size=n)
    odds = -0.8 + 1.5 * visits * calls
    return make_file("two fields that tell together", rng, 700, odds, visits=visits, calls=calls)


def _elapsed(rng: Rng) -> StrangerFile:
    """Return leads with a field that counts days, while the base rate rises."""
    n = 8_000
    visits, when = rng.normal(size=n), np.linspace(0, 1, n)
    odds = -2.0 + 0.7 * visits + 1.5 * when
    return make_file(
        "a field that counts days",
        rng,
        700,
        odds,
        visits=visits,
        day_number=np.floor(when * 700),
        academic_year=np.where(when < 0.4, "2021", np.where(when < 0.8, "2022", "2023")),
    )


def _mixed(rng: Rng) -> StrangerFile:
    """Return many fields, some with holes, of which a few tell something."""
    n = 8_000
    columns: dict[str, Any] = {f"field_{i}": rng.normal(size=n) for i in range(8)}
    for values in columns.values():
        values[rng.random(n) < 0.2] = np.nan
    source = rng.choice(["web", "fair", "partner"], n)
    odds = -1.2 + 0.8 * np.nan_to_num(columns["field_0"]) + 0.5 * np.nan_to_num(columns["field_1"])
    odds = odds + 0.7 * (source == "fair")
    return make_file("many fields with holes", rng, 700, odds, source=source, **columns)


_KINDS: tuple[Callable[[Rng], StrangerFile], ...] = (
    _young,
    _seasons,
    _nine_in_ten,
    _few_convert,
    _interaction,
    _elapsed,
    _mixed,
)


def all_files() -> list[StrangerFile]:
    """Return one file of each kind, seeded."""
    made = [make(np.random.default_rng([3, i])) for i, make in enumerate(_KINDS)]
    return [*made, signal_file(0), *(noise_file(seed, 6_000) for seed in range(3))]
