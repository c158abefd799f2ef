"""What must hold of every history, whatever was killed, cut off or filled up while it happened.

Pure functions.

offsets    the committed transactions' spans follow each other without gap or overlap, up to the end
           of each topic
fates      in its transaction every consumed record has exactly one outcome, and every output its
           one source
letters    poison and only poison is dead-lettered, with key, value, timestamp and headers as they
           were
order      the predictions of a lead never go back in lead_version, and no older change brings back
           an erased lead; what is older than what was published before has no output (which
           `dispositions` holds, too)
models     no transaction mixes two model versions
visible    a subscriber sees all of the committed transactions and nothing else, and none is left
           open
books      each process's log lines are transactions, and each transaction has its line, but for
           what a process could not write any more: at most one for each kill or rejoining, and
           those that its full log dropped
processes  nobody ends but by the harness, or as a static member whose name another process took;
           nobody else has anything to say to people
"""

import hashlib
import signal
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.faults.expectation import Expected, by_transaction, expected, format_output
from tests.faults.history import (
    DISPOSITIONS,
    Ending,
    HistoryRecord,
    ProcessRun,
    RecordKind,
    RunHistory,
    SentRecord,
    TopicSlice,
    VisibleRecord,
)

OWN_HEADERS = ("__connect.errors.", "dlq.")


@dataclass(frozen=True, slots=True)
class Violation:
    """What does not hold, and the rule that says so."""

    rule: str
    what: str


def violations(history: RunHistory) -> list[Violation]:
    """Everything that is wrong with a history; empty where every promise was kept."""
    wanted = expected(history)
    return [
        *_offsets(history),
        *_dispositions(history, wanted),
        *_letters(history),
        *_order(history, wanted),
        *_models(history),
        *_visible(history),
        *_accounting(history, wanted),
        *_processes(history.processes),
    ]


def _offsets(history: RunHistory) -> Iterator[Violation]:
    stands: dict[TopicSlice, int] = defaultdict(int)
    for transaction in history.transactions:
        for span in transaction.spans:
            if span.first != stands[span.place] or span.after <= span.first:
                spoken = (
                    f"{span.first} to {span.after} of {span.place.format()}, which stood at "
                    f"{stands[span.place]}"
                )
                yield Violation("offsets", f"transaction {transaction.number} commits {spoken}")
            stands[span.place] = span.after
    counts = Counter(sent.record.place for sent in history.sent)
    ends: Counter[TopicSlice] = Counter()
    for sent in history.sent:
        ends[sent.record.place] = max(ends[sent.record.place], sent.record.offset + 1)
    for hole in history.holes:
        counts[hole.place] += hole.after - hole.first
        ends[hole.place] = max(ends[hole.place], hole.after)
    committed = {span.place: span.after for span in history.committed}
    for place in counts.keys() | committed.keys() | stands.keys():
        end = ends[place]
        if counts[place] != end:
            yield Violation(
                "offsets", f"{place.format()} has {counts[place]} records up to offset {end}"
            )
        if not end == stands[place] == committed.get(place, 0):
            reached = f"the transactions reach {stands[place]}, the group {committed.get(place, 0)}"
            yield Violation("offsets", f"{place.format()} ends at {end}; {reached}")


def _dispositions(history: RunHistory, wanted: dict[int, Expected]) -> Iterator[Violation]:
    for output in (*history.predictions, *history.letters, *history.results):
        if output.transaction not in wanted:
            yield Violation("fates", f"{output.record.at()} belongs to no committed transaction")
    predictions, letters = by_transaction(history.predictions), by_transaction(history.letters)
    results = by_transaction(history.results)
    for number, due in wanted.items():
        found = Counter(
            [
                ("prediction", output.source)
                for output in predictions[number]
                if output.record.value is not None
            ]
            + [("letter", output.source) for output in letters[number]]
            + [
                ("erasure", output.lead)
                for output in predictions[number]
                if output.record.value is None
            ]
            + [("result", output.lead) for output in results[number]]
        )
        for what, count in (due.outputs - found).items():
            yield Violation("fates", f"transaction {number} lacks {count}: {format_output(what)}")
        for what, count in (found - due.outputs).items():
            yield Violation(
                "fates", f"transaction {number} has {count} too many: {format_output(what)}"
            )
        for output in predictions[number]:
            if output.source in due.scored:
                yield from _as_sent(output, *due.scored[output.source])


