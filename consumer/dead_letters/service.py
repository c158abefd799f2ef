"""The triage service: the operations behind the verbs, the console and the full-screen view."""

import getpass
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from consumer.current_prediction import LeadRecord, newest_record
from consumer.dead_letters import replay
from consumer.dead_letters.audit import AuditLog, AuditReport, Decision, DecisionIndex
from consumer.dead_letters.dry_run_summary import DryRunGroup
from consumer.dead_letters.executor import DecisionExecutor, KafkaDecisionExecutor
from consumer.dead_letters.export import export
from consumer.dead_letters.groups import LetterGroup, group_letters
from consumer.dead_letters.inspection import Inspection, inspect
from consumer.dead_letters.letters import Letter, LetterId, end_offsets, read_letter, read_letters
from consumer.dead_letters.originals import restore
from consumer.dead_letters.planner import Planner
from consumer.dead_letters.replay import RATE, DecisionProgress, DecisionRun
from consumer.dead_letters.replay_times import ReplayTimes
from consumer.dead_letters.selection import Filter, Selection
from leadstream.kafka.config import client_config
from leadstream.kafka.topic_config import read_topic_configs
from leadstream.kafka.topic_reader import TopicOffsets, TopicReader
from leadstream.log import configure
from leadstream.settings import JsonChanges, Settings
from schemas.codec import Reader
from schemas.registry import Registry

# The names that the docs promise to Python users.
__all__ = ["TriageService", "current_account"]

_SCORE_SECONDS = 20


