"""A first mapping from a file: types, formats, the likely id, outcome and leaks."""

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from leadstream.errors import UserError
from leadstream.text_forms import comparable
from producer.column_roles import ID_WORD, NAMES_ID, ColumnRoles, FileTable, find_roles
from producer.csv_file import NO_NAMES, CsvShape, find_shape, holds_values, read_records
from producer.outcome_leaks import tells
from producer.profile import (
    NULLS,
    ColumnKind,
    ColumnProfile,
    number_format,
    profile,
    words_of,
)
from producer.refusals import options_of
from schemas.number_format import NumberFormat

MAX_ROWS = 50_000
_LATE = re.compile(
    r"\b(clos\w*|reason|convert\w*|conversion|opportunit\w*|won|lost|disqualif\w*|enrol\w*|tags?|duration|"
    r"last|quality|profile|asymmetrique|reservation|invoice|deal|stage|lifecycle|notable)\b"
)
_STANDARD = {
    "source": re.compile(r"^(lead |original |traffic )*(source|quelle|herkunft|channel)$"),
    "programme_name": re.compile(r"^(programme?|course|studiengang|specialization)( name)?$"),
    "campus_name": re.compile(r"^(campus|location|standort)( name)?$"),
    "lead_score": re.compile(r"^(hubspot |lead )*score$"),
}
_MINUTES = 'base = "2020-01-01", step_ms = 60000'


@dataclass(slots=True)
class Suggestion:
    """A mapping as text, and what a person should check, a sentence each."""

    text: str = ""
    unsure: list[str] = field(default_factory=list)


def suggest(path: Path, *, parquet: bool = False) -> Suggestion:
    """Return a first mapping for a file. Raises UserError if it cannot be read or has no rows."""
    table = _read_parquet(path) if parquet else _read_csv(path)
    if not table.rows:
        raise UserError(f"{path}: has no rows below its header")
    suggestion = Suggestion()
    if table.repeated:
        names = ", ".join(map(repr, table.repeated))
        suggestion.unsure.append(f"several columns have the same name, and are left out: {names}")
    if table.unnamed:
        places = ", ".join(map(str, table.unnamed))
        suggestion.unsure.append(
            f"columns with values have no name in the header, and are left out: {places} (from the "
            "left; name them in the file to use them)"
        )
    roles = find_roles(table, suggestion.unsure)
    suggestion.text = "\n".join(_lines(path, table, roles, suggestion)) + "\n"
    return suggestion


def _read_csv(path: Path) -> FileTable:
    shape = find_shape(path, _names)
    if holds_values(shape.header):
        raise UserError(f"{path}: {NO_NAMES}")
    encoding = None
    rows = _rows(path, shape)
    if any("\ud800" <= char <= "\udfff" for row in rows for cell in row for char in cell):
        encoding = "cp1252"
        shape = find_shape(path, _names, encoding=encoding)
        rows = _rows(path, shape)
    width = len(shape.header)
    columns = [[row[place] if place < len(row) else "" for row in rows] for place in range(width)]
    numbers = number_format(columns)
    file: dict[str, object] = {"delimiter": shape.delimiter, "decimal": numbers.decimal}
    if encoding:
        file["encoding"] = encoding
    if numbers.thousands:
        file["thousands"] = numbers.thousands
    return _table(shape.header, columns, numbers, file, len(rows))


def _read_parquet(path: Path) -> FileTable:
    from producer.parquet import read_header, read_texts  # noqa: PLC0415  # an extra

    header = read_header(path)
    columns = read_texts(path, MAX_ROWS)
    return _table(header, columns, NumberFormat(), {}, len(columns[0]) if columns else 0)


