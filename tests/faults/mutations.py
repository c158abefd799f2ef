"""Single wrongs to do to a good history: whatever a broken consumer or a broken broker would leave
behind.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tests.faults.history import (
    Append,
    Ending,
    HistoryRecord,
    RecordKind,
    RunHistory,
    SentRecord,
    Span,
    VisibleRecord,
)

Mutation = Callable[[RunHistory, random.Random], RunHistory]
OUTPUTS = ("predictions", "letters", "results")


def _replaced(items: Sequence[Any], i: int, *new: Any) -> tuple[Any, ...]:
    return (*items[:i], *new, *items[i + 1 :])


def _with(history: RunHistory, **fields: Any) -> RunHistory:
    return replace(history, **fields)


def _edit(
    history: RunHistory, chance: random.Random, field: str, change: Callable[[Any], Any]
) -> RunHistory:
    """`change` one entry of a field, whichever it can be done to."""
    items = getattr(history, field)
    for i in chance.sample(range(len(items)), len(items)):
        changed = change(items[i])
        if changed != items[i]:
            return _with(history, **{field: _replaced(items, i, changed)})
    raise AssertionError(f"nothing in {field} to do this to")


def lost(history: RunHistory, chance: random.Random) -> RunHistory:
    field = chance.choice(OUTPUTS)
    items = getattr(history, field)
    return _with(history, **{field: _replaced(items, chance.randrange(len(items)))})


def lost_without_a_trace(history: RunHistory, chance: random.Random) -> RunHistory:
    """Neither in the topic nor in its log: as if it had never been produced."""
    gone: VisibleRecord = chance.choice(getattr(history, chance.choice(OUTPUTS)))
    append = next(a for a in history.appended if _holds(a, gone.record))
    before, after = (
        replace(append, last=gone.record.offset - 1),
        replace(append, first=gone.record.offset + 1),
    )
    left = [a for a in (before, after) if a.first <= a.last]
    fields = {
        field: tuple(o for o in getattr(history, field) if o is not gone) for field in OUTPUTS
    }
    return _with(
        history,
        **fields,
        appended=_replaced(history.appended, history.appended.index(append), *left),
    )


def repeated(history: RunHistory, chance: random.Random) -> RunHistory:
    """Once more, in a batch of its own that another transaction committed."""
    field = chance.choice(OUTPUTS)
    again: VisibleRecord = chance.choice(getattr(history, field))
    place = again.record.place
    offset = 2 + max(a.last for a in history.appended if a.place == place)
    append = replace(history.appended[0], place=place, first=offset, last=offset)
    number = chance.choice(history.transactions).number
    copy = replace(again, record=replace(again.record, offset=offset), transaction=number)
    return _with(
        history, **{field: (*getattr(history, field), copy)}, appended=(*history.appended, append)
    )


def reordered(history: RunHistory, chance: random.Random) -> RunHistory:
    """Two predictions of one lead, of different versions, change places."""
    changed = [
        o for o in history.predictions if o.record.value is not None and o.lead.startswith("lead_")
    ]
    chance.shuffle(changed)
    for first in changed:
        for second in changed:
            between = range(first.record.offset, second.record.offset)
            erased = any(
                o.lead == first.lead and o.record.offset in between
                for o in history.predictions
                if not o.source
            )
            if (
                first.lead == second.lead
                and 0 < first.version < second.version
                and between
                and not erased
            ):
                swapped = {
                    first: replace(
                        first, record=replace(first.record, offset=second.record.offset)
                    ),
                    second: replace(
                        second, record=replace(second.record, offset=first.record.offset)
                    ),
                }
                return replace(
                    history, predictions=tuple(swapped.get(o, o) for o in history.predictions)
                )
    raise AssertionError("no lead has two predictions")


def in_another_transaction(history: RunHistory, chance: random.Random) -> RunHistory:
    def moved(output: VisibleRecord) -> VisibleRecord:
        others = [t.number for t in history.transactions if t.number != output.transaction]
        return replace(output, transaction=chance.choice(others))

    return _edit(history, chance, chance.choice(OUTPUTS), moved)


def scored_though_late(history: RunHistory, chance: random.Random) -> RunHistory:
    """A change that was covered by a newer one that was there before it has a prediction all the
    same.
    """
    late = [sent for sent in _covered_alone(history) if sent.truth.kind is RecordKind.CHANGE]
    sent = chance.choice(late)
    number = next(
        t.number for t in history.transactions if any(_spans(span, sent.record) for span in t.spans)
    )
    [like, *_] = [
        o
        for o in history.predictions
        if o.lead == sent.truth.lead and o.version > sent.truth.version
    ]
    place = like.record.place
    offset = 2 + max(append.last for append in history.appended if append.place == place)
    brought = replace(
        like,
        record=replace(like.record, offset=offset),
        transaction=number,
        version=sent.truth.version,
        coalesced=0,
        source=(sent.record.place, sent.record.offset),
    )
    append = replace(history.appended[0], place=place, first=offset, last=offset)
    fields = {
        "predictions": (*history.predictions, brought),
        "appended": (*history.appended, append),
    }
    return _disposition_moved(history, _with(history, **fields), number, "coalesced", "scored")


def called_late(history: RunHistory, chance: random.Random) -> RunHistory:
    """A good change that nothing newer covers has no prediction, and the books say that it was
    coalesced.
    """
    gone = chance.choice(
        [o for o in history.predictions if o.source and not o.coalesced and o.version > 1]
    )
    assert gone.transaction is not None
    append = next(a for a in history.appended if _holds(a, gone.record))
    before, after = (
        replace(append, last=gone.record.offset - 1),
        replace(append, first=gone.record.offset + 1),
    )
    left = [a for a in (before, after) if a.first <= a.last]
    fields = {
        "predictions": tuple(o for o in history.predictions if o is not gone),
        "appended": _replaced(history.appended, history.appended.index(append), *left),
    }
    return _disposition_moved(
        history, _with(history, **fields), gone.transaction, "scored", "coalesced"
    )


def of_no_transaction(history: RunHistory, chance: random.Random) -> RunHistory:
    return _edit(
        history, chance, chance.choice(OUTPUTS), lambda output: replace(output, transaction=None)
    )


def of_another_record(history: RunHistory, chance: random.Random) -> RunHistory:
    def shifted(output: VisibleRecord) -> VisibleRecord:
        place, offset = output.source or (None, 0)
        return replace(output, source=(place, offset + chance.choice((-1, 1)))) if place else output

    return _edit(history, chance, chance.choice(("predictions", "letters")), shifted)


def another_version(history: RunHistory, chance: random.Random) -> RunHistory:
    sources = {(s.record.place, s.record.offset): s.truth for s in history.sent}

    def older(output: VisibleRecord) -> VisibleRecord:
        truth = sources.get(output.source) if output.source else None
        return replace(output, version=truth.version - 1) if truth else output

    return _edit(history, chance, "predictions", older)


def another_count(history: RunHistory, chance: random.Random) -> RunHistory:
    def more(output: VisibleRecord) -> VisibleRecord:
        return replace(output, coalesced=output.coalesced + 1) if output.source else output

    return _edit(history, chance, "predictions", more)


def another_lead(history: RunHistory, chance: random.Random) -> RunHistory:
    return _edit(
        history, chance, "predictions", lambda output: replace(output, lead=f"{output.lead}0")
    )


def another_model(history: RunHistory, chance: random.Random) -> RunHistory:
    alone = {
        t.number
        for t in history.transactions
        if sum(o.transaction == t.number for o in history.predictions) < 2
    }

    def other(output: VisibleRecord) -> VisibleRecord:
        return (
            replace(output, model="9.9.9")
            if output.model and output.transaction not in alone
            else output
        )

    return _edit(history, chance, "predictions", other)


def a_letter_changed(history: RunHistory, chance: random.Random) -> RunHistory:
    def flipped(data: bytes | None) -> bytes:
        if not data:
            return b"x" if data is None else None  # type: ignore[return-value]
        i = chance.randrange(len(data))
        return data[:i] + bytes([data[i] ^ 1 << chance.randrange(8)]) + data[i + 1 :]

    def changed(output: VisibleRecord) -> VisibleRecord:
        record = output.record
        i = chance.randrange(2)
        match chance.choice(
            ("key", "value", "timestamp", "header", "header's name", "header lost", "reason")
        ):
            case "key":
                record = replace(record, key=flipped(record.key))
            case "value":
                record = replace(record, value=flipped(record.value))
            case "timestamp":
                at = [name for name, _ in record.headers].index("dlq.original_timestamp")
                pair = ("dlq.original_timestamp", (record.headers[at][1] or b"") + b"0")
                record = replace(record, headers=_replaced(record.headers, at, pair))
            case "header":
                name, value = record.headers[i]
                record = replace(
                    record, headers=_replaced(record.headers, i, (name, flipped(value)))
                )
            case "header's name":
                name, value = record.headers[i]
                record = replace(record, headers=_replaced(record.headers, i, (name + "x", value)))
            case "header lost":
                record = replace(record, headers=_replaced(record.headers, i))
            case "reason":
                return replace(output, reason="SOMETHING_ELSE")
        return replace(output, record=record)

    return _edit(history, chance, "letters", changed)


def good_called_poison(history: RunHistory, chance: random.Random) -> RunHistory:
    """The sender meant a change that was dead-lettered to be a good one."""
    letters = {letter.source for letter in history.letters}

    def good(sent: Any) -> Any:
        if (sent.record.place, sent.record.offset) not in letters:
            return sent
        return replace(sent, truth=replace(sent.truth, kind=RecordKind.CHANGE))

    return _edit(history, chance, "sent", good)


def a_transaction_lost(history: RunHistory, chance: random.Random) -> RunHistory:
    return replace(
        history,
        transactions=_replaced(history.transactions, chance.randrange(len(history.transactions))),
    )


def a_transaction_twice(history: RunHistory, chance: random.Random) -> RunHistory:
    i = chance.randrange(len(history.transactions))
    one = history.transactions[i]
    return replace(history, transactions=_replaced(history.transactions, i, one, one))


def other_offsets(history: RunHistory, chance: random.Random) -> RunHistory:
    def shifted(transaction: Any) -> Any:
        i = chance.randrange(len(transaction.spans))
        span: Span = transaction.spans[i]
        field = chance.choice(("first", "after"))
        moved = replace(span, **{field: getattr(span, field) + chance.choice((-1, 1))})
        return replace(transaction, spans=_replaced(transaction.spans, i, moved))

    return _edit(history, chance, "transactions", shifted)


def committed_elsewhere(history: RunHistory, chance: random.Random) -> RunHistory:
    step = chance.choice((-1, 1))
    return _edit(history, chance, "committed", lambda span: replace(span, after=span.after + step))


def a_record_of_the_input_lost(history: RunHistory, chance: random.Random) -> RunHistory:
    return replace(history, sent=_replaced(history.sent, chance.randrange(len(history.sent))))


def aborted_but_seen(history: RunHistory, chance: random.Random) -> RunHistory:
    return _edit(history, chance, "appended", lambda append: replace(append, committed=False))


def committed_but_unseen(history: RunHistory, chance: random.Random) -> RunHistory:
    return _edit(history, chance, "appended", lambda append: replace(append, last=append.last + 1))


def in_no_log(history: RunHistory, chance: random.Random) -> RunHistory:
    return replace(
        history, appended=_replaced(history.appended, chance.randrange(len(history.appended)))
    )


def left_open(history: RunHistory, _chance: random.Random) -> RunHistory:
    return replace(history, unfinished=1)


def a_line_lost(history: RunHistory, chance: random.Random) -> RunHistory:
    """One more than the kill excuses."""

    def shorter(process: Any) -> Any:
        return replace(
            process, lines=_replaced(process.lines, chance.randrange(len(process.lines)))
        )

    return _edit(history, chance, "processes", shorter)


def a_line_twice(history: RunHistory, chance: random.Random) -> RunHistory:
    """It may not pass for the line that the killed process could not write."""
    unwritten = _unwritten(history)

    def longer(process: Any) -> Any:
        spoken = [line for line in process.lines if line.counts() not in unwritten]
        return replace(process, lines=(*process.lines, chance.choice(spoken)))

    return _edit(history, chance, "processes", longer)


def another_line(history: RunHistory, chance: random.Random) -> RunHistory:
    unwritten = _unwritten(history)

    def wrong(process: Any) -> Any:
        i = chance.randrange(len(process.lines))
        field = chance.choice(
            ("records", "consumed", "scored", "coalesced", "dead_lettered", "erased", "ignored")
        )
        line = replace(process.lines[i], **{field: getattr(process.lines[i], field) + 1})
        return (
            process
            if line.counts() in unwritten
            else replace(process, lines=_replaced(process.lines, i, line))
        )

    return _edit(history, chance, "processes", wrong)


def another_model_in_a_line(history: RunHistory, chance: random.Random) -> RunHistory:
    def wrong(process: Any) -> Any:
        i = chance.randrange(len(process.lines))
        return replace(
            process, lines=_replaced(process.lines, i, replace(process.lines[i], model="9.9.9"))
        )

    return _edit(history, chance, "processes", wrong)


def other_metrics(history: RunHistory, chance: random.Random) -> RunHistory:
    dispositions = ("scored", "coalesced", "dead_lettered", "erased", "ignored")

    def counted(process: Any) -> Any:
        sums = {
            disposition: sum(getattr(line, disposition) for line in process.lines)
            for disposition in dispositions
        }
        sums[chance.choice(dispositions)] += 1
        return replace(process, metrics=sums)

    return _edit(history, chance, "processes", counted)


def a_process_that_dies(history: RunHistory, chance: random.Random) -> RunHistory:
    return _edit(
        history, chance, "processes", lambda p: replace(p, ending=Ending.DIED, exit_code=1)
    )


def a_process_that_stops_badly(history: RunHistory, chance: random.Random) -> RunHistory:
    return _edit(
        history, chance, "processes", lambda p: replace(p, exit_code=1) if p.exit_code == 0 else p
    )


def a_stack_trace(history: RunHistory, chance: random.Random) -> RunHistory:
    return _edit(
        history,
        chance,
        "processes",
        lambda p: replace(p, sentences=("Traceback (most recent call last):",)),
    )


def _holds(append: Append, record: HistoryRecord) -> bool:
    return append.place == record.place and append.first <= record.offset <= append.last


def _spans(span: Span, record: HistoryRecord) -> bool:
    return span.place == record.place and span.first <= record.offset < span.after


def _covered_alone(history: RunHistory) -> list[SentRecord]:
    """Changes that have no output, whose lead has no output of their transaction either: they came
    late.
    """
    changed = {(output.transaction, output.lead) for output in history.predictions}
    answered = {output.source for output in (*history.predictions, *history.letters)}
    return [
        sent
        for transaction in history.transactions
        for sent in history.sent
        if any(_spans(span, sent.record) for span in transaction.spans)
        and (sent.record.place, sent.record.offset) not in answered
        and (transaction.number, sent.truth.lead) not in changed
    ]


def _disposition_moved(
    good: RunHistory, history: RunHistory, number: int, fewer: str, more: str
) -> RunHistory:
    """Books that agree with what was done: one `fewer` and one `more` in the line of a transaction,
    if it has one.
    """
    from tests.faults.expectation import expected

    counts = expected(good)[number].counts()
    for i, process in enumerate(history.processes):
        for j, line in enumerate(process.lines):
            if line.counts() == counts:
                moved = replace(
                    line, **{fewer: getattr(line, fewer) - 1, more: getattr(line, more) + 1}
                )
                changed = replace(process, lines=_replaced(process.lines, j, moved))
                return _with(history, processes=_replaced(history.processes, i, changed))
    return history


def _unwritten(history: RunHistory) -> set[tuple[int, ...]]:
    """The numbers of the transactions that no line tells of."""
    from tests.faults.expectation import expected

    written = [line.counts() for process in history.processes for line in process.lines]
    left = [due.counts() for due in expected(history).values()]
    for counts in written:
        left.remove(counts)
    return set(left)


MUTATIONS: dict[str, Mutation] = {
    name.replace("_", " "): function
    for name, function in list(globals().items())
    if callable(function)
    and not name.startswith("_")
    and getattr(function, "__module__", "") == __name__
}
