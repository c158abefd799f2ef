"""The decisions of `leadstream learn` in simulated worlds: does it promote noise, and does it help?

    python -m benchmarks.learning stationary [--runs 100]
    python -m benchmarks.learning shifted [--runs 20]

A world has leads that arrive evenly, with a horizon of 30 days. Real triggers, trainings, gate,
model store and the learner itself decide; time, topic and outcomes are simulated. A trigger asks
again as long as it holds, so that no attempt is missed. `stationary` counts promotions within a
year; `shifted` changes on one day which leads convert, and counts the runs in which a model that
was trained afterwards serves within `STATED_DAYS`. Exit code 1 where a bar is missed.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consumer.outcomes.learner import Attempt, AttemptLog, Learner, LearnEvent, LearnOptions
from consumer.outcomes.learner import LearnStep as Step
from leadstream.errors import UserError
from leadstream.variants import CHALLENGER
from models.monitor.compare import VersionComparison, compare
from models.monitor.ledger import DAY_MS, LabeledPrediction, PublishedPrediction
from models.monitor.triggers import due, in_service
from models.registry.signing import Trust
from models.registry.versions import ModelRegistry
from models.serve.artifact import Trained
from models.serve.scorer import Model
from models.train import reasons
from models.train.training import TrainOptions, train
from producer.table import frame_from_columns

START_MS = 1_704_067_200_000  # 2024-01-01
HORIZON = 30
FIRST_TRAINING = 250  # days of leads that the first champion learned from
YEAR = 365
SHIFT = FIRST_TRAINING + 20
STATED_DAYS = 365
OPTIONS = LearnOptions(trial_days=120, rest_days=30)
STEP_DAYS = 10
SOURCES = ("referral", "paid_social", "organic_search", "open_day")
ENDS = (Step.PROMOTED, Step.REFUSED, Step.WORSE, Step.UNDECIDED, Step.STOPPED)
MAX_PROMOTIONS, MIN_SERVED = 0.01, 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedLeads:
    """Leads in the order of time; `at` are days since the beginning; `converts` within horizon."""

    at: Floats
    columns: dict[str, list[Any]]
    converts: NDArray[np.bool_]

    @classmethod
    def make(cls, seed: int, *, days: int, a_day: int, shift: float) -> "SimulatedLeads":
        rng = np.random.default_rng([seed, 7])
        n = days * a_day
        at = np.sort(rng.uniform(0, days, n))
        score, engagement = rng.uniform(0, 100, n), rng.uniform(0, 100, n)
        touched, source = rng.poisson(2, n), rng.integers(0, len(SOURCES), n)
        of_source = np.array([0.9, -0.9, 0.1, 0.4])
        after = at >= shift
        log_odds = (
            np.where(after, -1.1, -1.6)
            + np.where(after, 0.005, 0.03) * (score - 50)
            + np.where(after, 0.03, 0.012) * (engagement - 50)
            + 0.15 * (touched - 2)
            + np.where(after, -of_source[source], of_source[source])
        )
        converts = rng.random(n) < 1 / (1 + np.exp(-log_odds))
        columns: dict[str, list[Any]] = {
            "created_at": (START_MS + at * DAY_MS).astype(np.int64).tolist(),
            "lead_score": score.tolist(),
            "engagement_score": engagement.tolist(),
            "touchpoint_count": touched.tolist(),
            "source": [SOURCES[each] for each in source.tolist()],
        }
        unknown: list[Any] = [{}] * n
        absent = ("lifecycle_state", "status", "programme_name", "campus_name")
        columns |= {name: [None] * n for name in absent}
        return cls(at, {**columns, "numbers": unknown, "categories": unknown}, converts)

    def rows(self, chosen: NDArray[np.intp]) -> tuple[dict[str, list[Any]], NDArray[np.int64]]:
        """Return states and times (ms UTC) of some leads."""
        columns = {
            name: [values[i] for i in chosen.tolist()] for name, values in self.columns.items()
        }
        return columns, (START_MS + self.at[chosen] * DAY_MS).astype(np.int64)

    def table(self, since: float, until: float) -> pd.DataFrame:
        """Return the training table of a day: leads since another one whose horizon has passed."""
        chosen = np.flatnonzero((self.at >= since) & (self.at <= until - HORIZON))
        columns, as_of = self.rows(chosen)
        ids = [f"lead {i}" for i in chosen.tolist()]
        return frame_from_columns(ids, as_of.tolist(), columns, self.converts[chosen].tolist())


class SimulatedRun:
    """One run: a store, the events, a clock in days, and what the learner needs to know."""

    def __init__(self, folder: Path, leads: SimulatedLeads, seed: int) -> None:
        self.leads = leads
        self.seed = seed
        self.day = float(FIRST_TRAINING + HORIZON)
        self.events: list[LearnEvent] = []
        self.log = AttemptLog()
        self.models = ModelRegistry(str(folder), Trust(unsigned=True), self.now_ms)
        self.loaded: dict[str, Model] = {}
        self.models.promote(self.models.publish(self._train(None, {})))
        self.learner = Learner(
            self.models,
            OPTIONS,
            self.log,
            trainer=self,
            comparer=self,
            report=self,
            clock_ms=self.now_ms,
        )

    def run(self, days: int, until_served: float | None = None) -> None:
        """Let some days pass; with `until_served` only until a model of after that day serves."""
        end = self.day + days
        while self.day < end:
            version = self.models.resolve() or ""
            if until_served is not None and version != "1.0.0" and self._learned(version):
                return
            self._ask(version)
            # What is due at once, such as trial and promotion, takes some turns.
            for _ in range(4):
                self.learner.advance()
            self.day += STEP_DAYS

    def _ask(self, version: str) -> None:
        """Request what is due, as `follow` does, of the newest 2,000 judged predictions."""
        service, _ = in_service(self.models, version)
        made = ((service.created_at or 0) - START_MS) / DAY_MS
        judged = (self.leads.at > made) & (self.leads.at <= self.day - HORIZON - 1)
        chosen = np.flatnonzero(judged)[-2_000:]
        window = []
        if len(chosen):
            columns, as_of = self.leads.rows(chosen)
            stated = self._model(version).score(columns, as_of).probability
            window = [
                LabeledPrediction(
                    PublishedPrediction(
                        lead_id=str(lead),
                        event_id=str(lead),
                        occurred_at=int(as_of[i]),
                        model_version=version,
                        variant="champion",
                        shadow=False,
                        probability=float(stated[i]),
                        raw_score=float(stated[i]),
                    ),
                    bool(self.leads.converts[lead]),
                    int(as_of[i]),
                )
                for i, lead in enumerate(chosen.tolist())
            ]
        found = due(service, window, new_outcomes=len(window), now_ms=self.now_ms())
        for trigger, detail in found.items():
            self.log.add(LearnEvent(version, trigger, Step.REQUESTED, self.now_ms(), detail))

    def now_ms(self) -> int:
        return START_MS + round(self.day * DAY_MS)

    def train(self, attempt: Attempt) -> str | None:
        champion = self.models.verify(attempt.champion)
        since = max(0.0, (attempt.since - START_MS) / DAY_MS)
        try:
            made = self._train(champion, {"learn": attempt.as_json()}, since)
        except UserError as error:
            return str(error)
        self.models.publish(made)
        return ""

    def compare(self, champion: str, challenger: str, since: int) -> VersionComparison | None:
        began = (since - START_MS) / DAY_MS
        known = (self.leads.at > began) & (self.leads.at <= self.day - HORIZON - 1)
        columns, as_of = self.leads.rows(np.flatnonzero(known))
        ours, theirs = (
            self._model(version).score(columns, as_of).probability
            for version in (champion, challenger)
        )
        label = self.leads.converts[known]
        return compare((theirs - label) ** 2 - (ours - label) ** 2)

    def step(self, event: LearnEvent, sha256: str) -> None:
        self.events.append(event)

    def waiting(self, why: str | None) -> None:
        pass

    def _train(self, champion: Model | None, source: dict[str, Any], since: float = 0.0) -> Trained:
        options = TrainOptions(
            horizon_days=HORIZON,
            recipe="additive",
            calendar=False,
            created_at=self.now_ms(),
            source=source,
            seed=self.seed,
        )
        return train(self.leads.table(since, self.day), options, champion=champion)

    def _model(self, version: str) -> Model:
        if version not in self.loaded:
            self.loaded[version] = self.models.verify(version)
        return self.loaded[version]

    def _learned(self, version: str) -> bool:
        """Return whether a version has seen leads of after the shift."""
        to = self.models.show(version)["data"]["used"]["train"]["to"]
        day = pd.Timestamp(to).timestamp() * 1000
        return bool(day > START_MS + SHIFT * DAY_MS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulation; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("stationary", "shifted"))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--leads", type=int, default=10, help="a day")
    chosen = parser.parse_args(arguments)
    reasons.MAX_ROWS = 300  # rows that a training explains: nobody reads them here
    shifted = chosen.what == "shifted"
    runs = chosen.runs or (20 if shifted else 100)
    results = []
    for seed in range(chosen.first, chosen.first + runs):
        results.append(one_run(seed, chosen.leads, shifted=shifted))
        print(json.dumps(results[-1]), flush=True)
    print(json.dumps(summary(results, shifted=shifted)))
    good = sum(each["served"] for each in results)
    return int(good < MIN_SERVED * runs if shifted else good > max(1, MAX_PROMOTIONS * runs))


def one_run(seed: int, a_day: int, *, shifted: bool) -> dict[str, Any]:
    """Return what became of one simulated."""
    began = time.process_time()
    first = FIRST_TRAINING + HORIZON
    days = STATED_DAYS if shifted else YEAR
    leads = SimulatedLeads.make(
        seed, days=first + days + 1, a_day=a_day, shift=SHIFT if shifted else math.inf
    )
    with tempfile.TemporaryDirectory(prefix="bench-learning-") as folder:
        simulated = SimulatedRun(Path(folder), leads, seed)
        # The stated time counts from the shift.
        simulated.run(days - (first - SHIFT) if shifted else days, SHIFT if shifted else None)
        promoted = [each for each in simulated.events if each.step is Step.PROMOTED]
        served = bool(promoted) and (
            not shifted or simulated._learned(simulated.models.resolve() or "")
        )
        last = [(each.at - START_MS) / DAY_MS for each in promoted]
        trial_open = simulated.models.resolve(CHALLENGER) is not None
    return {
        "seed": seed,
        "served": served,
        "promotions": len(promoted),
        "days": round(last[-1] - (SHIFT if shifted else first)) if last else None,
        "steps": [each.step.value for each in simulated.events],
        "details": [each.detail for each in simulated.events if each.step in ENDS],
        "trial_open": trial_open,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def summary(results: list[dict[str, Any]], *, shifted: bool) -> dict[str, Any]:
    """Return the figures of all runs."""
    days = sorted(each["days"] for each in results if each["days"] is not None)
    steps = [step for each in results for step in each["steps"]]
    return {
        "runs": len(results),
        "runs_with_promotion": sum(each["served"] for each in results),
        "stated_days": STATED_DAYS if shifted else YEAR,
        "days_until_served": {"median": days[len(days) // 2], "most": days[-1]} if days else None,
        "steps": {step: steps.count(step) for step in dict.fromkeys(steps)},
    }


if __name__ == "__main__":
    sys.exit(main())
