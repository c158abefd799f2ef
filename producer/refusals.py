"""The report on a file: what was refused or could not be read, grouped, each with its fix.

A report shows times as they are, and of other cells only the form: 9 for a digit, x for a letter.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from producer.fields import CellKind, MappedField
from producer.importer import ImportedRow, RefusedRow
from producer.mapping import NOT_LISTED, LeadMapping
from producer.moments import NOT_A_TIME
from producer.time_guess import MAX_CELLS, TimeGuess, day_and_month_are_open, guess_formats
from schemas.number_format import NOT_A_NUMBER, NumberFormat

MAX_REFUSED = 0.05  # share of the rows
_MAX_FORM = 30
_MAX_LABELS = 5
_MAX_WORDS, _MAX_WORD = 3, 10
_FIELDS = re.compile(r"has \d+ fields, the header has \d+")
_EVENTS = (
    "if each row is an event of a lead, map occurred_at to the time of the event; otherwise remove "
    "the copies"
)
_FIXES = (
    (
        "was written with a fraction",
        'export the ids as text, or add format = "integer" to lead.lead_id',
    ),
    ("lost digits", "export the column as text"),
    ("differs from that of line", "write the id of a lead always in the same form"),
    ("tells of the same lead", _EVENTS),
    ("is not closed", "write quotes at both ends of the cell, and double those inside"),
    (
        "was decided before",
        "map occurred_at to a time before the decision, or leave it out: then it is created_at",
    ),
    (
        "created after it changed",
        "compare the time zones of both columns, or leave occurred_at out",
    ),
    ("is an e-mail address", "map another column"),
)


@dataclass(frozen=True, slots=True)
class ProblemGroup:
    """One reason for which rows were refused, or cells of a column could not be read."""

    rows: int
    first_line: int
    column: str | None
    what: str
    example: str | None
    fix: str | None

    def sentence(self, total: int) -> str:
        """Return the group in one sentence of the report."""
        looks = f" (it looks like {self.example})" if self.example else ""
        fix = f"; {self.fix}" if self.fix else ""
        return (
            f"{self.rows:,} of {total:,} rows, first on line {self.first_line:,}: "
            f"{self.what}{looks}{fix}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the group for programs."""
        return {
            "rows": self.rows,
            "first_line": self.first_line,
            "column": self.column,
            "problem": self.what,
            "example": self.example,
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class FileReport:
    """Account of the rows of a file; the most frequent group is first."""

    rows: int
    undecided: int
    refused: tuple[ProblemGroup, ...]
    unreadable: tuple[ProblemGroup, ...]

    @property
    def refused_rows(self) -> int:
        """Return how many rows were refused."""
        return sum(group.rows for group in self.refused)

    def too_many(self, max_refused: float) -> bool:
        """Return whether more than this share of the rows was refused."""
        return self.refused_rows > max_refused * self.rows

    def sentences(self) -> Iterator[str]:
        """Yield each group in one sentence: refused rows first, then cells that are missing now."""
        for group in self.refused:
            yield f"refused: {group.sentence(self.rows)}"
        for group in self.unreadable:
            yield f"read as missing: {group.sentence(self.rows)}"

    def as_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "rows": self.rows,
            "refused_rows": self.refused_rows,
            "refused_groups": [group.as_json() for group in self.refused],
            "unreadable_cells": [group.as_json() for group in self.unreadable],
        }


EMPTY = FileReport(0, 0, (), ())


def report_of(results: Sequence[ImportedRow | RefusedRow], mapping: LeadMapping) -> FileReport:
    """Return the report on the rows of a file."""
    refused: dict[tuple[str | None, str], list[RefusedRow]] = defaultdict(list)
    cells: dict[tuple[str, str], list[tuple[int, MappedField, str | None]]] = defaultdict(list)
    undecided = 0
    for result in results:
        if isinstance(result, RefusedRow):
            # Lines and counts differ within a group.
            refused[result.column, re.sub(r"\d[\d,]*", "9", result.what)].append(result)
            continue
        undecided += result.converted is None
        for cell in result.unreadable:
            cells[cell.field.key, cell.what].append((result.line, cell.field, cell.text))
    fields = {field.column: field for field in reversed(mapping.every_field())}
    groups = [_refused_group(rows, fields, mapping) for rows in refused.values()]
    missing = [_unreadable_group(what, found, mapping) for (_, what), found in cells.items()]
    return FileReport(len(results), undecided, tuple(_by_rows(groups)), tuple(_by_rows(missing)))


def _by_rows(groups: Sequence[ProblemGroup]) -> list[ProblemGroup]:
    return sorted(groups, key=lambda group: (-group.rows, group.first_line))


def _refused_group(
    rows: Sequence[RefusedRow], fields: dict[str | None, MappedField], mapping: LeadMapping
) -> ProblemGroup:
    first = rows[0]
    example: str | None
    fix: str | None
    texts = [row.text for row in rows if row.text]
    field = fields.get(first.column) if first.column else None
    if (
        mapping.outcome
        and first.column == mapping.outcome.column
        and first.what.endswith(NOT_LISTED)
    ):
        example, fix = _label(texts)
    else:
        example, fix = _hint(first.what, field, texts, mapping)
    return ProblemGroup(len(rows), first.line, first.column, _quoted(first), example, fix)


