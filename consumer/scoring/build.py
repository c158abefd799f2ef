"""The parts of a batch, put together: each message gets one disposition, each record its place."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.erasures import Erasures, OffsetOrder, drop_superseded, with_version
from consumer.scoring.events import EventKind, EventTable
from consumer.scoring.requests import RescoreReply
from consumer.scoring.result import BatchResult, Disposition
from consumer.scoring.rounds import ScoredRounds
from consumer.scoring.score import BatchContext, Predicted
from consumer.scoring.states import LeadsRead
from leadstream.errors import Poison
from leadstream.kafka.config import Record
from leadstream.kafka.dead_letter import dead_letter
from leadstream.kafka.topic_config import RecordLimits
from leadstream.settings import Settings

Ints = NDArray[np.intp]
_DISPOSITIONS = tuple(Disposition)
_NONE = len(_DISPOSITIONS)


@dataclass(frozen=True, slots=True, eq=False)
class BatchParts:
    """The returned values of the steps of a batch.

    `requested` are the predictions of rescore requests, `results` the records that answer them,
    by message. `poisons` says by message why it is a dead letter. `seconds` are those of the steps
    that `changes` and `requested` do not have. With `by_offset` each change has its own
    prediction, and one that is older than another before it is late. `limits` say how large a
    letter may be. `stale` counts the states that were older than their change.
    """

    context: BatchContext
    table: EventTable
    superseded: Ints
    erasures: Erasures
    changes: ScoredRounds
    requested: Sequence[Predicted]
    replies: Sequence[RescoreReply]
    results: dict[int, Record]
    poisons: dict[int, Poison]
    reads: Sequence[LeadsRead]
    seconds: dict[str, float]
    by_offset: bool
    limits: RecordLimits
    stale: int


def build_result(parts: BatchParts, settings: Settings) -> BatchResult:
    """Return the result of a batch.

    Raises AssertionError if a change has no disposition, which is a bug.
    """
    context, table, changes = parts.context, parts.table, parts.changes
    requests = set(table.rows(EventKind.REQUEST).tolist())
    predicted = [*changes.predicted, *parts.requested]
    erased = parts.erasures.published
    scored = [each.rows.published(each.indices) for each in changes.predicted]
    order = drop_superseded(erased, scored) if parts.by_offset else None
    records, sources = _sorted_records(parts, order, settings)
    error = next((each.challenge.error for each in predicted if each.challenge.error), None)
    challenger = None if error else context.challenger
    result = BatchResult(
        records=records,
        sources=sources,
        consumed=len(table.keys) - len(requests),
        dispositions=_dispositions(parts, order),
        requests_answered=len(requests - parts.poisons.keys()),
        requests_dead_lettered=len(requests & parts.poisons.keys()),
        request_leads=_total(
            reply.counts() for reply in parts.replies if reply.request.index in parts.results
        ),
        letters=dict(sorted(parts.poisons.items())),
        queries=sum(read.queries for read in parts.reads),
        leads_asked=sum(read.asked for read in parts.reads),
        leads_found=sum(len(read.leads) for read in parts.reads),
        model_version=context.champion.version,
        challenger_version=challenger.version if challenger else None,
        challenged=_total(each.challenge.counts for each in predicted),
        challenger_error=error,
        shadowed=challenger is not None
        and any(topic == settings.topics.shadow_predictions for topic, *_ in records),
        imputed=_total(each.imputed() for each in predicted),
        coverage=list(chain.from_iterable(each.coverage() for each in predicted)),
        seconds=_added([parts.seconds, *(each.seconds for each in predicted)]),
        scored=[each for each in (some.scored_changes() for some in predicted) if each],
        late=len(changes.late)
        + (len(order.late) if order else 0)
        + len(table.rows(EventKind.ERASED)),
        inherited=changes.inherited,
        stale=parts.stale,
        frozen=changes.frozen.tolist(),
        published=[erased, *scored] if order is None else [order.published],
        fallbacks=+Counter(
            {"decode": int(table.fallback), "encode": sum(each.fallbacks for each in predicted)}
        ),
        began_ms=context.began_ms,
    )
    if not result.balances():
        raise AssertionError(
            f"{result.consumed} changes consumed, {result.dispositions.total()} dispositions"
        )
    return result


def _dispositions(parts: BatchParts, order: OffsetOrder | None) -> Counter[Disposition]:
    """Count the dispositions of the messages; one without any is in no count."""
    table = parts.table
    codes = np.full(len(table.keys), _NONE, np.uint8)

    def mark(index: Any, disposition: Disposition) -> None:
        codes[index] = _DISPOSITIONS.index(disposition)

    mark(table.kind == EventKind.IGNORED, Disposition.IGNORED)
    mark(parts.superseded, Disposition.COALESCED)
    mark(table.kind == EventKind.ERASED, Disposition.COALESCED)
    mark(parts.erasures.index, Disposition.ERASED)
    mark(parts.changes.coalesced, Disposition.COALESCED)
    mark(parts.changes.late, Disposition.COALESCED)
    for each in parts.changes.predicted:
        mark(each.rows.index[each.indices], Disposition.SCORED)
    mark(list(parts.changes.failed), Disposition.DEAD_LETTERED)
    mark(table.kind == EventKind.INVALID, Disposition.DEAD_LETTERED)
    if order is not None:
        mark(list(order.late), Disposition.COALESCED)
    counts = np.bincount(codes, minlength=_NONE).tolist()
    return Counter(
        {each: count for each, count in zip(_DISPOSITIONS, counts, strict=False) if count}
    )


def _sorted_records(
    parts: BatchParts, order: OffsetOrder | None, settings: Settings
) -> tuple[list[Record], Ints]:
    """Return the records in the order of their messages, and the message of each.

    The records of one message stay in the order in which they were made.
    """
    sources: list[int] = []
    records: list[Record] = []

    def add(index: Sequence[int], some: Sequence[Record]) -> None:
        sources.extend(index)
        records.extend(some)

    for row, nulls in zip(parts.erasures.index.tolist(), parts.erasures.nulls, strict=True):
        add([row] * len(nulls), nulls)
    for each in parts.changes.predicted:
        add(each.rows.index[each.indices].tolist(), each.outputs)
        add([int(each.rows.index[row]) for row in each.shadows], list(each.shadows.values()))
    if order is not None:
        sources, records = _in_offset_order(sources, records, order)
    for row, poison in parts.poisons.items():
        letter = dead_letter(
            settings.topics.dead_letters,
            parts.context.batch.messages[row],
            poison,
            failed_at=parts.context.began_ms,
            group_id=settings.group_id,
            model_version=parts.context.champion.version,
            limits=parts.limits,
            replay_key=settings.id_hash_key,
        )
        add([row], [letter])
    for reply in parts.replies:
        row = reply.request.index
        if row in parts.results:
            add([row] * (len(reply.records) + 1), [*reply.records, parts.results[row]])
    index = np.array(sources, np.intp)
    sort = np.argsort(index, kind="stable")
    return [records[place] for place in sort.tolist()], index[sort]


def _in_offset_order(
    sources: Sequence[int], records: Sequence[Record], order: OffsetOrder
) -> tuple[list[int], list[Record]]:
    """Drop the records of late messages, and let each null say which version it ends."""
    kept = [
        (row, record) for row, record in zip(sources, records, strict=True) if row not in order.late
    ]
    return [row for row, _ in kept], [
        with_version(record, order.ended[row])
        if record[2] is None and row in order.ended
        else record
        for row, record in kept
    ]


def _total(counters: Iterable[Counter[Any]]) -> Counter[Any]:
    """Add counters up, without what was counted 0 times."""
    total: Counter[Any] = Counter()
    for counter in counters:
        total += counter
    return total


def _added(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for step, seconds in part.items():
            total[step] = total.get(step, 0.0) + seconds
    return total
