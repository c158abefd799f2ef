"""One micro-batch, from messages to everything that is to be published for it."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.batch_builder import Work, null
from consumer.scoring.coalesce import coalesce, keep_all
from consumer.scoring.codecs import Codecs
from consumer.scoring.columns import Changes, Stacks, read_changes, stacked
from consumer.scoring.decode import (
    Change,
    Erasure,
    Ignored,
    Request,
    check_state,
    decode_change,
    decode_request,
)
from consumer.scoring.leads import Lead, LeadLookup
from consumer.scoring.predictions import MAX_OUTPUT_BYTES, Predicted, Predictions, Row, Rows
from consumer.scoring.requests import Asked, Reply, sliced
from consumer.scoring.result import BatchResult, Disposition, Scored
from consumer.scoring.versions import Versions
from features.spec import FeatureSpec
from leadstream.errors import Poison, Reason, Transient, UserError
from leadstream.kafka.batch import Batch, Output
from leadstream.kafka.config import Record
from leadstream.settings import Settings
from leadstream.variants import CHALLENGER, CHAMPION, challenged
from models.serve.artifact import WRONG
from models.serve.scorer import Model, Scores
from models.serve.slot import ChallengerSlot, ModelSlot
from schemas.columns import COMPILED, ColumnReader, use_columns

RESCORE = "RESCORE"
Ints = NDArray[np.intp]


# Given a batch, what came of it and when that began (ms UTC): the same, its records with the traces of their changes.
Trace = Callable[[Batch, BatchResult, int], BatchResult]


@dataclass(frozen=True, slots=True, eq=False)
class Challenge:
    """What the challenger says of a row: its prediction, and where in its scores the row stands."""

    output: Record
    scores: Scores
    place: int


class Pipeline:
    """Turns a batch into its outcome. It publishes nothing and commits nothing; the same batch gives the same outcome,
    as long as no outcome is `begun` and nobody else puts anything into `versions`, by which late changes are told;
    without them none is late.

    Raises Transient where a dependency does not answer: then nothing has happened.
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
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        trace: Trace | None = None,
    ) -> None:
        self._trace = trace
        self._settings = settings
        self._topics = settings.topics
        self._slot = slot
        self._challenger = challenger
        self._share = settings.challenger_share
        self._codecs = codecs
        self._predictions = Predictions(codecs.predictions, settings.topics.lead_predictions)
        self._shadow = Predictions(codecs.shadow, settings.topics.shadow_predictions)
        self._columns = ColumnReader(codecs.changes) if COMPILED else None
        self._leads = leads
        self._versions = versions
        self._clock_ms = clock_ms

    def begun(self, outcome: BatchResult) -> None:
        """What came of a batch is being committed: from now on its versions tell what comes late."""
        if self._versions is not None:
            for part in outcome.published:
                self._versions.begin(part.keys, part.versions)

    def ended(self, *, committed: bool) -> None:
        """The commit of what had begun has ended: it counts, or it never was."""
        if self._versions is not None:
            (self._versions.commit if committed else self._versions.abort)()

    def process(self, batch: Batch) -> BatchResult:
        """Decode, read what is missing, score, encode; every message ends in exactly one fate."""
        work = Work(
            batch, self._slot.get(), self._challenger.loaded, self._clock_ms(), self._settings
        )
        with work.step("decode"):
            changes = self._plain_changes(batch)
            items, requests = self._decode(work, changes)
            if changes is not None and self._settings.coalesce:
                # Of a lead with a change that is not plain, all changes are looked at one by one.
                changes, beside = changes.but({item.lead_id.encode() for item in items})
                items = self._joined(work, items, beside)
            plan = coalesce(items) if self._settings.coalesce else keep_all(items)
        work.meet(plan.outdated, Disposition.COALESCED)
        self._erase(work, plan.erasures)
        replies = [_reply_to(work, request) for request in requests]
        first, *others = sliced(replies) or [[]]
        with work.step("state"):
            leads = self._read_leads(work, changes, plan.stacks, first)
        stacks: list[list[Change | int]] = [[*stack] for stack in plan.stacks]
        if changes is not None:
            stacks += self._score_plain(work, changes, leads)
        self._score_changes(work, stacks, leads)
        if self._versions is not None and not self._settings.coalesce:
            work.put_in_order()
        self._score_asked(work, first, leads)
        for asked in others:
            with work.step("state"):
                leads = self._fetch(work, {lead_id: None for _, lead_id in asked})
            self._score_asked(work, asked, leads)
        for reply in replies:
            self._answer(work, reply)
        outcome = work.outcome()
        return outcome if self._trace is None else self._trace(batch, outcome, work.now_ms)

    def obstacle(self, lacks: Callable[[str], str | None]) -> str | None:
        """Why a challenger's predictions could not be published, or None; the champion must never wait for that.

        `lacks` says why nothing can be published to a topic.
        """
        if self._share > 0:
            return None
        try:
            self._codecs.shadow.open()
        except (Transient, UserError) as error:
            return str(error)
        return lacks(self._topics.shadow_predictions)

    def _erase(self, work: Work, erasures: list[tuple[Erasure, int]]) -> None:
        """The null for the table of scores, and one for whoever keeps a table of a challenger's."""
        topics = [self._topics.lead_predictions]
        if work.challenger is not None and self._share == 0:
            topics.append(self._topics.shadow_predictions)
        keys = [erasure.lead_id.encode() for erasure, _ in erasures]
        before = self._versions.newest(keys).tolist() if self._versions else [0] * len(keys)
        for (erasure, ends), key, known in zip(erasures, keys, before, strict=True):
            if 0 < erasure.lead_version < known:
                work.come_late(np.array([erasure.index]))
                continue
            version = max(ends, known)
            work.erase(
                erasure.index,
                key,
                version if ends else 0,
                [null(topic, key, version) for topic in topics],
            )

    def _plain_changes(self, batch: Batch) -> Changes | None:
        """The changes that can be read in columns; None where columns do not pay."""
        if self._columns is None or not use_columns(len(batch.messages)):
            return None
        return read_changes(batch, self._columns, self._topics.lead_changes)

    def _decode(
        self, work: Work, changes: Changes | None
    ) -> tuple[list[Change | Erasure], list[Request]]:
        """Every message that is no plain change, one by one."""
        items: list[Change | Erasure] = []
        requests: list[Request] = []
        others = np.arange(len(work.batch.messages))
        if changes is not None:
            others = np.delete(others, changes.index)
        for index in others.tolist():
            message = work.batch.messages[index]
            try:
                if message.topic() == self._topics.rescore_requests:
                    work.request_indices.add(index)
                    requests.append(decode_request(index, message, self._codecs.requests))
                    continue
                item = decode_change(index, message, self._codecs.changes)
            except Poison as poison:
                work.bury(index, poison)
                continue
            if isinstance(item, Ignored):
                work.meet(index, Disposition.IGNORED)
            else:
                items.append(item)
        return items, requests

    def _change(self, work: Work, index: int) -> Change:
        """A plain change by itself."""
        change = decode_change(index, work.batch.messages[index], self._codecs.changes)
        assert isinstance(change, Change)  # noqa: S101 -- consumer/scoring/columns.py vouches for it
        return change

    def _joined(
        self, work: Work, items: list[Change | Erasure], plain: list[int]
    ) -> list[Change | Erasure]:
        """The items and these plain changes, in the order of their messages."""
        if not plain:
            return items
        return sorted(
            [*items, *(self._change(work, index) for index in plain)], key=lambda item: item.index
        )

    def _read_leads(
        self, work: Work, changes: Changes | None, stacks: list[list[Change]], asked: list[Asked]
    ) -> dict[str, Lead]:
        """One query for every lead whose state no change carries, and for the first that requests ask for."""
        ids = {change.lead_id: None for stack in stacks for change in stack if change.lead is None}
        if changes is not None:
            ids |= dict.fromkeys(changes.without_state())
        ids |= {lead_id: None for _, lead_id in asked}
        return self._fetch(work, ids)

    def _fetch(self, work: Work, ids: dict[str, None]) -> dict[str, Lead]:
        if not ids or not self._leads:
            return {}
        leads = self._leads.fetch(ids)
        work.queries += 1
        work.leads_asked += len(ids)
        work.leads_found += len(leads)
        return leads

    def _score_plain(
        self, work: Work, changes: Changes, leads: dict[str, Lead]
    ) -> list[list[Change | int]]:
        """Score the newest plain change of each lead; the changes below those that failed are still to be scored."""
        stacks = stacked(changes, coalesce=self._settings.coalesce)
        work.meet(stacks.below(), Disposition.COALESCED)
        carried = changes["lead"][stacks.tops]
        failed: dict[int, Poison] = {}
        fat = changes.rows(stacks, np.flatnonzero(carried), _inputs(work))
        thin = self._with_states(changes, stacks, np.flatnonzero(~carried), leads, failed)
        for rows in (fat, thin):
            failed |= self._score_rows(work, rows)
        left: list[list[Change | int]] = []
        for index, poison in failed.items():
            work.bury(index, poison)
            left.append([*stacks.under(index)])
        return [stack for stack in left if stack]

    def _with_states(
        self,
        changes: Changes,
        stacks: Stacks,
        tops: Ints,
        leads: dict[str, Lead],
        failed: dict[int, Poison],
    ) -> Rows:
        """The rows of tops whose states come from Postgres; `failed` gets the messages of those that have none."""
        found: list[int] = []
        states: list[Lead] = []
        places = stacks.tops[tops]
        for top, place, occurred_at in zip(
            tops, places.tolist(), changes["occurred_at"][places].tolist(), strict=True
        ):
            try:
                states.append(self._state(changes.keys[place].decode(), occurred_at, leads))
                found.append(top)
            except Poison as poison:
                failed[place] = poison
        return changes.rows_of(stacks, np.array(found, np.intp), states)

    def _score_changes(
        self, work: Work, stacks: list[list[Change | int]], leads: dict[str, Lead]
    ) -> None:
        """Score the top of each stack; where it fails, bury it and try the one below, until every stack is settled.

        A plain change is an index until it is on top, so that a bad one costs one more to read, however many are below.
        """
        while stacks:
            rows: list[Row] = []
            pending: dict[int, list[Change | int]] = {}
            for stack in stacks:
                top = stack.pop()
                change = self._change(work, top) if isinstance(top, int) else top
                try:
                    rows.append(self._row(change, len(stack), leads))
                    pending[change.index] = stack
                except Poison as poison:
                    work.bury(change.index, poison)
            failed = self._score_rows(work, Rows.of(rows))
            for index, why in failed.items():
                work.bury(index, why)
            for index in pending.keys() - failed.keys():
                below = pending[index]
                work.meet(
                    [each if isinstance(each, int) else each.index for each in below],
                    Disposition.COALESCED,
                )
                below.clear()
            stacks = [stack for stack in stacks if stack]

    def _score_rows(self, work: Work, rows: Rows) -> dict[int, Poison]:
        """Score changes, but those that come late; by message why some could not be."""
        rows = self._timely(work, rows)
        if not len(rows):
            return {}
        predicted = self._predict(work, rows)
        work.score(rows, predicted)
        return {int(rows.index[row]): poison for row, poison in predicted.failed.items()}

    def _timely(self, work: Work, rows: Rows) -> Rows:
        """The rows that are not older than what was published of their leads; the others are coalesced into that."""
        if self._versions is None or not len(rows):
            return rows
        late = (rows.lead_version > 0) & (rows.lead_version < self._versions.newest(rows.keys))
        if not late.any():
            return rows
        work.come_late(rows.index[late])
        return rows.at(np.flatnonzero(~late))

    def _row(self, change: Change, coalesced: int, leads: dict[str, Lead]) -> Row:
        state, version = change.lead, change.lead_version
        if state is None:
            lead = self._state(change.lead_id, change.occurred_at, leads)
            state, version = lead.state, max(version, lead.version)
        return Row(
            change.index,
            change.lead_id,
            change.event_id,
            change.change_type,
            change.occurred_at,
            version,
            coalesced,
            state,
        )

    def _state(self, lead_id: str, occurred_at: int, leads: dict[str, Lead]) -> Lead:
        """The lead of a change that carries no state; Poison where there is none that could be known then."""
        lead = leads.get(lead_id)
        if lead is None:
            raise self._not_found("the change carries no state and ")
        check_state(lead.state, occurred_at)
        return lead

    def _not_found(self, context: str = "") -> Poison:
        why = "Postgres has no such lead" if self._leads else "DATABASE_URL is not set"
        return Poison(Reason.LEAD_NOT_FOUND, "state", f"{context}{why}")

    def _predict(self, work: Work, rows: Rows) -> Predicted:
        """The predictions of rows, and why some have none."""
        with work.step("score"):
            scores = work.model.score(rows.states, rows.occurred_at, self._settings.reasons)
        challenges = self._challenge(work, rows, scores)
        with work.step("encode"):
            predicted = self._written(work, rows, scores, challenges)
        own = predicted.places
        if predicted.challenged:
            own = np.array(
                [row for row in own.tolist() if row not in predicted.challenged], np.intp
            )
            for theirs, place in predicted.challenged.values():
                work.count(theirs, np.array([place]))
        work.count(scores, own)
        asked = np.array([name == RESCORE for name in rows.change_type.values], np.bool_)[
            rows.change_type.codes
        ]
        asked[list(scores.failed)] = True
        changed = np.flatnonzero(~asked)
        if len(changed):
            keys = (
                rows.keys
                if len(changed) == len(rows)
                else [rows.keys[row] for row in changed.tolist()]
            )
            work.scored.append(Scored(keys, changed, scores))
        return predicted

    def _written(
        self, work: Work, rows: Rows, scores: Scores, challenges: dict[int, Challenge]
    ) -> Predicted:
        """The answer to each row: the champion's prediction, with that of a shadow, or the challenger's of a split."""
        split = challenges if self._share > 0 else {}
        failed = {row: poison for row, poison in scores.failed.items() if row not in split}
        own = np.arange(len(rows))
        if failed or split:
            own = np.array(
                [row for row in range(len(rows)) if row not in failed and row not in split], np.intp
            )
        outputs, unwritten = self._encoded(work, rows.at(own), scores, own, work.model)
        if unwritten:
            failed |= {int(own[i]): poison for i, poison in unwritten.items()}
            outputs = [output for i, output in enumerate(outputs) if i not in unwritten]
            own = np.delete(own, list(unwritten))
        return Predicted(
            places=np.concatenate([own, np.array(list(split), np.intp)]),
            outputs=outputs + [challenge.output for challenge in split.values()],
            shadows={}
            if split
            else {row: c.output for row, c in challenges.items() if row not in failed},
            failed=failed,
            scores=scores,
            challenged={
                row: (challenge.scores, challenge.place) for row, challenge in split.items()
            },
        )

    def _encoded(
        self, work: Work, rows: Rows, scores: Scores, places: Ints, model: Model
    ) -> tuple[list[Record], dict[int, Poison]]:
        if not len(rows):
            return [], {}
        variant = CHAMPION if model is work.model else CHALLENGER
        in_shadow = variant == CHALLENGER and self._share == 0
        return (self._shadow if in_shadow else self._predictions).of(
            rows, scores, places, model=model, variant=variant, batch=work.batch, now_ms=work.now_ms
        )

    def _challenge(self, work: Work, rows: Rows, scores: Scores) -> dict[int, Challenge]:
        """The challenger's predictions by row: of its share, or in the shadow of every row that the champion scored.

        A row that fails in it is missing here: that costs the shadow's prediction alone, or the row is the champion's.
        """
        model, mode = work.challenger, "split" if self._share > 0 else "shadow"
        if model is None:
            return {}
        if mode == "split":
            wanted = [
                row for row, key in enumerate(rows.keys) if challenged(key.decode(), self._share)
            ]
        else:
            wanted = [row for row in range(len(rows)) if row not in scores.failed]
        if not wanted:
            return {}
        challenges: dict[int, Challenge] = {}
        with work.step(mode):
            theirs = rows.at(np.array(wanted, np.intp))
            try:
                found = model.score(theirs.states, theirs.occurred_at, self._settings.reasons)
            except WRONG as error:
                # With the champion it would be a bug, and end the process; a challenger only leaves.
                work.challenger, work.challenger_error = (
                    None,
                    f"version {model.version} cannot score ({error!r})",
                )
            else:
                good = np.array(
                    [place for place in range(len(wanted)) if place not in found.failed], np.intp
                )
                outputs, unwritten = self._encoded(work, theirs.at(good), found, good, model)
                challenges = {
                    wanted[place]: Challenge(output, found, place)
                    for i, (place, output) in enumerate(zip(good.tolist(), outputs, strict=True))
                    if i not in unwritten
                }
        work.challenged += Counter(
            {(mode, "scored"): len(challenges), (mode, "failed"): len(wanted) - len(challenges)}
        )
        return challenges

    def _score_asked(self, work: Work, asked: list[Asked], leads: dict[str, Lead]) -> None:
        """Score leads that requests ask for, whichever each belongs to; one that fails is an error in its reply."""
        rows, replies = list[Row](), list[Reply]()
        for reply, lead_id in asked:
            try:
                lead = leads.get(lead_id)
                if lead is None:
                    raise self._not_found()
                check_state(lead.state, reply.occurred_at)
            except Poison as poison:
                reply.refuse(lead_id, poison)
                continue
            index, event_id = reply.request.index, reply.request.request_id
            rows.append(
                Row(
                    index,
                    lead_id,
                    event_id,
                    RESCORE,
                    reply.occurred_at,
                    lead.version,
                    0,
                    lead.state,
                )
            )
            replies.append(reply)
        if not rows:
            return
        predicted = self._predict(work, Rows.of(rows))
        for row, why in predicted.failed.items():
            replies[row].refuse(rows[row].lead_id, why)
        for row, output in sorted(zip(predicted.places.tolist(), predicted.outputs, strict=True)):
            replies[row].answers[rows[row].lead_id] = predicted.answer(row)
            replies[row].outputs.append(output)
            if (shadow := predicted.shadows.get(row)) is not None:
                replies[row].outputs.append(shadow)

    def _answer(self, work: Work, reply: Reply) -> None:
        """All predictions of a request and its one result; a dead letter where the result cannot be written."""
        try:
            result = self._result(work, reply)
        except Poison as poison:
            work.bury(reply.request.index, poison)
        else:
            work.answer(reply.request.index, [*reply.outputs, result], reply.counts())

    def _result(self, work: Work, reply: Reply) -> Output:
        value = self._codecs.results.encode(reply.result(work.model.name))
        key = reply.request.request_id.encode()
        if (size := len(key) + len(value)) > MAX_OUTPUT_BYTES:
            detail = f"the answer has {size} bytes; at most {MAX_OUTPUT_BYTES} are published: ask for fewer leads"
            raise Poison(Reason.OVERSIZED, "encode", detail)
        return Output(self._topics.rescore_results, key, value)


def _reply_to(work: Work, request: Request) -> Reply:
    """The reply to a request before any lead is scored: as of when it was sent, so that a second try gives the same."""
    kind, timestamp = work.batch.messages[request.index].timestamp()
    errors = {id_: ("INVALID_ID", detail) for id_, detail in request.malformed.items()}
    return Reply(request, timestamp if kind else work.now_ms, errors)


def _inputs(work: Work) -> list[FeatureSpec]:
    """What the models of a batch are made from, each input once."""
    models = [model for model in (work.model, work.challenger) if model is not None]
    return list(
        {spec.name: spec for model in models for spec in model.specification.inputs}.values()
    )
