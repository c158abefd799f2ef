"""The sentences about letters and decisions that all views share."""

import json
from collections.abc import Sequence
from typing import Any

from consumer.dead_letters.audit import Action, AuditReport, Decision
from consumer.dead_letters.dry_run_summary import DryRunGroup
from consumer.dead_letters.groups import LetterGroup
from consumer.dead_letters.inspection import InspectedField
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.replay import DecisionProgress
from leadstream.cli.dead_letters.times import format_time

COLUMNS = ("letters", "pass", "fail", "superseded", "parked", "skipped")
LEGEND = (
    "pass: would be scored, erased or answered · fail: would become letters again · "
    "superseded: the lead has a newer change · parked: came back three times · "
    "skipped: cannot be sent"
)
_RESULTS = {
    Action.REPLAYED: "sent back",
    Action.DISCARDED: "discarded",
    Action.SUPERSEDED: "superseded by a newer change or the erasure of the lead",
    Action.PARKED: "parked after three returns",
}


def letters_word(count: int) -> str:
    """Return the noun for a count of letters."""
    return "letter" if count == 1 else "letters"


def format_heading(groups: Sequence[LetterGroup], *, everything: bool = False) -> str:
    """Return how many letters and causes there are."""
    total = sum(group.count for group in groups)
    causes = "1 cause" if len(groups) == 1 else f"{len(groups):,} causes"
    return f"{total:,} {'dead' if everything else 'open dead'} {letters_word(total)}, {causes}"


def format_share(part: int, total: int) -> str:
    """Return a share in whole percent."""
    of_all = part / total
    return "<1 %" if of_all < 0.01 else f"{of_all:.0%}".replace("%", " %")


def format_location(group: LetterGroup) -> str:
    """Return when and where letters of a group failed."""
    parts = [format_period(group)]
    noun = "partition" if len(group.partitions) == 1 else "partitions"
    parts.append(f"{noun} {_ranges(sorted(group.partitions))}")
    if group.model_versions:
        parts.append(f"model {', '.join(sorted(group.model_versions))}")
    if group.writer != "Leadstream":
        parts.append(f"by {group.writer}")
    return " · ".join(parts)


def format_period(group: LetterGroup) -> str:
    """Return the times of the first and the last letter of a group."""
    first, last = format_time(group.first_seen), format_time(group.last_seen)
    return (
        first if first == last else f"{first} to {last[11:] if last[:10] == first[:10] else last}"
    )


def format_origin(letter: Letter) -> str:
    """Return the origin of a letter."""
    parsed = letter.parsed
    place = (
        "unknown" if parsed.topic is None else f"{parsed.topic} {parsed.partition}-{parsed.offset}"
    )
    return place if parsed.writer == "Leadstream" else f"{place}, by {parsed.writer}"


def format_decision(decision: Decision) -> str:
    """Return the action, the decider, the time and the comment of a decision."""
    why = f", because: {decision.comment}" if decision.comment else ""
    return f"{decision.action} by {decision.decided_by} at {format_time(decision.decided_at)}{why}"


def format_value(field: InspectedField) -> str:
    """Return the value of a field as text, with a readable time."""
    text = (
        field.value if isinstance(field.value, str) else json.dumps(field.value, ensure_ascii=False)
    )
    time = (
        f" ({format_time(field.value)})"
        if "timestamp" in field.type and field.value is not None
        else ""
    )
    return clean(text) + time


def dry_run_row(group: DryRunGroup) -> tuple[int, ...]:
    """Return the numbers below COLUMNS."""
    return (
        group.group.count,
        group.passes,
        group.fails.total(),
        group.decided[Action.SUPERSEDED],
        group.decided[Action.PARKED],
        group.skipped.total(),
    )


def dry_run_totals(groups: Sequence[DryRunGroup]) -> tuple[int, ...]:
    """Return the totals of all groups."""
    return tuple(map(sum, zip(*map(dry_run_row, groups), strict=True)))


def dry_run_lines(groups: Sequence[DryRunGroup]) -> list[str]:
    """Return the causes of failed and skipped letters, a line for each."""
    lines = [
        f"{each.group.fingerprint}: {count:,} would {what}"
        for each in groups
        for what, count in [
            *((f"fail with {reason}", count) for reason, count in each.fails.most_common()),
            *((f"be skipped: {why}", count) for why, count in each.skipped.most_common()),
        ]
    ]
    retimed = sum(each.retimed for each in groups)
    return lines + ([retimed_line(retimed)] if retimed else [])


def format_cut(letter: Letter) -> str | None:
    """Return what a letter lacks, and whether its original is still there; None if nothing."""
    cut = letter.parsed.cut
    if cut is None:
        return None
    size = f" from {cut.value_bytes:,} bytes" if cut.value_bytes is not None else ""
    digest = f", SHA-256 {cut.value_sha256}" if cut.value_sha256 else ""
    there = "is still there" if letter.restored else "is no longer there"
    return f"{', '.join(cut.parts)}{size}{digest}; the original {there}"


def retimed_line(count: int) -> str:
    """Return the sentence about letters that do not keep their timestamp."""
    return (
        f"{count:,} {letters_word(count)} with the present time: with the original's timestamp "
        "the topic would refuse or delete the record"
    )


def progress_lines(progress: DecisionProgress) -> list[str]:
    """Return the result of a decision, a line for each kind."""
    lines = [] if progress.finished else ["no open dead letters match"]
    lines += [
        f"{count:,} {letters_word(count)} {_RESULTS[action]}"
        for action, count in progress.decided.items()
        if count
    ]
    if progress.retimed:
        lines.append(retimed_line(progress.retimed))
    if progress.elsewhere:
        lines.append(
            f"{progress.elsewhere:,} {letters_word(progress.elsewhere)} "
            "decided by another process in the meantime"
        )
    return lines + [
        f"{count:,} {letters_word(count)} left open: {why}"
        for why, count in progress.skipped.most_common()
    ]


def audit_summary(report: AuditReport) -> str:
    """Return the number of decisions, in total and by action."""
    parts = [f"{report.actions[action]:,} {action}" for action in Action if report.actions[action]]
    decisions = "1 decision" if report.decisions == 1 else f"{report.decisions:,} decisions"
    return decisions + (f": {', '.join(parts)}" if parts else "")


def chain_summary(report: AuditReport) -> str:
    """Return whether the chain of decisions holds."""
    if report.breaks:
        return "The chain is broken."
    return "The chain holds." + (
        " Keep these heads to detect a removed tail later." if report.heads else ""
    )


def decode_text(value: bytes | None) -> str | None:
    """Decode UTF-8, with escapes for other bytes."""
    return None if value is None else value.decode("utf-8", "backslashreplace")


def clean(text: Any) -> str:
    """Escape what a terminal would interpret."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def _ranges(numbers: Sequence[int]) -> str:
    """Return 1, 2, 3, 5 as "1-3, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
