"""The states that a lead had, from today's state and the log of its changes backwards.

A field is known at a moment if the log proves its value: today's value holds back to the last
change, and the old value of a change back to the change before it. Where two changes contradict
each other, the field is missing between them. All functions are pure.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from producer.field_log import FieldChange, Unplaced
from schemas.crm_rows import MAX_CLOCK_DIFFERENCE_MS

Value = str | float | int


class _Unknown:
    """A value that the log does not prove."""


UNKNOWN = _Unknown()
Raw = str | None | _Unknown


@dataclass(frozen=True, slots=True)
class StateField:
    """A field of a lead: its name, such as `status` or `numbers.gpa`, and its column in the log.

    `read` makes the value of a text; it raises ValueError if the field cannot hold it. Without a
    column, the value is `constant`.
    """

    name: str
    column: str | None
    read: Callable[[str], Value | None]
    constant: Value | None = None


@dataclass(frozen=True, slots=True)
class TodaysLead:
    """A lead as it is today: texts by column, None where there is no value.

    Times are in ms UTC. `converted` is None if the outcome is not known, `decided_at` if its time
    is not.
    """

    lead_id: str
    created_at: int
    texts: Mapping[str, str | None]
    converted: bool | None = None
    decided_at: int | None = None


@dataclass(frozen=True, slots=True)
class TrackedSince:
    """The moment, ms UTC, from which on the log holds every change of a column; by column."""

    moments: Mapping[str, int]
    has_old: bool = True


@dataclass(slots=True)
class PlacementCounts:
    """An account of a log: rows that were placed nowhere by reason, and known values by field."""

    unplaced: Counter[Unplaced] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    states: int = 0
    leads: int = 0


# The raw value of a column from each moment on, newest first; before the last one it is unknown.
Spans = list[tuple[int, Raw]]


def past_states(
    lead: TodaysLead,
    changes: Sequence[FieldChange],
    fields: Sequence[StateField],
    since: TrackedSince,
    counts: PlacementCounts,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the moments of a lead, in order, each with the state of that moment.

    Moments are its creation and its changes. One of which the log knows no field is left out.
    """
    placed = [each for each in changes if _is_placed(each, lead, counts)]
    by_column: dict[str, list[FieldChange]] = {}
    for change in placed:
        by_column.setdefault(change.field, []).append(change)
    times = sorted({lead.created_at, *(max(each.at, lead.created_at) for each in placed)})
    constants = {each.name: each.constant for each in fields if each.column is None}
    values: dict[str, Value | None] = dict(constants)
    starts, passed = _starts(lead, by_column, fields, since, counts), 0
    counts.leads += 1
    for moment in times:
        while passed < len(starts) and starts[passed][0] <= moment:
            _, name, value = starts[passed]
            passed += 1
            if isinstance(value, _Unknown):
                values.pop(name, None)
            else:
                values[name] = value
        if len(values) == len(constants):
            counts.unplaced[Unplaced.NOTHING_KNOWN] += 1
            continue
        counts.states += 1
        counts.known.update(values.keys())
        yield moment, state_of(values, lead.created_at)


def _starts(
    lead: TodaysLead,
    changes: Mapping[str, Sequence[FieldChange]],
    fields: Sequence[StateField],
    since: TrackedSince,
    counts: PlacementCounts,
) -> list[tuple[int, str, Value | _Unknown | None]]:
    """Return the values of all tracked fields, each from a moment on, in the order of time."""
    found: list[tuple[int, str, Value | _Unknown | None]] = []
    for each in fields:
        if each.column is not None and each.column in since.moments:
            spans = _spans(each, lead, changes.get(each.column, ()), since, counts)
            found.extend((begin, each.name, _read(raw, each, counts)) for begin, raw in spans[::-1])
    return sorted(found, key=_begin)


def _begin(start: tuple[int, str, Value | _Unknown | None]) -> int:
    return start[0]


def state_of(values: Mapping[str, Any], created_at: int) -> dict[str, Any]:
    """Return a LeadState of values by the names of fields."""
    state: dict[str, Any] = {"created_at": created_at}
    maps: dict[str, dict[str, Any]] = {"numbers": {}, "categories": {}}
    for name, value in values.items():
        kind, _, own = name.partition(".")
        if not own:
            state[name] = value
        elif value is not None:
            maps[kind][own] = value
    return state | maps


