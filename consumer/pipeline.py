"""One micro-batch, from messages to everything that is to be published for it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from consumer.batch import Batch, Fate, Outcome, Output, Scored
from consumer.coalesce import coalesce, keep_all
from consumer.dead_letters import dead_letter
from consumer.decode import Change, Erasure, Ignored, Request, check_state, decode_change, decode_request
from consumer.leads import Lead, LeadLookup
from features import columns_of
from leadstream.errors import Poison, Reason, Transient, UserError
from leadstream.settings import Settings
from models.artifact import WRONG
from models.scorer import Model, Scores
from models.slot import ChallengerSlot, ModelSlot
from models.variants import CHALLENGER, CHAMPION, challenged
from schemas.codec import Reader, Writer

# What a broker accepts by default is 1,048,588 bytes with all overhead.
MAX_OUTPUT_BYTES = 1_000_000
RESCORE = "RESCORE"


@dataclass(frozen=True, slots=True)
class Codecs:
    """The readers of the consumed topics and the writers of the published ones."""

    changes: Reader
    requests: Reader
    predictions: Writer
    results: Writer
    shadow: Writer


@dataclass(frozen=True, slots=True)
class Row:
    """One lead to score: its state as of `occurred_at` (ms UTC), and the message that asks for it."""

    index: int
    lead_id: str
    event_id: str
    change_type: str
    occurred_at: int
    lead_version: int
    coalesced: int
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Predicted:
    """A row's prediction: the record, and its encoded form for the predictions topic.

    `shadow` is what the challenger says of the same row, for the shadow topic.
    """

    record: dict[str, Any]
    output: Output
    shadow: Output | None = None

    @property
    def outputs(self) -> list[Output]:
        """All that is to be published for the row."""
        return [self.output, self.shadow] if self.shadow else [self.output]


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
        self._leads = leads
        self._clock_ms = clock_ms

    def process(self, batch: Batch) -> Outcome:
        """Decode, read what is missing, score, encode; every message ends in exactly one fate."""
        work = _Work(batch, self._slot.get(), self._challenger.loaded, self._clock_ms(), self._settings)
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

    def _erasures(self, work: "_Work", key: bytes) -> list[Output]:
        """The null for the table of scores, and one for whoever keeps a table of a challenger's."""
        topics = [self._topics.lead_predictions]
        if work.challenger is not None and self._share == 0:
            topics.append(self._topics.shadow_predictions)
        return [Output(topic, key, None) for topic in topics]

    def _decode(self, work: "_Work") -> tuple[list[Change | Erasure], list[Request]]:
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

    def _read_leads(self, work: "_Work", stacks: list[list[Change]], requests: list[Request]) -> dict[str, Lead]:
        """One query for every lead of the batch whose state no change carries."""
        ids = {change.lead_id: None for stack in stacks for change in stack if change.lead is None}
        ids |= {id_: None for request in requests for id_ in request.lead_ids if id_ not in request.malformed}
        if not ids or not self._leads:
            return {}
        leads = self._leads.fetch(ids)
        work.leads_asked, work.leads_found = len(ids), len(leads)
        return leads

    def _score_changes(self, work: "_Work", stacks: list[list[Change]], leads: dict[str, Lead]) -> None:
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

    def _predict(self, work: "_Work", rows: list[Row]) -> Iterator[Predicted | Poison]:
        """For each row its prediction or the reason why there is none."""
        if not rows:
            return
        columns = columns_of([row.state for row in rows])
        as_of = np.array([row.occurred_at for row in rows], dtype=np.int64)
        with work.step("score"):
            scores = work.model.score(columns, as_of, self._settings.reasons)
        challenges = self._challenge(work, rows, scores)
        with work.step("encode"):
            for i, row in enumerate(rows):
                challenge = challenges.get(i)
                if challenge is not None and self._share > 0:
                    work.count(challenge.record)
                    yield challenge
                    continue
                poison = scores.failed.get(i)
                if poison is None:
                    try:
                        predicted = self._prediction(work, row, scores, i, work.model)
                    except Poison as error:
                        poison = error
                    else:
                        work.count(predicted.record)
                        yield replace(predicted, shadow=challenge.output) if challenge else predicted
                        continue
                yield poison
        changed = [i for i, row in enumerate(rows) if row.change_type != RESCORE and i not in scores.failed]
        if changed:
            work.scored.append(Scored([rows[i].lead_id for i in changed], changed, scores))

    def _challenge(self, work: "_Work", rows: list[Row], scores: Scores) -> dict[int, Predicted]:
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
                for j, i in enumerate(wanted):
                    with suppress(Poison):
                        if j not in found.failed:
                            challenges[i] = self._prediction(work, rows[i], found, j, model)
        work.challenged += Counter({(mode, "scored"): len(challenges), (mode, "failed"): len(wanted) - len(challenges)})
        return challenges

    def _prediction(self, work: "_Work", row: Row, scores: Scores, i: int, model: Model) -> Predicted:
        message = work.batch.messages[row.index]
        variant = CHAMPION if model is work.model else CHALLENGER
        record = {
            "prediction_id": prediction_id(row.event_id, row.lead_id, model.sha256, variant),
            "lead_id": row.lead_id,
            "prediction": bool(scores.prediction[i]),
            "probability": float(scores.probability[i]),
            "probability_low": float(scores.low[i]),
            "probability_high": float(scores.high[i]),
            "confidence": float(scores.confidence[i]),
            "grade": scores.grade[i],
            "raw_score": float(scores.raw[i]),
            "threshold": float(scores.threshold),
            "reasons": [{"feature": name, "contribution": points} for name, points in scores.reasons[i]],
            "feature_coverage": float(scores.coverage[i]),
            "imputed": list(scores.imputed[i]),
            "model_used": model.name,
            "model_version": model.version,
            "model_sha256": model.sha256,
            "variant": variant,
            "event_id": row.event_id,
            "change_type": row.change_type,
            "lead_version": row.lead_version,
            "coalesced_changes": row.coalesced,
            "occurred_at": row.occurred_at,
            "scored_at": work.now_ms,
            "source_topic": message.topic(),
            "source_partition": message.partition(),
            "source_offset": message.offset(),
        }
        in_shadow = variant == CHALLENGER and self._share == 0
        writer = self._codecs.shadow if in_shadow else self._codecs.predictions
        key, value = row.lead_id.encode(), writer.encode(record)
        _check_size(key, value)
        topic = self._topics.shadow_predictions if in_shadow else self._topics.lead_predictions
        return Predicted(record, Output(topic, key, value))

    def _answer_requests(self, work: "_Work", requests: list[Request], leads: dict[str, Lead]) -> None:
        for request in requests:
            try:
                self._answer(work, request, leads)
            except Poison as poison:
                work.bury(request.index, poison)

    def _answer(self, work: "_Work", request: Request, leads: dict[str, Lead]) -> None:
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
        self, work: "_Work", request: Request, predicted: dict[str, Predicted], errors: dict[str, tuple[str, str]]
    ) -> tuple[bytes, bytes]:
        fields = ("lead_id", "prediction", "probability", "confidence")
        record = {
            "request_id": request.request_id,
            "predictions": [
                {name: predicted[id_].record[name] for name in fields} for id_ in request.lead_ids if id_ in predicted
            ],
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
        _check_size(key, value)
        return key, value


class _Work:
    """The bookkeeping of one batch: outputs and fates by message, so that both come out in the order of the offsets."""

    def __init__(self, batch: Batch, model: Model, challenger: Model | None, now_ms: int, settings: Settings) -> None:
        self.batch = batch
        self.model = model
        # The champion may have just been moved to the challenger's version.
        self.challenger = None if challenger is None or challenger.version == model.version else challenger
        self.challenger_error: str | None = None
        self.challenged: Counter[tuple[str, str]] = Counter()
        self.now_ms = now_ms
        self.fates: dict[int, Fate] = {}
        self.request_indices: set[int] = set()
        self.imputed: Counter[str] = Counter()
        self.coverage: list[float] = []
        self.scored: list[Scored] = []
        self.leads_asked = self.leads_found = 0
        self._settings = settings
        self._outputs: dict[int, list[Output]] = {}
        self._buried: dict[int, Poison] = {}
        self._answers: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the step's seconds."""
        started = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def count(self, prediction: dict[str, Any]) -> None:
        """What the lead had of the inputs of the model that answers for it."""
        self.imputed.update(prediction["imputed"])
        self.coverage.append(prediction["feature_coverage"])

    def publish(self, index: int, outputs: list[Output]) -> None:
        """What message `index` leads to."""
        self._outputs[index] = outputs

    def answer(self, index: int, outputs: list[Output], answers: Counter[str]) -> None:
        """What a request leads to, and how each of its leads was answered."""
        self._outputs[index] = outputs
        self._answers += answers

    def bury(self, index: int, poison: Poison) -> None:
        """Message `index` becomes a dead letter."""
        self._buried[index] = poison
        letter = dead_letter(
            self._settings.topics.dead_letters,
            self.batch.messages[index],
            poison,
            failed_at=self.now_ms,
            group_id=self._settings.group_id,
            model_version=self.model.version,
        )
        self._outputs[index] = [letter]
        if index not in self.request_indices:
            self.fates[index] = Fate.DEAD_LETTERED

    def outcome(self) -> Outcome:
        """Everything that came of the batch; raises AssertionError where a change has no fate, which is a bug."""
        outputs = [output for index in sorted(self._outputs) for output in self._outputs[index]]
        outcome = Outcome(
            outputs=outputs,
            consumed=len(self.batch.messages) - len(self.request_indices),
            fates=Counter(self.fates.values()),
            requests_answered=len(self.request_indices - self._buried.keys()),
            requests_dead_lettered=len(self.request_indices & self._buried.keys()),
            request_leads=self._answers,
            letters=[self._buried.get(index) for index in range(len(self.batch.messages))],
            leads_asked=self.leads_asked,
            leads_found=self.leads_found,
            model_version=self.model.version,
            challenger_version=self.challenger.version if self.challenger else None,
            challenged=self.challenged,
            challenger_error=self.challenger_error,
            shadowed=any(output.topic == self._settings.topics.shadow_predictions for output in outputs),
            imputed=self.imputed,
            coverage=self.coverage,
            seconds=self._seconds,
            scored=self.scored,
        )
        if not outcome.balances():
            raise AssertionError(f"{outcome.consumed} changes consumed, {outcome.fates.total()} fates")
        return outcome


def prediction_id(event_id: str, lead_id: str, model_sha256: str, variant: str = CHAMPION) -> str:
    """The same for the same change and model, whenever and wherever it is scored: 128 bits of BLAKE2b, in hex."""
    identity = "\0".join((event_id, lead_id, model_sha256, variant))
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _asked_at(work: _Work, request: Request) -> int:
    """The moment that a request is about: when it was sent, so that a second try gives the same answer."""
    kind, timestamp = work.batch.messages[request.index].timestamp()
    return timestamp if kind else work.now_ms


def _check_size(key: bytes, value: bytes) -> None:
    size = len(key) + len(value)
    if size > MAX_OUTPUT_BYTES:
        raise Poison(
            Reason.OVERSIZED, "encode", f"the record has {size} bytes; at most {MAX_OUTPUT_BYTES} are published"
        )
