"""What would become of letters: today's code, model and schemas run over them, and nothing is published."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from consumer.dead_letters import groups
from consumer.dead_letters.audit import Action
from consumer.dead_letters.current_scores import Scores
from consumer.dead_letters.dry_run_summary import Forecast
from consumer.dead_letters.groups import Group
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.planner import Judge, Open, Verdict
from consumer.run.app import codecs
from consumer.run.postgres import PostgresLeads
from consumer.scoring.pipeline import Pipeline
from leadstream.kafka.batch import Batch, ClosedBy, Message, Output
from leadstream.kafka.config import Headers
from leadstream.kafka.topic_reader import Cluster, Log
from leadstream.settings import Settings
from models.registry.versions import open_registry
from models.serve.slot import ChallengerSlot, ModelSlot
from schemas.codec import Reader
from schemas.registry import Registry

AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Sent:
    """A record as the consumers would see it, at its first place."""

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
def pipeline(settings: Settings, registry: Registry | None) -> Iterator[Pipeline]:
    """The consumers' pipeline with their settings, but for coalescing: each letter is to be answered for itself.

    Raises UserError where no model is promoted.
    """
    models = open_registry(settings)
    alone = settings.model_copy(update={"coalesce": False})
    leads = PostgresLeads(settings.database_url) if settings.database_url else None
    try:
        # Without a challenger: whether a letter passes is the champion's word.
        yield Pipeline(
            alone, ModelSlot(models), ChallengerSlot(models), codecs(settings, registry), leads
        )
    finally:
        if leads:
            leads.close()


def present_scores(
    settings: Settings, registry: Registry | None, leads: Collection[bytes]
) -> Scores:
    """The scores that these leads have now. Raises UserError, Transient."""
    scores = Scores(leads, Reader("LeadPrediction", registry))
    log = Log(settings, settings.topics.lead_predictions)
    try:
        partitions = log.partitions() if leads else []
        ends = Cluster(settings).ends(log.topic, partitions) if partitions else {}
        for message in log.read(dict.fromkeys(partitions, 0), ends):
            scores.add(message)
    finally:
        log.close()
    return scores


def rehearse(
    letters: Iterable[Letter], judge: Judge, scores: Scores, line: Pipeline
) -> list[Forecast]:
    """What a replay would do with the letters, by group, the largest first. Raises Transient."""
    causes: dict[str, Group] = {}
    found: dict[str, Forecast] = {}
    rest = iter(letters)
    while some := list(islice(rest, AT_ONCE)):
        sent: list[tuple[Forecast, Message]] = []
        for letter in some:
            group = groups.of(causes, letter)
            group.add(letter)
            forecast = found.setdefault(group.fingerprint, Forecast(group))
            match judge.judge(letter, scores):
                case Open(_, why):
                    forecast.left[why] += 1
                case Verdict(action=Action.REPLAYED, output=Output() as output):
                    sent.append(
                        (
                            forecast,
                            Sent(output, letter.facts.partition or 0, letter.facts.offset or 0),
                        )
                    )
                case Verdict(action=action):
                    forecast.decided[action] += 1
        failed = line.process(
            Batch.from_messages([message for _, message in sent], ClosedBy.DRAIN)
        ).letters
        for index, (forecast, _) in enumerate(sent):
            if index in failed:
                forecast.fails[failed[index].reason.value] += 1
            else:
                forecast.passes += 1
    return sorted(found.values(), key=lambda each: (-each.group.count, each.group.fingerprint))