def _is_placed(change: FieldChange, lead: TodaysLead, counts: PlacementCounts) -> bool:
    if change.at < lead.created_at - MAX_CLOCK_DIFFERENCE_MS:
        counts.unplaced[Unplaced.BEFORE_CREATION] += 1
        return False
    return True


def _spans(
    each: StateField,
    lead: TodaysLead,
    changes: Sequence[FieldChange],
    since: TrackedSince,
    counts: PlacementCounts,
) -> Spans:
    """Return the spans of a field's raw values, from today backwards."""
    column = each.column or ""
    value: Raw = lead.texts.get(column, UNKNOWN)
    if not changes and not since.has_old:
        return []
    spans: Spans = []
    ordered = sorted(changes, key=lambda change: change.at)
    for at, group in reversed([(at, list(same)) for at, same in groupby(ordered, _time)]):
        after, value = _undo(group, value, each, counts)
        spans.append((max(at, lead.created_at), after))
    return [*spans, (max(since.moments[column], lead.created_at), value)]


def _time(change: FieldChange) -> int:
    return change.at


def _undo(
    group: Sequence[FieldChange], value: Raw, each: StateField, counts: PlacementCounts
) -> tuple[Raw, Raw]:
    """Return the values after and before the changes of one moment, given the next known value.

    Their order is that of values: one change starts where another ended.
    """
    recorded = [change for change in group if not _is_hidden(change)]
    hidden = len(group) - len(recorded)
    counts.unplaced[Unplaced.NOT_RECORDED] += hidden
    if not recorded:
        return value, UNKNOWN
    last, after = _change_to(value, recorded, each), value
    if last is None:
        ends = _ends(list(dict.fromkeys(recorded)), each)
        last = ends[-1]
        if isinstance(value, _Unknown) and len(ends) == 1:
            after = last.new
        else:
            counts.unplaced[Unplaced.CONTRADICTION] += 1
            after = UNKNOWN
    before: Raw = last.old
    used, rest = [last], list(recorded)
    rest.remove(last)
    while last.has_old and (earlier := _change_to(before, rest, each)) is not None:
        before = earlier.old
        used.append(earlier)
        rest.remove(earlier)
    counts.unplaced[Unplaced.DUPLICATE] += sum(change in used for change in rest)
    return after, UNKNOWN if hidden or not last.has_old else before


def _ends(changes: Sequence[FieldChange], each: StateField) -> list[FieldChange]:
    """Return the changes of one moment that no other one goes on from; at least one."""
    found = [
        change
        for change in changes
        if not any(
            other is not change and other.has_old and _same(change.new, other.old, each)
            for other in changes
        )
    ]
    return found or [changes[-1]]


def _is_hidden(change: FieldChange) -> bool:
    """Return whether a log only says that a field changed, as of long texts."""
    return change.has_old and change.old is None and change.new is None


def _change_to(value: Raw, changes: Sequence[FieldChange], each: StateField) -> FieldChange | None:
    """Return the last change whose new value is this one."""
    if isinstance(value, _Unknown):
        return None
    return next((change for change in reversed(changes) if _same(change.new, value, each)), None)


def _same(one: str | None, other: str | None, each: StateField) -> bool:
    """Return whether two texts mean the same value: a number, or labels in any order."""
    if one == other:
        return True
    if one is None or other is None:
        return _is_missing(one or other or "", each)
    if ";" in one and sorted(one.split(";")) == sorted(other.split(";")):
        return True
    try:
        return each.read(one) == each.read(other)
    except ValueError:
        return False


def _is_missing(text: str, each: StateField) -> bool:
    try:
        return each.read(text) is None
    except ValueError:
        return False


def _read(raw: Raw, each: StateField, counts: PlacementCounts) -> Value | _Unknown | None:
    """Return the value of a text; one that its field cannot hold is missing."""
    if raw is None or isinstance(raw, _Unknown):
        return raw
    try:
        return each.read(raw)
    except ValueError:
        counts.unplaced[Unplaced.UNREADABLE] += 1
        return None
