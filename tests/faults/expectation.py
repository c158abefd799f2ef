"""What must come of the records that one transaction consumed: the contract's rules, told apart
from the code's.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.history import (
    DISPOSITIONS,
    RecordKind,
    RunHistory,
    SentRecord,
    TopicSlice,
    VisibleRecord,
)

Source = tuple[TopicSlice, int]


@dataclass(frozen=True, slots=True)
class ExpectedDispositions:
    """The fate of each record of one lead in one batch, by offset, and how many changes its
    prediction covers.

    `ended` are the highest versions that the erasures end, in order.
    """

    dispositions: dict[int, str]
    covered: int
    ended: list[int]


@dataclass(slots=True)
class Expected:
    """What must come of a transaction: its outputs, the fates of its changes, which change each
    prediction is of, with how many it covers, and by lead the versions that its erasures end, in
    order.
    """

    outputs: Counter[tuple[str, Any]] = field(default_factory=Counter)
    dispositions: Counter[str] = field(default_factory=Counter)
    scored: dict[Source | None, tuple[SentRecord, int]] = field(default_factory=dict)
    erased: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    requests: int = 0

    def counts(self) -> tuple[int, ...]:
        """The same numbers in the same order as `Line.counts` of its log line."""
        changes = self.dispositions.total()
        return (
            changes + self.requests,
            changes,
            *(self.dispositions[disposition] for disposition in DISPOSITIONS),
            self.requests,
        )


def by_transaction(outputs: Iterable[VisibleRecord]) -> dict[int | None, list[VisibleRecord]]:
    """Outputs by the number of their transaction."""
    found: dict[int | None, list[VisibleRecord]] = defaultdict(list)
    for output in outputs:
        found[output.transaction].append(output)
    return found


def consumed(history: RunHistory) -> dict[int, list[SentRecord]]:
    """What each transaction consumed, in the order of the offsets."""
    at = {(sent.record.place, sent.record.offset): sent for sent in history.sent}
    return {
        transaction.number: [
            at[span.place, offset]
            for span in transaction.spans
            for offset in range(span.first, span.after)
            if (span.place, offset) in at
        ]
        for transaction in history.transactions
    }


def expected(history: RunHistory) -> dict[int, Expected]:
    """What must come of each transaction, by its number.

    What is older than what earlier transactions published of its lead, or erased, is covered by
    that.
    """
    predictions = by_transaction(history.predictions)
    published: dict[str, int] = defaultdict(int)
    found = {}
    for number, inputs in consumed(history).items():
        found[number] = due = Expected()
        by_lead: dict[tuple[TopicSlice, str], list[SentRecord]] = defaultdict(list)
        for sent in inputs:
            source = _source(sent)
            if sent.record.place.topic == history.requests_topic:
                _of_request(due, sent, source)
            else:
                by_lead[sent.record.place, sent.truth.lead].append(sent)
        for (_, lead), changes in by_lead.items():
            _of_lead(due, changes, published[lead], history.coalesce)
        for lead, ended in due.erased.items():
            published[lead] = max(published[lead], *ended)
        for output in predictions[number]:
            if (
                output.source
                and output.source in due.scored
                and output.source[0].topic != history.requests_topic
            ):
                published[output.lead] = max(published[output.lead], output.version)
    return found


def _source(sent: SentRecord) -> Source:
    return sent.record.place, sent.record.offset


def _of_request(due: Expected, sent: SentRecord, source: Source) -> None:
    due.requests += 1
    if sent.truth.kind is RecordKind.POISON:
        due.outputs["letter", source] += 1
        return
    due.outputs["result", sent.truth.lead] += 1
    if sent.truth.leads:
        due.outputs["prediction", source] += len(sent.truth.leads)
        due.scored[source] = (sent, 0)


def _of_lead(due: Expected, changes: Sequence[SentRecord], published: int, coalesce: bool) -> None:
    found = expect(changes, published) if coalesce else expect_each(changes, published)
    due.dispositions.update(found.dispositions.values())
    if found.ended:
        due.erased[changes[0].truth.lead] += found.ended
    for sent in changes:
        source = _source(sent)
        match found.dispositions[sent.record.offset]:
            case "scored":
                due.outputs["prediction", source] += 1
                due.scored[source] = (sent, found.covered)
            case "dead_lettered":
                due.outputs["letter", source] += 1
            case "erased":
                due.outputs["erasure", sent.truth.lead] += 1


def expect(changes: Sequence[SentRecord], published: int) -> ExpectedDispositions:
    """The fates of one lead's records in one batch, when the lead stands at the version
    `published`.

    Newer is the higher version of the state, then the later offset. A null value and a DELETED are
    newer than all before them. Poison that shows only when it is scored gives its place to the
    change below it. A state that the database has is never late.
    """
    dispositions: dict[int, str] = {}
    stack: list[SentRecord] = []
    ended: list[int] = []
    erased_at = 0
    for sent in changes:
        truth, offset = sent.truth, sent.record.offset
        newest = max(erased_at, *(below.truth.version for below in stack), 0)
        if early := _before_scoring(sent):
            dispositions[offset] = early
        elif truth.kind is RecordKind.ERASURE:
            dispositions |= {below.record.offset: "coalesced" for below in stack}
            stack, erased_at = [], max(newest, truth.version)
            dispositions[offset] = "erased"
            ended.append(max(erased_at, published))
        elif 0 < truth.version < erased_at:
            dispositions[offset] = "coalesced"
        else:
            stack.append(sent)
    # States of the database are as new as the database: then the later offset is newer.
    stack.sort(key=lambda sent: 0 if sent.truth.without_state else sent.truth.version)
    while (
        stack and stack[-1].truth.kind is RecordKind.POISON and not _is_late(stack[-1], published)
    ):
        dispositions[stack.pop().record.offset] = "dead_lettered"
    if stack and not _is_late(stack[-1], published):
        dispositions[stack.pop().record.offset] = "scored"
    dispositions |= {sent.record.offset: "coalesced" for sent in stack}
    return ExpectedDispositions(dispositions, len(stack), ended)


def expect_each(changes: Sequence[SentRecord], published: int) -> ExpectedDispositions:
    """The same where nothing is coalesced but what is late: older than `published`, or than a good
    one before it.
    """
    dispositions: dict[int, str] = {}
    ended: list[int] = []
    newest = published
    for sent in changes:
        truth, offset = sent.truth, sent.record.offset
        if early := _before_scoring(sent):
            dispositions[offset] = early
        elif truth.kind is RecordKind.POISON:
            dispositions[offset] = "coalesced" if _is_late(sent, published) else "dead_lettered"
        elif truth.kind is not RecordKind.ERASURE and _is_late(sent, newest):
            dispositions[offset] = "coalesced"
        else:
            dispositions[offset] = "erased" if truth.kind is RecordKind.ERASURE else "scored"
            newest = max(newest, truth.version)
            ended += [newest] if truth.kind is RecordKind.ERASURE else []
    return ExpectedDispositions(dispositions, 0, ended)


def _before_scoring(sent: SentRecord) -> str | None:
    """The fate of what is no change that could be scored, nor an erasure."""
    if sent.truth.kind is RecordKind.IGNORED:
        return "ignored"
    return "dead_lettered" if sent.truth.kind is RecordKind.POISON and not sent.truth.late else None


def _is_late(sent: SentRecord, published: int) -> bool:
    return not sent.truth.without_state and 0 < sent.truth.version < published


def format_output(what: tuple[str, Any]) -> str:
    """An output in words."""
    kind, about = what
    return (
        f"{kind} of {about[0].format()}-{about[1]}"
        if isinstance(about, tuple)
        else f"{kind} of {about}"
    )
