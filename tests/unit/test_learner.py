"""The decisions of `leadstream learn`, on a real model store, with ends of the process anywhere."""

import random
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.outcomes.learn_service import RetrainProcess
from consumer.outcomes.learner import (
    Attempt,
    AttemptLog,
    Learner,
    LearnEvent,
    LearnOptions,
    LearnStep,
    attempt_of,
)
from leadstream.errors import Poison, Transient
from leadstream.variants import CHALLENGER
from models.monitor.compare import VersionComparison, compare
from models.monitor.ledger import DAY_MS
from models.monitor.triggers import Trigger
from models.registry.versions import ModelRegistry
from models.serve.artifact import Trained
from tests.integration.running import until
from tests.trained_models import TRUST, trained

CHAMPION, CANDIDATE = "1.0.0", "1.1.0"
ROOT = Path(__file__).parents[2]
NOW = 1_900_000_000_000
BETTER, WORSE, NOTHING = (compare(np.full(2_000, each)) for each in (-0.05, 0.05, 0.0))


class Killed(Exception):
    """The process ends here."""


class LearnRuns:
    """A store, a topic and a clock that outlive the learners; and what they are told."""

    def __init__(self, folder: Path, options: LearnOptions) -> None:
        self.now = NOW
        self.models = ModelRegistry(str(folder), TRUST, clock_ms=lambda: self.now, user="ada@crm")
        self.options = options
        self.events: list[LearnEvent] = []
        self.found: VersionComparison | None = BETTER
        self.refusal = ""
        self.gate_passes = True
        self.waits: str | None = None
        self.done = 0
        self.kill_at: int | None = None
        self.trainings: list[Attempt] = []
        self.restart()

    def restart(self) -> None:
        """Begin again from the store and the topic, whose partitions are read in any order."""
        log = AttemptLog()
        for event in random.Random(self.done).sample(self.events, len(self.events)):
            log.add(event)
        for name in ("promote", "retire", "publish"):
            self._interrupt(name)
        self.learner = Learner(
            self.models,
            self.options,
            log,
            trainer=self,
            comparer=self,
            report=self,
            clock_ms=lambda: self.now,
        )
        self.log = log

    def request(self, trigger: Trigger = Trigger.OUTCOMES, version: str = CHAMPION) -> None:
        event = LearnEvent(version, trigger, LearnStep.REQUESTED, self.now, "many outcomes")
        self.events.append(event)
        self.log.add(event)

    def run(self, turns: int = 12) -> list[str]:
        """Take turns, and return the steps so far; a killed process is started again."""
        for _ in range(turns):
            try:
                self.learner.advance()
            except Killed:
                self.restart()
            self.now += 1_000
        return [each.step.value for each in self.events if each.step is not LearnStep.REQUESTED]

    def train(self, attempt: Attempt) -> str | None:
        self.trainings.append(attempt)
        if not self.refusal:
            made = trained(2)
            data = {**made.manifest["data"], "learn": attempt.as_json()}
            manifest = {**made.manifest, "data": data}
            if not self.gate_passes:
                manifest["against"] = {"sha256": self._sha256(), "rows": 3, "conversions": 1}
                manifest["data"]["judged"] = {**data["judged"], "test": {"rows": 3}}
            self.models.publish(Trained(made.artifact, manifest))
        return self.refusal

    def compare(self, champion: str, challenger: str, since: int) -> VersionComparison | None:
        assert (champion, challenger) == (CHAMPION, self.models.resolve(CHALLENGER))
        return self.found

    def step(self, event: LearnEvent, sha256: str) -> None:
        assert sha256 == self.models.show(event.version)["artifact"]["sha256"]
        self._count(lambda: self.events.append(event))

    def waiting(self, why: str | None) -> None:
        self.waits = why

    def _sha256(self) -> str:
        return str(self.models.show(CHAMPION)["artifact"]["sha256"])

    def _count(self, act: Callable[[], Any]) -> Any:
        """Do something that outlives the process; the process may end before or after it."""
        self.done += 1
        if self.kill_at == 2 * self.done:
            raise Killed
        done = act()
        if self.kill_at == 2 * self.done + 1:
            raise Killed
        return done

    def _interrupt(self, name: str) -> None:
        real = getattr(ModelRegistry, name)

        def act(*given: Any, **named: Any) -> Any:
            return self._count(lambda: real(self.models, *given, **named))

        setattr(self.models, name, act)