def _table(
    header: Sequence[str],
    columns: Sequence[Sequence[str]],
    numbers: NumberFormat,
    file: dict[str, object],
    rows: int,
) -> FileTable:
    once = {name for name, count in Counter(header).items() if name and count == 1}
    nulls = sorted(
        {cell.strip() for cells in columns for cell in set(cells) if cell.strip().lower() in NULLS}
    )
    if nulls:
        file["missing"] = nulls
    profiles = {
        name: profile(name, cells, numbers)
        for name, cells in zip(header, columns, strict=True)
        if name in once
    }
    repeated = tuple(name for name in dict.fromkeys(header) if name and name not in once)
    named = zip(header, columns, strict=True)
    unnamed = tuple(
        place for place, (name, cells) in enumerate(named, 1) if not name and any(cells)
    )
    return FileTable(profiles, numbers, file, rows, repeated, unnamed)


def _names(record: Sequence[str]) -> int:
    """Return how many cells of a record can be names of columns: not a time, nor 1.2E+11."""
    return sum(_can_name(cell) for cell in set(record))


def _can_name(cell: str) -> bool:
    letters, digits = (sum(map(is_kind, cell)) for is_kind in (str.isalpha, str.isdecimal))
    return 0 < letters >= digits / 3


def _rows(path: Path, shape: CsvShape) -> list[list[str]]:
    records = (cells for _, cells in read_records(path, shape) if isinstance(cells, list))
    return list(islice(records, MAX_ROWS))


def _lines(
    path: Path, table: FileTable, roles: ColumnRoles, suggestion: Suggestion
) -> Iterator[str]:
    """Yield the lines of the mapping; what is unsure is added to the suggestion on the way."""
    body = [*_file(table), *_lead(table, roles, suggestion), *_outcome(table, roles)]
    yield from _comment(f"A first mapping of {path.name}. Check each line before you use it.")
    for sentence in suggestion.unsure:
        yield from _comment(f"Unsure: {sentence}.")
    yield from body


def _file(table: FileTable) -> Iterator[str]:
    if table.file:
        yield ""
        yield "[file]"
        for key, value in table.file.items():
            yield f"{key} = {_toml(value)}"


def _lead(table: FileTable, roles: ColumnRoles, suggestion: Suggestion) -> Iterator[str]:
    yield ""
    yield "[lead]"
    yield f"lead_id = {_id_spec(table, roles)}"
    if roles.counts:
        yield f"created_at = {{ column = {_toml(roles.created)}, {_MINUTES} }}"
    else:
        yield f"created_at = {_time_spec(table, roles.created)}"
    if roles.occurred:
        yield f"occurred_at = {_time_spec(table, roles.occurred)}"
    special = {roles.lead_id, roles.created, roles.occurred, roles.outcome, roles.decided}
    left = [column for column in table.columns.values() if column.name not in special]
    leaks = _leaks(table, roles, left)
    sections: dict[str, list[str]] = {"": [], "numbers": [], "categories": []}
    skipped: list[str] = []
    taken: set[str] = set()
    for column in left:
        if why := leaks.get(column.name) or _useless(column, table):
            skipped += _comment(f"{column.name!r}: {why}")
            continue
        standard = next((n for n, form in _STANDARD.items() if form.search(column.title)), None)
        if standard in taken or (standard == "lead_score") != (column.kind is ColumnKind.NUMBER):
            standard = None
        if standard:
            taken.add(standard)
            sections[""].append(f"{standard} = {_spec(column)}")
            continue
        section = "numbers" if column.kind is ColumnKind.NUMBER else "categories"
        name = _key(column.name, taken)
        taken.add(name)
        sections[section].append(f"{name} = {_spec(column)}")
    yield from sections[""]
    for section in ("numbers", "categories"):
        if sections[section]:
            yield from ("", f"[lead.{section}]", *sections[section])
    if skipped:
        yield from ("", "# Left out:", *skipped)
    if leaks:
        suggestion.unsure.append(
            "columns that may be known only after the outcome are left out: "
            + ", ".join(map(repr, leaks))
        )


