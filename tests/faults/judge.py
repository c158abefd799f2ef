"""What must come of the records that one transaction consumed: the contract's rules, told apart from the code's."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.history import FATES, History, Kind, Output, Place, Sent

Source = tuple[Place, int]


@dataclass(frozen=True, slots=True)
class Judged:
    """The fate of each record of one lead in one batch, by offset, and how many changes its prediction covers."""

    fates: dict[int, str]
    covered: int


@dataclass(slots=True)
class Expected:
    """What must come of a transaction: its outputs, the fates of its changes, which change each prediction is of, with
    how many it covers, and by lead the versions of what erases it, in order.
    """

    outputs: Counter[tuple[str, Any]] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    scored: dict[Source | None, tuple[Sent, int]] = field(default_factory=dict)
    erased: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    requests: int = 0

    def counts(self) -> tuple[int, ...]:
        """The same numbers in the same order as `Line.counts` of its log line."""
        changes = self.fates.total()
        return (changes + self.requests, changes, *(self.fates[fate] for fate in FATES), self.requests)


def by_transaction(outputs: Iterable[Output]) -> dict[int | None, list[Output]]:
    """Outputs by the number of their transaction."""
    found: dict[int | None, list[Output]] = defaultdict(list)
    for output in outputs:
        found[output.transaction].append(output)
    return found


def consumed(history: History) -> dict[int, list[Sent]]:
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


def expected(history: History) -> dict[int, Expected]:
    """What must come of each transaction, by its number.

    A change older than what was published of its lead before may also be covered by that, and have no output.
    """
    answered = {output.source for output in (*history.predictions, *history.letters)}
    predictions = by_transaction(history.predictions)
    published: dict[str, int] = defaultdict(int)
    found = {}
    for number, inputs in consumed(history).items():
        found[number] = due = Expected()
        by_lead: dict[tuple[Place, str], list[Sent]] = defaultdict(list)
        for sent in inputs:
            source = _source(sent)
            if sent.record.place.topic == history.requests_topic:
                _of_request(due, sent, source)
            else:
                by_lead[sent.record.place, sent.truth.lead].append(sent)
        for changes in by_lead.values():
            silent = [sent for sent in changes if _is_late(sent, published) and _source(sent) not in answered]
            _of_lead(due, changes, silent, history.coalesce)
        for output in predictions[number]:
            if output.source in due.scored:
                # The change's own version: a thin one is published with the database's, which is ahead of its events.
                version = due.scored[output.source][0].truth.version
                published[output.lead] = max(published[output.lead], version)
    return found


def _source(sent: Sent) -> Source:
    return sent.record.place, sent.record.offset


def _is_late(sent: Sent, published: dict[str, int]) -> bool:
    truth = sent.truth
    is_change = truth.kind is Kind.CHANGE or truth.late
    return is_change and 0 < truth.version < published[truth.lead]


def _of_request(due: Expected, sent: Sent, source: Source) -> None:
    due.requests += 1
    if sent.truth.kind is Kind.POISON:
        due.outputs["letter", source] += 1
        return
    due.outputs["result", sent.truth.lead] += 1
    if sent.truth.leads:
        due.outputs["prediction", source] += len(sent.truth.leads)
        due.scored[source] = (sent, 0)


def _of_lead(due: Expected, changes: Sequence[Sent], silent: Sequence[Sent], coalesce: bool) -> None:
    """`silent` are those that are late and have no output: where one would have had its own, it is covered instead."""
    judged = judge(changes, coalesce)
    while covered := [sent for sent in silent if judged.fates[sent.record.offset] in {"scored", "dead_lettered"}]:
        due.fates["coalesced"] += len(covered)
        silent = [sent for sent in silent if sent not in covered]
        changes = [sent for sent in changes if sent not in covered]
        judged = judge(changes, coalesce)
    due.fates.update(judged.fates.values())
    for sent in changes:
        source = _source(sent)
        match judged.fates[sent.record.offset]:
            case "scored":
                due.outputs["prediction", source] += 1
                due.scored[source] = (sent, judged.covered)
            case "dead_lettered":
                due.outputs["letter", source] += 1
            case "erased":
                due.outputs["erasure", sent.truth.lead] += 1
                due.erased[sent.truth.lead].append(sent.truth.version)


def judge(changes: Sequence[Sent], coalesce: bool) -> Judged:
    """The fates of one lead's records in one batch.

    Newer is the higher version, then the later offset. A null value is newer than all before it; a DELETED is as new
    as its version. Poison that shows only when it is scored gives its place to the change below it.
    """
    fates: dict[int, str] = {}
    stack: list[Sent] = []
    erased_at = 0
    for sent in changes:
        truth, offset = sent.truth, sent.record.offset
        newest = max((below.truth.version for below in stack), default=0)
        if truth.kind is Kind.IGNORED:
            fates[offset] = "ignored"
        elif truth.kind is Kind.POISON and not truth.late:
            fates[offset] = "dead_lettered"
        elif coalesce and 0 < truth.version < (newest if truth.kind is Kind.ERASURE else erased_at):
            fates[offset] = "coalesced"
        elif truth.kind is Kind.ERASURE:
            fates[offset] = "erased"
            if coalesce:
                fates |= {below.record.offset: "coalesced" for below in stack}
                stack, erased_at = [], max(erased_at, truth.version)
        else:
            stack.append(sent)
    if not coalesce:
        own = {True: "dead_lettered", False: "scored"}
        return Judged(fates | {s.record.offset: own[s.truth.kind is Kind.POISON] for s in stack}, 0)
    stack.sort(key=lambda sent: sent.truth.version)
    while stack and stack[-1].truth.kind is Kind.POISON:
        fates[stack.pop().record.offset] = "dead_lettered"
    if stack:
        fates[stack.pop().record.offset] = "scored"
    fates |= {sent.record.offset: "coalesced" for sent in stack}
    return Judged(fates, len(stack))


def shown(what: tuple[str, Any]) -> str:
    """An output in words."""
    kind, about = what
    return f"{kind} of {about[0].shown()}-{about[1]}" if isinstance(about, tuple) else f"{kind} of {about}"