@pytest.fixture
def harness(tmp_path: Path, model_store: str) -> LearnRuns:
    return LearnRuns(shutil.copytree(model_store, tmp_path / "models"), LearnOptions(trial_days=90))


PROMOTED = ["training", "trained", "trial", "promoted"]


def test_a_better_candidate_serves_and_its_own_events_ask_for_nothing(
    harness: LearnRuns,
) -> None:
    assert harness.run() == []
    harness.request()
    assert harness.run() == PROMOTED
    assert harness.models.aliases() == {"champion": CANDIDATE}
    harness.now += 400 * DAY_MS
    assert harness.run(30) == PROMOTED
    assert len(harness.trainings) == 1
    assert attempt_of(harness.models.show(CANDIDATE)) == harness.trainings[0]
    assert {each.candidate for each in harness.events if each.step > "trained"} <= {"", CANDIDATE}


@pytest.mark.parametrize("kill_at", range(2, 18))
def test_a_process_that_ends_at_any_moment_goes_on_where_it_was(
    harness: LearnRuns, kill_at: int
) -> None:
    harness.request()
    harness.kill_at = kill_at
    steps = harness.run(20)
    assert list(dict.fromkeys(steps)) == PROMOTED
    assert harness.models.aliases() == {"champion": CANDIDATE}
    assert harness.models.versions() == [CHAMPION, CANDIDATE]
    moves = [(each["action"], each["alias"]) for each in harness.models.log()]
    assert moves[1:] == [
        ("promote", "challenger"),
        ("promote", "champion"),
        ("retire", "challenger"),
    ]


@pytest.mark.parametrize(("found", "end"), [(WORSE, "worse"), (NOTHING, "undecided"), (None, None)])
def test_a_candidate_that_is_not_proven_better_in_time_is_retired(
    harness: LearnRuns, found: VersionComparison | None, end: str | None
) -> None:
    harness.found = found
    harness.request()
    steps = harness.run()
    assert (steps == PROMOTED[:3]) == (end != "worse")
    harness.now += 91 * DAY_MS
    steps = harness.run()
    assert steps == [*PROMOTED[:3], *([end] if end else [])]
    assert (CHALLENGER in harness.models.aliases()) == (end is None)
    assert harness.models.resolve() == CHAMPION
    assert len(harness.trainings) == 1


def test_a_proposal_waits_for_a_person_also_after_a_restart(harness: LearnRuns) -> None:
    harness.options = replace(harness.options, propose=True)
    harness.restart()
    harness.request()
    assert harness.run() == [*PROMOTED[:3], "proposed"]
    harness.found = WORSE
    harness.now += 400 * DAY_MS
    harness.restart()
    assert harness.run() == [*PROMOTED[:3], "proposed"]
    assert "leadstream models promote 1.1.0" in (harness.waits or "")
    harness.models.promote(CANDIDATE)
    assert harness.run() == [*PROMOTED[:3], "proposed", "promoted"]
    assert harness.models.aliases() == {"champion": CANDIDATE}
    assert harness.waits is None


@pytest.mark.parametrize("step", ["trial", "proposed"])
def test_a_person_stops_a_trial_by_retiring_the_challenger(harness: LearnRuns, step: str) -> None:
    harness.options = replace(harness.options, propose=True)
    harness.restart()
    harness.found = BETTER if step == "proposed" else None
    harness.request()
    assert harness.run()[-1] == step
    harness.models.retire(CHALLENGER)
    harness.found = BETTER
    assert harness.run()[-1] == "stopped"
    assert "retired by ada@crm" in harness.events[-1].detail
    harness.restart()
    harness.now += 400 * DAY_MS
    assert harness.run()[-1] == "stopped"
    assert harness.models.aliases() == {"champion": CHAMPION}


def test_a_trial_that_was_stopped_before_its_event_does_not_begin_again(
    harness: LearnRuns,
) -> None:
    harness.request()
    harness.run(2)
    harness.models.promote(CANDIDATE, CHALLENGER)
    harness.models.retire(CHALLENGER)
    assert harness.run() == ["training", "trained", "stopped"]
    assert harness.models.aliases() == {"champion": CHAMPION}


def test_a_challenger_that_a_person_set_is_left_alone(harness: LearnRuns) -> None:
    version = harness.models.publish(trained(3))
    harness.models.promote(version, CHALLENGER)
    harness.request()
    assert harness.run() == []
    assert "person" in (harness.waits or "")
    harness.models.retire(CHALLENGER)
    harness.found = NOTHING
    assert harness.run() == PROMOTED[:3]
    harness.now += 91 * DAY_MS
    assert harness.run()[-1] == "undecided"
    harness.now += 1_000
    harness.models.promote("1.2.0", CHALLENGER)  # the same candidate again, by a person
    assert harness.run()[-1] == "undecided"
    assert harness.models.resolve(CHALLENGER) == "1.2.0"


