"""All that a view of the dead letters needs: the verbs of the command line, or a page, call this and print."""

import getpass
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consumer.dead_letters import replay
from consumer.dead_letters.audit import AuditLog, Decided, Decision, Verdict
from consumer.dead_letters.dry_run_summary import Forecast
from consumer.dead_letters.executor import Desk, KafkaDesk
from consumer.dead_letters.export import export
from consumer.dead_letters.groups import Group, group
from consumer.dead_letters.inspection import Anatomy, anatomy
from consumer.dead_letters.letters import Letter, LetterId, ends_of, read_letter, read_letters
from consumer.dead_letters.planner import Judge
from consumer.dead_letters.replay import RATE, Run, Tally
from consumer.dead_letters.selection import Filter
from leadstream.kafka.topic_reader import Cluster
from leadstream.log import configure
from leadstream.settings import Settings
from schemas.registry import Registry


@dataclass(slots=True)
class Survey:
    """Which letters are meant: those of a filter before `ends`, one past the last of each partition; and their leads.

    Later letters are not in it, so whoever acts on it knows all the leads that he has to look at.
    """

    wanted: Filter
    ends: Mapping[int, int]
    count: int = 0
    leads: set[bytes] = field(default_factory=set)


class Triage:
    """The dead letters of one cluster and one set of topics. Everything raises UserError and Transient."""

    def __init__(self, settings: Settings) -> None:
        configure(settings)
        self.settings = settings
        self._registry = (
            Registry(settings.schema_registry_url) if settings.schema_registry_url else None
        )

    def __enter__(self) -> "Triage":
        return self

    def __exit__(self, *_: object) -> None:
        if self._registry:
            self._registry.close()

    def decided(self) -> Decided:
        """What was decided by now."""
        decided = Decided(self.settings.topics.dead_letters)
        with self._audit() as audit:
            audit.follow(decided)
        return decided

    def letters(self, wanted: Filter, decided: Decided | None = None) -> Iterator[Letter]:
        """The letters that a filter means, one after the other."""
        decided = decided or self.decided()
        yield from self._read(Survey(wanted, ends_of(self.settings)), decided)

    def groups(self, wanted: Filter) -> list[Group]:
        """They by cause, the most frequent first."""
        return group(self.letters(wanted))

    def letter(self, letter_id: LetterId) -> tuple[Letter, Anatomy, Decision | None]:
        """One letter, what is in it, and what became of it."""
        letter = read_letter(self.settings, letter_id)
        topic = self.settings.topics.dead_letters
        with self._audit() as audit:
            found = [
                each
                for _, each in audit.decisions()
                if (each.topic, each.letter) == (topic, letter_id)
            ]
        return (
            letter,
            anatomy(letter, self.settings.topics, self._registry),
            found[-1] if found else None,
        )

    def decisions(self) -> list[Decision]:
        """All that was decided, in the order of the audit topic's partitions."""
        with self._audit() as audit:
            return [decision for _, decision in audit.decisions()]

    def export(self, wanted: Filter, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
        """Write them into a new folder; returns its manifest, which begins with `about`."""
        decided = self.decided()
        return export(self.letters(wanted, decided), decided, folder, about)

    def survey(self, wanted: Filter) -> Survey:
        """How many letters are meant, and of which leads."""
        count, leads, ends = 0, set[bytes](), dict[int, int]()
        for letter in self.letters(wanted):
            count += 1
            ends[letter.id.partition] = letter.id.offset + 1
            if letter.key is not None:
                leads.add(letter.key)
        return Survey(wanted, ends, count, leads)

    def surveyed(self, survey: Survey) -> list[Group]:
        """Those that are still open, by cause."""
        return group(self._read(survey, self.decided()))

    def forecast(self, survey: Survey, patch: Mapping[str, Any] | None = None) -> list[Forecast]:
        """What a replay of them would do, by group; nothing is published."""
        # Here and not above: it brings the models, which nobody who only looks should wait for.
        from consumer.dead_letters.dry_run import pipeline, present_scores, rehearse  # noqa: PLC0415

        scores = present_scores(self.settings, self._registry, survey.leads)
        with pipeline(self.settings, self._registry) as line:
            return rehearse(self._read(survey, self.decided()), self._judge(patch), scores, line)

    def replay(
        self,
        survey: Survey,
        *,
        decided_by: str,
        patch: Mapping[str, Any] | None = None,
        because: str | None = None,
        rate: int = RATE,
        tell: Callable[[Tally], None] = lambda _tally: None,
        stop: threading.Event | None = None,
    ) -> Tally:
        """Send them back, each once. `stop` ends it between two transactions."""
        with self._desk(decided_by) as desk:
            desk.watch(survey.leads)
            most_behind = self.settings.batch_max_records
            run = Run(desk, tell, stop or threading.Event(), rate, most_behind)
            return replay.replay(run, self._read(survey, desk.decided), self._judge(patch, because))

    def discard(
        self,
        survey: Survey,
        *,
        decided_by: str,
        because: str,
        tell: Callable[[Tally], None] = lambda _tally: None,
        stop: threading.Event | None = None,
    ) -> Tally:
        """Give them up, each once."""
        with self._desk(decided_by) as desk:
            run = Run(desk, tell, stop or threading.Event())
            return replay.discard(run, self._read(survey, desk.decided), because)

    def verify(self) -> Verdict:
        """Check the chains of the audit topic."""
        with self._audit() as audit:
            return audit.verify()

    def _judge(self, patch: Mapping[str, Any] | None, because: str | None = None) -> Judge:
        return Judge(self.settings, self._registry, patch, because)

    def _read(self, survey: Survey, decided: Decided) -> Iterator[Letter]:
        wanted = survey.wanted
        return wanted.of(
            read_letters(self.settings, survey.ends, wanted.partition, wanted.offset), decided
        )

    @contextmanager
    def _audit(self) -> Iterator[AuditLog]:
        audit = AuditLog(self.settings, self._registry, Cluster(self.settings))
        try:
            yield audit
        finally:
            audit.close()

    @contextmanager
    def _desk(self, decided_by: str) -> Iterator[Desk]:
        desk = KafkaDesk(self.settings, self._registry, decided_by)
        try:
            desk.take()
            yield desk
        finally:
            desk.close()


def account() -> str:
    """Who decides, unless told otherwise: the account of the operating system."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in a container
        return f"uid {os.getuid()}"