def _as_sent(output: VisibleRecord, sent: SentRecord, covered: int) -> Iterator[Violation]:
    truth = sent.truth
    leads = truth.leads or (truth.lead,)
    fits = (
        output.version >= truth.version if truth.without_state else output.version == truth.version
    )
    if output.lead not in leads or output.record.key != output.lead.encode() or not fits:
        yield Violation(
            "fates",
            f"{output.record.at()} is not about version {truth.version} of {' or '.join(leads)}",
        )
    if output.coalesced != covered:
        yield Violation(
            "fates", f"{output.record.at()} covers {output.coalesced} changes, not {covered}"
        )


def _letters(history: RunHistory) -> Iterator[Violation]:
    at = {(sent.record.place, sent.record.offset): sent for sent in history.sent}
    for letter in history.letters:
        sent = at.get(letter.source) if letter.source else None
        if sent is None:
            yield Violation("letters", f"{letter.record.at()} is of a record that was never sent")
            continue
        record, original = letter.record, sent.record
        if sent.truth.kind is not RecordKind.POISON or letter.reason != sent.truth.reason:
            meant = sent.truth.reason or sent.truth.kind.value
            yield Violation(
                "letters",
                f"{record.at()} says {letter.reason} of {original.at()}, which is {meant}",
            )
        own = tuple(each for each in original.headers if not each[0].startswith(OWN_HEADERS))
        kept, added = record.headers[: len(own)], record.headers[len(own) :]
        named = dict(added)
        given = named.get("dlq.original_timestamp"), named.get("dlq.replays")
        key = None if "dlq.no_key" in named and record.key == _place(original) else record.key
        if (key, given) != (
            original.key,
            (str(original.timestamp).encode(), b"0"),
        ) or not _holds(record.value, original.value, named):
            yield Violation("letters", f"{record.at()} is not {original.at()} byte for byte")
        if kept != own or not all(name.startswith(OWN_HEADERS) for name, _ in added):
            yield Violation(
                "letters",
                f"{record.at()} does not have the headers of {original.at()}, and then its own",
            )


def _place(record: HistoryRecord) -> bytes:
    """Return the key of the letter of a record without one, where its topic wants one."""
    return f"{record.place.topic}-{record.place.partition}-{record.offset}".encode()


def _holds(value: bytes | None, original: bytes | None, named: Mapping[str, bytes | None]) -> bool:
    """Return whether a letter has the value of its original, or says what it lacks of it."""
    if "dlq.cut" not in named:
        return value == original
    content = original or b""
    digest = hashlib.sha256(content).hexdigest().encode()
    return (
        named["dlq.cut"] == b"value"
        and content.startswith(value or b"")
        and (named["dlq.value_bytes"], named["dlq.value_sha256"])
        == (str(len(content)).encode(), digest)
    )


def _order(history: RunHistory, wanted: dict[int, Expected]) -> Iterator[Violation]:
    erased = {
        (number, lead): deque(found)
        for number, due in wanted.items()
        for lead, found in due.erased.items()
    }
    highest: dict[str, int] = defaultdict(int)
    for output in sorted(history.predictions, key=lambda output: output.record.offset):
        if output.record.value is None:
            # A null ends all versions before it; those of changes that it covers, too.
            versions = erased.get((output.transaction or 0, output.lead))
            highest[output.lead] = max(highest[output.lead], versions.popleft() if versions else 0)
        elif 0 < output.version < highest[output.lead]:
            went = (
                f"goes back to version {output.version} of {output.lead}, which had "
                f"{highest[output.lead]}"
            )
            yield Violation("order", f"{output.record.at()} {went}")
        else:
            highest[output.lead] = max(highest[output.lead], output.version)