def _useless(column: ColumnProfile, table: FileTable) -> str | None:
    """Return why a column is no input of a model, None if it is one."""
    if column.kind is ColumnKind.NUMBER and ID_WORD.search(column.title):
        return "an id, which is no quantity"
    if column.kind in (ColumnKind.NUMBER, ColumnKind.CATEGORY):
        unique = len(column.values) >= 0.999 * column.filled and column.filled > 20
        if unique and (column.kind is ColumnKind.CATEGORY or NAMES_ID.search(column.title)):
            return "another value in each row"
        return None
    return {
        ColumnKind.EMPTY: "has no values",
        ColumnKind.CONSTANT: "has the same value in all rows",
        ColumnKind.PERSONAL: "looks like personal data, which is never read",
        ColumnKind.TIME: "a time, which is no input of a model",
        ColumnKind.FREE_TEXT: "free text",
    }[column.kind]


def _leaks(
    table: FileTable, roles: ColumnRoles, columns: Sequence[ColumnProfile]
) -> dict[str, str]:
    """Return the columns that seem to be written after the outcome, with the reason."""
    if roles.outcome is None:
        return {}
    cells = table.columns[roles.outcome].cells
    true, false = set(roles.true), set(roles.false)
    labels = [True if cell in true else False if cell in false else None for cell in cells]
    found = {}
    for column in columns:
        if column.kind not in (ColumnKind.NUMBER, ColumnKind.CATEGORY, ColumnKind.FREE_TEXT):
            continue
        if why := tells(column.cells, labels):
            found[column.name] = f"tells the outcome: {why}"
        elif _LATE.search(column.title):
            found[column.name] = "by its name, may be known only after the outcome"
    return found


def _outcome(table: FileTable, roles: ColumnRoles) -> Iterator[str]:
    if roles.outcome is None:
        return
    yield ""
    yield "[outcome]"
    yield f"column = {_toml(roles.outcome)}"
    yield f"true = {_toml(roles.true)}"
    yield f"false = {_toml(roles.false)}"
    if roles.open:
        yield f"missing = {_toml(roles.open)}"
    if roles.decided:
        yield f"decided_at = {_time_spec(table, roles.decided)}"


def _id_spec(table: FileTable, roles: ColumnRoles) -> str:
    if roles.lead_id is None:
        return '{ line = "lead-" }'
    values = table.columns[roles.lead_id].values
    if any(re.fullmatch(r"\d+\.0+", value) for value in islice(values, 1000)):
        return f'{{ column = {_toml(roles.lead_id)}, format = "integer" }}'
    return _toml(roles.lead_id)


def _time_spec(table: FileTable, name: str | None) -> str:
    if name is None:
        return f"{{ {_MINUTES} }}"
    guesses = [forms[0] for forms in table.columns[name].times]
    formats = list(dict.fromkeys(guess.format for guess in guesses))
    if formats == ["iso"]:
        return _toml(name)
    if len(formats) == 1:
        return f"{{ column = {_toml(name)}, {options_of(guesses[0])} }}"
    locale = next((guess.locale for guess in guesses if guess.locale), None)
    options = f"format = {_toml(formats)}" + (f", locale = {_toml(locale)}" if locale else "")
    return f"{{ column = {_toml(name)}, {options} }}"


def _spec(column: ColumnProfile) -> str:
    if column.unit:
        return f"{{ column = {_toml(column.name)}, unit = {_toml(column.unit)} }}"
    return _toml(column.name)


def _key(name: str, taken: set[str]) -> str:
    """Return a bare key of TOML for a column, other than those before."""
    words = re.sub(
        r"[^a-z0-9]+", "_", words_of(comparable(name)).encode("ascii", "ignore").decode()
    )
    key = words.strip("_")[:60] or "column"
    number = 2
    unique = key
    while unique in taken:
        unique, number = f"{key}_{number}", number + 1
    return unique


def _toml(value: object) -> str:
    """Return a text or a list of texts as TOML writes it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> list[str]:
    """Return a sentence as lines of comment."""
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return textwrap.wrap(printable, 78, initial_indent="# ", subsequent_indent="#   ")
