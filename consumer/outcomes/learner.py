"""The deciding part of `leadstream learn`: from a request for training to a promotion, or not.

All state is in the model store and in the events of `crm.retrain-requests`, so a restart goes on
where it was. What is done in the store comes before its event, except for the event `training`,
which begins an attempt, and the ends of a trial: an event that was lost is sent again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from leadstream.errors import Poison, Reason, UserError, error_text
from leadstream.variants import CHALLENGER
from models.monitor.compare import ComparisonResult, VersionComparison
from models.monitor.ledger import DAY_MS
from models.monitor.triggers import Trigger, in_service
from models.registry.gate import GateRefused, objections
from models.registry.versions import CHAMPION, Alias, ModelRegistry


class LearnStep(StrEnum):
    """The field `step` of `RetrainRequested`: a request, and what `learn` does about it."""

    REQUESTED = "requested"
    TRAINING = "training"
    TRAINED = "trained"
    TRIAL = "trial"
    PROPOSED = "proposed"
    PROMOTED = "promoted"
    REFUSED = "refused"
    WORSE = "worse"
    UNDECIDED = "undecided"
    STOPPED = "stopped"


_ORDER = list(LearnStep)
_ENDS = frozenset(_ORDER[_ORDER.index(LearnStep.PROMOTED) :])
_TRIALS = (LearnStep.TRIAL, LearnStep.PROPOSED)


@dataclass(frozen=True, slots=True)
class LearnOptions:
    """Options of `learn`; all times in days.

    `trial_days`: how long a challenger may take to prove that it is better. `rest_days`: the least
    time between the end of an attempt, or a promotion, and the next attempt. `every_days`: train
    without a request after so long; 0 = never. `propose`: leave the promotion to a person.
    """

    trial_days: float = 120.0
    rest_days: float = 7.0
    every_days: float = 0.0
    propose: bool = False


@dataclass(frozen=True, slots=True)
class LearnEvent:
    """An event of `crm.retrain-requests`; `at` is in ms UTC."""

    version: str
    trigger: Trigger
    step: LearnStep
    at: int
    detail: str = ""
    candidate: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One training for a champion, and what follows: the identity that its candidate carries.

    It learns from changes since a moment (ms UTC), 0 = all.
    """

    champion: str
    trigger: str
    started_at: int
    since: int = 0

    def as_json(self) -> dict[str, str | int]:
        """Return it for the manifest of the candidate, `data.learn`."""
        return {
            "champion": self.champion,
            "trigger": self.trigger,
            "started_at": self.started_at,
            "since": self.since,
        }


class Trainer(Protocol):
    """Trains the champion again, for an attempt."""

    def train(self, attempt: Attempt) -> str | None:
        """Train and publish; return None while it runs, "" if done, or why it was refused."""


class Comparer(Protocol):
    """Compares the two models of a trial by the outcomes."""

    def compare(self, champion: str, challenger: str, since: int) -> VersionComparison | None:
        """Return the comparison since a moment (ms UTC), None if there is no new one yet."""


class LearnReport(Protocol):
    """Sends the event of a step and reports it."""

    def step(self, event: LearnEvent, sha256: str) -> None:
        """Report a step. Raises Transient if the event is not acknowledged."""

    def waiting(self, why: str | None) -> None:
        """Note what a person has to do before learning goes on; None if nothing."""


class AttemptLog:
    """The requests and steps that the topic holds, by version; fed in any order, with repeats."""

    def __init__(self) -> None:
        self._requests: dict[str, LearnEvent] = {}
        self._steps: dict[str, dict[LearnStep, LearnEvent]] = {}

    def take(self, record: Mapping[str, Any]) -> None:
        """Take a decoded record. Raises Poison for a step or a trigger that is not known."""
        try:
            event = LearnEvent(
                record["model_version"],
                Trigger(record["trigger"]),
                LearnStep(record["step"]),
                record["requested_at"],
                record["detail"],
                record["candidate"],
            )
        except ValueError as error:
            raise Poison(Reason.INVALID_EVENT, "validate", error_text(error)) from None
        self.add(event)

    def add(self, event: LearnEvent) -> None:
        """Add an event; of equal steps of a version the newest counts."""
        if event.step is LearnStep.REQUESTED:
            known = self._requests.get(event.version)
            if known is None or event.at > known.at:
                self._requests[event.version] = event
            return
        steps = self._steps.setdefault(event.version, {})
        if event.step not in steps or event.at >= steps[event.step].at:
            steps[event.step] = event

    def request(self, version: str) -> LearnEvent | None:
        """Return the newest request for a version."""
        return self._requests.get(version)

    def newest(self, version: str, step: LearnStep) -> LearnEvent | None:
        """Return the newest step of a kind for a champion."""
        return self._steps.get(version, {}).get(step)

    def last(self, version: str) -> LearnEvent | None:
        """Return the newest step for a champion."""
        steps = self._steps.get(version, {}).values()
        return max(steps, key=lambda each: (each.at, _ORDER.index(each.step)), default=None)