def _models(history: RunHistory) -> Iterator[Violation]:
    models: dict[int | None, set[str]] = defaultdict(set)
    for output in (*history.predictions, *history.letters):
        if output.model is not None:
            models[output.transaction].add(output.model)
    for number, versions in models.items():
        if len(versions) > 1:
            yield Violation("models", f"transaction {number} mixes {', '.join(sorted(versions))}")


def _visible(history: RunHistory) -> Iterator[Violation]:
    seen: dict[TopicSlice, Counter[int]] = defaultdict(Counter)
    for output in (*history.predictions, *history.letters, *history.results):
        seen[output.record.place][output.record.offset] += 1
    for append in history.appended:
        offsets = range(append.first, append.last + 1)
        found = [seen[append.place].pop(offset, 0) for offset in offsets]
        if any(count != append.committed for count in found):
            state = "committed" if append.committed else "aborted or open"
            where = f"{append.place.format()} {append.first} to {append.last}"
            yield Violation(
                "visible", f"{where} is {state}, and a subscriber sees {sum(found)} of its records"
            )
    for place, left in seen.items():
        for offset in left:
            yield Violation(
                "visible", f"{place.format()} shows offset {offset}, which its log does not have"
            )
    if history.unfinished:
        yield Violation("visible", f"{history.unfinished} transactions were left open")


def _accounting(history: RunHistory, wanted: dict[int, Expected]) -> Iterator[Violation]:
    models = {
        output.transaction: output.model
        for output in (*history.predictions, *history.letters)
        if output.model
    }
    lines = Counter(
        (line.counts(), line.model) for process in history.processes for line in process.lines
    )
    without: list[tuple[int, ...]] = []
    # Transactions that name their model first: the others take any line with their numbers.
    for number in sorted(wanted, key=lambda number: number not in models):
        counts = wanted[number].counts()
        fitting = [
            line
            for line, left in lines.items()
            if left and line[0] == counts and (number not in models or line[1] == models[number])
        ]
        if fitting:
            lines[fitting[0]] -= 1
        else:
            without.append(counts)
    for (counts, model), left in lines.items():
        if left:
            yield Violation(
                "books",
                f"{left} log lines say {_format_counts(counts)} with model {model}; no "
                f"transaction does",
            )
    excused = sum(
        (process.ending is not Ending.STOPPED) + process.rejoins + process.dropped
        for process in history.processes
    )
    if len(without) > excused:
        missing = "; ".join(map(_format_counts, without[:5]))
        yield Violation(
            "books",
            f"{len(without)} transactions have no log line, {excused} could be excused: {missing}",
        )
    for process in history.processes:
        if process.metrics is not None:
            written = {
                disposition: sum(getattr(line, disposition) for line in process.lines)
                for disposition in DISPOSITIONS
            }
            lacking = any(written[name] > count for name, count in process.metrics.items())
            if lacking if process.dropped else written != process.metrics:
                yield Violation(
                    "books", f"{process.name} counts {process.metrics} and has written {written}"
                )
        for line in process.lines:
            if line.consumed != sum(getattr(line, disposition) for disposition in DISPOSITIONS):
                yield Violation(
                    "books",
                    f"{process.name} wrote a line that does not balance: "
                    f"{_format_counts(line.counts())}",
                )


def _format_counts(counts: tuple[int, ...]) -> str:
    names = ("records", "consumed", *DISPOSITIONS, "requests")
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True) if count)


def _processes(processes: Iterable[ProcessRun]) -> Iterator[Violation]:
    for process in processes:
        if process.ending is Ending.REPLACED:
            if process.exit_code != 1 or len(process.sentences) != 1:
                reported = (
                    f"exit code {process.exit_code}, and said: {' | '.join(process.sentences)}"
                )
                yield Violation("processes", f"{process.name} was replaced, with {reported}")
            continue
        well = {0} if process.started else {0, -signal.SIGTERM}
        if process.ending is Ending.DIED or (
            process.ending is Ending.STOPPED and process.exit_code not in well
        ):
            yield Violation(
                "processes",
                f"{process.name} {process.ending.value} with exit code {process.exit_code}",
            )
        for line in process.sentences:
            yield Violation("processes", f"{process.name} said: {line}")
