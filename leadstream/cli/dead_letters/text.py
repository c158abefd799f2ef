"""The words for letters and decisions that every view uses: the verbs, the full-screen view and the console."""

import json
from collections.abc import Sequence
from typing import Any

from consumer.dead_letters.audit import Action, AuditReport, Decision
from consumer.dead_letters.dry_run_summary import DryRunGroup
from consumer.dead_letters.groups import LetterGroup
from consumer.dead_letters.inspection import InspectedField
from consumer.dead_letters.letters import Letter
from consumer.dead_letters.replay import DecisionProgress
from leadstream.cli.dead_letters.times import shown

COLUMNS = ("letters", "pass", "fail", "void", "park", "stay")
LEGEND = (
    "pass: would be scored, erased or answered · fail: would become letters again · "
    "void: superseded by a newer change of the lead · park: came back three times · stay: cannot be sent"
)
_DONE = {
    Action.REPLAYED: "sent back",
    Action.DISCARDED: "discarded",
    Action.SUPERSEDED: "superseded by a newer change or the erasure of the lead",
    Action.PARKED: "parked after three returns",
}


def letters_word(count: int) -> str:
    """One letter, two letters."""
    return "letter" if count == 1 else "letters"


def heading(groups: Sequence[LetterGroup], *, everything: bool = False) -> str:
    """How many letters of how many causes."""
    total = sum(group.count for group in groups)
    causes = "1 cause" if len(groups) == 1 else f"{len(groups):,} causes"
    return f"{total:,} {'dead' if everything else 'open dead'} {letters_word(total)}, {causes}"


def share(part: int, total: int) -> str:
    """A share in whole per cent."""
    of_all = part / total
    return "<1 %" if of_all < 0.01 else f"{of_all:.0%}".replace("%", " %")


def where(group: LetterGroup) -> str:
    """When and where a cause was seen."""
    parts = [when(group)]
    parts.append(
        f"{'partition' if len(group.partitions) == 1 else 'partitions'} {_ranges(sorted(group.partitions))}"
    )
    if group.model_versions:
        parts.append(f"model {', '.join(sorted(group.model_versions))}")
    if group.writer != "Leadstream":
        parts.append(f"by {group.writer}")
    return " · ".join(parts)


def when(group: LetterGroup) -> str:
    """From the first letter of a cause to the last."""
    first, last = shown(group.first_seen), shown(group.last_seen)
    return (
        first if first == last else f"{first} to {last[11:] if last[:10] == first[:10] else last}"
    )


def origin(letter: Letter) -> str:
    """Where a letter came from."""
    told = letter.parsed
    place = "unknown" if told.topic is None else f"{told.topic} {told.partition}-{told.offset}"
    return place if told.writer == "Leadstream" else f"{place}, by {told.writer}"


def decision_line(decision: Decision) -> str:
    """What was decided, by whom, when and why."""
    why = f", because: {decision.comment}" if decision.comment else ""
    return f"{decision.action} by {decision.decided_by} at {shown(decision.decided_at)}{why}"


def value_of(field: InspectedField) -> str:
    """A field's value as text, a time in both ways."""
    text = (
        field.value if isinstance(field.value, str) else json.dumps(field.value, ensure_ascii=False)
    )
    time = (
        f" ({shown(field.value)})" if "timestamp" in field.type and field.value is not None else ""
    )
    return clean(text) + time


def forecast_row(forecast: DryRunGroup) -> tuple[int, ...]:
    """The numbers under COLUMNS."""
    return (
        forecast.group.count,
        forecast.passes,
        forecast.fails.total(),
        forecast.decided[Action.SUPERSEDED],
        forecast.decided[Action.PARKED],
        forecast.skipped.total(),
    )


def forecast_sums(forecasts: Sequence[DryRunGroup]) -> tuple[int, ...]:
    """The same numbers of all groups together."""
    return tuple(map(sum, zip(*map(forecast_row, forecasts), strict=True)))


def forecast_lines(forecasts: Sequence[DryRunGroup]) -> list[str]:
    """Why letters would fail or stay."""
    return [
        f"{each.group.fingerprint}: {count:,} would {what}"
        for each in forecasts
        for what, count in [
            *((f"fail with {reason}", count) for reason, count in each.fails.most_common()),
            *((f"stay: {why}", count) for why, count in each.skipped.most_common()),
        ]
    ]


def tally_lines(tally: DecisionProgress) -> list[str]:
    """What was done, a line for each kind."""
    lines = [] if tally.finished else ["no open dead letters match"]
    lines += [
        f"{count:,} {letters_word(count)} {_DONE[action]}"
        for action, count in tally.decided.items()
        if count
    ]
    if tally.elsewhere:
        lines.append(
            f"{tally.elsewhere:,} {letters_word(tally.elsewhere)} decided meanwhile by somebody else"
        )
    return lines + [
        f"{count:,} {letters_word(count)} left open: {why}"
        for why, count in tally.skipped.most_common()
    ]


def verdict_line(verdict: AuditReport) -> str:
    """How many decisions there are, and of which kind."""
    parts = [
        f"{verdict.actions[action]:,} {action}" for action in Action if verdict.actions[action]
    ]
    decisions = "1 decision" if verdict.decisions == 1 else f"{verdict.decisions:,} decisions"
    return decisions + (f": {', '.join(parts)}" if parts else "")


def chain_line(verdict: AuditReport) -> str:
    """Whether the chain of decisions holds."""
    if verdict.breaks:
        return "The chain is broken."
    return "The chain holds." + (
        " Keep these heads to see later that nothing was cut off." if verdict.heads else ""
    )


def text(value: bytes | None) -> str | None:
    """Bytes as text, those that are none escaped."""
    return None if value is None else value.decode("utf-8", "backslashreplace")


def clean(text: Any) -> str:
    """Without what a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 5 as 1-3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
