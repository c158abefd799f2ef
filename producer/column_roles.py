"""The columns of a file with a role of their own: id, times and outcome, by name and content."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

from leadstream.errors import error_text
from producer.profile import ColumnKind, ColumnProfile, words_of
from producer.time_guess import day_and_month_are_open
from producer.values import identifier, integer_identifier
from schemas.number_format import NumberFormat

NAMES_ID = re.compile(r"\b(id|ids|uuid|guid|key|nr|number|nummer|kennung|schlüssel|code)\b")
ID_WORD = re.compile(r"\b(id|uuid|guid)\b")
_LEAD_ID = re.compile(r"\b(lead|contact|record|prospect|person|enquiry|inquiry|kontakt)\b")
_CREATED = re.compile(
    r"\b(creat\w*|erstell\w*|angelegt|anlage\w*|added|entered|enquir\w*|inquir\w*|regist\w*|received|"
    r"eingang\w*|signup|signed|opened|timestamp|first)\b"
)
_CHANGED = re.compile(r"\b(modif\w*|updat\w*|chang\w*|geändert|letzte\w*|last|event|activity)\b")
_DECIDED = re.compile(
    r"\b(clos\w*|decid\w*|decision|convert\w*|won|lost|enrol\w*|appl\w*|abschluss\w*|entschied\w*)\b"
)
_OUTCOME = (
    re.compile(r"\b(converted|conversion|won|outcome|target|label|enrolled|admitted|applied)\b"),
    re.compile(r"^(y|class|success|gewonnen|konvertiert|abgeschlossen|is customer|bought)$"),
    re.compile(r"\b(stage|status|result|ergebnis|phase|lifecycle)\b"),
)
_TRUE = frozenset(
    re.split(
        r",\s*",
        "yes, true, 1, y, t, won, converted, enrolled, applied, admitted, customer, ja, wahr, oui, "
        "si, sí, sim, gewonnen, success, bought, closed won, closed converted, "
        "application submitted",
    )
)
_FALSE = frozenset(
    re.split(
        r",\s*",
        "no, false, 0, n, f, lost, rejected, disqualified, unqualified, nein, falsch, non, não, "
        "verloren, failure, dropped, closed lost, closed not converted, not converted, "
        "not interested, not enrolled",
    )
)
_EVENTS = 0.2  # share of rows that repeat an id
_MAX_LABELS = 30
_RENDERED = 4
_MAX_COUNTER_DIGITS = 9
_DISORDER = 0.05  # share of neighbors of a counter in the other order


@dataclass(frozen=True, slots=True)
class FileTable:
    """The columns of a file, and how it is written.

    `repeated` names stand above several columns. `unnamed` are the places, from 1, of columns with
    values and without a name.
    """

    columns: Mapping[str, ColumnProfile]
    numbers: NumberFormat
    file: Mapping[str, object]
    rows: int
    repeated: tuple[str, ...] = ()
    unnamed: tuple[int, ...] = ()


@dataclass(slots=True)
class ColumnRoles:
    """The columns with a role of their own, by name."""

    lead_id: str | None = None
    events: bool = False
    created: str | None = None
    counts: bool = False
    occurred: str | None = None
    outcome: str | None = None
    true: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    decided: str | None = None


def find_roles(table: FileTable, unsure: list[str]) -> ColumnRoles:
    """Return the columns with a role; append what a person should check, a sentence each."""
    roles = ColumnRoles()
    usable = [
        column
        for column in table.columns.values()
        if column.kind not in (ColumnKind.EMPTY, ColumnKind.PERSONAL)
    ]
    _find_id(table, usable, roles, unsure)
    _find_outcome(table, usable, roles, unsure)
    times = [column for column in usable if column.kind is ColumnKind.TIME]
    _find_times(table, times, roles, unsure)
    return roles


def _find_id(
    table: FileTable, usable: Sequence[ColumnProfile], roles: ColumnRoles, unsure: list[str]
) -> None:
    full = [
        column
        for column in usable
        if column.filled >= 0.99 * table.rows
        and column.kind is not ColumnKind.TIME
        and all(map(_is_id, islice(column.values, 1000)))
    ]
    unique = [column for column in full if len(column.values) >= 0.999 * column.filled]
    named = [column for column in unique if NAMES_ID.search(column.title)]
    long = [column for column in unique if column.kind is not ColumnKind.NUMBER]
    repeated = [
        column
        for column in full
        if ID_WORD.search(column.title) and len(column.values) > table.rows / 50
    ]
    by_lead = sorted(named + repeated, key=lambda c: (not _LEAD_ID.search(c.title), c not in named))
    for column in by_lead or long:
        roles.lead_id = column.name
        roles.events = len(column.values) < (1 - _EVENTS) * table.rows
        if column not in named and column not in repeated:
            unsure.append(f"{column.name!r} is taken for the id, because no value occurs twice")
        if len(named) > 1 and column in named:
            others = ", ".join(repr(other.name) for other in named if other is not column)
            unsure.append(f"{column.name!r} is taken for the id; {others} could be it, too")
        return
    unsure.extend(
        f"{column.name!r} cannot be the id: a value {why}"
        for column in usable
        if ID_WORD.search(column.title) and (why := _damage(column))
    )
    unsure.append("the file has no column of ids: its rows are numbered, so do not mix two files")


def _damage(column: ColumnProfile) -> str | None:
    """Return what is wrong with a value as an id, None if all can be ids."""
    for value in islice(column.values, 1000):
        if not _is_id(value):
            try:
                identifier(value)
            except ValueError as error:
                return error_text(error)
    return None


def _is_id(text: str) -> bool:
    for read in (identifier, integer_identifier):
        try:
            read(text)
        except ValueError:
            continue
        return True
    return False


def _find_outcome(
    table: FileTable, usable: Sequence[ColumnProfile], roles: ColumnRoles, unsure: list[str]
) -> None:
    for pattern in _OUTCOME:
        for column in usable:
            if column.name == roles.lead_id or not pattern.search(column.title):
                continue
            values = list(column.values)
            true = [value for value in values if words_of(value) in _TRUE]
            false = [value for value in values if words_of(value) in _FALSE]
            if not true or len(values) > _MAX_LABELS:
                continue
            empty = table.rows - column.filled
            if not false and not (set(values) == set(true) and empty):
                continue
            roles.outcome, roles.true, roles.false = column.name, true, false or [""]
            roles.open = [value for value in values if value not in true and value not in false]
            if not false:
                unsure.append(f"an empty {column.name!r} is taken for a lead that did not convert")
            if roles.open:
                listed = " or ".join(map(repr, roles.open[:_RENDERED]))
                more = (
                    f", or {len(roles.open) - _RENDERED} more"
                    if len(roles.open) > _RENDERED
                    else ""
                )
                unsure.append(f"leads whose {column.name!r} is {listed}{more} count as not decided")
            return
    unsure.append("no column looks like the outcome: training needs one")


def _find_times(
    table: FileTable, times: Sequence[ColumnProfile], roles: ColumnRoles, unsure: list[str]
) -> None:
    full = [column for column in times if column.filled >= 0.95 * table.rows]
    named = [column for column in full if _CREATED.search(column.title)]
    rest = [c for c in full if not _CHANGED.search(c.title) and not _DECIDED.search(c.title)]
    chosen = next(iter(named or rest or full), None)
    if chosen:
        roles.created = chosen.name
        if chosen not in named:
            unsure.append(f"{chosen.name!r} is taken for the time of creation")
    elif counter := next(filter(_counts, table.columns.values()), None):
        roles.created, roles.counts = counter.name, True
        unsure.append(
            f"no column holds the time of creation: {counter.name!r} is taken to run with time, "
            "in minutes"
        )
    else:
        unsure.append(
            "no column holds the time of creation: rows are taken to be in the order of time, a "
            "minute apart"
        )
    others = [column for column in times if column.name != roles.created]
    decided = [column for column in others if _DECIDED.search(column.title)]
    if roles.outcome and decided:
        roles.decided = decided[0].name
    changed = [c for c in others if c.name != roles.decided and c.filled >= 0.95 * table.rows]
    if roles.events:
        event = next((c for c in changed if _CHANGED.search(c.title)), next(iter(changed), None))
        if event:
            roles.occurred = event.name
        unsure.append(
            "many rows have the same id, so each row seems to be an event of a lead: "
            + (f"{event.name!r} is taken for its time" if event else "no column has its time")
        )
    chosen_names = (roles.created, roles.decided, roles.occurred)
    unsure.extend(
        f"the order of day and month in {column.name!r} is open"
        for column in times
        if column.name in chosen_names and any(map(day_and_month_are_open, column.times))
    )


def _counts(column: ColumnProfile) -> bool:
    """Return whether a column has another integer in each row, and runs up or down."""
    if column.kind is not ColumnKind.NUMBER or len(column.values) < max(20, len(column.cells)):
        return False
    if not all(cell.isdecimal() and len(cell) < _MAX_COUNTER_DIGITS for cell in column.cells):
        return False
    numbers = [int(cell) for cell in column.cells]
    rising = sum(later > earlier for earlier, later in pairwise(numbers))
    return not _DISORDER * len(numbers) < rising < (1 - _DISORDER) * len(numbers)
