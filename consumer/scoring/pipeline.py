"""One batch, from messages to everything that is to be published for it.

    batch -> event table -> latest per lead -> states -> rows -> predictions -> batch result

Each arrow is a function that returns a value. A row that fails is a dead letter, and the same
steps run on the previous change of its lead.
"""

import time
from collections.abc import Callable

from consumer.scoring.build import BatchParts, build_result
from consumer.scoring.codecs import Codecs
from consumer.scoring.erased import PublishedErasures
from consumer.scoring.erasures import erase_leads
from consumer.scoring.events import EventKind, EventReader
from consumer.scoring.latest import latest_per_lead
from consumer.scoring.leads import LeadLookup
from consumer.scoring.predictions import PredictionWriter
from consumer.scoring.requests import (
    RequestedLead,
    ScoredSlice,
    build_replies,
    read_requests,
    score_slice,
    slice_leads,
    write_results,
)
from consumer.scoring.result import BatchResult
from consumer.scoring.rounds import score_changes
from consumer.scoring.score import BatchContext, BatchScorer
from consumer.scoring.states import LeadsRead, join_states, leads_without_state, read_leads
from consumer.scoring.versions import Versions
from leadstream.errors import Transient, UserError
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import MESSAGE_MAX_BYTES
from leadstream.kafka.topic_config import RecordLimits
from leadstream.settings import JsonChanges, Settings
from models.registry.slot import ChallengerSlot, ModelSlot


class Pipeline:
    """Turns a batch into its result; it publishes nothing and commits nothing.

    The same batch gives the same result until `commit_started` adds to `versions`, the memory
    of what was published, by which a change is late. Without `versions` no change is late.
    `erased` knows which leads were erased after a change that is read again.
    `limits` say how large a record may be.
    """

    def __init__(
        self,
        settings: Settings,
        slot: ModelSlot,
        challenger: ChallengerSlot,
        codecs: Codecs,
        leads: LeadLookup | None,
        *,
        versions: Versions | None = None,
        erased: PublishedErasures | None = None,
        limits: RecordLimits | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        topics = settings.topics
        self._settings = settings
        self._slot = slot
        self._challenger = challenger
        self._codecs = codecs
        self._events = EventReader(
            codecs.changes,
            topics.rescore_requests,
            accept_json=settings.json_changes is JsonChanges.ACCEPT,
        )
        self._limits = limits or RecordLimits(client_bytes=MESSAGE_MAX_BYTES)
        self._scorer = BatchScorer(
            PredictionWriter(codecs.predictions, topics.lead_predictions, self._limits),
            PredictionWriter(codecs.shadow, topics.shadow_predictions, self._limits),
            share=settings.challenger_share,
            reasons=settings.reasons,
            valid_change=settings.valid_change,
        )
        self._leads = leads
        self._versions = versions
        self._erased = erased
        self._clock_ms = clock_ms

    def commit_started(self, result: BatchResult) -> None:
        """Let the versions of a result make older changes late from now on."""
        if self._versions is not None:
            for part in result.published:
                self._versions.begin(part.keys, part.versions)

    def commit_finished(self, *, committed: bool) -> None:
        """Keep the versions of the started commits, or forget them if they were not committed."""
        if self._versions is not None:
            (self._versions.commit if committed else self._versions.abort)()

    def process(self, batch: Batch) -> BatchResult:
        """Return the result of a batch.

        Raises Transient if a dependency does not answer; then nothing has happened.
        """
        context = BatchContext.from_models(
            batch, self._slot.get(), self._challenger.loaded, self._clock_ms()
        )
        began = time.perf_counter()
        table = self._events.read(batch, context.inputs())
        requests, refused = read_requests(
            batch,
            table.rows(EventKind.REQUEST).tolist(),
            self._codecs.requests,
            context.began_ms,
        )
        if self._erased is not None:
            table = table.without(self._erased.before(batch, table))
        latest = latest_per_lead(table, self._versions, coalesce=self._settings.coalesce)
        erasures = erase_leads(batch, table, latest, self._versions, self._null_topics(context))
        decoded = time.perf_counter()
        first, *others = slice_leads(requests) or [[]]
        read = read_leads(self._leads, [*leads_without_state(table, latest), *_ids(first)])
        states = join_states(
            table,
            latest,
            read.leads,
            context.inputs(),
            self._versions,
            database=self._leads is not None,
        )
        latest = latest.by_version(table, states.versions)
        joined = time.perf_counter()
        changes = score_changes(
            table, latest, states, self._versions, scorer=self._scorer, context=context
        )
        slices, reads = self._score_requests(first, others, read, changes.context)
        replies = build_replies(requests, slices)
        results, unwritten = write_results(
            replies,
            self._codecs.results,
            self._settings.topics.rescore_results,
            context.champion.name,
            self._limits,
        )
        return build_result(
            BatchParts(
                context=context,
                table=table,
                superseded=latest.superseded,
                erasures=erasures,
                changes=changes,
                replies=replies,
                results=results,
                requested=[part.predicted for part in slices if part.predicted],
                poisons=table.poisons | refused | changes.failed | unwritten,
                reads=reads,
                seconds={
                    "decode": decoded - began,
                    "state": joined - decoded + sum(later.seconds for later in reads[1:]),
                },
                by_offset=self._versions is not None and not self._settings.coalesce,
                limits=self._limits,
                stale=states.stale,
            ),
            self._settings,
        )

    def obstacle(self, lacks: Callable[[str], str | None]) -> str | None:
        """Return why a challenger's predictions could not be published, or None.

        The champion must never wait for that. `lacks` says why a topic cannot be published to.
        """
        if self._settings.challenger_share > 0:
            return None
        try:
            self._codecs.shadow.open()
        except (Transient, UserError) as error:
            return str(error)
        return lacks(self._settings.topics.shadow_predictions)

    def _null_topics(self, context: BatchContext) -> list[str]:
        """Return the topics whose tables an erased lead leaves."""
        topics = self._settings.topics
        shadow = context.challenger is not None and self._settings.challenger_share == 0
        return [topics.lead_predictions, *([topics.shadow_predictions] if shadow else [])]

    def _score_requests(
        self,
        first: list[RequestedLead],
        others: list[list[RequestedLead]],
        read: LeadsRead,
        context: BatchContext,
    ) -> tuple[list[ScoredSlice], list[LeadsRead]]:
        """Score the leads that requests ask for; the first slice was read with the changes."""
        slices: list[ScoredSlice] = []
        reads = [read]
        for leads in [first, *others]:
            if slices:
                reads.append(read_leads(self._leads, _ids(leads)))
            part = score_slice(
                leads, reads[-1].leads, self._scorer, context, database=self._leads is not None
            )
            slices.append(part)
            if part.predicted is not None:
                context = context.after(part.predicted)
        return slices, reads


def _ids(leads: list[RequestedLead]) -> list[str]:
    return [lead_id for _, lead_id in leads]