class Learner:
    """Takes the next step that is due, one at each turn. `clock_ms` is the wall clock, ms UTC."""

    def __init__(
        self,
        models: ModelRegistry,
        options: LearnOptions,
        log: AttemptLog,
        *,
        trainer: Trainer,
        comparer: Comparer,
        report: LearnReport,
        clock_ms: Callable[[], int],
    ) -> None:
        self._models = models
        self._options = options
        self._log = log
        self._trainer = trainer
        self._comparer = comparer
        self._report = report
        self._clock_ms = clock_ms
        self._manifests: dict[str, dict[str, Any]] = {}

    def advance(self) -> None:
        """Take the next step, if one is due.

        Raises Transient if the store or the brokers do not answer, and UserError if the store
        cannot be used; nothing is lost then, and the next turn tries again.
        """
        champion = self._models.alias(CHAMPION)
        if champion is None:
            self._report.waiting("there is no champion: leadstream train makes the first model")
            return
        self._report_promotion(champion.version)
        challenger = self._models.alias(CHALLENGER)
        if challenger is not None and not self._is_done(champion, challenger):
            self._go_on(champion, challenger)
            return
        self._report.waiting(None)
        last = self._log.last(champion.version)
        if last is not None and last.step in _TRIALS:
            self._step(last, LearnStep.STOPPED, self._stopped_by(last.candidate))
        elif last is not None and last.step not in _ENDS:
            self._train(last)
        elif (due := self._due(champion, last)) is not None:
            self._step(due, LearnStep.TRAINING, due.detail)

    def _report_promotion(self, version: str) -> None:
        """Send the event of a promotion, also of one by a person, unless it was sent."""
        attempt = attempt_of(self._manifest(version))
        last = self._log.last(attempt.champion) if attempt else None
        if last is not None and last.candidate == version and last.step not in _ENDS:
            self._step(last, LearnStep.PROMOTED, f"{version} is the champion")

    def _due(self, champion: Alias, last: LearnEvent | None) -> LearnEvent | None:
        """Return what asks for an attempt now."""
        version, now = champion.version, self._clock_ms()
        quiet_since = max(champion.moved_at, last.at if last else 0)
        if now < quiet_since + self._options.rest_days * DAY_MS:
            return None
        started = self._log.newest(version, LearnStep.TRAINING)
        request = self._log.request(version)
        # What was refused proved nothing, so the reason to train is still there.
        if last is not None and last.step is LearnStep.REFUSED:
            return started or last
        if request is not None and (started is None or request.at > started.at):
            return request
        if not self._options.every_days:
            return None
        made = in_service(self._models, version)[0].created_at or champion.moved_at
        age = (now - max(made, started.at if started else 0)) / DAY_MS
        if age < self._options.every_days:
            return None
        detail = f"{age:.0f} days since the last training, of {self._options.every_days:g}"
        return LearnEvent(version, Trigger.AGE, LearnStep.REQUESTED, now, detail)

    def _train(self, last: LearnEvent) -> None:
        """Train, or find what was trained before a restart, and begin the trial."""
        started = self._log.newest(last.version, LearnStep.TRAINING) or last
        attempt = Attempt(
            last.version, started.trigger.value, started.at, self._since(last.version, started.at)
        )
        candidate = last.candidate or self._candidate_of(attempt)
        if candidate is None:
            refused = self._trainer.train(attempt)
            if refused is None:
                return
            candidate = self._candidate_of(attempt)
            if refused or candidate is None:
                why = refused or "the training ended without a version"
                self._step(last, LearnStep.REFUSED, why)
                return
        if last.step is LearnStep.TRAINING:
            self._step(last, LearnStep.TRAINED, f"{candidate} was trained", candidate)
            return
        moves = [each for each in self._models.log() if each["alias"] == CHALLENGER]
        if any(each["to"] == candidate for each in moves):
            self._step(last, LearnStep.STOPPED, self._stopped_by(candidate), candidate)
            return
        # The gate would refuse it in the end: a trial could not change that.
        found = objections(self._models.verify(candidate), self._models.verify(last.version))
        if found:
            self._step(last, LearnStep.REFUSED, "; ".join(found), candidate)
            return
        self._models.promote(candidate, CHALLENGER)
        self._begin_trial(last, candidate)

    def _since(self, version: str, started_at: int) -> int:
        """Return from when on an attempt learns; after a shift, older leads mislead a training.

        If the gate refused the candidate before, it is the middle of its time. If that one began
        there already, it is all of the time again.
        """
        refused = self._log.newest(version, LearnStep.REFUSED)
        if refused is None or not refused.candidate or refused.at > started_at:
            return 0
        manifest = self._manifest(refused.candidate)
        before = attempt_of(manifest)
        if before is None or before.since:
            return 0
        first, last = (
            datetime.fromisoformat(manifest["data"][end]).timestamp() for end in ("from", "to")
        )
        return round((first + last) / 2 * 1000)

    def _begin_trial(self, last: LearnEvent, candidate: str) -> None:
        days = self._options.trial_days
        detail = f"{candidate} challenges {last.version} for up to {days:g} days"
        self._step(last, LearnStep.TRIAL, detail, candidate)

    def _is_done(self, champion: Alias, challenger: Alias) -> bool:
        """Return whether the challenger challenges nobody; retire one that was promoted here."""
        if challenger.version != champion.version:
            return False
        if attempt_of(self._manifest(challenger.version)) is not None:
            self._retire(challenger.version)
        return True

    def _go_on(self, champion: Alias, challenger: Alias) -> None:
        """Go on with a trial, and leave one that a person began alone."""
        candidate = challenger.version
        attempt = attempt_of(self._manifest(candidate))
        last = self._log.last(attempt.champion) if attempt else None
        if attempt is not None and (last is None or last.candidate not in ("", candidate)):
            # The events of the trial are gone, but the store still says what it is.
            trigger = Trigger(attempt.trigger)
            last = LearnEvent(attempt.champion, trigger, LearnStep.TRAINED, attempt.started_at)
        if last is None or (last.step in _ENDS and challenger.moved_at > last.at):
            self._report.waiting(
                f"{candidate} is a challenger that a person set: `leadstream models retire` ends it"
            )
        elif last.step in _ENDS:
            self._retire(candidate)
        elif champion.version != last.version:
            self._step(
                last, LearnStep.STOPPED, f"the champion is {champion.version} now", candidate
            )
        elif last.step not in _TRIALS:
            self._begin_trial(last, candidate)
        elif last.step is LearnStep.PROPOSED:
            self._report.waiting(_proposal(candidate))
        else:
            self._decide(last, challenger)

    def _decide(self, last: LearnEvent, challenger: Alias) -> None:
        """Look at the outcomes, and end the trial if they decide it, or if its time is over."""
        candidate, since = challenger.version, challenger.moved_at
        self._report.waiting(None)
        found = self._comparer.compare(last.version, candidate, since)
        if found is None:
            return
        figures = (
            f"on {found.n:,} leads that both scored, the Brier score of {candidate} minus that of "
            f"{last.version} is {found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
        )
        match found.result:
            case ComparisonResult.WORSE:
                self._step(last, LearnStep.WORSE, figures, candidate)
            case ComparisonResult.BETTER if self._options.propose:
                self._step(last, LearnStep.PROPOSED, figures, candidate)
            case ComparisonResult.BETTER:
                self._promote(last, candidate, figures)
            case _ if self._clock_ms() >= since + self._options.trial_days * DAY_MS:
                self._step(last, LearnStep.UNDECIDED, figures, candidate)

    def _promote(self, last: LearnEvent, candidate: str, figures: str) -> None:
        # A person may have ended the trial while the outcomes were read.
        if self._models.resolve(CHALLENGER) != candidate:
            return
        try:
            self._models.promote(candidate)
        except GateRefused as refused:
            self._step(last, LearnStep.REFUSED, "; ".join(refused.objections), candidate)
        else:
            self._step(last, LearnStep.PROMOTED, figures, candidate)

    def _retire(self, candidate: str) -> None:
        if self._models.resolve(CHALLENGER) == candidate:
            self._models.retire(CHALLENGER)

    def _candidate_of(self, attempt: Attempt) -> str | None:
        """Return the version that was published for an attempt, None if there is none."""
        for version in reversed(self._models.versions()):
            try:
                if attempt_of(self._manifest(version)) == attempt:
                    return version
            except UserError:
                continue  # a damaged manifest; `models list` names it
        return None

    def _stopped_by(self, candidate: str) -> str:
        retired = [
            each
            for each in self._models.log()
            if each["action"] == "retire" and each["from"] == candidate
        ]
        return f"{candidate} was retired by {retired[-1]['by'] if retired else 'somebody'}"

    def _step(
        self, last: LearnEvent, step: LearnStep, detail: str, candidate: str | None = None
    ) -> None:
        """Report a step; it counts once its event is acknowledged."""
        at = max(self._clock_ms(), last.at + 1)
        named = last.candidate if candidate is None else candidate
        begins = step is LearnStep.TRAINING
        event = LearnEvent(last.version, last.trigger, step, at, detail, "" if begins else named)
        self._report.step(event, self._sha256(last.version))
        self._log.add(event)

    def _sha256(self, version: str) -> str:
        return str(self._manifest(version)["artifact"]["sha256"])

    def _manifest(self, version: str) -> dict[str, Any]:
        """Return the manifest of a version, which never changes; read it once."""
        if version not in self._manifests:
            self._manifests[version] = self._models.show(version)
        return self._manifests[version]


def attempt_of(manifest: Mapping[str, Any]) -> Attempt | None:
    """Return the attempt that a version was trained for; None for the other versions."""
    found = manifest.get("data", {}).get("learn")
    try:
        return found and Attempt(
            str(found["champion"]),
            Trigger(found["trigger"]).value,
            int(found["started_at"]),
            int(found["since"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _proposal(candidate: str) -> str:
    return (
        f"{candidate} is better: `leadstream models promote {candidate}` serves it, `leadstream "
        "models retire` ends the trial"
    )