class TriageService:
    """The dead letters of one cluster and one set of topics.

    All methods raise UserError and Transient.
    """

    def __init__(self, settings: Settings) -> None:
        configure(settings)
        self.settings = settings
        self._registry = (
            Registry(settings.schema_registry_url) if settings.schema_registry_url else None
        )

    def __enter__(self) -> "TriageService":
        return self

    def __exit__(self, *_: object) -> None:
        if self._registry:
            self._registry.close()

    def decided(self) -> DecisionIndex:
        """Return the decisions up to now."""
        decided = DecisionIndex(self.settings.topics.dead_letters)
        with self._audit() as audit:
            audit.update(decided)
        return decided

    def letters(self, wanted: Filter, decided: DecisionIndex | None = None) -> Iterator[Letter]:
        """Yield the letters of a filter."""
        decided = decided or self.decided()
        yield from self._read(Selection(wanted, end_offsets(self.settings)), decided)

    def groups(self, wanted: Filter) -> list[LetterGroup]:
        """Return the letters of a filter by cause, the most frequent first."""
        return group_letters(self.letters(wanted))

    def letter(self, letter_id: LetterId) -> tuple[Letter, Inspection, Decision | None]:
        """Return one letter, its content, and the decision on it."""
        letter = restore(self.settings, read_letter(self.settings, letter_id))
        topic = self.settings.topics.dead_letters
        with self._audit() as audit:
            found = [
                each
                for _, each in audit.new_decisions()
                if (each.topic, each.letter) == (topic, letter_id)
            ]
        return (
            letter,
            inspect(
                letter,
                self.settings.topics,
                self._registry,
                accept_json=self.settings.json_changes is JsonChanges.ACCEPT,
            ),
            found[-1] if found else None,
        )

    def current_score(self, lead_id: str) -> LeadRecord | None:
        """Return the newest prediction of a lead, or None if it has none."""
        topic = TopicReader(self.settings, self.settings.topics.lead_predictions)
        try:
            reader = Reader("LeadPrediction", self._registry)
            return newest_record(topic, reader, lead_id, _SCORE_SECONDS)
        finally:
            topic.close()

    def decisions(self) -> list[Decision]:
        """Return all decisions, in the order of the audit partitions."""
        with self._audit() as audit:
            return [decision for _, decision in audit.new_decisions()]

    def export(self, wanted: Filter, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
        """Write letters into a new folder; return the manifest, which begins with `about`."""
        decided = self.decided()
        return export(self.letters(wanted, decided), decided, folder, about)

    def select(self, wanted: Filter) -> Selection:
        """Return the selection of a filter: how many letters, and which leads."""
        count, leads, ends = 0, set[bytes](), dict[int, int]()
        for letter in self.letters(wanted):
            count += 1
            ends[letter.id.partition] = letter.id.offset + 1
            if letter.key is not None:
                leads.add(letter.key)
        return Selection(wanted, ends, count, leads)

    def groups_of(self, selection: Selection) -> list[LetterGroup]:
        """Return the open letters of a selection by cause."""
        return group_letters(self._read(selection, self.decided()))

    def dry_run(
        self, selection: Selection, patch: Mapping[str, Any] | None = None
    ) -> list[DryRunGroup]:
        """Return what a replay of a selection would do, by group; publish nothing."""
        # Imported late: the models take a second to load, and only a dry run needs them.
        from consumer.dead_letters.dry_run import dry_run, open_pipeline, read_current_scores  # noqa: PLC0415

        scores = read_current_scores(self.settings, self._registry, selection.leads)
        with open_pipeline(self.settings, self._registry) as pipeline:
            letters = map(self._restored, self._read(selection, self.decided()))
            return dry_run(letters, self._planner(patch), scores, pipeline)

    def replay(
        self,
        selection: Selection,
        *,
        decided_by: str,
        patch: Mapping[str, Any] | None = None,
        comment: str | None = None,
        rate: int = RATE,
        report: Callable[[DecisionProgress], None] = lambda _progress: None,
        stop: threading.Event | None = None,
    ) -> DecisionProgress:
        """Replay a selection, each letter once. `stop` ends it between two transactions."""
        with self._executor(decided_by) as executor:
            executor.track(selection.leads)
            max_lag = self.settings.batch_max_records
            run = DecisionRun(executor, report, stop or threading.Event(), rate, max_lag)
            letters = map(self._restored, self._read(selection, executor.decided))
            return replay.replay(run, letters, self._planner(patch, comment))

    def discard(
        self,
        selection: Selection,
        *,
        decided_by: str,
        comment: str,
        report: Callable[[DecisionProgress], None] = lambda _progress: None,
        stop: threading.Event | None = None,
    ) -> DecisionProgress:
        """Discard a selection, each letter once."""
        with self._executor(decided_by) as executor:
            run = DecisionRun(executor, report, stop or threading.Event())
            return replay.discard(run, self._read(selection, executor.decided), comment)

    def verify(self) -> AuditReport:
        """Check the chains of the audit topic."""
        with self._audit() as audit:
            return audit.verify()

    def _planner(self, patch: Mapping[str, Any] | None, comment: str | None = None) -> Planner:
        topics = (self.settings.topics.lead_changes, self.settings.topics.rescore_requests)
        times = ReplayTimes(read_topic_configs(client_config(self.settings), topics))
        return Planner(self.settings, self._registry, patch, comment, times)

    def _restored(self, letter: Letter) -> Letter:
        return restore(self.settings, letter)

    def _read(self, selection: Selection, decided: DecisionIndex) -> Iterator[Letter]:
        wanted = selection.wanted
        return wanted.select(
            read_letters(self.settings, selection.ends, wanted.partition, wanted.offset), decided
        )

    @contextmanager
    def _audit(self) -> Iterator[AuditLog]:
        audit = AuditLog(self.settings, self._registry, TopicOffsets(self.settings))
        try:
            yield audit
        finally:
            audit.close()

    @contextmanager
    def _executor(self, decided_by: str) -> Iterator[DecisionExecutor]:
        executor = KafkaDecisionExecutor(self.settings, self._registry, decided_by)
        try:
            executor.acquire()
            yield executor
        finally:
            executor.close()


def current_account() -> str:
    """Return the account of the operating system, the default name of the decider."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in a container
        return f"uid {os.getuid()}"