def test_a_training_that_is_refused_is_tried_again_after_a_rest(harness: LearnRuns) -> None:
    harness.refusal = "training is refused: the history has no outcome"
    harness.request()
    assert harness.run() == ["training", "refused"]
    assert harness.events[-1].detail == harness.refusal
    harness.refusal = ""
    assert harness.run() == ["training", "refused"]
    harness.now += 7 * DAY_MS
    assert harness.run() == ["training", "refused", *PROMOTED]
    assert harness.events[3].detail == "many outcomes"


def test_a_candidate_that_the_gate_refuses_gets_no_trial_and_the_next_learns_from_newer_leads(
    harness: LearnRuns,
) -> None:
    harness.gate_passes = False
    harness.request()
    refused = ["training", "trained", "refused"]
    assert harness.run() == refused
    assert "too few to compare" in harness.events[-1].detail
    harness.restart()
    for number in range(2, 4):
        harness.now += 7 * DAY_MS
        assert harness.run() == refused * number
    assert harness.models.aliases() == {"champion": CHAMPION}
    data = harness.models.show(CANDIDATE)["data"]
    since = [each.since for each in harness.trainings]
    assert since[0] == since[2] == 0
    ends = [datetime.fromisoformat(data[end]).timestamp() for end in ("from", "to")]
    assert since[1] == round(sum(ends) / 2 * 1000)


def test_a_champion_that_moves_ends_the_trial(harness: LearnRuns) -> None:
    harness.found = None
    harness.request()
    harness.run()
    other = harness.models.publish(trained(3))
    harness.models.promote(other)
    assert harness.run()[-1] == "stopped"
    assert harness.models.aliases() == {"champion": other}


def test_a_newer_request_is_taken_after_the_trial_and_a_schedule_needs_none(
    harness: LearnRuns,
) -> None:
    harness.found = NOTHING
    harness.request()
    harness.run()
    harness.request(Trigger.AGE)
    harness.now += 91 * DAY_MS
    assert harness.run()[-1] == "undecided"
    harness.now += 7 * DAY_MS
    assert harness.run()[-3:] == PROMOTED[:3]
    assert harness.trainings[-1].trigger == "AGE"
    harness.now += 91 * DAY_MS
    harness.run()
    assert len(harness.trainings) == 2
    harness.options = replace(harness.options, every_days=150)
    harness.restart()
    harness.run()
    assert len(harness.trainings) == 2
    harness.now += 100 * DAY_MS
    harness.run()
    assert len(harness.trainings) == 3
    assert "days since the last training" in harness.events[-3].detail


def test_an_event_that_is_not_acknowledged_is_sent_again(harness: LearnRuns) -> None:
    harness.request()
    failures = [Transient("brokers", "away")] * 3
    real = harness.step

    def step(event: LearnEvent, sha256: str) -> None:
        if failures:
            raise failures.pop()
        real(event, sha256)

    harness.step = step  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(Transient):
            harness.learner.advance()
    assert harness.run() == PROMOTED


def test_a_record_of_a_later_version_is_skipped_and_an_older_one_is_a_request() -> None:
    log = AttemptLog()
    record = {
        "model_version": CHAMPION,
        "trigger": "AGE",
        "detail": "old",
        "requested_at": NOW,
        "step": "requested",
        "candidate": "",
    }
    log.take(record)
    assert log.request(CHAMPION) == LearnEvent(
        CHAMPION, Trigger.AGE, LearnStep.REQUESTED, NOW, "old"
    )
    with pytest.raises(Poison, match="celebrated"):
        log.take(record | {"step": "celebrated"})
    assert log.last(CHAMPION) is None


def test_a_training_is_a_process_whose_last_sentence_says_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MODEL_STORE", raising=False)
    attempt = Attempt(CHAMPION, "AGE", NOW, since=NOW)
    with closing(RetrainProcess(["--allow-gaps"])) as training:
        assert training.train(attempt) is None
        why = until(lambda: training.train(attempt), "it fails")
        assert why.startswith("MODEL_STORE is not set")
        assert training.train(attempt) is None  # it starts again
        other = Attempt(CHAMPION, "AGE", NOW + 1)
        assert training.train(other) is None
        until(lambda: training.train(other), "the other one fails")
