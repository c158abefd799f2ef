"""One micro-batch, from messages to everything that is to be published for it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from consumer.batch import Batch, Fate, Outcome, Output, Scored
from consumer.coalesce import coalesce, keep_all
from consumer.decode import Change, Erasure, Ignored, Request, check_state, decode_change, decode_request
from consumer.leads import Lead, LeadLookup
from consumer.predictions import Predicted, Predictions, Row, oversized
from consumer.work import Work
from features import columns_of
from leadstream.errors import Poison, Reason, Transient, UserError
from leadstream.settings import Settings
from models.artifact import WRONG
from models.scorer import Model, Scores
from models.slot import ChallengerSlot, ModelSlot
from models.variants import CHALLENGER, CHAMPION, challenged
from schemas.codec import Reader, Writer

RESCORE = "RESCORE"


@dataclass(frozen=True, slots=True)
class Codecs:
    """The readers of the consumed topics and the writers of the published ones."""

    changes: Reader
    requests: Reader
    predictions: Writer
    results: Writer
    shadow: Writer


class Pipeline:
    """Turns a batch into its outcome. It publishes nothing and commits nothing; the same batch gives the same outcome.

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
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._slot = slot
        self._challenger = challenger
        self._share = settings.challenger_share
        self._codecs = codecs
        self._predictions = Predictions(codecs.predictions, settings.topics.lead_predictions)
        self._shadow = Predictions(codecs.shadow, settings.topics.shadow_predictions)
        self._leads = leads
        self._clock_ms = clock_ms

    def process(self, batch: Batch) -> Outcome:
        """Decode, read what is missing, score, encode; every message ends in exactly one fate."""
        work = Work(batch, self._slot.get(), self._challenger.loaded, self._clock_ms(), self._settings)
        with work.step("decode"):
            items, requests = self._decode(work)
            plan = coalesce(items) if self._settings.coalesce else keep_all(items)
        for index in plan.outdated:
            work.fates[index] = Fate.COALESCED
        for erasure in plan.erasures:
            work.fates[erasure.index] = Fate.ERASED
            work.publish(erasure.index, self._erasures(work, erasure.lead_id.encode()))
        with work.step("state"):
            leads = self._read_leads(work, plan.stacks, requests)
        self._score_changes(work, plan.stacks, leads)
        self._answer_requests(work, requests, leads)
        return work.outcome()

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

    def _erasures(self, work: Work, key: bytes) -> list[Output]:
        """The null for the table of scores, and one for whoever keeps a table of a challenger's."""
        topics = [self._topics.lead_predictions]
        if work.challenger is not None and self._share == 0:
            topics.append(self._topics.shadow_predictions)
        return [Output(topic, key, None) for topic in topics]

    def _decode(self, work: Work) -> tuple[list[Change | Erasure], list[Request]]:
        items: list[Change | Erasure] = []
        requests: list[Request] = []
        for index, message in enumerate(work.batch.messages):
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
                work.fates[index] = Fate.IGNORED
            else:
                items.append(item)
        return items, requests

    def _read_leads(self, work: Work, stacks: list[list[Change]], requests: list[Request]) -> dict[str, Lead]:
        """One query for every lead of the batch whose state no change carries."""
        ids = {change.lead_id: None for stack in stacks for change in stack if change.lead is None}
        ids |= {id_: None for request in requests for id_ in request.lead_ids if id_ not in request.malformed}
        if not ids or not self._leads:
            return {}
        leads = self._leads.fetch(ids)
        work.leads_asked, work.leads_found = len(ids), len(leads)
        return leads

    def _score_changes(self, work: Work, stacks: list[list[Change]], leads: dict[str, Lead]) -> None:
        """Score the top of each stack; where it fails, bury it and try the one below, until every stack is settled."""
        while stacks:
            rows: list[Row] = []
            pending: list[list[Change]] = []
            again: list[list[Change]] = []
            for stack in stacks:
                try:
                    rows.append(self._row(stack, leads))
                    pending.append(stack)
                except Poison as poison:
                    work.bury(stack[-1].index, poison)
                    again.append(stack[:-1])
            for stack, result in zip(pending, self._predict(work, rows), strict=True):
                if isinstance(result, Poison):
                    work.bury(stack[-1].index, result)
                    again.append(stack[:-1])
                    continue
                work.publish(stack[-1].index, result.outputs)
                work.fates[stack[-1].index] = Fate.SCORED
                for change in stack[:-1]:
                    work.fates[change.index] = Fate.COALESCED
            stacks = [stack for stack in again if stack]

    def _row(self, stack: list[Change], leads: dict[str, Lead]) -> Row:
        change = stack[-1]
        state, version = change.lead, change.lead_version
        if state is None:
            lead = leads.get(change.lead_id)
            if lead is None:
                raise self._not_found("the change carries no state")
            check_state(lead.state, change.occurred_at)
            state, version = lead.state, max(version, lead.version)
        return Row(
            change.index,
            change.lead_id,
            change.event_id,
            change.change_type,
            change.occurred_at,
            version,
            len(stack) - 1,
            state,
        )

    def _not_found(self, context: str) -> Poison:
        why = "Postgres has no such lead" if self._leads else "DATABASE_URL is not set"
        return Poison(Reason.LEAD_NOT_FOUND, "state", f"{context} and {why}")

    def _predict(self, work: Work, rows: list[Row]) -> Iterator[Predicted | Poison]:
        """For each row its prediction or the reason why there is none."""
        if not rows:
            return
        columns = columns_of([row.state for row in rows])
        as_of = np.array([row.occurred_at for row in rows], dtype=np.int64)
        with work.step("score"):
            scores = work.model.score(columns, as_of, self._settings.reasons)
        challenges = self._challenge(work, rows, scores)
        with work.step("encode"):
            found = self._written(work, rows, scores, challenges)
        for i in range(len(rows)):
            result = found[i]
            if isinstance(result, Predicted):
                work.count(result)
            yield result
        changed = [i for i, row in enumerate(rows) if row.change_type != RESCORE and i not in scores.failed]
        if changed:
            work.scored.append(Scored([rows[i].lead_id for i in changed], changed, scores))

    def _written(
        self, work: Work, rows: list[Row], scores: Scores, challenges: dict[int, Predicted]
    ) -> dict[int, Predicted | Poison]:
        """The answer to each row: the champion's prediction, with that of a shadow, or the challenger's of a split."""
        found: dict[int, Predicted | Poison] = {**scores.failed}
        if self._share > 0:
            found |= challenges
        own = [i for i in range(len(rows)) if i not in found]
        made = self._encoded(work, [rows[i] for i in own], scores, own, work.model)
        for i, result in zip(own, made, strict=True):
            shadow = challenges.get(i)
            found[i] = replace(result, shadow=shadow.output) if shadow and isinstance(result, Predicted) else result
        return found

    def _encoded(
        self, work: Work, rows: list[Row], scores: Scores, places: list[int], model: Model
    ) -> list[Predicted | Poison]:
        if not rows:
            return []
        variant = CHAMPION if model is work.model else CHALLENGER
        in_shadow = variant == CHALLENGER and self._share == 0
        return (self._shadow if in_shadow else self._predictions).of(
            rows,
            scores,
            places,
            model=model,
            variant=variant,
            messages=work.batch.messages,
            now_ms=work.now_ms,
        )

    def _challenge(self, work: Work, rows: list[Row], scores: Scores) -> dict[int, Predicted]:
        """The challenger's predictions by row: of its share, or in the shadow of every row that the champion scored.

        A row that fails in it is missing here: that costs the shadow's prediction alone, or the row is the champion's.
        """
        model, mode = work.challenger, "split" if self._share > 0 else "shadow"
        if model is None:
            return {}
        if mode == "split":
            wanted = [i for i, row in enumerate(rows) if challenged(row.lead_id, self._share)]
        else:
            wanted = [i for i in range(len(rows)) if i not in scores.failed]
        if not wanted:
            return {}
        challenges: dict[int, Predicted] = {}
        with work.step(mode):
            columns = columns_of([rows[i].state for i in wanted])
            as_of = np.array([rows[i].occurred_at for i in wanted], dtype=np.int64)
            try:
                found = model.score(columns, as_of, self._settings.reasons)
            except WRONG as error:
                # With the champion it would be a bug, and end the process; a challenger only leaves.
                work.challenger, work.challenger_error = None, f"version {model.version} cannot score ({error!r})"
            else:
                good = [(j, i) for j, i in enumerate(wanted) if j not in found.failed]
                made = self._encoded(work, [rows[i] for _, i in good], found, [j for j, _ in good], model)
                challenges = {i: one for (_, i), one in zip(good, made, strict=True) if isinstance(one, Predicted)}
        work.challenged += Counter({(mode, "scored"): len(challenges), (mode, "failed"): len(wanted) - len(challenges)})
        return challenges

    def _answer_requests(self, work: Work, requests: list[Request], leads: dict[str, Lead]) -> None:
        for request in requests:
            try:
                self._answer(work, request, leads)
            except Poison as poison:
                work.bury(request.index, poison)

    def _answer(self, work: Work, request: Request, leads: dict[str, Lead]) -> None:
        """All predictions of a request and its one result; Poison where the result cannot be written."""
        occurred_at = _asked_at(work, request)
        errors = {id_: ("INVALID_ID", detail) for id_, detail in request.malformed.items()}
        rows = []
        for lead_id in request.lead_ids:
            if lead_id in errors:
                continue
            lead = leads.get(lead_id)
            try:
                if lead is None:
                    raise self._not_found("the request names a lead")
                check_state(lead.state, occurred_at)
            except Poison as poison:
                errors[lead_id] = (poison.reason.value, poison.detail)
                continue
            rows.append(
                Row(
                    request.index,
                    lead_id,
                    request.request_id,
                    RESCORE,
                    occurred_at,
                    lead.version,
                    0,
                    lead.state,
                )
            )
        predicted: dict[str, Predicted] = {}
        for row, result in zip(rows, self._predict(work, rows), strict=True):
            if isinstance(result, Poison):
                errors[row.lead_id] = (result.reason.value, result.detail)
            else:
                predicted[row.lead_id] = result
        key, value = self._result(work, request, predicted, errors)
        work.answer(
            request.index,
            [output for id_ in request.lead_ids if id_ in predicted for output in predicted[id_].outputs]
            + [Output(self._topics.rescore_results, key, value)],
            Counter({"predicted": len(predicted)}) + Counter(code for code, _ in errors.values()),
        )

    def _result(
        self, work: Work, request: Request, predicted: dict[str, Predicted], errors: dict[str, tuple[str, str]]
    ) -> tuple[bytes, bytes]:
        record = {
            "request_id": request.request_id,
            "predictions": [{"lead_id": id_, **predicted[id_].answer} for id_ in request.lead_ids if id_ in predicted],
            "model_used": work.model.name,
            "total_processed": len(request.lead_ids),
            "successful_predictions": len(predicted),
            "errors": [
                {"lead_id": id_, "code": errors[id_][0], "detail": errors[id_][1]}
                for id_ in request.lead_ids
                if id_ in errors
            ],
        }
        value = self._codecs.results.encode(record)
        key = request.request_id.encode()
        if too_large := oversized(key, value):
            raise too_large
        return key, value


def _asked_at(work: Work, request: Request) -> int:
    """The moment that a request is about: when it was sent, so that a second try gives the same answer."""
    kind, timestamp = work.batch.messages[request.index].timestamp()
    return timestamp if kind else work.now_ms
