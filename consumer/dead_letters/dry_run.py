"""The dry run of a replay, with the present code, model and schemas; nothing is published."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from consumer.dead_letters import groups
from consumer.dead_letters.audit import Action
from consumer.dead_letters.current_scores import CurrentScores
from consumer.dead_letters.dry_run_summary import DryRunGroup
from consumer.dead_letters.groups import LetterGroup
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.planner import PlannedAction, Planner, SkippedLetter
from consumer.run.postgres import PostgresLeads
from consumer.scoring.codecs import codecs_for
from consumer.scoring.pipeline import Pipeline
from leadstream.kafka.batch import Batch, ClosedBy, Message, Output
from leadstream.kafka.config import Headers
from leadstream.kafka.topic_reader import TopicOffsets, TopicReader
from leadstream.settings import Settings
from models.registry.slot import ChallengerSlot, ModelSlot
from models.registry.versions import open_registry
from schemas.codec import Reader
from schemas.description_file import described_crm
from schemas.registry import Registry

CHUNK = 500


@dataclass(frozen=True, slots=True)
class SimulatedMessage:
    """A replayed record as the consumers would see it, at its original offset."""

    output: Output
    partition_: int
    offset_: int

    def topic(self) -> str:
        return self.output.topic

    def partition(self) -> int:
        return self.partition_

    def offset(self) -> int:
        return self.offset_

    def key(self) -> bytes | None:
        return self.output.key

    def value(self) -> bytes | None:
        return self.output.value

    def headers(self) -> Headers | None:
        return self.output.headers

    def timestamp(self) -> tuple[int, int]:
        return (0, -1) if self.output.timestamp is None else (1, self.output.timestamp)


@contextmanager
def open_pipeline(settings: Settings, registry: Registry | None) -> Iterator[Pipeline]:
    """Open the pipeline of the consumers, without coalescing: every letter needs its own result.

    Raises UserError if no model is promoted.
    """
    models = open_registry(settings)
    alone = settings.model_copy(update={"coalesce": False})
    url = settings.database_url
    leads = PostgresLeads(url, described_crm(settings)) if url else None
    try:
        # The challenger slot stays empty: only the champion decides whether a letter passes.
        yield Pipeline(
            alone, ModelSlot(models), ChallengerSlot(models), codecs_for(settings, registry), leads
        )
    finally:
        if leads:
            leads.close()


def read_current_scores(
    settings: Settings, registry: Registry | None, leads: Collection[bytes]
) -> CurrentScores:
    """Return the current scores of these leads. Raises UserError, Transient."""
    scores = CurrentScores(leads, Reader("LeadPrediction", registry))
    log = TopicReader(settings, settings.topics.lead_predictions)
    try:
        partitions = log.partitions() if leads else []
        ends = TopicOffsets(settings).ends(log.topic, partitions) if partitions else {}
        for message in log.read(dict.fromkeys(partitions, 0), ends):
            scores.add(message)
    finally:
        log.close()
    return scores


def dry_run(
    letters: Iterable[Letter], planner: Planner, scores: CurrentScores, pipeline: Pipeline
) -> list[DryRunGroup]:
    """Return what a replay would do with the letters, the largest group first. Raises Transient."""
    causes: dict[str, LetterGroup] = {}
    found: dict[str, DryRunGroup] = {}
    rest = iter(letters)
    while some := list(islice(rest, CHUNK)):
        sent: list[tuple[DryRunGroup, Message]] = []
        for letter in some:
            group = groups.get_or_create(causes, letter)
            group.add(letter)
            entry = found.setdefault(group.fingerprint, DryRunGroup(group))
            match planner.plan(letter, scores):
                case SkippedLetter(_, why):
                    entry.skipped[why] += 1
                case PlannedAction(
                    action=Action.REPLAYED, output=Output() as output, retimed=retimed
                ):
                    entry.retimed += retimed
                    sent.append(
                        (
                            entry,
                            SimulatedMessage(
                                output, letter.parsed.partition or 0, letter.parsed.offset or 0
                            ),
                        )
                    )
                case PlannedAction(action=action):
                    entry.decided[action] += 1
        failed = pipeline.process(
            Batch.from_messages([message for _, message in sent], ClosedBy.DRAIN)
        ).letters
        for index, (entry, _) in enumerate(sent):
            if index in failed:
                entry.fails[failed[index].reason.value] += 1
            else:
                entry.passes += 1
    return sorted(found.values(), key=lambda each: (-each.group.count, each.group.fingerprint))