def _quoted(row: RefusedRow) -> str:
    if row.column and row.what.startswith(f"{row.column}: "):
        return f"`{row.column}` {row.what.removeprefix(f'{row.column}: ')}"
    return f"the row {row.what}"


def _unreadable_group(
    what: str, found: Sequence[tuple[int, MappedField, str | None]], mapping: LeadMapping
) -> ProblemGroup:
    line, field, _ = found[0]
    example, fix = _hint(what, field, [text for _, _, text in found if text], mapping)
    name = field.column or field.key
    return ProblemGroup(len(found), line, name, f"`{name}` {what}", example, fix)


def _hint(
    what: str, field: MappedField | None, texts: Sequence[str], mapping: LeadMapping
) -> tuple[str | None, str | None]:
    """Return an example of the cells, if it can be shown, and what to do about them."""
    if field and what.endswith(NOT_A_TIME):
        return _time(field, texts)
    if field and what.endswith(NOT_A_NUMBER):
        return _form(texts[0]), _number(field, texts, mapping)
    if field and field.kind is CellKind.ID and what.endswith("is missing"):
        return None, 'if the file has no ids, number its rows with lead_id = { line = "lead-" }'
    if re.search(r"is not [\w-]+$", what) and "CSV" not in what:
        return None, 'set file.encoding, for example "cp1252"'
    if _FIELDS.search(what):
        return None, "put cells that hold the delimiter in quotes, or set file.delimiter"
    return None, next((fix for part, fix in _FIXES if part in what), None)


def _time(field: MappedField, texts: Sequence[str]) -> tuple[str | None, str | None]:
    """Return a time as it is written, with the options that read it."""
    guesses = guess_formats(texts)
    example = texts[0]
    if not guesses:  # several formats: the most frequent form
        form, _ = Counter(map(_form, texts[:MAX_CELLS])).most_common(1)[0]
        alike = [text for text in texts[:MAX_CELLS] if _form(text) == form]
        guesses, example = guess_formats(alike), alike[0]
    if not guesses:
        return _form(texts[0]), f"name its format in {field.key}"
    options = " or ".join(map(options_of, guesses[:2]))
    open_order = " (the order of day and month is open)" if day_and_month_are_open(guesses) else ""
    return example, f"add {options} to {field.key}{open_order}"


def options_of(guess: TimeGuess) -> str:
    """Return the options of a mapping that read times of this format."""
    locale = f', locale = "{guess.locale}"' if guess.locale else ""
    return f'format = "{guess.format}"{locale}'


def _number(field: MappedField, texts: Sequence[str], mapping: LeadMapping) -> str:
    """Return the setting by which most of the cells are numbers."""
    words = sorted({text.strip() for text in texts})
    no_digits = not any(char.isdecimal() for word in words for char in word)
    if no_digits and len(words) <= _MAX_WORDS < len(texts) and max(map(len, words)) <= _MAX_WORD:
        listed = ", ".join(f'"{word}"' for word in words)
        return f"list {listed} under {field.key}.missing or file.missing"
    best: tuple[int, str] = (0, f"list it under {field.key}.missing, or map it as a category")
    for decimal, thousands in ((".", ","), (",", "."), (",", " "), (".", " "), (".", "'")):
        count = _readable(texts, NumberFormat(decimal, thousands))
        if count > best[0]:
            sign = f'file.decimal = "{decimal}" and ' if decimal != mapping.decimal else ""
            best = count, f'set {sign}file.thousands = "{thousands}"'
    for decimal in ".,":
        if decimal != mapping.decimal and _readable(texts, NumberFormat(decimal)) >= best[0] > 0:
            best = best[0], f'set file.decimal = "{decimal}"'
    units = Counter(word for text in texts for word in re.findall(r"[^\W\d_]+", text))
    if units:
        unit, count = units.most_common(1)[0]
        form = NumberFormat(mapping.decimal, mapping.thousands, frozenset([unit]))
        if len(unit) <= _MAX_WORD and _readable(texts, form) > best[0] and 2 * count > len(texts):
            best = count, f'add unit = "{unit}" to {field.key}'
    return best[1]


def _readable(texts: Sequence[str], form: NumberFormat) -> int:
    return sum(map(_reads(form), texts[:MAX_CELLS]))


def _reads(form: NumberFormat) -> Callable[[str], bool]:
    def reads(text: str) -> bool:
        try:
            form.number(text)
        except ValueError:
            return False
        return True

    return reads


def _label(texts: Sequence[str]) -> tuple[str | None, str]:
    """Return the values of an outcome, which are words of the CRM if there are few."""
    values = Counter(text.strip() for text in texts)
    few = len(values) <= _MAX_LABELS and all(
        len(value) <= _MAX_FORM and "@" not in value for value in values
    )
    named = ", ".join(repr(value) for value, _ in values.most_common()) if few else None
    return named, "list it under true, false or missing of outcome"


def _form(text: str) -> str:
    """Return a cell with 9 for each digit and x for each letter."""
    form = re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "9", text.strip()))
    return form if len(form) <= _MAX_FORM else f"{form[: _MAX_FORM - 1]}…"
